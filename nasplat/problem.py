"""The input of a strategy: a space, a goal, hard constraints, and a random generator."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Self

from numpy.random import Generator, SeedSequence, default_rng

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle
from nasplat.cost import Cost
from nasplat.errors import InfeasibleWarning, InputError, unknown
from nasplat.nearest import Nearest
from nasplat.objective import Goal
from nasplat.search_space import LISTED, GeneSpace, SearchSpace
from nasplat.task import Evaluate, FineTuning, Teacher, TrainSupernet, derive_seed

if TYPE_CHECKING:
    from nasplat.benchmark import Benchmark

ATTEMPTS = 10_000
"""Maximum number of draws in rejection sampling."""
LIST = 1
"""Seed key that separates the generator for the order of the member list from the strategy's generator."""
REPAIRED, STEPS = 20, 1000
"""If rejection sampling finds nothing: the number of random members to repair, and the mutations for each."""


class Problem:
    """A search problem, as strategies see it.

    It numbers and seeds the tasks of a strategy, and owns the strategy's generator. So a strategy that draws only
    from `rng` repeats exactly.

    Args:
        space: The search space.
        goal: Objectives and constraints. Constraints on analytic metrics decide which architectures are feasible;
            constraints on measured metrics act in selection.
        io: The input and output shapes of the benchmark's data; costs depend on them.
        fidelity: The default fidelity of an evaluation.
        fidelities: The fidelities that a strategy may choose; by default every number of epochs up to `fidelity`.
        is_measurable: Whether the benchmark can measure an architecture; a partial table has only some.
        enumerable_members: All measurable members, if the benchmark lists them; random draws are made from the list.
        analytic_metrics: The benchmark's analytic metrics of a measurable architecture; they count as costs.
        code_metrics: The benchmark's metrics that depend on the code, not only on the function that it computes.
        distills: Whether the benchmark has networks learn from a teacher.
        seed: The run's seed.

    Attributes:
        cost: The cost of an architecture in this problem, cached for the last few thousand.
        key: The canonical key of an architecture, cached in the same way.
        code_metrics: The measured metrics that depend on the code.
        goal: Objectives, and the constraints that act in selection.
        limits: The hard constraints: those on analytic metrics.
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
        is_measurable: Callable[[Architecture], bool] = lambda architecture: True,
        enumerable_members: Sequence[Architecture] | None = None,
        analytic_metrics: Callable[[Architecture], Mapping[str, float]] = lambda architecture: {},
        code_metrics: frozenset[str] = frozenset(),
        distills: bool = False,
        seed: int = 0,
    ) -> None:
        self.space = space
        self.io = io
        self._analytic_metrics = analytic_metrics
        self._is_measurable = is_measurable
        self._members = enumerable_members
        self.fidelity = fidelity
        self.distills = distills
        self.fidelities = range(1, fidelity + 1) if fidelities is None else fidelities
        self.seed = seed
        self.rng: Generator = default_rng(SeedSequence([seed]))
        self.cost = lru_cache(maxsize=4096)(self._cost)
        self._has_cost = lru_cache(maxsize=65536)(self._can_be_counted)
        self.key = lru_cache(maxsize=65536)(space.canonical_key)
        free = self.cost(self._example()).metrics()
        self.goal = Goal(goal.objectives, tuple(c for c in goal.constraints if c.metric not in free))
        self.limits = tuple(c for c in goal.constraints if c.metric in free)
        self.free_metrics = frozenset(free)
        self.code_metrics = code_metrics
        self._by_code = not code_metrics.isdisjoint(self.goal.metrics)
        self._priced_by = tuple(o.metric for o in goal.objectives if o.metric in free)
        self._next_id = 0
        self._has_warned = False

    @classmethod
    def of(
        cls, benchmark: "Benchmark", goal: Goal, *, code_metrics: frozenset[str] | None = None, seed: int = 0
    ) -> Self:
        """The problem of a search on a benchmark: what it can measure, at which fidelities, and what is known before.

        Args:
            benchmark: The benchmark, with its space.
            goal: Objectives and constraints.
            code_metrics: The measured metrics that depend on the code; by default the benchmark's.
            seed: The run's seed.
        """
        return cls(
            benchmark.space,
            goal,
            io=benchmark.io,
            fidelity=benchmark.fidelity,
            fidelities=benchmark.fidelities,
            is_measurable=benchmark.feasible,
            enumerable_members=benchmark.enumerable_members,
            analytic_metrics=benchmark.analytic_metrics,
            code_metrics=benchmark.code_metrics if code_metrics is None else code_metrics,
            distills=benchmark.distills,
            seed=seed,
        )

    def evaluate(
        self,
        architecture: Architecture,
        *,
        fidelity: int | None = None,
        weights: Handle | None = None,
        replicate: int = 0,
        continues: Handle | None = None,
        teacher: Teacher | None = None,
        tuning: FineTuning | None = None,
    ) -> Evaluate:
        """Make the next task: measure an architecture, by default at the problem's fidelity."""
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
            tuning=tuning,
        )

    def train_supernet(
        self, architectures: tuple[Architecture, ...], *, epochs: int, weights: Handle | None = None
    ) -> TrainSupernet:
        """Make the next task: train shared weights on the given paths."""
        task_id = self._number()
        return TrainSupernet(
            id=task_id,
            seed=derive_seed(self.seed, task_id),
            architectures=architectures,
            epochs=epochs,
            weights=weights,
        )

    def feasible(self, architecture: Architecture) -> bool:
        """Whether the benchmark can measure the architecture and it satisfies every hard constraint.

        If costs are objectives or have constraints, an architecture without a countable cost is not feasible.
        """
        if not self._is_measurable(architecture):
            return False
        return not self.excess(architecture)

    def excess(self, architecture: Architecture) -> float:
        """The sum of an architecture's relative excesses over the hard constraints; 0 if it satisfies them.

        Infinite if its cost is needed and not known: the benchmark cannot measure it, or its network cannot be built or
        run.
        """
        if not self.limits and not self._priced_by:
            return 0.0
        if not self._is_measurable(architecture) or not self._has_cost(architecture):
            return math.inf
        metrics = self.cost(architecture).metrics()
        return sum(limit.excess(metrics) for limit in self.limits)

    def repair(
        self, architecture: Architecture, step: Callable[[Architecture], Architecture], steps: int = STEPS
    ) -> Architecture:
        """Repair an architecture by steps until it satisfies the hard constraints.

        A step is accepted if it does not increase the excess. An architecture that a partial table lacks is returned as
        it is, since its steps would lead astray; `held` replaces it.

        Args:
            architecture: The architecture to start from.
            step: Returns another architecture close to the given one.
            steps: Maximum number of steps; after them, the result need not satisfy the constraints.
        """
        if not self._is_measurable(architecture) and self._nearest:
            return architecture
        excess = self.excess(architecture)
        for _ in range(steps):
            if not excess:
                break
            other = step(architecture)
            left = self.excess(other)
            if left <= excess:
                architecture, excess = other, left
        return architecture

    def held(
        self, architecture: Architecture, accepts: Callable[[Architecture], bool] = lambda architecture: True
    ) -> Architecture | None:
        """The architecture; for one that a partial table lacks, the nearest feasible member that is accepted, if any.

        Mutants are rarely members of a table that holds few of a large space. A strategy passes all that it proposes
        through here, so that it works there as well. Distances are those of `nasplat.nearest`; what is near is drawn at
        random among equals. If the benchmark lists no members, or more than `LISTED`, the architecture is returned as
        it is.
        """
        if self._is_measurable(architecture) or not self._nearest:
            return architecture
        near = self._nearest(architecture, self.rng)
        return next((member for member in near if self.feasible(member) and accepts(member)), None)

    def neighbors(self, architecture: Architecture) -> list[Architecture]:
        """The neighbors of a member; if a partial table lacks some, as many members that are the nearest to it."""
        neighbors = self.space.neighbors(architecture)
        if all(map(self._is_measurable, neighbors)) or not self._nearest:
            return neighbors
        others = (member for member in self._nearest(architecture, self.rng) if member != architecture)
        return list(islice(others, len(neighbors)))

    def measurement_key(self, architecture: Architecture) -> str:
        """Equal for architectures with equal measured metrics, as far as the goal names them.

        It is the canonical key, plus the code if a measured objective or constraint depends on the code.
        """
        key = self.key(architecture)
        return f"{key} {architecture.code}" if self._by_code else key

    def deduplication_key(self, architecture: Architecture) -> str:
        """Deduplication key: the measurement key, plus every objective that is a cost.

        A dead edge changes no accuracy, but it may add to a cost. What cannot be measured has no cost in its key.
        """
        key = self.measurement_key(architecture)
        if not self._priced_by or math.isinf(self.excess(architecture)):
            return key
        metrics = self.cost(architecture).metrics()
        return " ".join((key, *(str(metrics[name]) for name in self._priced_by)))

    def listed(self) -> list[Architecture] | None:
        """All feasible members, one for each deduplication key, if space or benchmark can list members; else None.

        The choice among duplicates, and the order, depend only on the seed: the list is the same at any time.
        """
        return None if self._listed is None else list(self._listed)

    def draw(self) -> Architecture:
        """A random member, from the benchmark's list if it has one; it need not satisfy the constraints."""
        return self._draw(self.rng)

    def candidates(self) -> Iterator[Architecture]:
        """Random members to search for feasible ones: first many as drawn, then some repaired by mutations."""
        return self._candidates(self.rng)

    def find(self, accepts: Callable[[Architecture], bool]) -> Architecture | None:
        """A random feasible member that is accepted, by rejection sampling; None if there is none.

        Draws rarely find the last members that are left. So where they find none, one is drawn from the members that
        can be listed, unless that would take too long; then the result is None.
        """
        return self._find(accepts, self.rng)

    def sample(self) -> Architecture:
        """A feasible member, by rejection sampling; if that finds none, a random member repaired by mutations.

        Raises:
            InputError: No feasible member was found.
        """
        return self._sample(self.rng)

    def check_feasible(self) -> None:
        """Check that a feasible member can be drawn; the strategy's generator is not used.

        Raises:
            InputError: No feasible member was found.
        """
        self._sample(default_rng(0))

    @property
    def _lists_soon(self) -> bool:
        """Whether feasible members are listed without building more networks than draws would have built."""
        counted = isinstance(self.space, GeneSpace) and self.space.counts_its_networks
        if not counted or "_listed" in vars(self):
            return True
        members = self._members if self._members is not None else self.space.members()
        return members is None or len(members) <= ATTEMPTS

    @cached_property
    def _listed(self) -> list[Architecture] | None:
        members = self._members if self._members is not None else self.space.members()
        if members is None:
            return None
        distinct: dict[str, Architecture] = {}
        for i in default_rng(SeedSequence([self.seed, LIST])).permutation(len(members)):
            member = members[int(i)]
            if self.feasible(member):
                distinct.setdefault(self.deduplication_key(member), member)
        return list(distinct.values())

    @cached_property
    def _nearest(self) -> Nearest | None:
        """The members that the benchmark lists, if they are few enough, by their distance."""
        return Nearest(self.space, self._members) if self._members and len(self._members) <= LISTED else None

    def _example(self) -> Architecture:
        """A member whose metrics say which ones need no measurement: a measurable one, if any is found."""
        if self._members:
            return self._members[0]
        rng = default_rng(0)
        first = self.space.sample(rng)
        drawn = chain([first], (self.space.sample(rng) for _ in range(ATTEMPTS)))
        return next(filter(self._is_measurable, drawn), first)

    def _draw(self, rng: Generator) -> Architecture:
        return self._members[int(rng.integers(len(self._members)))] if self._members else self.space.sample(rng)

    def _candidates(self, rng: Generator) -> Iterator[Architecture]:
        for _ in range(ATTEMPTS):
            yield self._draw(rng)
        for _ in range(REPAIRED if self.limits else 0):
            yield self.repair(self._draw(rng), lambda architecture: self.space.mutate(architecture, rng))

    def _find(self, accepts: Callable[[Architecture], bool], rng: Generator) -> Architecture | None:
        for architecture in self._candidates(rng):
            if self.feasible(architecture) and accepts(architecture):
                return architecture
        left = [each for each in (self._listed if self._lists_soon else None) or () if accepts(each)]
        return left[int(rng.integers(len(left)))] if left else None

    def _sample(self, rng: Generator) -> Architecture:
        found = self._find(lambda architecture: True, rng)
        if found is not None:
            return found
        name = self.space.name
        listed = self._lists_soon and self._listed is not None
        none = f"no member of {name}" if listed else f"none of {ATTEMPTS:,} members drawn from {name}"
        if not self.limits:
            raise InputError(f"{none} can be measured by the benchmark; choose another benchmark")
        limits = ", ".join(map(str, self.limits))
        raise InputError(f"{none} is feasible under {limits}; relax the constraints")

    def check_metrics(self, measured: tuple[str, ...]) -> None:
        """Check that every metric in objectives and constraints exists.

        Args:
            measured: The metrics of the benchmark; if there are none, they are known only from a measurement.

        Raises:
            InputError: A metric is neither a cost of the space nor a metric of the benchmark.
        """
        if not measured:
            return
        available = self.free_metrics | set(measured)
        for metric in (*self.goal.metrics, *(limit.metric for limit in self.limits)):
            if metric not in available:
                raise InputError(unknown("metric", metric, available))

    def nested(self, *, fidelity: int) -> "Problem":
        """The same problem for a nested strategy, with its own task numbers and its own generator.

        The generator starts in the same state as this problem's did, so a nested strategy makes the same proposals as
        on its own. Its tasks are never run; the outer strategy makes its own task for each.
        """
        goal = Goal(self.goal.objectives, self.goal.constraints + self.limits)
        return Problem(
            self.space,
            goal,
            io=self.io,
            fidelity=fidelity,
            fidelities=[fidelity],
            is_measurable=self._is_measurable,
            enumerable_members=self._members,
            analytic_metrics=self._analytic_metrics,
            code_metrics=self.code_metrics,
            seed=self.seed,
        )

    def state(self) -> dict[str, Any]:
        """The generator's state and the next task's number, as JSON."""
        return {"rng": self.rng.bit_generator.state, "next_id": self._next_id}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state`."""
        self.rng.bit_generator.state = state["rng"]
        self._next_id = state["next_id"]

    def _can_be_counted(self, architecture: Architecture) -> bool:
        """Whether an architecture has a cost; the first that has none is told of, since there may be thousands."""
        try:
            self.cost(architecture)
        except InputError as error:
            if not self._has_warned:
                warnings.warn(
                    f"{error}; the search leaves it out, and all others like it: correct build, or exclude them by "
                    "`allowed` of nasplat.space, or by `violation` of the space's class",
                    InfeasibleWarning,
                    stacklevel=2,
                )
            self._has_warned = True
            return False
        return True

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _cost(self, architecture: Architecture) -> Cost:
        cost = self.space.cost(architecture, self.io)
        analytic = self._analytic_metrics(architecture) if self._is_measurable(architecture) else {}
        return replace(cost, published={**cost.published, **analytic}) if analytic else cost
