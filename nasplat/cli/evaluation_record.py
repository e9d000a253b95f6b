"""The record of `nasplat predictor evaluate`: a file of completed trials, which the same command continues."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nasplat.errors import InputError
from nasplat.registry import todays_name
from nasplat.storage.files import check_unlinked, read_file, refusal, write_atomically
from nasplat.surrogates.intervals import LEVELS, Coverage
from nasplat.surrogates.ranking_metrics import Ranking, Trial

SETTINGS, TRIALS = "settings.json", "trials.jsonl"
FIGURES = ("tau", "spearman", "precision", "regret")
"""The metrics of a ranking, as fields of `Ranking`."""


@dataclass
class Record:
    """A record of completed trials: a file with one JSON line for each trial. An existing record is continued.

    Args:
        folder: The folder of the record; None to write no files.
        trials: The completed trials, in order of completion.
    """

    folder: Path | None
    trials: list[Trial]

    @classmethod
    def open(cls, folder: Path | None, settings: Mapping[str, Any]) -> "Record":
        """Begin a record, or continue the existing one.

        Raises:
            InputError: The existing record has other settings, is damaged, or has a file that is a link; or the folder
                cannot be written.
        """
        if folder is None:
            return cls(None, [])
        settings = json.loads(json.dumps(settings))
        try:
            for name in (SETTINGS, TRIALS):  # the second is written in place
                check_unlinked(folder / name)
            if not (folder / SETTINGS).exists():
                if folder.is_dir() and any(folder.iterdir()):
                    raise InputError(f"{folder} is not empty and has no evaluation; choose another --out")
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / SETTINGS, json.dumps(settings, indent=1))
            before = json.loads(read_file(folder / SETTINGS))
            if isinstance(before, dict) and isinstance(before.get("predictors"), dict):
                before["predictors"] = {todays_name(name): each for name, each in before["predictors"].items()}
            if other := _different(before, settings):
                raise InputError(
                    f"{folder} holds an evaluation with other {', '.join(other)}; "
                    "give the same settings to go on, or choose another --out"
                )
            lines = read_file(folder / TRIALS).splitlines(keepends=True) if (folder / TRIALS).exists() else []
            if lines and not lines[-1].endswith(b"\n"):  # the process was killed while it wrote this line
                write_atomically(folder / TRIALS, b"".join(lines := lines[:-1]))
            trials = [_trial(json.loads(line)) for line in lines]
        except InputError:
            raise
        except OSError as error:
            raise refusal(folder, "used", error) from error
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(f"{folder} holds a damaged evaluation: {error}; choose another --out") from error
        # Failed trials are repeated: a package may have been missing.
        return cls(folder, [trial for trial in trials if not trial.problem])

    @property
    def done(self) -> set[tuple[str, int, int]]:
        """Name, size and split of every completed trial."""
        return {(trial.predictor, trial.size, trial.split) for trial in self.trials}

    def add(self, trial: Trial) -> None:
        """Add a trial, and write it to the file at once."""
        self.trials.append(trial)
        if self.folder is None:
            return
        try:
            with (self.folder / TRIALS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(_plain(asdict(trial))) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refusal(self.folder / TRIALS, "written", error) from error

    def finish(self, summary: Sequence[Mapping[str, Any]], *, title: str, metric: str, top: int) -> None:
        """Write the results, as a table of all trials, as JSON, and as a picture."""
        from nasplat.report.curves import learning_curves

        if self.folder is None:
            return
        rows = [_flat(trial) for trial in self.trials]
        text = io.StringIO()
        if rows:
            table = csv.DictWriter(text, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        try:
            write_atomically(self.folder / "trials.csv", text.getvalue())
            write_atomically(self.folder / "results.json", json.dumps(_plain(list(summary)), indent=1))
            if any(trial.all for trial in self.trials):
                picture = learning_curves(self.trials, title=title, metric=metric, top=top)
                write_atomically(self.folder / "curves.svg", picture)
        except OSError as error:
            raise refusal(self.folder, "written", error) from error


def _different(before: Any, settings: Mapping[str, Any]) -> list[str]:
    """The keys of settings that differ. Scores are the same if their digest is, wherever they were read."""
    if not isinstance(before, dict):
        return ["settings"]
    former, scores = before.get("scores"), settings["scores"]
    same = isinstance(former, dict) and former.get("digest") == scores["digest"]
    return [key for key in settings if before.get(key) != settings[key] and not (key == "scores" and same)]


def _flat(trial: Trial) -> dict[str, Any]:
    """A trial as a row of a table."""
    row = asdict(trial)
    for key in ("all", "fresh"):
        ranking = row.pop(key) or {}
        row |= {f"{name}{'_fresh' * (key == 'fresh')}": ranking.get(name, "") for name in FIGURES}
    row.pop("intervals")
    return {**row, "problem": row.pop("problem"), **_flat_coverage(trial.intervals or Coverage())}


def _flat_coverage(coverage: Coverage) -> dict[str, Any]:
    """The coverage as columns of a table, empty where there is none."""
    columns: dict[str, Any] = {"interval_scores": coverage.n}
    for name, counts in (("coverage", coverage.inside), ("corrected_coverage", coverage.corrected)):
        for place, level in enumerate(LEVELS):
            columns[f"{name}_{100 * level:.0f}"] = "" if counts is None else counts[place] / coverage.n
    factor = "" if coverage.factor is None else coverage.factor
    return {**columns, "interval_factor": factor, "interval_problem": coverage.problem}


def _trial(row: dict[str, Any]) -> Trial:
    """A trial as `Record.add` wrote it, perhaps in an earlier version."""
    row = {"duplicates" if name == "twins" else name: value for name, value in row.items()}
    row["predictor"] = todays_name(row["predictor"])
    rankings = {key: row[key] and Ranking(**row[key]) for key in ("all", "fresh")}
    seconds = {key: float("nan") if row[key] is None else row[key] for key in ("fit_seconds", "predict_seconds")}
    return Trial(**{**row, **rankings, **seconds, "intervals": _read_coverage(row.get("intervals"))})


def _read_coverage(row: Mapping[str, Any] | None) -> Coverage | None:
    """The coverage of a trial; earlier versions recorded none."""
    if row is None:
        return None
    counts = {key: None if row[key] is None else tuple(row[key]) for key in ("inside", "corrected")}
    return Coverage(n=row["n"], factor=row["factor"], problem=row["problem"], **counts)


def _plain(value: Any) -> Any:
    """The value with null for NaN."""
    match value:
        case float() if value != value:
            return None
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value
