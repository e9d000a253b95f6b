"""Evolution guided by block credit (Song et al., 2020, "Efficient residual dense block search", AAAI)."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.evolution.credit import Scope, Terms, difference, founding, preference, regression
from nasplat.evolution.selection import RankAndCrowding
from nasplat.problem import Problem
from nasplat.search_space import GeneSpace, Prior
from nasplat.strategy import DuplicatePolicy, GenerationalStrategy, OnDuplicate
from nasplat.surrogates.prescreening import Prescreening
from nasplat.task import Measurement, Outcome, Task, decode_measurement, encode_outcome

CHILD_ATTEMPTS = 50
"""How many children may be infeasible or known, each after its repair, before a random immigrant takes the place."""
REDRAWS = 20
"""How many mutants may be refused because of what they gave up."""
REPAIRS = 100
"""How many further mutations may bring a child within the limits."""


class CreditEvolution(GenerationalStrategy):
    """Evolution guided by block credit: mutation prefers blocks with high credit.

    After Song et al. (2020), "Efficient residual dense block search for image super-resolution".

    Each generation has mutants of the elites, and children of two parents from elites and last generation, drawn by
    roulette on the score above the least. The best of elites and children are the next elites.

    How credit is earned was never released, so that both rules are reconstructions. ``regression`` credits a choice
    with what it is worth in a ridge regression of the scores on the choices of all that was evaluated. ``difference``
    shares a child's gain over its parent among the genes that changed, as a moving average; of two parents the nearer
    one counts, and the first generation, which has none, credits a choice with the mean of those that have it less
    the mean of all. ``none`` mutates uniformly. ``performance/credits.py`` compares them.

    The score is the objective. With several it is the number of the non-dominated front among all evaluated so far,
    the best being 0 and further ones less. Whoever breaks constraints on measured metrics scores below all who keep
    them, by how far (Deb, 2000, "An efficient constraint handling method for genetic algorithms").

    A child outside the limits on costs is mutated further, each step kept that leads no further away, so that windows
    which hardly a random architecture hits can be searched.

    Where it departs from the paper, as far as its code is public: crossover and mutation are the space's own; a mutant
    always changes something; repairs are bounded.

    With `prescreen` more children are made than are measured, and a predictor that has learnt from all measurements
    picks those that it expects most of (`nasplat.surrogates.prescreening`). That is not of the paper.

    Args:
        problem: What is searched.
        population: How many there are in a generation; two of every four are children of two parents.
        elites: How many survive one.
        mutation_rate: The chance of each gene of a mutant to change; one does in any case.
        credit: How credit is earned.
        scope: Whether a choice has a credit of its own in every gene, or one in all genes with equal choices.
        factorized: Whether the parts of choices have credits, where the space names parts.
        temperature: How far credits may weigh: the higher, the more uniform, in standard deviations of the credits.
        floor: What part of the mutations is uniform whatever the credits.
        decay: By difference, how much of a credit stays when a new share comes.
        ridge: By regression, for how many evaluations the belief counts that a choice is worth nothing.
        repeats: What to do with a child that was already asked for.
        prescreen: How many children are made for one that is measured; 1 measures all of them.
        predictor: What learns to tell which.
    """

    former_options: ClassVar[Mapping[str, str]] = {"prefilter": "prescreen"}

    def __init__(
        self,
        problem: Problem,
        *,
        population: Annotated[int, Field(ge=2)] = 8,
        elites: Annotated[int, Field(ge=1)] = 4,
        mutation_rate: Annotated[float, Field(ge=0, le=1)] = 0.05,
        credit: Literal["regression", "difference", "none"] = "difference",
        scope: Scope = "global",
        factorized: bool = True,
        temperature: Annotated[float, Field(ge=0.01)] = 0.5,
        floor: Annotated[float, Field(ge=0, le=1)] = 0.3,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        ridge: Annotated[float, Field(ge=1e-6)] = 1.0,
        repeats: OnDuplicate = "redraw",
        prescreen: Annotated[int, Field(ge=1)] = 1,
        predictor: str = "random_forest",
    ) -> None:
        super().__init__(problem)
        if not isinstance(problem.space, GeneSpace):
            raise InputError(
                f"credit_evolution credits the choices of genes, but the search space {problem.space.name} has no "
                "genes; take another strategy, such as nsga2 or regularized_evolution"
            )
        if elites > population:
            raise InputError(
                f"the elites are at most a population, but got elites={elites}, population={population}; set fewer"
            )
        self.population = population
        self.elites = elites
        self.mutation_rate = mutation_rate
        self.credit = credit
        self.scope = scope
        self.factorized = factorized
        self.temperature = temperature
        self.floor = floor
        self.decay = decay
        self.ridge = ridge
        self.repeats = repeats
        self.prescreen = prescreen
        self.predictor = predictor
        self._prescreening = Prescreening(problem, predictor, factor=prescreen)
        self._space = problem.space
        self._terms = Terms(problem.space, scope=scope, factorized=factorized)
        self._repeats = DuplicatePolicy(problem, repeats)
        self._selection = RankAndCrowding(problem.goal)
        self._evaluated = Evaluated(problem)
        self._credits = np.zeros(self._terms.number)
        self._elites: list[Measurement] = []
        self._parents: dict[int, Architecture] = {}

    def next_generation(self, outcomes: list[Outcome]) -> list[Task]:
        measured = [outcome for outcome in outcomes if isinstance(outcome, Measurement)]
        self._earn(measured)
        self._elites = self._survivors([*self._elites, *measured])
        filtering = self._prescreening.fit(self._evaluated.measured())
        families = self._families(measured, self.population * (self.prescreen if filtering else 1))
        prior = self._prior()
        self._parents = {}
        tasks: list[Task] = self._promising(families, prior) if filtering else []
        for i in range(len(tasks), self.population):
            task = self._repeats.draw(partial(self._child, families[i], prior), CHILD_ATTEMPTS) if families else None
            if task is not None:
                self._parents[task.id] = self._nearest(families[i], task.architecture)
            else:  # a founder, or an immigrant where every child within reach is known or infeasible
                task = self._repeats.sample()
            if task is None:
                break
            tasks.append(task)
        return tasks

    def _promising(self, families: Sequence[tuple[Architecture, ...]], prior: Prior) -> list[Task]:
        """Of one child from each family those that are expected to be best, no two the same; at most a generation."""
        children: dict[str, tuple[Architecture, tuple[Architecture, ...]]] = {}
        for family in families:
            propose = partial(self._child, family, prior)
            child = self._repeats.proposal(propose, CHILD_ATTEMPTS, beside=children.keys())
            if child is not None:
                children[self.problem.deduplication_key(child)] = child, family
        pool = list(children.values())
        tasks: list[Task] = []
        for i in self._prescreening.best([child for child, _ in pool], self.population):
            child, family = pool[i]
            task = self._repeats.task(child)
            self._parents[task.id] = self._nearest(family, child)
            tasks.append(task)
        return tasks

    def _earn(self, measured: Sequence[Measurement]) -> None:
        """Let the blocks of those just measured earn their credit."""
        first = not self._evaluated.architectures
        self._evaluated.add(measured)
        if self.credit == "none" or not measured:
            return
        scores = self._evaluated.scores()
        if self.credit == "regression":
            self._credits = regression(self._terms.counts(self._evaluated.architectures), scores, ridge=self.ridge)
        elif first:
            self._credits = founding(self._terms.counts(self._evaluated.architectures), scores)
        else:
            for m in measured:
                if m.id in self._parents:
                    self._credits = self._differed(self._parents[m.id], m.architecture, scores)

    def _differed(self, parent: Architecture, child: Architecture, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, of = self._evaluated.rows, self._terms.of
        gain = float(scores[rows[child.code]] - scores[rows[parent.code]])
        return difference(self._credits, of(parent), of(child), gain, decay=self.decay)

    def _survivors(self, pool: Sequence[Measurement]) -> list[Measurement]:
        """The elites of a pool, no architecture twice; of one measured again the newer measurement counts."""
        distinct = list({m.architecture.code: m for m in pool}.values())
        goal = self.problem.goal
        if len(goal.objectives) == 1:
            return goal.ranked(distinct)[: self.elites]
        return self._selection.survivors(distinct, self.elites, self.problem.rng)

    def _families(self, measured: Sequence[Measurement], number: int) -> list[tuple[Architecture, ...]]:
        """The parents of so many children, one or two each; none at all before anything is measured."""
        if not self._elites:
            return []
        elites = [m.architecture for m in self._elites]
        pool = list(dict.fromkeys([*elites, *(m.architecture for m in measured)]))
        scores = self._evaluated.scores()[[self._evaluated.rows[a.code] for a in pool]]
        crossed = 2 * (number // 4)
        pairs = [roulette(scores, self.problem.rng) for _ in range(crossed)]
        return [
            *((elites[i % len(elites)],) for i in range(number - crossed)),
            *((pool[one], pool[other]) for one, other in pairs),
        ]

    def _prior(self) -> Prior:
        return preference(self._terms.by_choice(self._credits), temperature=self.temperature, floor=self.floor)

    def _child(self, parents: tuple[Architecture, ...], prior: Prior) -> Architecture:
        """A mutant of one parent, or a crossing of two, which is mutated where it would be nothing new."""
        space, rng = self._space, self.problem.rng
        if len(parents) == 2:
            child, times = space.crossover(*parents, rng), 0
        else:
            child, times = parents[0], int(rng.binomial(len(space.active_genes(parents[0])), self.mutation_rate))
        for _ in range(times):
            child = self._mutant(child, prior)
        if child in parents or not self._repeats.new(child):
            child = self._mutant(child, prior)
        return self._within_limits(child, prior)

    def _mutant(self, architecture: Architecture, prior: Prior) -> Architecture:
        """Another choice in one gene; the more likely the old one was, the more seldom it gives way.

        In the public code a block is drawn anew, and may be the same. A space's mutation always changes something; the
        same comes of refusing a mutant with the chance of the choice that it gave up. A gene of two choices, such as
        whether a slot is active, flips, there as here.
        """
        space, rng = self._space, self.problem.rng
        old = space.choices(architecture)
        mutant = space.mutate(architecture, rng, prior)
        for _ in range(REDRAWS):
            gene = next(gene for gene, new in enumerate(space.choices(mutant)) if new != old[gene])
            if len(prior[gene]) == 2 or rng.random() >= prior[gene][old[gene]]:
                break
            mutant = space.mutate(architecture, rng, prior)
        return mutant

    def _within_limits(self, child: Architecture, prior: Prior) -> Architecture:
        """The child, or what mutations that never lead further away make of it."""
        return self.problem.repair(child, lambda architecture: self._mutant(architecture, prior), REPAIRS)

    def _nearest(self, parents: Sequence[Architecture], child: Architecture) -> Architecture:
        """The parent that differs from the child in the fewest genes that count; the first of equally near ones."""
        terms = self._terms.of(child)

        def changed(parent: Architecture) -> int:
            return sum(map(operator.ne, self._terms.of(parent), terms))

        return min(parents, key=changed)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "repeats": self._repeats.get_state(),
            "evaluated": self._evaluated.get_state(),
            "credits": self._credits,
            "elites": [encode_outcome(elite) for elite in self._elites],
            "parents": [[number, parent.code] for number, parent in self._parents.items()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._repeats.set_state(state["repeats"])
        self._evaluated.set_state(state["evaluated"])
        self._credits = state["credits"]
        self._elites = [decode_measurement(body) for body in state["elites"]]
        self._parents = {number: Architecture(self._space.name, code) for number, code in state["parents"]}


class Evaluated:
    """All that was measured so far, and how good each of it is as one figure.

    Args:
        problem: What is searched.

    Attributes:
        architectures: What was measured, in the order told to the search; again only if it was measured again.
        rows: By code, where the newest measurement of an architecture stands.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.architectures: list[Architecture] = []
        self.rows: dict[str, int] = {}
        self._metrics: list[dict[str, float]] = []
        self._losses: list[tuple[float, ...]] = []
        self._violations: list[float] = []

    def add(self, measured: Sequence[Measurement]) -> None:
        """Note what was measured; an answer from memory to a known code says nothing new."""
        for m in measured:
            if m.remembered is None or m.architecture.code not in self.rows:
                self.rows[m.architecture.code] = len(self.architectures)
                self.architectures.append(m.architecture)
                self._note({name: m.metrics[name] for name in self.problem.goal.metrics})

    def measured(self) -> Iterator[tuple[Architecture, Mapping[str, float]]]:
        """Everything with the metrics that the goal is about."""
        return zip(self.architectures, self._metrics, strict=True)

    def scores(self) -> NDArray[np.float64]:
        """One figure for each, more being better, `[n]`: the objective, or the number of the front, negative.

        Those that break constraints come below the last that keeps them, by how far.
        """
        violations = np.array(self._violations, dtype=np.float64)
        kept = violations == 0
        losses = np.array(self._losses, dtype=np.float64)[kept]
        scores = -violations
        if kept.any():
            scores[kept] = -losses[:, 0] if losses.shape[1] == 1 else -fronts(losses)
            scores[~kept] += scores[kept].min()
        return scores

    def get_state(self) -> dict[str, Any]:
        return {
            "codes": [architecture.code for architecture in self.architectures],
            "metrics": [list(metrics.values()) for metrics in self._metrics],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        name = self.problem.space.name
        self.architectures = [Architecture(name, code) for code in state["codes"]]
        self.rows = {code: row for row, code in enumerate(state["codes"])}
        self._metrics, self._losses, self._violations = [], [], []
        names = dict.fromkeys(self.problem.goal.metrics)  # each once, though objective and constraint may share one
        for values in state["metrics"]:
            self._note(dict(zip(names, values, strict=True)))

    def _note(self, metrics: dict[str, float]) -> None:
        goal = self.problem.goal
        self._metrics.append(metrics)
        self._losses.append(tuple(objective.loss(metrics) for objective in goal.objectives))
        self._violations.append(sum(constraint.excess(metrics) for constraint in goal.constraints))


def fronts(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """The number of the non-dominated front that each row of `[n, objectives]` is in, the best being 0."""
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    numbers = np.empty(len(losses), dtype=np.int64)
    for number, front in enumerate(NonDominatedSorting().do(losses)):
        numbers[front] = number
    return numbers


def roulette(scores: NDArray[np.float64], rng: Generator) -> tuple[int, int]:
    """Two different members, drawn in proportion to their score above the least; a single one twice.

    Where the rest of them is no better than the least, all of it is equally likely.
    """
    members = np.arange(len(scores))
    drawn: list[int] = []
    for _ in range(2):
        above = (scores - scores.min())[members]
        chances = above / above.sum() if above.sum() > 0 else None
        drawn.append(int(rng.choice(members, p=chances)))
        if len(members) > 1:
            members = members[members != drawn[-1]]
    return drawn[0], drawn[1]
