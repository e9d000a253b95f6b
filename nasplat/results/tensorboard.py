"""Trials of a run in TensorBoard: scalars by trial, and a row of hyperparameters for each."""

import math
import shutil
from pathlib import Path
from typing import Any

from nasplat.errors import RunError, printable
from nasplat.results.trials import Trial
from nasplat.run.directory import RunDirectory

IDENTITY = "nasplat-run.txt"
"""The file that says which run a folder of event files belongs to."""


class TensorBoard:
    """Event files in ``DIR/RUN``, where RUN is the name of the run's folder.

    ``DIR/RUN`` has the metrics of each trial and the best value so far; the step is the number of trials that ended
    before. ``DIR/RUN/trial-N`` has the genes of trial N for the tab HParams, and the metrics while it trained by epoch.

    Args:
        folder: DIR.
        run: The run.
    """

    def __init__(self, folder: Path, run: RunDirectory) -> None:
        self.folder = folder / printable(run.folder.resolve().name)
        self._run = run
        self._first = run.config.goal.objectives[0].metric
        self._writer: Any = None

    def open(self) -> set[int]:
        """Create the folder, or read which trials its event files have.

        Raises:
            RunError: The folder belongs to another run.
        """
        from torch.utils.tensorboard import SummaryWriter

        identity, mark = self._run.identity, self.folder / IDENTITY
        if mark.is_file() and mark.read_text() != identity:
            raise RunError(f"{self.folder} has another run; name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(identity)
        there = self._numbers()
        self._writer = SummaryWriter(self.folder)
        return there

    def write(self, trial: Trial, place: int, best: float | None) -> None:
        """Write the trial's own folder, then its scalars, which `open` counts, as one record."""
        self._write_folder(trial)
        scalars = {f"trial/{name}": value for name, value in trial.metrics.items()}
        scalars |= {"trial/number": trial.number, "trial/seconds": trial.seconds}
        scalars["trial/failed"] = float(trial.status == "failed")
        if best is not None:
            scalars[f"best/{self._first}"] = best
        self._add(self._writer, scalars, place, trial)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()

    def _write_folder(self, trial: Trial) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        folder = self.folder / f"trial-{trial.number}"
        draft = self.folder / f".trial-{trial.number}"
        for left in (folder, draft):  # from a session that was killed
            shutil.rmtree(left, ignore_errors=True)
        chosen = {**trial.genes, "code": trial.code, "fidelity": trial.fidelity, "status": trial.status}
        hparams: Any = summary.hparams
        writer: Any = SummaryWriter(draft)
        try:
            for part in hparams(chosen, dict(trial.metrics)):
                writer.file_writer.add_summary(part, 0, self._time(trial))
            for epoch, metrics in trial.curve.items():
                self._add(writer, metrics, epoch, trial)
            self._add(writer, trial.metrics, trial.fidelity, trial)
        finally:
            writer.close()
        draft.rename(folder)

    def _add(self, writer: Any, scalars: Any, step: int, trial: Trial) -> None:
        """One record with several scalars: a killed session leaves all of them or none."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        writer.file_writer.add_summary(Summary(value=values), step, self._time(trial))

    @staticmethod
    def _time(trial: Trial) -> float | None:
        return None if trial.finished is None else trial.finished.timestamp()

    def _numbers(self) -> set[int]:
        """The numbers of the trials in the event files of earlier sessions."""
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event

        numbers: set[int] = set()
        for path in sorted(self.folder.glob("events.out.tfevents.*")):
            for record in RawEventFileLoader(str(path)).Load():
                for value in Event.FromString(record).summary.value:
                    if value.tag == "trial/number" and math.isfinite(value.simple_value):
                        numbers.add(round(value.simple_value))
        return numbers
