"""A run as people use it from Python."""

import warnings
from collections.abc import Mapping, Sequence
from html import escape as escape_html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplat.config import SearchConfig
from nasplat.interface import retraining, searching
from nasplat.interface.adoption import own_of
from nasplat.interface.console import console_of
from nasplat.interface.exporting import exported
from nasplat.interface.fingerprints import check_unchanged
from nasplat.interface.running import Searched, check_some_measured, keep_accepted
from nasplat.interface.sections import REGISTRIES
from nasplat.objective import Goal
from nasplat.run.compressed import Compression
from nasplat.run.directory import RunDirectory
from nasplat.run.history import History, names_several
from nasplat.run.picked import Picked
from nasplat.run.retrained import Comparison
from nasplat.task import Measurement, Outcome
from nasplat.units import figure, shown_metrics

if TYPE_CHECKING:
    import pandas as pd

    from nasplat.latency.conditions import Engine
    from nasplat.latency.measuring import Latency


class Run:
    """A search and what it found, in a directory.

    `nasplat.search` makes one, `nasplat.open_run` opens one. Everything is read from the directory when it is asked
    for, so a run that another process continues can be looked at meanwhile.

    Args:
        folder: The run directory.
        space: Whatever was given to `nasplat.search` as the space, if it is no installed plug-in.
        benchmark: Whatever was given as the benchmark, if it is no installed plug-in.
        strategy: Whatever was given as the strategy, if it is no installed plug-in.
        trust: Whether what only the run names may be imported, used and downloaded; for a run of your own.
        accept_changed_code: Whether code of your own that has changed since the search is accepted.

    Raises:
        InputError: It is no run directory, or an object is not the one that it was searched with.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        space: Any = None,
        benchmark: Any = None,
        strategy: Any = None,
        trust: bool = False,
        accept_changed_code: bool = False,
    ) -> None:
        self._directory = RunDirectory(Path(folder))
        self.trust = trust
        self._accept = accept_changed_code
        objects = {"space": space, "benchmark": benchmark, "strategy": strategy}
        self._own = own_of(self._directory, objects, trust=trust, accept_changed_code=accept_changed_code)

    @property
    def directory(self) -> RunDirectory:
        """The directory, after what the run names is again what it was opened with; another run may name it alike."""
        for section, plugin in self._own.items():
            REGISTRIES[section].adopt(getattr(self._directory.config, section).name, plugin)
        return self._directory

    def _checked(self) -> RunDirectory:
        """The directory, for what measures or ships: with the code that it was searched with."""
        check_unchanged(self.directory, accept=self._accept)
        return self._directory

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self._directory.folder

    @property
    def config(self) -> SearchConfig:
        """The resolved configuration."""
        return self.directory.config

    @property
    def goal(self) -> Goal:
        """Objectives and constraints."""
        return self.config.goal

    @property
    def status(self) -> str:
        """``finished``, ``running`` or ``interrupted``."""
        return self._history().status

    @property
    def kind(self) -> str:
        """``search`` or ``retraining``."""
        return self.config.kind

    def front(self) -> list[Measurement]:
        """The non-dominated measurements, sorted by the first objective."""
        return self._history().front

    def trials(self) -> list[Outcome]:
        """All outcomes in the order they were told: measurements, failures, trainings of shared weights."""
        return self._history().outcomes

    @property
    def best(self) -> Measurement:
        """The member of the front that is best by the first objective.

        Raises:
            InputError: Nothing was measured, or nothing satisfies the constraints.
        """
        return self._history().pick("best")

    def pick(self, which: str | int) -> list[Measurement]:
        """Measurements by ``best``, ``knee``, a trial's number, ``front``, ``bins:M`` or ``all``.

        Raises:
            InputError: There is no such trial, or nothing was measured.
        """
        return self._history().picks(str(which))

    @property
    def comparison(self) -> Comparison | None:
        """Search and retraining side by side; None if this is no retraining."""
        return Comparison.of(self._history())

    @property
    def compression(self) -> Compression | None:
        """Networks before and after their compression; None if this is none."""
        return Compression.of(self._history())

    @property
    def picking(self) -> Picked | None:
        """What was picked of a pool for this run; None if it is no distillation."""
        return Picked.of(self.directory)

    def to_dataframe(self) -> "pd.DataFrame":
        """All trials as a table of pandas, one row each: codes, genes, metrics with units, times.

        Raises:
            InputError: pandas is not installed.
        """
        from nasplat.results.table import dataframe

        return dataframe(self.directory)

    def table(self, out: str | Path) -> Path:
        """Write all trials as a table; the name ends in ``.csv`` or ``.parquet``.

        Raises:
            InputError: The name ends otherwise, the place cannot be written, or pyarrow is not installed.
        """
        from nasplat.results.table import write_table

        write_table(self.directory, Path(out))
        return Path(out)

    def export_study(self, storage: str | Path, *, name: str | None = None, replace: bool = False) -> Path:
        """Write a copy of the run as a study of Optuna; see `nasplat.results.study.export_study`."""
        from nasplat.results.study import export_study

        export_study(self.directory, Path(storage), name=name, replace=replace)
        return Path(storage)

    def resume(
        self,
        *,
        evaluations: int | None = None,
        seconds: float | None = None,
        images: int | None = None,
        device_seconds: float | None = None,
        workers: int | None = None,
        ray_address: str | None = None,
        retries: int | None = None,
        trial_seconds: float | None = None,
        accept_changed_data: bool = False,
        log_to: str | Sequence[str] = (),
        progress: bool = True,
    ) -> "Run":
        """Go on with the search, or give it a larger budget, in total; `log_to` as in `nasplat.search`.

        Raises:
            InputError: A limit is smaller than what is spent, an option does not fit, or the data has changed.
            RunError: The search cannot go on, or every trial failed.
            KeyboardInterrupt: It was interrupted; it can be resumed again.
        """
        return self._ended(
            searching.resume(
                self._checked(),
                console_of(progress),
                budget={
                    "evaluations": evaluations,
                    "seconds": seconds,
                    "images": images,
                    "device_seconds": device_seconds,
                },
                placing={
                    "workers": workers,
                    "address": ray_address,
                    "retries": retries,
                    "trial_seconds": trial_seconds,
                },
                trust=self.trust,
                accept_changed_data=accept_changed_data,
                log_to=listed(log_to),
            )
        )

    def retrain(
        self,
        pick: str | int | Sequence[str | int] | None = None,
        *,
        recipe: str | Path | Mapping[str, Any] | None = None,
        epochs: int | None = None,
        seeds: int = 1,
        checkpoints: int = 10,
        distill: bool = False,
        benchmark: Any = None,
        objectives: str | Sequence[str] | None = None,
        seed: int | None = None,
        executor: str | None = None,
        workers: int | None = None,
        cpus_per_worker: float | None = None,
        gpus_per_worker: float | None = None,
        ray_address: str | None = None,
        retries: int | None = None,
        trial_seconds: float | None = None,
        options: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        accept_changed_data: bool = False,
        log_to: str | Sequence[str] = (),
        progress: bool = True,
    ) -> "Run":
        """Fully train networks that the search found, in a new run.

        Args:
            pick: As in `pick`, one or several; by default ``bins:5``, or ``best`` with a single objective.
            recipe: Options of the benchmark, or a YAML file with them.
            epochs: Epochs of each training.
            seeds: Number of trainings of each network.
            checkpoints: Number of checkpoints of a training.
            distill: Whether the largest network teaches the others.
            benchmark: The benchmark that trains; by default the search's.
            objectives: By default the search's.
            seed: By default the search's.
            executor: As the options that follow, of `nasplat.search`.
            workers: Ray workers.
            cpus_per_worker: CPUs for each worker.
            gpus_per_worker: GPUs for each worker.
            ray_address: An existing Ray cluster.
            retries: Retries of a trial after a worker failure.
            trial_seconds: Time limit of a trial.
            options: Further options by ``SECTION.OPTION``.
            out: The new run directory; by default ``RUN-retrained-N``.
            accept_changed_data: Whether to go on although the data has changed.
            log_to: As in `nasplat.search`.
            progress: Whether to show the progress.

        Raises:
            InputError, RunError, KeyboardInterrupt: As in `resume`.
        """
        picks = None if pick is None else [pick] if isinstance(pick, str | int) else list(pick)
        wanted = [objectives] if isinstance(objectives, str) else objectives
        return self._ended(
            retraining.retrain(
                self._checked(),
                console_of(progress),
                pick=None if picks is None else [str(each) for each in picks],
                recipe=Path(recipe) if isinstance(recipe, str) else recipe,
                epochs=epochs,
                seeds=seeds,
                checkpoints=checkpoints,
                distill=distill,
                benchmark=benchmark,
                objectives=wanted,
                seed=seed,
                executor=executor,
                placing={
                    "workers": workers,
                    "cpus_per_worker": cpus_per_worker,
                    "gpus_per_worker": gpus_per_worker,
                    "address": ray_address,
                    "retries": retries,
                    "trial_seconds": trial_seconds,
                },
                assignments=list((options or {}).items()),
                out=None if out is None else Path(out),
                trust=self.trust,
                accept_changed_data=accept_changed_data,
                log_to=listed(log_to),
            )
        )

    def test(self, pick: str | int = "best", *, accept_changed_data: bool = False) -> list[Measurement]:
        """Measure networks on test data, in the order of `pick`. Each is measured once; later calls give the record.

        Raises:
            InputError: Nothing fits `pick`, the benchmark has no test data, or the data has changed.
        """
        keep_accepted(self.directory, console_of(True), accept=accept_changed_data)
        picked = self.pick(pick)
        finals = self._checked().finals(picked, self.directory.benchmark())
        return [finals[measurement.id] for measurement in picked]

    def export(
        self,
        pick: str | int = "best",
        *,
        out: str | Path | None = None,
        format: str = "onnx",
        test: bool = False,
        untrained: bool = False,
        features: bool = False,
        latency: bool = True,
        engine: "Engine | None" = None,
        accept_changed_data: bool = False,
    ) -> Path:
        """Export networks as files that can be shipped, each verified against torch.

        Args:
            pick: As in `pick`.
            out: The folder to create, or of several networks the parent; by default ``RUN/export/trial-N``.
            format: ``onnx``, ``pt2`` (a torch.export program), ``source`` (Python that needs only torch), or ``all``.
            test: Whether to measure on the test split too.
            untrained: Whether new weights are accepted if the measurement left none.
            features: Whether the ONNX model also outputs the input of the last linear layer.
            latency: Whether to measure the latency on this machine.
            engine: ``torch`` or ``onnxruntime``; by default that of the run.
            accept_changed_data: Whether to go on although the data has changed.

        Returns:
            The folder, which `nasplat.load` reads; of several networks the parent of the folders ``trial-N``.

        Raises:
            InputError: A value does not fit, there are no weights, or a folder exists.
            RunError: An exported format differs from torch by more than rounding.
        """
        from nasplat.export.timing import disagreement

        folders = []
        for _, document in exported(
            self._checked(),
            console_of(True),
            str(pick),
            out=None if out is None else Path(out),
            form=format,
            test=test,
            untrained=untrained,
            features=features,
            latency=latency,
            engine=engine,
            accept_changed_data=accept_changed_data,
        ):
            if warning := disagreement(document):
                warnings.warn(f"{document['folder']}: {warning}", stacklevel=2)
            folders.append(Path(document["folder"]))
        return folders[0].parent if names_several(str(pick)) else folders[0]

    def report(self, out: str | Path | None = None) -> Path:
        """Write a report, one HTML file with curves, front and configuration; by default ``RUN/report.html``."""
        from nasplat.report.page import write_report

        path = self.folder / "report.html" if out is None else Path(out)
        write_report(self.directory, path)
        return path

    def latency(
        self,
        pick: str | int = "front",
        *,
        engine: "Engine | None" = None,
        batch: int | None = None,
        threads: int | None = None,
    ) -> "dict[int, Latency]":
        """The latencies of networks on this machine by trial, under the conditions of the run where none are given.

        Raises:
            InputError: Nothing fits `pick`, or a condition is invalid.
        """
        from nasplat.export.timing import latencies

        return latencies(self.directory.benchmark(), self.pick(pick), engine=engine, batch=batch, threads=threads)

    def _ended(self, searched: Searched) -> "Run":
        """The run of a search that has come to its end."""
        check_some_measured(searched.run)
        return self if searched.run.folder == self.folder else Run(searched.run.folder, trust=self.trust)

    def _history(self) -> History:
        return self.directory.history()

    def __repr__(self) -> str:
        history = self._history()
        counts = f"{len(history.outcomes)} trials, {len(history.front)} on the front"
        return f"Run({str(self.folder)!r}): {history.status}, {counts}"

    def _repr_html_(self) -> str:
        """The front as a table, for notebooks."""
        history = self._history()
        metrics = shown_metrics(self.goal, history.front)
        head = "".join(f"<th>{escape_html(name)}</th>" for name in ("trial", "architecture", *metrics))
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td>{escape_html(cell)}</td>"
                for cell in (str(m.id), m.architecture.code, *(figure(name, m.metrics[name]) for name in metrics))
            )
            + "</tr>"
            for m in history.front
        )
        return f"<p>{escape_html(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def listed(texts: str | Sequence[str]) -> Sequence[str]:
    """One text or several as several."""
    return [texts] if isinstance(texts, str) else texts
