"""NASPlat: neural architecture search with plug-ins for spaces, strategies, benchmarks and predictors."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasplat.architecture import IO, Architecture
    from nasplat.benchmark import Benchmark, TableBenchmark
    from nasplat.cost import Cost
    from nasplat.errors import InputError, NasplatError, TrialFailed
    from nasplat.interface.run import Run, fit_predictor, load, open_predictor, open_run, recover, search
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
    "Benchmark",
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
    "Problem",
    "Run",
    "SearchSpace",
    "Strategy",
    "TableBenchmark",
    "Task",
    "TrainSupernet",
    "Trained",
    "TrialFailed",
    "fit_predictor",
    "load",
    "open_predictor",
    "open_run",
    "recover",
    "search",
]

_MODULES = (
    "architecture",
    "benchmark",
    "cost",
    "errors",
    "objective",
    "predictor",
    "problem",
    "search_space",
    "strategy",
    "task",
    "interface.run",  # the last: it needs most of the others
)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use; `nasplat --help` needs none of them."""
    if name in __all__:
        for each in _MODULES:
            module = importlib.import_module(f"nasplat.{each}")
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module 'nasplat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
