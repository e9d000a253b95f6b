"""Converts the official files of NAS-Bench-201 to a compact table.

The authors published pickles of several gigabytes: the single files of versions 1.0 and 1.1, and the archive of
version 1.1 with one file for each architecture. A file is opened without executing any code in it. Its contents are
passed to NAS-Bench-201's own API, which interprets them.

Memory: the API copies its inputs. It therefore receives a few architectures at a time, and these are then deleted.
Apart from the opened contents, memory does not grow with the number of architectures. The opened contents themselves
are not bounded: a single file is one pickle, which can only be loaded whole, at several times its size on disk. From
the folder of an archive, only those few architectures are open at once.
"""

import json
import math
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nasplat.benchmarks import tables
from nasplat.errors import InputError, RunError
from nasplat.search_space import SearchSpace

if TYPE_CHECKING:
    from nas_201_api import ArchResults, NASBench201API, ResultsCount

SLICE = 16
"""The number of architectures that the API holds at once."""

SPLITS = {
    "c10": {"valid": ("cifar10-valid", "x-valid"), "test": ("cifar10", "ori-test")},
    "c100": {"valid": ("cifar100", "x-valid"), "test": ("cifar100", "x-test")},
    "in16": {"valid": ("ImageNet16-120", "x-valid"), "test": ("ImageNet16-120", "x-test")},
}
"""By prefix and split: the official name of the data set of the training, and that of the split of the measurement.

`cifar10-valid` is trained on one half of CIFAR-10's training set and validated on the other half. `cifar10` is trained
on all of it.
"""

SCHEDULES = {12: "less", 200: "full"}
"""The names of the two training schedules in the files."""

ARCHIVED = re.compile(r"(\d{6})-FULL\.pth")
FIRST_COLUMNS = ("index", "arch_str", "iso_index")
OFFICIAL = "the official files are NAS-Bench-201-v1_0-e61699.pth, NAS-Bench-201-v1_1-096897.pth and the v1_1 archive"


class _Refused(InputError):
    """The file is refused. The message is complete and needs no context."""


Progress = Callable[[int, int], None]
Infos = dict[int, tuple[str, dict[str, Any]]]
"""By index, the architecture's official string and its raw contents: `less` and `full`."""


def convert(source: Path, target: Path, space: SearchSpace, progress: Progress) -> int:
    """Write the compact table of an official file or of the folder of an archive.

    Percentages, seconds and millions are rounded to six decimals. This removes only the noise of single precision, in
    which the files were computed. Equal contents give equal bytes.

    Args:
        source: The file or folder.
        target: The table, a gzipped CSV; it must not exist.
        space: The search space; its canonical keys give `iso_index`.
        progress: Receives after each slice the number of finished architectures and the total.

    Returns:
        The number of rows written.

    Raises:
        InputError: The source is missing, damaged, of another structure or would run code, or the target exists
            or cannot be made.
        StorageError: The table could not be written completely.
        RunError: Memory ran out.
    """
    try:
        with (
            tables.importing(source, target, OFFICIAL),
            tempfile.TemporaryFile("w+", encoding="utf-8", dir=target.parent) as spool,
        ):
            # The header needs all seeds, which are known only at the end.
            columns: set[str] = set()
            rows = 0
            for row in _rows(source, space, progress):
                columns |= row.keys()
                spool.write(json.dumps(row) + "\n")
                rows += 1
            spool.seek(0)
            tables.write(target, _ordered(columns), map(json.loads, spool))
    except MemoryError as error:
        raise RunError(
            f"memory ran out while {source} was being read; a single file needs several times its size, "
            "the archive's folder needs little"
        ) from error
    return rows


def _ordered(columns: set[str]) -> list[str]:
    """The header: metrics by data set, accuracies first. Each mean is followed by its single seeds."""

    def place(column: str) -> tuple[Any, ...]:
        prefix, _, rest = column.partition("_")
        accuracy = re.fullmatch(r"(valid|test)_(\d+)(_1seed)?(?:_seed(\d+))?", rest)
        if accuracy is None:
            return list(SPLITS).index(prefix), 1, rest
        split, epochs, first, seed = accuracy.groups()
        return list(SPLITS).index(prefix), 0, split == "test", -int(epochs), int(seed or -1), first or ""

    return [*FIRST_COLUMNS, *sorted(columns - set(FIRST_COLUMNS), key=place)]


def _rows(source: Path, space: SearchSpace, progress: Progress) -> Iterator[dict[str, Any]]:
    """One row for each architecture, by index. A missing metric has no column."""
    if not (source.is_dir() or source.is_file()):
        raise InputError(f"{source} is neither a file nor a folder; {OFFICIAL}")
    place = "its outline"
    classes: dict[str, int] = {}
    seen: dict[str, int] = {}
    done = 0
    try:
        total, slices = _archive(source) if source.is_dir() else _single(source)
        progress(done, total)
        for infos in slices:
            place = f"architectures {min(infos)} to {max(infos)}"
            api = _api(infos)
            for index, (official, _) in infos.items():
                place = f"architecture {index}"
                architecture = space.parse(official)
                first = seen.setdefault(architecture.code, index)
                if first != index:
                    raise ValueError(f"{official} occurs twice; it is already architecture {first}")
                iso_index = classes.setdefault(space.canonical_key(architecture), index)
                figures = _figures(api.arch2infos_dict[index])
                yield {"index": index, "arch_str": official, "iso_index": iso_index, **figures}
            done += len(infos)
            progress(done, total)
    except (_Refused, OSError, MemoryError):
        raise
    except Exception as error:  # a wrong structure can make the API raise any error
        raise _wrong(source, f"{place}: {_spelt(error)}") from error


def _api(infos: Infos) -> "NASBench201API":
    """NAS-Bench-201's own API on a slice of the contents."""
    from nas_201_api import NASBench201API

    return NASBench201API(
        {
            "meta_archs": [official for official, _ in infos.values()],
            "arch2infos": {index: info for index, (_, info) in infos.items()},
            "evaluated_indexes": list(infos),
        },
        verbose=False,
    )


# Contents of a row


def _figures(results: "dict[str, ArchResults]") -> dict[str, float | None]:
    """All columns of one architecture for which it has data."""
    figures: dict[str, float | None] = {}
    for prefix, splits in SPLITS.items():
        trained = [
            trial for dataset, _ in splits.values() for epochs in SCHEDULES
            for trial in _trials(results, dataset, epochs).values()
        ]  # fmt: skip
        for split, (dataset, measured_on) in splits.items():
            for epochs in SCHEDULES:
                accuracies = _accuracies(_trials(results, dataset, epochs), measured_on)
                if not accuracies:
                    continue
                column = f"{prefix}_{split}_{epochs}"
                figures[column] = _rounded(fmean(accuracies.values()))
                figures[f"{column}_1seed"] = _rounded(next(iter(accuracies.values())))
                figures |= {f"{column}_seed{seed}": _rounded(value) for seed, value in accuracies.items()}
        if trained:
            figures[f"{prefix}_params_M"] = _number(trained[0].params)
            figures[f"{prefix}_macs_M"] = _number(trained[0].flop)
            figures[f"{prefix}_train_time_12ep_s"] = _seconds(results, splits["valid"][0])
    if not any(f"_{split}_" in column for column in figures for split in ("valid", "test")):
        raise ValueError("it has no accuracy on any known data set")
    return figures


def _trials(results: "dict[str, ArchResults]", dataset: str, epochs: int) -> "dict[int, ResultsCount]":
    """The training runs by seed, in the order of seeds."""
    held = results[str(epochs)]
    trials = {int(seed): held.query(dataset, seed) for seed in held.dataset_seed.get(dataset, ())}
    for seed, trial in trials.items():
        if trial.epochs != epochs:
            raise ValueError(f"the run of {dataset} with seed {seed} has {trial.epochs} epochs instead of {epochs}")
    return dict(sorted(trials.items()))


def _accuracies(trials: "Mapping[int, ResultsCount]", measured_on: str) -> dict[int, float]:
    """The accuracy after the last epoch by seed, in percent, for the seeds that have one.

    It is read directly from the API's object. `get_eval` also sums up times, and raises an error where times are
    missing.
    """
    accuracies = {}
    for seed, trial in trials.items():
        accuracy = trial.eval_acc1es.get(f"{measured_on}@{trial.epochs - 1}")
        if accuracy is not None:
            accuracies[seed] = float(accuracy)
            if not 0 <= accuracies[seed] <= 100:
                raise ValueError(
                    f"an accuracy must be 0 to 100 %, but the one on {measured_on} with seed {seed} is {accuracy}"
                )
    return accuracies


def _seconds(results: "dict[str, ArchResults]", dataset: str) -> float | None:
    """The time of 12 epochs of training, from the long schedule if the short one has no times."""
    for epochs in SCHEDULES:
        totals = [trial.get_times()["T-train@total"] for trial in _trials(results, dataset, epochs).values()]
        known = [_number(total) for total in totals if total is not None]
        if known:
            return _rounded(fmean(known) * 12 / epochs)
    return None


def _number(value: Any) -> float:
    number = _rounded(float(value))
    if not math.isfinite(number):
        raise ValueError(f"a value is {number}")
    return number


def _rounded(value: float) -> float:
    return round(value, 6)


# Contents of the files


def _single(path: Path) -> tuple[int, Iterator[Infos]]:
    """The number of architectures in a single file, and its contents in slices that are freed after use."""
    contents = _load(path)
    if not isinstance(contents, dict) or not {"meta_archs", "arch2infos", "evaluated_indexes"} <= contents.keys():
        raise _wrong(path, "it is not a dictionary with meta_archs, arch2infos and evaluated_indexes")
    names, infos = contents["meta_archs"], contents["arch2infos"]
    if not isinstance(names, list) or not isinstance(infos, dict) or not infos:
        raise _wrong(path, "meta_archs must be a list of architectures, and arch2infos a dictionary that is not empty")
    keys = {int(key): key for key in infos}
    if len(keys) < len(infos) or min(keys) < 0 or max(keys) >= len(names):
        raise _wrong(
            path,
            f"arch2infos has {len(infos)} architectures, {min(keys)} to {max(keys)}, and meta_archs {len(names)}",
        )
    del contents

    def slices() -> Iterator[Infos]:
        indexes = iter(sorted(keys))
        while chosen := list(islice(indexes, SLICE)):
            yield {index: (names[index], _info(path, index, infos.pop(keys[index]))) for index in chosen}

    return len(keys), slices()


def _archive(folder: Path) -> tuple[int, Iterator[Infos]]:
    """The number of architectures in the folder of an archive, and their contents, opened slice by slice."""
    try:
        files = {int(match[1]): path for path in folder.iterdir() if (match := ARCHIVED.fullmatch(path.name))}
    except OSError as error:
        raise _Refused(f"{folder} cannot be read: {error}; check the path and its permissions") from error
    if not files:
        raise _Refused(
            f"the archive of NAS-Bench-201 has files 000000-FULL.pth, 000001-FULL.pth and so on, but {folder} has "
            "none; name the folder that contains them"
        )

    def opened(index: int) -> tuple[str, dict[str, Any]]:
        info = _info(files[index], index, _load(files[index]))
        official = info["full"].get("arch_str")
        if not isinstance(official, str) or info["full"].get("arch_index", index) != index:
            raise _wrong(files[index], f"it does not describe architecture {index}")
        return official, info

    def slices() -> Iterator[Infos]:
        indexes = iter(sorted(files))
        while chosen := list(islice(indexes, SLICE)):
            yield {index: opened(index) for index in chosen}

    return len(files), slices()


def _info(path: Path, index: int, info: Any) -> dict[str, Any]:
    """The raw contents of one architecture without its trained weights, which the API would copy."""
    try:
        for schedule in SCHEDULES.values():
            for trial in info[schedule]["all_results"].values():
                trial.update(net_state_dict=None)
    except (TypeError, LookupError, AttributeError) as error:
        raise _wrong(path, f"architecture {index} has no results of the schedules less and full") from error
    checked: dict[str, Any] = info
    return checked


def _load(path: Path) -> Any:
    """The contents of a file saved by torch. Nothing in it is executed.

    Raises:
        InputError: The file cannot be read, is damaged, or needs more than plain data.
    """
    import torch

    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # torch warns of pickles from other programs; the error below covers this
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError as error:
        raise _Refused(f"{path} cannot be read: {error}; check the path and its permissions") from error
    except MemoryError:
        raise
    except Exception as error:  # damage can raise any error
        named = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named:
            raise _Refused(
                f"an official file contains only plain data, but {path} asks to run {named[1]}; this was not run; the "
                "file is not an official one; download it again from the authors"
            ) from error
        raise _Refused(
            f"{path} is not a complete file saved by torch ({_spelt(error)}); download it again: {OFFICIAL}"
        ) from error


def _harmless() -> list[Any]:
    """The globals of pickled numpy scalars, which some metrics in the files are."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("?", "i4", "i8", "u4", "u8", "f2", "f4", "f8")}
    # The first two names are those of numpy 1 and 2.
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]


def _wrong(path: Path, what: str) -> InputError:
    return _Refused(f"{path} does not have the structure of an official file of NAS-Bench-201: {what}; {OFFICIAL}")


def _spelt(error: Exception) -> str:
    """A short text of an error. It may quote the file, so unprintable characters are replaced, for terminals.

    The messages of torch and the API are long and written for programmers. Torch's advice is to disable the protection
    against code execution.
    """
    text = re.sub(r".*WeightsUnpickler error:", "", str(error), flags=re.DOTALL).strip()
    first = "".join(letter if letter.isprintable() else "?" for letter in (text.splitlines() or [""])[0])
    name = type(error).__name__
    return name if not first or "weights_only" in first else f"{name}: {first[:160]}"
