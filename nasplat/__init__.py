"""NASPlat: neural architecture search with plug-ins for spaces, strategies, benchmarks and predictors."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasplat.architecture import IO, Architecture
    from nasplat.authoring.checkpoint import Checkpoint
    from nasplat.authoring.choices import choice, number
    from nasplat.authoring.function import measures
    from nasplat.authoring.reporting import Reporter
    from nasplat.authoring.space import space
    from nasplat.authoring.table import table
    from nasplat.benchmark import Benchmark, Preprocessing, TableBenchmark
    from nasplat.cost import Cost
    from nasplat.curve import StopRule
    from nasplat.errors import InputError, NasplatError, TrialFailed
    from nasplat.interface.asking import AskTell
    from nasplat.interface.calibrating import calibrate
    from nasplat.interface.checking import Checked, check
    from nasplat.interface.functions import compress, distill, fit_predictor, load, open_predictor, recover, search
    from nasplat.interface.opening import open_run
    from nasplat.interface.run import Run
    from nasplat.objective import Constraint, Goal, Objective
    from nasplat.predictor import Predictor
    from nasplat.problem import Problem
    from nasplat.search_space import Gene, GeneSpace, SearchSpace
    from nasplat.strategy import DuplicatePolicy, GenerationalStrategy, Strategy
    from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, Trained, TrainSupernet

__version__ = "0.1.0"

__all__ = [
    "IO",
    "Architecture",
    "AskTell",
    "Benchmark",
    "Checked",
    "Checkpoint",
    "Constraint",
    "Cost",
    "DuplicatePolicy",
    "Evaluate",
    "Failure",
    "Gene",
    "GeneSpace",
    "GenerationalStrategy",
    "Goal",
    "InputError",
    "Measurement",
    "NasplatError",
    "Objective",
    "Outcome",
    "Predictor",
    "Preprocessing",
    "Problem",
    "Reporter",
    "Run",
    "SearchSpace",
    "StopRule",
    "Strategy",
    "TableBenchmark",
    "Task",
    "TrainSupernet",
    "Trained",
    "TrialFailed",
    "calibrate",
    "check",
    "choice",
    "compress",
    "distill",
    "fit_predictor",
    "load",
    "measures",
    "number",
    "open_predictor",
    "open_run",
    "recover",
    "search",
    "space",
    "table",
]

_CONTRACTS = (
    "architecture",
    "benchmark",
    "cost",
    "curve",
    "errors",
    "objective",
    "predictor",
    "problem",
    "search_space",
    "strategy",
    "task",
)
_ELSEWHERE = {
    "AskTell": "interface.asking",
    "Checked": "interface.checking",
    "Checkpoint": "authoring.checkpoint",
    "Reporter": "authoring.reporting",
    "Run": "interface.run",
    "calibrate": "interface.calibrating",
    "check": "interface.checking",
    "choice": "authoring.choices",
    "measures": "authoring.function",
    "number": "authoring.choices",
    "open_run": "interface.opening",
    "space": "authoring.space",
    "table": "authoring.table",
}
"""The modules of names that are no contracts; those of `interface.functions` are not listed."""


def __getattr__(name: str) -> Any:
    """Import a public name at its first use; `nasplat --help` needs none of them."""
    if name in __all__:
        contracts = _CONTRACTS if name[0].isupper() else ("interface.functions",)
        for each in (_ELSEWHERE[name],) if name in _ELSEWHERE else contracts:
            module = importlib.import_module(f"nasplat.{each}")
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module 'nasplat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
