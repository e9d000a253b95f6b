"""Ask and tell: a search whose networks the caller measures."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

from nasplat.architecture import IO
from nasplat.artifact import Artifacts
from nasplat.authoring.reporting import numbers
from nasplat.benchmark import Benchmark
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError, TrialFailed
from nasplat.executors.executor import Executor
from nasplat.interface.adoption import adopt
from nasplat.interface.configuring import configured
from nasplat.interface.fingerprints import objects_of
from nasplat.interface.run import Run, listed
from nasplat.interface.searching import check_unspent, new_folder_of
from nasplat.run.directory import RunDirectory
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Spent, Task


class Told(Benchmark):
    """Networks that the caller of `nasplat.AskTell` measures.

    Args:
        space: The search space.
        epochs: The number of epochs of a full measurement, for strategies that ask for fewer.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False

    def __init__(self, space: SearchSpace, *, epochs: int = 1) -> None:
        super().__init__(space)
        self.epochs = epochs

    @property
    def io(self) -> IO:
        return self.space.reference_io

    @property
    def fidelity(self) -> int:
        return self.epochs

    def prepare(self) -> None:
        pass

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> NoReturn:
        raise _measured_by_caller()

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> NoReturn:
        raise _measured_by_caller()


def _measured_by_caller() -> InputError:
    return InputError("the networks of this run are measured by the caller of nasplat.AskTell; go on with AskTell.open")


class _Waiting(Executor):
    """Keeps tasks until the caller asks for them."""

    def __init__(self) -> None:
        self.tasks: deque[Evaluate] = deque()
        self.wanted = 0

    @property
    def capacity(self) -> int:
        return self.wanted

    def submit(self, task: Task) -> None:
        if not isinstance(task, Evaluate):
            raise InputError(
                "a caller measures networks, but cannot train shared weights; choose a strategy without them"
            )
        self.tasks.append(task)

    def wait(self, timeout: float) -> list[Outcome]:
        return []

    def close(self) -> None:
        self.tasks.clear()


class AskTell:
    """A search whose networks you measure yourself, where and when you like: ask, measure, tell.

    The run is logged as any other: it can be shown, reported and gone on with, by `AskTell.open`::

        with nasplat.AskTell(space=space, objectives=["accuracy:max", "params:min"], evaluations=50) as search:
            while (trial := search.ask()) is not None:
                search.tell(trial, {"accuracy": measure(space.build(trial.architecture, search.io))})
        search.run.front()

    Several trials may be asked for before the first is told, by one thread.

    Args:
        space: The search space, in a form that `nasplat.search` takes.
        objectives: ``METRIC:max`` or ``METRIC:min``, one or several. Costs of the space, such as `params`, are known.
        evaluations: The number of trials.
        strategy: As for `nasplat.search`; one that trains networks alone.
        constraints: ``METRIC<=NUMBER`` or ``METRIC>=NUMBER``.
        seed: The random seed; by default 0.
        epochs: The number of epochs of a full measurement, for strategies that ask for fewer: `trial.fidelity`.
        out: The run directory to create; by default ``runs/STRATEGY-SPACE-N``.

    Attributes:
        run: The run.
        io: The shapes of the networks' inputs and outputs.

    Raises:
        InputError: A value does not fit, or the directory exists.
    """

    def __init__(
        self,
        *,
        space: Any,
        objectives: str | Sequence[str],
        evaluations: int,
        strategy: Any = None,
        constraints: str | Sequence[str] | None = None,
        seed: int | None = None,
        epochs: int = 1,
        out: str | Path | None = None,
    ) -> None:
        config = configured(
            plugins={"space": space, "benchmark": Told, "strategy": strategy},
            objectives=listed(objectives),
            constraints=None if constraints is None else listed(constraints),
            budget={"evaluations": evaluations},
            seed=seed,
            assignments=[("benchmark.epochs", epochs)],
        )
        assembly = Assembly.of(config)
        folder = Path(out) if out is not None else new_folder_of(assembly.config)
        RunDirectory.create(
            folder,
            assembly.config,
            choice=str(assembly.choice or ""),
            code_metrics=assembly.benchmark.code_metrics,
            data={},
            objects=objects_of(assembly.config),
        )
        self._begin(assembly, Run(folder))

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        space: Any = None,
        strategy: Any = None,
        evaluations: int | None = None,
        trust: bool = False,
    ) -> Self:
        """Go on with a run, perhaps for more evaluations in total. Trials without an outcome are asked for again.

        Args:
            folder: The run directory.
            space: The space of the run, if it is no installed plug-in.
            strategy: The strategy of the run, if it is no installed plug-in.
            evaluations: The new number of trials.
            trust: Whether modules that only the run names may be imported; for a run of your own.

        Raises:
            InputError: It is no run of `AskTell`, another process is writing it, or more trials were asked for already.
        """
        name, _ = adopt("benchmark", Told)
        run = Run(folder, space=space, strategy=strategy, trust=trust)
        if run.config.benchmark.name != name:
            raise InputError(f"{folder} is no run of nasplat.AskTell; go on with nasplat.open_run(…).resume()")
        check_unspent(run.directory.history(), {"evaluations": evaluations})
        tree = run.config.model_dump(mode="json")
        if evaluations is not None:
            tree["budget"]["evaluations"] = evaluations
        found = cls.__new__(cls)
        assembly = Assembly.of(SearchConfig.read(tree), run.directory.data, code_metrics=run.directory.code_metrics)
        found._begin(assembly, run)
        return found

    def _begin(self, assembly: Assembly, run: Run) -> None:
        self.run, self.io = run, assembly.benchmark.io
        self._executor = _Waiting()
        self._closed = self._ended = False
        self._given: dict[int, tuple[Evaluate, float]] = {}
        self._open = ExitStack()
        with self._open:
            log = self._open.enter_context(run.directory.writing())
            run.directory.keep(assembly.config)
            self._search = Search(assembly.problem, assembly.strategy, self._executor, log, assembly.budget)
            self._search.begin()
            self._end_if_spent()
            self._open = self._open.pop_all()

    def ask(self) -> Evaluate | None:
        """The next trial: its `architecture`, `fidelity` and `seed`. None if there is none left to ask for.

        So it is once all evaluations are asked for, while some may still wait for their outcome. If one of these fails,
        a trial of an equal network may be left that had waited for it; it is the next one then.

        Raises:
            InputError: The search is closed, or the strategy asks for no more before it is told an outcome.
        """
        self._check_open()
        if not self._executor.tasks:
            self._executor.wanted = len(self._given) + 1
            self._search.fill()
        if not self._executor.tasks:
            if self._given and not self._search.spent():
                raise InputError(
                    f"the strategy asks for no more before it is told an outcome; tell that of trial {min(self._given)}"
                )
            if not self._given:
                self._end()
            return None
        task = self._executor.tasks.popleft()
        self._given[task.id] = task, time.time()
        return task

    def tell(self, trial: Evaluate, metrics: Mapping[str, Any] | None = None, *, failure: str = "") -> None:
        """Say how a trial ended: with its metrics, or that it failed.

        Args:
            trial: What `ask` returned.
            metrics: Every metric of objectives and constraints but the costs of the space, and any others.
            failure: In place of metrics: why it failed.

        Raises:
            InputError: The search is closed; the trial is not asked for, or told already; or a metric is no number, or
                one of objectives or constraints is missing or not finite. The trial then still waits for its outcome.
        """
        self._check_open()
        if trial.id not in self._given:
            raise InputError(f"trial {trial.id} is not waiting for its outcome; tell once what was asked for")
        if (metrics is None) == (not failure):
            raise InputError("tell takes the metrics of a trial, or failure, which says why there are none; give one")
        try:
            found = None if metrics is None else numbers(metrics, "tell", "take")
        except TrialFailed as error:
            raise InputError(str(error)) from None
        task, began = self._given[trial.id]
        spent = Spent(seconds=time.time() - began, started=began)
        if found is None:
            outcome: Outcome = Failure(task=task, kind="failed", message=failure, spent=spent)
        else:
            outcome = self._search.completed(Measurement(task=task, metrics=found, spent=spent))
            if isinstance(outcome, Failure) and outcome.kind != "no cost":  # which is no fault of the metrics
                raise InputError(f"{outcome.message}; if the trial failed, tell failure=WHY in place of metrics")
        del self._given[trial.id]
        self._search.take([outcome])
        self._end_if_spent()

    def close(self) -> None:
        """Close the run; trials that were not told are asked for again when it is opened."""
        self._closed = True
        self._open.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"the search is closed; go on with nasplat.AskTell.open({str(self.run.folder)!r})")

    def _end_if_spent(self) -> None:
        """Log the end once all evaluations are asked for and told."""
        if self._search.spent() and not self._search.running and not self._given:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._search.end()
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
