"""Trials of a run in MLflow: one parent run, with one nested run for each trial."""

import logging
import os
import re
from datetime import datetime
from typing import Any

from nasplat.errors import printable
from nasplat.results.extras import needed
from nasplat.results.trials import Trial
from nasplat.run.directory import RunDirectory

EXPERIMENT = "nasplat"
"""The experiment, where MLFLOW_EXPERIMENT_NAME names none."""
RUN, TRIAL = "nasplat.run", "nasplat.trial"
"""Tags: the identity of the run, on the parent and on nested runs; the number of the trial, on nested runs."""
ENDED = ("FINISHED", "FAILED")
BATCH = 1000
"""Maximum number of metrics in a request."""


def imported() -> Any:
    """The package, which sends no usage data unless the environment asks for it.

    Raises:
        InputError: The extra ``mlflow`` is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = needed("mlflow", "mlflow")
    for name in ("mlflow", "alembic"):  # they report the creation of every table
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


class MLflow:
    """A parent run named as the run's folder, in the experiment of MLFLOW_EXPERIMENT_NAME, or else `EXPERIMENT`.

    Nested runs have genes as parameters, metrics, and the metrics while the trial trained by epoch. A nested run that
    an earlier session did not complete is deleted and written again.

    Args:
        uri: The tracking URI.
        run: The run.
    """

    def __init__(self, uri: str, run: RunDirectory) -> None:
        self._uri = uri
        self._run = run
        self._first = run.config.goal.objectives[0].metric
        self._best: float | None = None
        self._client: Any = None
        self._experiment = self._parent = self._identity = ""

    def open(self) -> set[int]:
        """Connect, and find or create the parent run."""
        client = self._client = imported().MlflowClient(tracking_uri=self._uri)
        self._identity = self._run.identity
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        known = client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known else client.create_experiment(name)
        there: set[int] = set()
        for each in self._found():
            number = each.data.tags.get(TRIAL)
            if number is None:
                self._parent = each.info.run_id
            elif each.info.status in ENDED:
                there.add(int(number))
            else:
                client.delete_run(each.info.run_id)
        if self._parent:
            client.update_run(self._parent, status="RUNNING")
        else:
            self._create_parent()
        return there

    def write(self, trial: Trial, place: int, best: float | None) -> None:
        """Write a nested run; only its last request makes it count as complete."""
        from mlflow.entities import Metric, Param, RunTag

        client, self._best = self._client, best
        tags = {
            "mlflow.parentRunId": self._parent,
            RUN: self._identity,
            TRIAL: str(trial.number),
            "status": trial.status,
            "code": trial.code,
        }
        if trial.status == "failed":
            tags["failure"] = f"{trial.failure}: {trial.message}"[:5000]
        begun, ended = _milliseconds(trial.started), _milliseconds(trial.finished)
        created = client.create_run(self._experiment, begun, tags, f"trial-{trial.number}")
        points = list(trial.curve.items())
        points.append((trial.fidelity, {**trial.metrics, "seconds": trial.seconds, "trial": trial.number}))
        metrics = [
            Metric(_name(name), value, ended or 0, step) for step, values in points for name, value in values.items()
        ]
        params = {_name(name): value for name, value in {**trial.genes, "fidelity": str(trial.fidelity)}.items()}
        for start in range(0, len(metrics), BATCH):
            client.log_batch(
                created.info.run_id,
                metrics=metrics[start : start + BATCH],
                params=[] if start else [Param(name, value) for name, value in params.items()],
                tags=[] if start else [RunTag("place", str(place))],
            )
        client.set_terminated(created.info.run_id, "FAILED" if trial.status == "failed" else "FINISHED", ended)

    def close(self, *, finished: bool) -> None:
        """Give the parent run its status and the best value."""
        if self._best is not None:
            self._client.log_metric(self._parent, _name(f"best_{self._first}"), self._best)
        self._client.set_terminated(self._parent, "FINISHED" if finished else "KILLED")

    def _create_parent(self) -> None:
        config = self._run.config
        name = printable(self._run.folder.resolve().name)
        self._parent = self._client.create_run(self._experiment, None, {RUN: self._identity}, name).info.run_id
        described = {
            "space": config.space.name,
            "benchmark": config.benchmark.name,
            "strategy": config.strategy.name,
            "objectives": ", ".join(config.objectives),
            "seed": str(config.seed),
        }
        for key, value in described.items():
            self._client.log_param(self._parent, key, value)

    def _found(self) -> list[Any]:
        """All runs in MLflow that an earlier session of this run wrote."""
        found: list[Any] = []
        token = None
        while token or not found:
            page = self._client.search_runs(
                [self._experiment], f"tags.`{RUN}` = '{self._identity}'", max_results=BATCH, page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
        return found


def _name(text: str) -> str:
    """A name with the characters that MLflow allows: of ``3<-0`` remains ``3_-0``."""
    return re.sub(r"[^\w\-. :/]", "_", text)


def _milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else int(instant.timestamp() * 1000)
