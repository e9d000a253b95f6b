"""Contract checks that any plug-in author can run.

Each list holds small functions, each named by the law that it checks and raising `AssertionError` where a
plug-in breaks it. Sweep them over a plug-in with pytest::

    @pytest.mark.parametrize("check", nasplat.testing.STRATEGY_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MyStrategy)

A check of what a plug-in need not have, such as a supernet, raises `unittest.SkipTest` with the reason, which test
runners count as skipped.
"""

from nasplat.testing.benchmarks import BENCHMARK_CHECKS, SUPERNET_CHECKS
from nasplat.testing.predictors import PREDICTOR_CHECKS
from nasplat.testing.search_spaces import SEARCH_SPACE_CHECKS
from nasplat.testing.strategies import STRATEGY_CHECKS
from nasplat.testing.toy import ToyBenchmark, ToySpace

__all__ = [
    "BENCHMARK_CHECKS",
    "PREDICTOR_CHECKS",
    "SEARCH_SPACE_CHECKS",
    "STRATEGY_CHECKS",
    "SUPERNET_CHECKS",
    "ToyBenchmark",
    "ToySpace",
]
