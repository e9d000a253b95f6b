"""What a strategy is given: a space, what is wanted, what is allowed, and a generator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from numpy.random import Generator, SeedSequence, default_rng

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle
from nasplat.cost import Cost
from nasplat.errors import InputError, unknown
from nasplat.objective import Goal
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate, Teacher, TrainSupernet, derive_seed

ATTEMPTS = 10_000
"""How often a rejection loop tries before it gives up with an error."""
LIST = 1
"""Tells the generator that orders a list of all members from the strategy's."""
REPAIRED, STEPS = 20, 1000
"""Where rejection finds nothing, so many random members are brought within the limits, each by so many mutations."""


class Problem:
    """A search problem, as strategies see it.

    It numbers and seeds the tasks that a strategy makes and owns the strategy's generator, so that a
    strategy which draws from `rng` alone repeats exactly.

    Args:
        space: Where architectures come from.
        goal: Objectives and constraints. Constraints on costs known for free decide what is feasible, those
            on measured metrics act in selection.
        io: What the benchmark's data asks of a network; costs depend on it.
        fidelity: How thoroughly an architecture is measured unless a strategy says otherwise.
        fidelities: What a strategy may say otherwise; by default every number of epochs up to `fidelity`.
        member: Whether the benchmark can measure an architecture; a partial table holds only some.
        offered: All that it can measure, if it has a list of them: what random draws are made from.
        known: Metrics that the benchmark knows without measuring, of what it can measure; they count as costs.
        seed: The run's seed.

    Attributes:
        cost: The cost of an architecture in this problem, remembered for the last few thousand.
        key: The canonical key of an architecture, likewise.
        goal: Objectives, and the constraints that act in selection.
        limits: The constraints on costs known for free.
        rng: The generator for every random choice of the strategy.
    """

    def __init__(
        self,
        space: SearchSpace,
        goal: Goal,
        *,
        io: IO,
        fidelity: int = 1,
        fidelities: Sequence[int] | None = None,
        member: Callable[[Architecture], bool] = lambda architecture: True,
        offered: Sequence[Architecture] | None = None,
        known: Callable[[Architecture], Mapping[str, float]] = lambda architecture: {},
        seed: int = 0,
    ) -> None:
        self.space = space
        self.io = io
        self._known = known
        self._member = member
        self._offered = offered
        self.fidelity = fidelity
        self.fidelities = range(1, fidelity + 1) if fidelities is None else fidelities
        self.seed = seed
        self.rng: Generator = default_rng(SeedSequence([seed]))
        self.cost = lru_cache(maxsize=4096)(self._cost)
        self.key = lru_cache(maxsize=65536)(space.canonical_key)
        free = self.cost(offered[0] if offered else space.sample(default_rng(0))).metrics()
        self.goal = Goal(goal.objectives, tuple(c for c in goal.constraints if c.metric not in free))
        self.limits = tuple(c for c in goal.constraints if c.metric in free)
        self.free_metrics = frozenset(free)
        self._priced_by = tuple(o.metric for o in goal.objectives if o.metric in free)
        self._next_id = 0

    def evaluate(
        self,
        architecture: Architecture,
        *,
        fidelity: int | None = None,
        weights: Handle | None = None,
        replicate: int = 0,
        continues: Handle | None = None,
        teacher: Teacher | None = None,
    ) -> Evaluate:
        """The next task: measure an architecture, by default at the problem's fidelity."""
        task_id = self._number()
        return Evaluate(
            id=task_id,
            seed=derive_seed(self.seed, task_id),
            architecture=architecture,
            fidelity=self.fidelity if fidelity is None else fidelity,
            weights=weights,
            replicate=replicate,
            continues=continues,
            teacher=teacher,
        )

    def train_supernet(
        self, architectures: tuple[Architecture, ...], *, epochs: int, weights: Handle | None = None
    ) -> TrainSupernet:
        """The next task: train shared weights on the given paths."""
        task_id = self._number()
        return TrainSupernet(
            id=task_id,
            seed=derive_seed(self.seed, task_id),
            architectures=architectures,
            epochs=epochs,
            weights=weights,
        )

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the benchmark can measure it and it keeps every constraint on costs known for free."""
        if not self._member(architecture):
            return False
        return not self.excess(architecture)

    def excess(self, architecture: Architecture) -> float:
        """How far an architecture lies beyond the limits, the sum of all relative excesses; 0 where it keeps them."""
        if not self.limits:
            return 0.0
        metrics = self.cost(architecture).metrics()
        return sum(limit.excess(metrics) for limit in self.limits)

    def repair(
        self, architecture: Architecture, step: Callable[[Architecture], Architecture], steps: int = STEPS
    ) -> Architecture:
        """What comes of an architecture by steps, each kept that leads no further away, until the limits are kept.

        Args:
            architecture: Where it begins.
            step: Gives another architecture near by.
            steps: How many are tried; where they are used up, what comes of it need not keep the limits.
        """
        excess = self.excess(architecture)
        for _ in range(steps):
            if not excess:
                break
            other = step(architecture)
            left = self.excess(other)
            if left <= excess:
                architecture, excess = other, left
        return architecture

    def deduplication_key(self, architecture: Architecture) -> str:
        """Equal for architectures that nothing wanted can tell apart: one canonical key and, where costs are
        objectives, one price. A dead edge changes no figure that is measured, but it may have to be paid for.
        """
        key = self.key(architecture)
        if not self._priced_by:
            return key
        metrics = self.cost(architecture).metrics()
        return " ".join((key, *(str(metrics[name]) for name in self._priced_by)))

    def listed(self) -> list[Architecture] | None:
        """Everything feasible, one of each identity, if space or benchmark can list what there is.

        Which of several equal ones it is, and the order, go by the seed alone: the list is the same at any time.
        """
        members = self._offered if self._offered is not None else self.space.members()
        if members is None:
            return None
        distinct: dict[str, Architecture] = {}
        for i in default_rng(SeedSequence([self.seed, LIST])).permutation(len(members)):
            member = members[int(i)]
            if self.feasible(member):
                distinct.setdefault(self.deduplication_key(member), member)
        return list(distinct.values())

    def draw(self) -> Architecture:
        """A random member, of those that the benchmark offers if it lists them; it need not keep the constraints."""
        return self._draw(self.rng)

    def candidates(self) -> Iterator[Architecture]:
        """Random members to look for feasible ones among: many as they are drawn, then some mutated to the limits."""
        return self._candidates(self.rng)

    def sample(self) -> Architecture:
        """A feasible member, drawn by rejection; where that finds none, a random one that mutations made feasible.

        Raises:
            InputError: None was found.
        """
        return self._sample(self.rng)

    def check_feasible(self) -> None:
        """Refuse a problem in which nothing feasible can be drawn; the strategy's generator is left alone.

        Raises:
            InputError: None was found.
        """
        self._sample(default_rng(0))

    def _draw(self, rng: Generator) -> Architecture:
        return self._offered[int(rng.integers(len(self._offered)))] if self._offered else self.space.sample(rng)

    def _candidates(self, rng: Generator) -> Iterator[Architecture]:
        for _ in range(ATTEMPTS):
            yield self._draw(rng)
        for _ in range(REPAIRED if self.limits else 0):
            yield self.repair(self._draw(rng), lambda architecture: self.space.mutate(architecture, rng))

    def _sample(self, rng: Generator) -> Architecture:
        for architecture in self._candidates(rng):
            if self.feasible(architecture):
                return architecture
        limits = ", ".join(map(str, self.limits)) or "membership in the benchmark"
        raise InputError(
            f"none of {ATTEMPTS:,} members drawn from {self.space.name} is feasible under {limits}; "
            f"widen the constraint"
        )

    def check_metrics(self, measured: tuple[str, ...]) -> None:
        """Refuse objectives and constraints on metrics that nobody provides.

        Raises:
            InputError: A metric is neither a cost of the space nor among the benchmark's.
        """
        known = self.free_metrics | set(measured)
        for metric in (*self.goal.metrics, *(limit.metric for limit in self.limits)):
            if metric not in known:
                raise InputError(unknown("metric", metric, known))

    def nested(self, *, fidelity: int) -> "Problem":
        """The same problem for a strategy inside a strategy, with numbers and a generator of its own.

        The generator begins as this problem's did, so that inside another a strategy proposes what it would
        propose alone. Its tasks are never run; the outer strategy makes one of its own for each.
        """
        goal = Goal(self.goal.objectives, self.goal.constraints + self.limits)
        return Problem(
            self.space,
            goal,
            io=self.io,
            fidelity=fidelity,
            fidelities=[fidelity],
            member=self._member,
            offered=self._offered,
            known=self._known,
            seed=self.seed,
        )

    def state(self) -> dict[str, Any]:
        """The generator's state and the next task's number, as JSON."""
        return {"rng": self.rng.bit_generator.state, "next_id": self._next_id}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave."""
        self.rng.bit_generator.state = state["rng"]
        self._next_id = state["next_id"]

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _cost(self, architecture: Architecture) -> Cost:
        cost, known = self.space.cost(architecture, self.io), self._known(architecture)
        return replace(cost, published={**cost.published, **known}) if known else cost
