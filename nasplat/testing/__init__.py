"""Contract checks for authors of plug-ins.

Each list holds small functions. Each function is named after the rule that it checks, and raises `AssertionError` if a
plug-in breaks the rule. Apply them to a plug-in with pytest::

    @pytest.mark.parametrize("check", nasplat.testing.STRATEGY_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MyStrategy)

A check of an optional feature that the plug-in lacks, such as a supernet, raises `unittest.SkipTest` with the reason.
Test runners count it as skipped.
"""

from nasplat.testing.benchmarks import BENCHMARK_CHECKS, SUPERNET_CHECKS
from nasplat.testing.predictors import PREDICTOR_CHECKS
from nasplat.testing.search_spaces import SEARCH_SPACE_CHECKS
from nasplat.testing.strategies import STRATEGY_CHECKS
from nasplat.testing.toy import ToyBenchmark, ToySpace
from nasplat.testing.transforms import TRANSFORM_CHECKS

__all__ = [
    "BENCHMARK_CHECKS",
    "PREDICTOR_CHECKS",
    "SEARCH_SPACE_CHECKS",
    "STRATEGY_CHECKS",
    "SUPERNET_CHECKS",
    "TRANSFORM_CHECKS",
    "ToyBenchmark",
    "ToySpace",
]
