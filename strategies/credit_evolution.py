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
from nasplat.registry import PredictorName
from nasplat.search_space import GeneSpace, Prior
from nasplat.strategy import DuplicatePolicy, GenerationalStrategy, OnDuplicate
from nasplat.surrogates.prescreening import Prescreening
from nasplat.task import Measurement, Outcome, Task, decode_measurement, encode_outcome

CHILD_ATTEMPTS = 50
"""Maximum number of infeasible or duplicate children, each after its repair, before a random one replaces a child."""
REDRAWS = 20
"""Maximum number of mutants rejected because of the choice that they replaced."""
REPAIRS = 100
"""Maximum number of mutations in the repair of a child."""


class CreditEvolution(GenerationalStrategy):
    """Evolution guided by block credit: mutation prefers blocks with high credit.

    After Song et al. (2020), "Efficient residual dense block search for image super-resolution".

    Each generation has mutants of the elites, and children of two parents from the elites and the last generation,
    drawn by roulette on the score minus the lowest score. The best of elites and children are the next elites.

    The credit rule was never released, so both rules are reconstructions. With ``regression``, the credit of a choice
    is its coefficient in a ridge regression of the scores on the choices of all evaluated architectures. With
    ``difference``, a child's gain over its parent is shared among the genes that changed, as a moving average. Of two
    parents the more similar one counts. In the first generation, which has no parents, the credit of a choice is the
    mean score of the architectures with it minus the mean of all. With ``none``, mutation is uniform.
    ``performance/credits.py`` compares them.

    The score is the objective. With several objectives, it is the negative index of the non-dominated front among all
    evaluated architectures: 0 for the best front, lower for later ones. Architectures that violate constraints on
    measured metrics score below all others, by their violation (Deb, 2000, "An efficient constraint handling method
    for genetic algorithms").

    A child that violates the hard constraints on costs is repaired by further mutations; a step is accepted if it does
    not increase the violation. So narrow ranges of cost can be searched, even if they have few architectures.

    Differences to the paper, as far as its code is public: crossover and mutation are the space's own; a mutant always
    changes something; the number of repair steps is bounded.

    With `prescreen` above 1, more children are made than measured, and a predictor that is fitted to all measurements
    selects the best by prediction (`nasplat.surrogates.prescreening`). This is not part of the paper.

    Args:
        problem: The search problem.
        population: Number of architectures in a generation; two of every four are children of two parents.
        elites: Number of survivors of a generation.
        mutation_rate: The probability that a gene of a mutant changes; at least one gene changes.
        credit: The credit rule.
        scope: Whether a choice has a separate credit in every gene, or one credit in all genes with equal choices.
        factorized: Whether the parts of choices have credits, if the space names parts.
        temperature: Temperature of the mutation probabilities, in standard deviations of the credits; a higher one is
            more uniform.
        floor: The part of the mutations that is uniform, independent of the credits.
        decay: For `credit=difference`, the part of a credit that stays when a new share is added.
        ridge: Ridge penalty for `credit=regression`, in units of evaluations.
        duplicates: The duplicate policy for children.
        prescreen: Number of children made for each one that is measured; 1 measures all of them.
        predictor: The predictor for pre-screening.
    """

    former_options: ClassVar[Mapping[str, str]] = {"prefilter": "prescreen", "repeats": "duplicates"}

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
        duplicates: OnDuplicate = "redraw",
        prescreen: Annotated[int, Field(ge=1)] = 1,
        predictor: PredictorName = "random_forest",
    ) -> None:
        super().__init__(problem)
        if not isinstance(problem.space, GeneSpace):
            raise InputError(
                f"credit_evolution credits the choices of genes, but the search space {problem.space.name} has no "
                "genes; take another strategy, such as nsga2 or regularized_evolution"
            )
        if elites > population:
            raise InputError(
                f"elites must be at most population, but got elites={elites}, population={population}; set fewer elites"
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
        self.duplicates = duplicates
        self.prescreen = prescreen
        self.predictor = predictor
        self._prescreening = Prescreening(problem, predictor, factor=prescreen)
        self._space = problem.space
        self._terms = Terms(problem.space, scope=scope, factorized=factorized)
        self._duplicates = DuplicatePolicy(problem, duplicates)
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
        tasks: list[Task] = self._prescreened(families, prior) if filtering else []
        for i in range(len(tasks), self.population):
            task = self._duplicates.draw(partial(self._child, families[i], prior), CHILD_ATTEMPTS) if families else None
            if task is not None:
                self._parents[task.id] = self._nearest(families[i], task.architecture)
            else:  # initial population, or a random immigrant if all children found are duplicates or infeasible
                task = self._duplicates.sample()
            if task is None:
                break
            tasks.append(task)
        return tasks

    def _prescreened(self, families: Sequence[tuple[Architecture, ...]], prior: Prior) -> list[Task]:
        """Make one child for each family, and select the best by prediction, all different; at most a generation."""
        children: dict[str, tuple[Architecture, tuple[Architecture, ...]]] = {}
        for family in families:
            propose = partial(self._child, family, prior)
            child = self._duplicates.proposal(propose, CHILD_ATTEMPTS, beside=children.keys())
            if child is not None:
                children[self.problem.deduplication_key(child)] = child, family
        pool = list(children.values())
        tasks: list[Task] = []
        for i in self._prescreening.best([child for child, _ in pool], self.population):
            child, family = pool[i]
            task = self._duplicates.task(child)
            self._parents[task.id] = self._nearest(family, child)
            tasks.append(task)
        return tasks

    def _earn(self, measured: Sequence[Measurement]) -> None:
        """Update the credits with new measurements."""
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
        """The elites of a pool, without duplicates; of a repeated measurement the newer one counts."""
        distinct = list({m.architecture.code: m for m in pool}.values())
        goal = self.problem.goal
        if len(goal.objectives) == 1:
            return goal.ranked(distinct)[: self.elites]
        return self._selection.survivors(distinct, self.elites, self.problem.rng)

    def _families(self, measured: Sequence[Measurement], number: int) -> list[tuple[Architecture, ...]]:
        """The parents of this number of children, one or two each; empty before anything is measured."""
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
        """A mutant of one parent, or a crossover of two, which is mutated if it would not be new."""
        space, rng = self._space, self.problem.rng
        if len(parents) == 2:
            child, times = space.crossover(*parents, rng), 0
        else:
            child, times = parents[0], int(rng.binomial(len(space.active_genes(parents[0])), self.mutation_rate))
        for _ in range(times):
            child = self._mutant(child, prior)
        if child in parents or not self._duplicates.new(child):
            child = self._mutant(child, prior)
        return self._within_limits(child, prior)

    def _mutant(self, architecture: Architecture, prior: Prior) -> Architecture:
        """Another choice in one gene; an old choice with a high probability is replaced less often.

        In the public code a block is drawn again, and may stay the same. A space's mutation always changes something;
        rejecting a mutant with the probability of the choice that it replaced has the same effect. A gene with two
        choices, such as whether a slot is active, flips in both.
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
        """Repair the child by mutations that do not increase its violation, if needed."""
        return self.problem.repair(child, lambda architecture: self._mutant(architecture, prior), REPAIRS)

    def _nearest(self, parents: Sequence[Architecture], child: Architecture) -> Architecture:
        """The parent that differs from the child in the fewest active genes; the first one in a tie."""
        terms = self._terms.of(child)

        def changed(parent: Architecture) -> int:
            return sum(map(operator.ne, self._terms.of(parent), terms))

        return min(parents, key=changed)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "repeats": self._duplicates.get_state(),
            "evaluated": self._evaluated.get_state(),
            "credits": self._credits,
            "elites": [encode_outcome(elite) for elite in self._elites],
            "parents": [[number, parent.code] for number, parent in self._parents.items()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._duplicates.set_state(state["repeats"])
        self._evaluated.set_state(state["evaluated"])
        self._credits = state["credits"]
        self._elites = [decode_measurement(body) for body in state["elites"]]
        self._parents = {number: Architecture(self._space.name, code) for number, code in state["parents"]}


class Evaluated:
    """All measured architectures so far, with one score for each.

    Args:
        problem: The search problem.

    Attributes:
        architectures: The measured architectures in the order told; one occurs again only if it was measured again.
        rows: The row of the newest measurement of each architecture, by code.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.architectures: list[Architecture] = []
        self.rows: dict[str, int] = {}
        self._metrics: list[dict[str, float]] = []
        self._losses: list[tuple[float, ...]] = []
        self._violations: list[float] = []

    def add(self, measured: Sequence[Measurement]) -> None:
        """Add measurements; a cache hit for an evaluated code adds nothing new."""
        for m in measured:
            if m.cached_from is None or m.architecture.code not in self.rows:
                self.rows[m.architecture.code] = len(self.architectures)
                self.architectures.append(m.architecture)
                self._note({name: m.metrics[name] for name in self.problem.goal.metrics})

    def measured(self) -> Iterator[tuple[Architecture, Mapping[str, float]]]:
        """All measured architectures, with the metrics of the goal."""
        return zip(self.architectures, self._metrics, strict=True)

    def scores(self) -> NDArray[np.float64]:
        """One score for each, higher being better, `[n]`: the objective, or the negative index of the front.

        Architectures that violate constraints come after the last one that satisfies them, by their violation.
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
        names = dict.fromkeys(self.problem.goal.metrics)  # each once; an objective and a constraint may share a metric
        for values in state["metrics"]:
            self._note(dict(zip(names, values, strict=True)))

    def _note(self, metrics: dict[str, float]) -> None:
        goal = self.problem.goal
        self._metrics.append(metrics)
        self._losses.append(tuple(objective.loss(metrics) for objective in goal.objectives))
        self._violations.append(sum(constraint.excess(metrics) for constraint in goal.constraints))


def fronts(losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index of the non-dominated front of each row of `[n, objectives]`; the best front is 0."""
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    numbers = np.empty(len(losses), dtype=np.int64)
    for number, front in enumerate(NonDominatedSorting().do(losses)):
        numbers[front] = number
    return numbers


def roulette(scores: NDArray[np.float64], rng: Generator) -> tuple[int, int]:
    """Draw two different members, with probability proportional to the score minus the lowest; a single one twice.

    If none of the rest is better than the lowest, all of them have equal probability.
    """
    scores = scores * 2.0**-24  # exactly the same chances, and no difference or sum that overflows
    members = np.arange(len(scores))
    drawn: list[int] = []
    for _ in range(2):
        above = (scores - scores.min())[members]
        chances = above / above.sum() if above.sum() > 0 else None
        drawn.append(int(rng.choice(members, p=chances)))
        if len(members) > 1:
            members = members[members != drawn[-1]]
    return drawn[0], drawn[1]
