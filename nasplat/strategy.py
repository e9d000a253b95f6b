"""The contract of a search strategy, and the duplicate policy that most strategies share."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, final, get_args

from pydantic import BeforeValidator

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.errors import DamageError, InputError, StrategyError
from nasplat.problem import ATTEMPTS, Problem
from nasplat.task import (
    Evaluate,
    Measurement,
    Outcome,
    Task,
    Trained,
    decode_outcome,
    decode_task,
    encode_outcome,
    encode_task,
    needed_by,
)


class Strategy(ABC):
    """Proposes tasks and learns from their outcomes; independent of Ray, disks and clocks.

    Life cycle. The loop calls `ask` and `tell` in any interleaving, from one thread. It tells the outcome of every
    asked task exactly once, in the order in which work ends. `ask(n)` returns at most `n` tasks; an empty list
    means "wait" while tasks are outstanding and "finished" when none are. Every task is made by
    `problem.evaluate` or `problem.train_supernet` and returned in the order made, and every proposed
    architecture is feasible.

    Determinism. The same seed and the same sequence of asks and tells give the same proposals: every random
    choice is drawn from `problem.rng`. A strategy that sets `generational` guarantees in addition that the order of
    tells within a generation changes nothing.

    Handles. `handles` names every artifact that a later task may need. An artifact that neither it nor a task in
    flight names may be deleted, except the weights that measurements left. For a class that has a state of its own
    and no `handles` of its own, what the state names is kept, too. Shared weights may be deleted, too; but the
    newest, and those used by the measurements of the highest fidelity, are kept even if nothing names them. The
    artifacts of a measurement with shared weights are deleted together with these weights.

    The constructor takes the problem and keyword-only options, which it stores under their own names.
    """

    generational: ClassVar[bool] = False

    shares_weights: ClassVar[bool] = False
    """Whether the strategy asks for the training of a supernet, and for evaluations with its weights."""

    tunes: bool = False
    """Whether the strategy asks for evaluations that are fine-tuned from shared weights."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @property
    def progress(self) -> float | None:
        """The completed part of the strategy's own plan, from 0 to 1; None if the strategy has no end of its own."""
        return None

    @abstractmethod
    def ask(self, n: int) -> list[Task]:
        """Return up to `n` new tasks."""

    @abstractmethod
    def tell(self, outcome: Outcome) -> None:
        """Take in an outcome, which may be a failure."""

    def handles(self) -> set[Handle]:
        """The artifacts that a later task may need: continue from, begin with, or learn from; by default none.

        The outcomes that the strategy was told have them. One that it does not name is deleted sooner or later.
        Define it beside `get_state`; if no later task needs anything, it returns no handle.
        """
        return set()

    @final
    def state(self) -> dict[str, Any]:
        """The state that `restore` needs to continue exactly, with the generator: JSON, with numpy arrays as leaves."""
        return {"problem": self.problem.state(), "strategy": self.get_state()}

    @final
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`, in a strategy with the same problem and options.

        Raises:
            DamageError: The state is not that of such a strategy.
        """
        try:
            self.problem.restore(state["problem"])
            self.set_state(state["strategy"])
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DamageError(
                f"the snapshot does not fit {type(self).__name__}: {type(error).__name__}: {error}; `nasplat recover` "
                "makes a run without the snapshot, which replays from the start of its log"
            ) from error

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """The strategy's own state, as JSON with numpy arrays as leaves."""

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `get_state`."""


def named_digests(strategy: Strategy) -> set[str]:
    """The digests of the artifacts that a strategy names by `handles`.

    Raises:
        StrategyError: The strategy names something else than handles.
    """
    named = strategy.handles()
    if others := [each for each in named if not isinstance(each, Handle)]:
        raise StrategyError(
            f"handles() of {type(strategy).__name__} must be handles of artifacts, but got {others[0]!r}"
        )
    return {handle.digest for handle in named}


def artifact_digests(outcome: Outcome) -> set[str]:
    """The digests of the artifacts that an outcome left."""
    if isinstance(outcome, Trained):
        return {outcome.weights.digest}
    return {handle.digest for handle in outcome.artifacts.values()} if isinstance(outcome, Measurement) else set()


class GenerationalStrategy(Strategy):
    """Proposes a whole generation, waits until all of it is measured, and proposes the next.

    A subclass gets the outcomes of a generation in the order of asking, whatever the order of tells, and makes every
    random choice between generations. So trials repeat exactly on any number of workers.
    """

    generational = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._unasked: deque[Task] = deque()
        self._outstanding: set[int] = set()
        self._outcomes: list[Outcome] = []

    @property
    def unasked(self) -> int:
        """Number of tasks of the current generation that have not been asked for."""
        return len(self._unasked)

    @abstractmethod
    def next_generation(self, outcomes: list[Outcome]) -> list[Task]:
        """The tasks of the next generation, in the order made; empty when the search is finished.

        Args:
            outcomes: The outcomes of the last generation, by id; empty before the first.
        """

    @final
    def ask(self, n: int) -> list[Task]:
        if not self._unasked and not self._outstanding:
            outcomes, self._outcomes = sorted(self._outcomes, key=lambda outcome: outcome.id), []
            self._unasked.extend(self.next_generation(outcomes))
        tasks = [self._unasked.popleft() for _ in range(min(n, len(self._unasked)))]
        self._outstanding |= {task.id for task in tasks}
        return tasks

    @final
    def tell(self, outcome: Outcome) -> None:
        self._outstanding.remove(outcome.id)
        self._outcomes.append(outcome)

    @property
    def generation_progress(self) -> float:
        """The part of the current generation's tasks whose outcomes are known, from 0 to 1; 0 without any task."""
        known = len(self._outcomes)
        return known / max(known + len(self._outstanding) + len(self._unasked), 1)

    def handles(self) -> set[Handle]:
        """All that the tasks and outcomes of the current generation name; a subclass adds what it keeps for later."""
        named = [needed_by(task) for task in self._unasked]
        named += [needed_by(outcome.task) | artifact_digests(outcome) for outcome in self._outcomes]
        return {Handle(digest) for digest in set().union(*named)}

    def get_state(self) -> dict[str, Any]:
        """The current generation; a subclass adds its own state."""
        return {
            "unasked": [encode_task(task) for task in self._unasked],
            "outstanding": sorted(self._outstanding),
            "outcomes": [encode_outcome(outcome) for outcome in self._outcomes],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._unasked = deque(map(decode_task, state["unasked"]))
        self._outstanding = set(state["outstanding"])
        self._outcomes = [decode_outcome(body) for body in state["outcomes"]]


def _today(value: object) -> object:
    return "cache" if value == "remember" else value  # the former name, in configurations of old runs


OnDuplicate: TypeAlias = Annotated[Literal["cache", "redraw", "measure"], BeforeValidator(_today)]


class DuplicatePolicy:
    """What a strategy does with a duplicate: an architecture whose canonical key it has already asked for.

    ``cache`` asks again, and the answer is a cache hit, without work. ``redraw`` proposes other architectures
    until one is new; with costs among the objectives, the same canonical key at another cost counts as new, and if
    the goal names a metric of the code, such as a measured latency, so does any other code.
    ``measure`` asks for a new replicate, which is measured like any other task.

    Args:
        problem: The strategy's problem.
        policy: ``cache``, ``redraw`` or ``measure``.

    Raises:
        InputError: There is no such policy.
    """

    def __init__(self, problem: Problem, policy: OnDuplicate) -> None:
        self.problem = problem
        self.policy = _today(policy)
        if self.policy not in get_args(get_args(OnDuplicate)[0]):
            raise InputError(f"a duplicate policy must be cache, redraw or measure, but got {policy!r}")
        self._times: dict[str, int] = {}
        self._seen: set[str] = set()

    def new(self, architecture: Architecture) -> bool:
        """Whether the policy allows to ask for the architecture; only ``redraw`` can return False."""
        return self.policy != "redraw" or self.problem.deduplication_key(architecture) not in self._seen

    def task(self, architecture: Architecture) -> Evaluate:
        """Make the evaluation of an architecture, and record it as asked for."""
        key = self.problem.key(architecture)
        times = self._times.get(key, 0)
        self._times[key] = times + 1
        if self.policy == "redraw":
            self._seen.add(self.problem.deduplication_key(architecture))
        return self.problem.evaluate(architecture, replicate=0 if self.policy == "cache" else times)

    def draw(self, propose: Callable[[], Architecture], attempts: int = ATTEMPTS) -> Evaluate | None:
        """The first proposal that is feasible and new, as a task; None if none of `attempts` proposals is."""
        architecture = self.proposal(propose, attempts)
        return None if architecture is None else self.task(architecture)

    def proposal(
        self, propose: Callable[[], Architecture], attempts: int = ATTEMPTS, *, beside: Collection[str] = ()
    ) -> Architecture | None:
        """As `draw`, but returns the architecture and does not record it as asked for.

        A proposal that a partial table lacks becomes the nearest member that was not asked for.

        Args:
            propose: Makes proposals.
            attempts: Maximum number of proposals.
            beside: Deduplication keys that the proposal must not have, of other candidates that may be asked for too.
        """
        problem = self.problem

        def accepts(architecture: Architecture) -> bool:
            return self.new(architecture) and not (beside and problem.deduplication_key(architecture) in beside)

        def first_time(architecture: Architecture) -> bool:
            return accepts(architecture) and problem.key(architecture) not in self._times

        for _ in range(attempts):
            proposed = propose()
            architecture = problem.held(proposed, first_time) or problem.held(proposed, accepts)
            if architecture is None:  # there is nothing left that any proposal could become
                return None
            if problem.feasible(architecture) and accepts(architecture):
                return architecture
        return None

    def sample(self) -> Evaluate | None:
        """A random architecture that is feasible and new, as a task; None if `Problem.find` finds none."""
        architecture = self.problem.find(self.new)
        return None if architecture is None else self.task(architecture)

    def get_state(self) -> dict[str, Any]:
        return {"times": dict(self._times), "known": sorted(self._seen)}

    def set_state(self, state: dict[str, Any]) -> None:
        self._times = dict(state["times"])
        self._seen = set(state["known"])
