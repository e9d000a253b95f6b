"""Successive halving and ASHA: many trials start at low fidelity, and the best continue."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nasplat.artifact import Handle
from nasplat.errors import InputError, StrategyError
from nasplat.evolution.selection import RankAndCrowding
from nasplat.options import complete
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.strategy import GenerationalStrategy, Strategy
from nasplat.task import (
    STATE,
    Evaluate,
    Failure,
    Measurement,
    Outcome,
    Task,
    decode_measurement,
    decode_task,
    encode_outcome,
    encode_task,
)

Rung = Annotated[int, Field(ge=1)]


class SuccessiveHalving(GenerationalStrategy):
    """Successive halving: all of a bracket are measured briefly, the best go on.

    After Jamieson and Talwalkar (2016), "Non-stochastic best arm identification", alg. 1.

    The base strategy, any strategy that asks for evaluations, proposes the trials of a bracket. It learns from the
    lowest rung, where all trials have the same fidelity. A promoted trial continues from its state on any free worker,
    if its measurement left a state; else it is measured from the start. When one trial of a bracket has reached the
    top rung, the next bracket begins.

    Args:
        problem: The search problem; its fidelity is the top rung.
        base_strategy: The base strategy.
        options: The options of the base strategy.
        eta: The reduction factor: one in `eta` trials is promoted, and the fidelity grows by `eta` from rung to rung.
        rungs: The fidelities, lowest first; by default at least `eta` times smaller from rung to rung, down to
            the lowest that the benchmark has.
        bracket_size: Number of trials in a bracket; by default as many as are needed for one to reach the top rung.
    """

    former_options: ClassVar[Mapping[str, str]] = {"around": "base_strategy", "entrants": "bracket_size"}

    def __init__(
        self,
        problem: Problem,
        *,
        base_strategy: str = "random_search",
        options: dict[str, Any] | None = None,
        eta: Annotated[int, Field(ge=2)] = 3,
        rungs: list[Rung] | None = None,
        bracket_size: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(problem)
        self.base_strategy = base_strategy
        self.options = options
        self.eta = eta
        self.rungs = rungs
        self.bracket_size = bracket_size
        self._fidelities = _fidelities(problem, rungs, eta)
        self._inner = _Inner(problem, base_strategy, options, self._fidelities[0])
        self._selection = RankAndCrowding(problem.goal)
        self._rung = 0

    def next_generation(self, outcomes: list[Outcome]) -> list[Task]:
        if self._rung == 0:
            for outcome in outcomes:
                self._inner.tell(outcome)
        # A cache hit from this bracket is already among its trials, under the code that was measured. A cache hit
        # from an earlier bracket counts as one trial.
        seen: set[int | None] = {outcome.id for outcome in outcomes}
        racing: list[Measurement] = []
        for outcome in outcomes:
            if isinstance(outcome, Measurement) and outcome.cached_from not in seen:
                racing.append(outcome)
                if outcome.cached_from is not None:
                    seen.add(outcome.cached_from)
        self._rung += 1
        if racing and self._rung < len(self._fidelities):
            kept = max(1, len(racing) // self.eta)
            best = self._selection.survivors(racing, kept, self.problem.rng)
            return [_continued(self.problem, trial, self._fidelities[self._rung]) for trial in best]
        self._rung = 0
        wanted = self.bracket_size or self.eta ** (len(self._fidelities) - 1)
        return self._inner.ask(wanted)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"inner": self._inner.get_state(), "rung": self._rung}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._inner.set_state(state["inner"])
        self._rung = state["rung"]


class ASHA(Strategy):
    """Asynchronous successive halving: the best of a rung are promoted at once.

    After Li et al. (2020), "A system for massively parallel hyperparameter tuning", alg. 2.

    A free worker takes the best trial that is in the top 1/`eta` of its rung and is not promoted yet, highest rung
    first. If there is none, a new trial enters the lowest rung. No worker waits for another.

    The base strategy, any strategy that asks for evaluations, proposes the trials. It learns from the lowest rung,
    where all trials have the same fidelity. A promoted trial continues from its state on any free worker, if its
    measurement left a state; else it is measured from the start.

    Args:
        problem: The search problem; its fidelity is the top rung.
        base_strategy: The base strategy.
        options: The options of the base strategy.
        eta: The reduction factor: one in `eta` trials is promoted, and the fidelity grows by `eta` from rung to rung.
        rungs: The fidelities, lowest first; by default at least `eta` times smaller from rung to rung, down to
            the lowest that the benchmark has.
    """

    former_options: ClassVar[Mapping[str, str]] = {"around": "base_strategy"}

    def __init__(
        self,
        problem: Problem,
        *,
        base_strategy: str = "random_search",
        options: dict[str, Any] | None = None,
        eta: Annotated[int, Field(ge=2)] = 3,
        rungs: list[Rung] | None = None,
    ) -> None:
        super().__init__(problem)
        self.base_strategy = base_strategy
        self.options = options
        self.eta = eta
        self.rungs = rungs
        self._fidelities = _fidelities(problem, rungs, eta)
        self._inner = _Inner(problem, base_strategy, options, self._fidelities[0])
        self._ladder = [_Rung(problem, eta) for _ in self._fidelities[1:]]
        self._outstanding: dict[int, int] = {}  # the rung of each task

    def ask(self, n: int) -> list[Task]:
        tasks: list[Task] = []
        while len(tasks) < n:
            task = self._promotion() or next(iter(self._inner.ask(1)), None)
            if task is None:
                break
            self._outstanding.setdefault(task.id, 0)
            tasks.append(task)
        return tasks

    def tell(self, outcome: Outcome) -> None:
        rung = self._outstanding.pop(outcome.id)
        if rung == 0:
            self._inner.tell(outcome)
        # A cache hit is already among the trials, under the code that was measured.
        if rung < len(self._ladder) and isinstance(outcome, Measurement) and outcome.cached_from is None:
            self._ladder[rung].add(outcome)

    def _promotion(self) -> Task | None:
        for rung in reversed(range(len(self._ladder))):
            trial = self._ladder[rung].promote()
            if trial is not None:
                task = _continued(self.problem, trial, self._fidelities[rung + 1])
                self._outstanding[task.id] = rung + 1
                return task
        return None

    def handles(self) -> set[Handle]:
        """The states of the trials that may still be promoted."""
        return set().union(*(rung.states() for rung in self._ladder))

    def get_state(self) -> dict[str, Any]:
        return {
            "inner": self._inner.get_state(),
            "ladder": [rung.get_state() for rung in self._ladder],
            "outstanding": [[task, rung] for task, rung in self._outstanding.items()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._inner.set_state(state["inner"])
        for rung, body in zip(self._ladder, state["ladder"], strict=True):
            rung.set_state(body)
        self._outstanding = {task: rung for task, rung in state["outstanding"]}


class _Rung:
    """The trials measured at one fidelity, and which of them can be promoted.

    With one objective the trials are kept sorted, so neither a measurement nor a promotion looks at all of them.
    With several objectives, all of them must be ranked again; if there are many, this is done each time their number
    has grown by a fiftieth.
    """

    def __init__(self, problem: Problem, eta: int) -> None:
        self._problem = problem
        self._eta = eta
        self._ranks = len(problem.goal.objectives) == 1
        self._selection = RankAndCrowding(problem.goal)
        self._trials: dict[int, Measurement] = {}
        self._gone: set[int] = set()
        # With one objective: the places of all trials, and the trials that are not promoted, both best first.
        self._placed: list[tuple[float, ...]] = []
        self._waiting: list[tuple[tuple[float, ...], Measurement]] = []
        # With several: the trials to promote since the last ranking, best first, and when to rank again.
        self._due: deque[Measurement] = deque()
        self._rank_again_at = eta

    def add(self, trial: Measurement) -> None:
        # The state that it continued from is used up, and must not be kept because of this trial.
        trial = replace(trial, task=replace(trial.task, continues=None))
        self._trials[trial.id] = trial
        if self._ranks:
            self._enter(trial)

    def promote(self) -> Measurement | None:
        """Promote the best trial that is in the top 1/`eta` and is not promoted yet; None if there is none."""
        trial = self._next_by_place() if self._ranks else self._next_by_front()
        if trial is not None:
            self._gone.add(trial.id)
            self._trials[trial.id] = _without_state(trial)  # from now on the next rung holds the state
        return trial

    def _enter(self, trial: Measurement) -> None:
        goal = self._problem.goal
        place = (goal.violation(trial), *goal.losses(trial), trial.id)
        insort(self._placed, place)
        if trial.id not in self._gone:
            insort(self._waiting, (place, trial), key=itemgetter(0))

    def _next_by_place(self) -> Measurement | None:
        if not self._waiting:
            return None
        place, trial = self._waiting[0]
        if bisect_left(self._placed, place) >= len(self._placed) // self._eta:
            return None
        del self._waiting[0]
        return trial

    def _next_by_front(self) -> Measurement | None:
        number = len(self._trials)
        if number >= self._rank_again_at:
            trials = list(self._trials.values())
            first = self._selection.survivors(trials, number // self._eta, self._problem.rng)
            self._due = deque(trial for trial in first if trial.id not in self._gone)
            self._rank_again_at = number + max(1, number // 50)
        return self._due.popleft() if self._due else None

    def states(self) -> set[Handle]:
        """The states that its trials left, but for those that were promoted."""
        return {trial.artifacts[STATE] for trial in self._trials.values() if STATE in trial.artifacts}

    def get_state(self) -> dict[str, Any]:
        return {
            "trials": [encode_outcome(trial) for trial in self._trials.values()],
            "gone": sorted(self._gone),
            "due": [trial.id for trial in self._due],
            "rank_again_at": self._rank_again_at,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._trials = {trial.id: trial for trial in map(decode_measurement, state["trials"])}
        self._gone = set(state["gone"])
        self._placed, self._waiting = [], []
        if self._ranks:
            for trial in self._trials.values():
                self._enter(trial)
        self._due = deque(self._trials[number] for number in state["due"])
        self._rank_again_at = state["rank_again_at"]


class _Inner:
    """The base strategy, and its own tasks for each task that is run."""

    def __init__(self, problem: Problem, base_strategy: str, options: dict[str, Any] | None, fidelity: int) -> None:
        plugin = STRATEGIES.get(base_strategy)
        if plugin.shares_weights:
            raise InputError(
                f"the base strategy must train each trial from scratch, but {base_strategy} shares weights; "
                "name another base_strategy"
            )
        self._problem = problem
        self._fidelity = fidelity
        self._strategy = plugin(
            problem.nested(fidelity=fidelity), **complete("strategy.options", plugin, dict(options or {}))
        )
        self._behind: dict[int, Evaluate] = {}

    def ask(self, n: int) -> list[Task]:
        """Up to `n` proposals as tasks of the outer problem, at the lowest fidelity."""
        tasks: list[Task] = []
        while len(tasks) < n and (proposed := self._strategy.ask(n - len(tasks))):
            for inner in proposed:
                plain = isinstance(inner, Evaluate) and inner.weights is None and inner.continues is None
                if not plain or not isinstance(inner, Evaluate) or inner.fidelity != self._fidelity:
                    raise StrategyError(
                        f"the base strategy must ask for evaluations from scratch at one fidelity, but "
                        f"{type(self._strategy).__name__} asked for {inner}"
                    )
                task = self._problem.evaluate(inner.architecture, fidelity=self._fidelity, replicate=inner.replicate)
                self._behind[task.id] = inner
                tasks.append(task)
        return tasks

    def tell(self, outcome: Outcome) -> None:
        """Tell the base strategy the outcome of a proposal."""
        inner = self._behind.pop(outcome.id)
        assert isinstance(outcome, Measurement | Failure)
        known = _without_state(outcome) if isinstance(outcome, Measurement) else outcome
        self._strategy.tell(replace(known, task=inner))

    def get_state(self) -> dict[str, Any]:
        return {
            "strategy": self._strategy.state(),
            "behind": [[task, encode_task(inner)] for task, inner in self._behind.items()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._strategy.restore(state["strategy"])
        self._behind = {}
        for task, body in state["behind"]:
            inner = decode_task(body)
            assert isinstance(inner, Evaluate)
            self._behind[task] = inner


def _fidelities(problem: Problem, rungs: Sequence[int] | None, eta: int) -> list[int]:
    """The fidelity of every rung, lowest first.

    Raises:
        InputError: Given rungs do not rise to the problem's fidelity, or the benchmark lacks one of them.
    """
    if rungs is None:
        found = [problem.fidelity]
        while lower := [fidelity for fidelity in problem.fidelities if fidelity <= found[0] // eta]:
            found.insert(0, max(lower))
        return found
    if list(rungs) != sorted(set(rungs)) or not rungs or rungs[-1] != problem.fidelity:
        raise InputError(
            f"rungs must increase and end at the benchmark's full fidelity, {problem.fidelity}, but got {list(rungs)}"
        )
    missing = [rung for rung in rungs if rung not in problem.fidelities]
    if missing:
        there = ", ".join(map(str, problem.fidelities))
        raise InputError(f"each rung must be a fidelity of the benchmark, which has {there}, but got {missing}")
    return list(rungs)


def _without_state(trial: Measurement) -> Measurement:
    """The same trial without its state, so that the state can be collected."""
    return replace(trial, artifacts={role: handle for role, handle in trial.artifacts.items() if role != STATE})


def _continued(problem: Problem, trial: Measurement, fidelity: int) -> Evaluate:
    """Evaluate the same architecture at a higher fidelity, from the state of the trial if it left one."""
    return problem.evaluate(
        trial.architecture,
        fidelity=fidelity,
        replicate=trial.task.replicate,
        continues=trial.artifacts.get(STATE),
    )
