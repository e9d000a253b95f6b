"""Search guided by a predictor fitted to the measurements: few evaluations, chosen by acquisition value."""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from nasplat.architecture import Architecture
from nasplat.predictor import LARGEST_SCORE, TooFew
from nasplat.problem import Problem
from nasplat.registry import PredictorName
from nasplat.strategy import Strategy
from nasplat.surrogates.acquisition import (
    drawn,
    expected_hypervolume_improvement,
    expected_improvement,
    hypervolume_gains,
    non_dominated,
)
from nasplat.surrogates.initial_design import medoids
from nasplat.surrogates.posterior import FEWEST, Candidates, Posterior, Surrogate
from nasplat.task import Evaluate, Measurement, Outcome, Task

Floats = NDArray[np.float64]

DRAWN = 1000
"""Number of random members that the initial design is chosen from, if members cannot be listed."""
RANKED, PART = 100, 4
"""Number of random members ranked by zero-cost proxies, and the divisor for how many of them are kept."""
PROXIES = ("nwot", "synflow", "jacov")
"""The proxies together rank better than each of them alone (docs/results.md)."""
SIDE, EXAMPLES = 16, 16
"""Maximum side in pixels, and number, of the noise examples for the proxies; tenths of a second for a network."""
GENERATION = 50
"""Number of proposals in one generation of the inner evolution."""
FOUNDERS = 20
"""Number of the best measured architectures, and of random ones, that the inner evolution starts from."""
CHILD_ATTEMPTS = 20
"""Maximum number of attempts for a child that is infeasible or a duplicate."""
STEPS_TO_LIMITS = 20
"""Maximum number of mutations in the repair of a child."""
SHORTLIST = 400
"""Number of candidates drawn jointly in Thompson sampling: those whose upper bounds few others dominate."""
OPTIMISM = 2.0
"""The width of these upper bounds, in deviations above the mean."""
WIDTH, WIDTH_OF_SEVERAL = 1.5, 2.0
"""The default width of upper bounds, with one objective and with several."""
LEAST_VALUE = 1e-12
"""Acquisition values up to this count as zero."""
FAR = 6.0
"""Width of the upper bound used if no upper bound improves on the front, in deviations above the mean."""
MARGIN = 0.1
"""Distance of the reference point beyond the most expensive measured one, as a part of the range of measurements."""
LEAST = 0.03
"""Quantile of the measurements at the reference point; an initial design contains some very poor networks."""


def _todays(design: object) -> object:
    return "clusters" if design == "spread" else design  # the former name, in configurations of old runs


Design: TypeAlias = Annotated[Literal["clusters", "zero_cost", "random"], BeforeValidator(_todays)]


class PredictorGuided(Strategy):
    """Bayesian optimization: a predictor and an acquisition function choose.

    The initial design comes first: members that represent the whole space, or random members. Then, after every
    `batch` of outcomes, the predictor is fitted again, and an acquisition function selects what to measure: Bayesian
    optimization (Jones et al., 1998) over architectures (White et al., 2021, "BANANAS", study its parts). With
    `design` random, `acquisition` greedy and `rounds` 1, it is the protocol of predictor papers (Xu et al., 2021,
    "ReNAS", sec. 4): measure `initial` random members, fit, search on the predictor, measure the `batch` it ranks
    first.

    All members are scored if the space or the benchmark can list them. If not, an inner evolution makes `proposals`
    candidates: mutants and crossovers of the best measured and of random architectures, selected by the predictor
    alone.

    With several objectives, each one is predicted separately; costs are exact. The acquisition value is the hypervolume
    that a candidate is expected to add to the front. The front is that of the predictions for the measured
    architectures; with noisy objectives, these count instead of single measurements. Constraints on measured metrics
    are predicted as well. Pending evaluations use the kriging believer: they lower the predicted variance nearby, so
    batches spread out and workers never wait. Each canonical key is asked for once, unless its cost differs, or
    the goal names a metric of the code.

    Args:
        problem: The search problem.
        predictor: The registered name of the predictor.
        predictor_options: The options of the predictor.
        design: The initial design: ``clusters``, members next to the centers of as many clusters; ``zero_cost``, the
            same among the random members that zero-cost proxies rank first, which builds networks; or ``random``.
        initial: The size of the initial design; at least the number of tasks asked for at first.
        acquisition: The acquisition function: ``expected_improvement``; ``upper_bound``, an upper confidence bound;
            ``thompson``, a sample from the posterior; or ``greedy``, the predicted mean.
        width: Width of the upper bound, in deviations above the prediction; by default 1.5, with several objectives 2.
        batch: Number of outcomes after which the predictor is fitted again.
        rounds: Number of batches after which the search ends, each waiting for the one before; by default no end.
        proposals: Number of candidates that the inner evolution makes after each fit.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        predictor: PredictorName = "isotropic_gaussian_process",
        predictor_options: dict[str, Any] = {},  # noqa: B006  read, never changed
        design: Design = "clusters",
        initial: Annotated[int, Field(ge=FEWEST)] = 5,
        acquisition: Literal["expected_improvement", "upper_bound", "thompson", "greedy"] = "upper_bound",
        width: Annotated[float, Field(ge=0)] | None = None,
        batch: Annotated[int, Field(ge=1)] = 1,
        rounds: Annotated[int, Field(ge=1)] | None = None,
        proposals: Annotated[int, Field(ge=GENERATION)] = 1000,
    ) -> None:
        super().__init__(problem)
        self.predictor = predictor
        self.predictor_options = predictor_options
        self.design = design
        self.initial = initial
        self.acquisition = acquisition
        self.width = width
        self.batch = batch
        self.rounds = rounds
        self.proposals = proposals
        self._width = (WIDTH if len(problem.goal.objectives) == 1 else WIDTH_OF_SEVERAL) if width is None else width
        self._surrogate = Surrogate(problem, predictor, predictor_options)
        self._asked: dict[str, Architecture] = {}  # by deduplication key, in the order asked for
        self._pending: dict[int, Architecture] = {}
        self._measured: list[tuple[Architecture, dict[str, float]]] = []
        self._told = 0
        self._fit: _FittedSurrogate | None = None
        self._drawn: list[Architecture] = []
        self._design: list[Architecture] = []
        self._bred: list[Architecture] = []

    @property
    def progress(self) -> float | None:
        """The part of the rounds that was asked for; None if their number is unlimited."""
        return None if self.rounds is None else min(1.0, len(self._asked) / self._planned)

    @property
    def _planned(self) -> int:
        return self.initial + (self.rounds or 0) * self.batch

    def ask(self, n: int) -> list[Task]:
        tasks: list[Task] = []
        while len(tasks) < n and not self._waits():
            designing = len(self._asked) < self.initial or bool(self._design) or len(self._measured) < FEWEST
            architecture = self._designed(n) if designing else self._chosen()
            if architecture is None:
                break
            tasks.append(self._task(architecture))
        return tasks

    def tell(self, outcome: Outcome) -> None:
        architecture = self._pending.pop(outcome.id)
        self._told += 1
        if isinstance(outcome, Measurement):
            metrics = {name: float(outcome.metrics[name]) for name in self.problem.goal.metrics}
            if all(abs(value) <= LARGEST_SCORE for value in metrics.values()):  # a diverged training is no example
                self._measured.append((architecture, metrics))

    def _waits(self) -> bool:
        """With rounds: whether the plan is complete, or evaluations that the next fit needs are pending."""
        asked = len(self._asked)
        if self.rounds is None or asked < self.initial:
            return False
        return asked >= self._planned or ((asked - self.initial) % self.batch == 0 and bool(self._pending))

    def _task(self, architecture: Architecture) -> Evaluate:
        self._asked[self.problem.deduplication_key(architecture)] = architecture
        task = self.problem.evaluate(architecture)
        self._pending[task.id] = architecture
        return task

    @cached_property
    def _members(self) -> Candidates | None:
        """All members, if they can be listed; else None."""
        listed = self.problem.listed()
        return None if listed is None else Candidates(self.problem, listed)

    def _designed(self, workers: int) -> Architecture | None:
        """The next member of the initial design; a random one if the design is exhausted before the first fit.

        The design has at least one member for each worker that waits at the beginning.
        """
        if not self._asked and self.design != "random":
            self._design = self._clustered(max(self.initial, workers) if self.rounds is None else self.initial)
        if self._design:
            return self._design.pop(0)
        return self._random()

    def _clustered(self, number: int) -> list[Architecture]:
        """Members next to the centers of clusters: of all members, or of those that zero-cost proxies rank first."""
        if self.design == "zero_cost":
            members = Candidates(self.problem, self._best_by_proxies())
        else:
            members = self._members or Candidates(self.problem, self._random_members())
        if not len(members):
            return []
        places = medoids(members.encodings, min(number, len(members)), self.problem.rng)
        return [members.architectures[int(i)] for i in places]

    def _random_members(self) -> list[Architecture]:
        """Different random members, drawn once: `DRAWN`, or as many as can be found in a narrow window."""
        if not self._drawn:
            feasible = filter(self.problem.feasible, self.problem.candidates())
            drawn = islice(feasible, DRAWN)
            self._drawn = list(
                {self.problem.deduplication_key(architecture): architecture for architecture in drawn}.values()
            )
        return self._drawn

    def _best_by_proxies(self) -> list[Architecture]:
        """The part of random members with the best mean rank by zero-cost proxies."""
        from scipy.stats import rankdata

        from nasplat.surrogates.zero_cost import Proxies, reduced

        drawn, space = self._random_members()[:RANKED], self.problem.space
        score = Proxies(space, reduced(self.problem.io, SIDE), names=PROXIES, batch=EXAMPLES, seed=self.problem.seed)
        figures = [score(architecture) for architecture in drawn]
        ranks = np.mean([rankdata([-each[name] for each in figures]) for name in PROXIES], axis=0)
        best = np.argsort(ranks, kind="stable")[: max(self.initial, len(drawn) // PART)]
        return [drawn[int(i)] for i in best]

    def _chosen(self) -> Architecture | None:
        """The new candidate with the highest acquisition value; None if no candidate is new."""
        fitted = self._fitted()
        if fitted is None:
            return self._random()
        candidates = self._members or Candidates(self.problem, self._bred)
        free = self._free(candidates)
        if not len(free):
            return self._random()
        left = candidates.view(free)
        values = self._acquisition_values(fitted, left, self._measured_since(fitted))
        return left.architectures[int(np.argmax(values))]

    def _measured_since(self, fitted: "_FittedSurrogate") -> Candidates | None:
        """Evaluations that are pending, or were measured after the last fit."""
        later = [architecture for architecture, _ in self._measured[fitted.measurements :]]
        unlearnt = [*self._pending.values(), *later]
        return Candidates(self.problem, unlearnt) if unlearnt else None

    def _random(self) -> Architecture | None:
        """A random new member, from the list or among many draws; None if there is none."""
        if self._members is not None:
            free = self._free(self._members)
            return self._members.architectures[int(self.problem.rng.choice(free))] if len(free) else None
        return self.problem.find(self._new)

    def _new(self, architecture: Architecture) -> bool:
        return self.problem.deduplication_key(architecture) not in self._asked

    def _free(self, candidates: Candidates) -> NDArray[np.intp]:
        """The indices of the candidates that were not asked for."""
        return np.flatnonzero([identity not in self._asked for identity in candidates.keys])

    def _fitted(self) -> "_FittedSurrogate | None":
        """The surrogate, fitted now or after the last complete batch; None while there are too few measurements."""
        if self._fit is None or self._told - self._fit.told >= self.batch:
            try:
                self._fit = self._fit_to(len(self._measured), self._told)
            except TooFew:
                return None
            if self._members is None:
                self._bred = self._offspring(self._fit)
        return self._fit

    def _fit_to(self, measurements: int, told: int) -> "_FittedSurrogate":
        architectures = [architecture for architecture, _ in self._measured[:measurements]]
        metrics = [values for _, values in self._measured[:measurements]]
        measured = Candidates(self.problem, architectures)
        self._surrogate.fit(measured, metrics)
        posterior = self._surrogate.posterior(measured)
        kept = np.array([all(not c.excess(values) for c in self.problem.goal.constraints) for values in metrics])
        means = posterior.means
        least = float(means[:, 0].min())
        return _FittedSurrogate(measurements, told, non_dominated(means[kept]), self._reference(means[kept]), least)

    def _reference(self, means: Floats) -> Floats:
        """The reference point of the hypervolume, `[objectives]`.

        For costs, it lies a little beyond the most expensive measured one. For measured objectives, it lies near the
        worst measurement, with very poor ones left out: they are of no use at any cost.
        """
        if not len(means):
            return np.zeros(means.shape[1])
        least = means.min(axis=0) - MARGIN * np.ptp(means, axis=0)
        free = [objective.metric in self.problem.free_metrics for objective in self.problem.goal.objectives]
        return np.where(free, least, np.quantile(means, LEAST, axis=0))

    def _acquisition_values(
        self, fitted: "_FittedSurrogate", candidates: Candidates, pending: Candidates | None = None
    ) -> Floats:
        """The acquisition value of each candidate, `[n]`; candidates that violate constraints come last."""
        posterior = self._surrogate.posterior(candidates, pending)
        if not len(fitted.front):  # nothing is feasible yet: highest probability of feasibility first
            return posterior.log_feasibility()
        values = self._acquisition(fitted, *self._seen(fitted, posterior, candidates))
        if values.max() <= LEAST_VALUE:  # no value is above zero: use a wider upper bound
            values = self._acquisition(
                fitted, posterior.means + FAR * posterior.deviations, np.zeros_like(posterior.means)
            )
        values = values * np.exp(posterior.log_feasibility())
        return values if values.any() else posterior.log_feasibility()

    def _acquisition(self, fitted: "_FittedSurrogate", means: Floats, deviations: Floats) -> Floats:
        """The improvement of candidates over the predictions for measured architectures, `[n]`, at least 0."""
        if means.shape[1] > 1:
            rng = self.problem.rng
            return expected_hypervolume_improvement(means, deviations, fitted.front, fitted.reference, rng)
        if self.acquisition == "expected_improvement":
            return expected_improvement(means[:, 0], deviations[:, 0], float(fitted.front.max()))
        return np.maximum(means[:, 0] - fitted.least, 0.0)

    def _seen(self, fitted: "_FittedSurrogate", posterior: Posterior, candidates: Candidates) -> tuple[Floats, Floats]:
        """Means and deviations for the acquisition function; a value that it fixes has the deviation 0."""
        certain = np.zeros_like(posterior.deviations)
        match self.acquisition:
            case "expected_improvement":
                return posterior.means, posterior.deviations
            case "upper_bound":
                return posterior.means + self._width * posterior.deviations, certain
            case "thompson":
                return self._draw(fitted, posterior, candidates), certain
            case "greedy":
                return posterior.means, certain

    def _draw(self, fitted: "_FittedSurrogate", posterior: Posterior, candidates: Candidates) -> Floats:
        """A joint posterior sample of the best candidates, `[n, objectives]`; others get its minimum and own costs."""
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

        bounds = posterior.means + OPTIMISM * posterior.deviations
        *fronts, last = NonDominatedSorting().do(-bounds, n_stop_if_ranked=SHORTLIST)
        if bounds.shape[1] > 1:  # the last front may not fit
            gains = hypervolume_gains(bounds[last], fitted.front, fitted.reference)
            last = last[np.argsort(-gains, kind="stable")]
        chosen = np.concatenate([*fronts, last])[:SHORTLIST]
        draws = posterior.means.copy()
        for i, covariance in enumerate(self._surrogate.covariance(candidates.view(chosen))):
            if covariance is not None:
                draw = drawn(posterior.means[chosen, i], covariance, self.problem.rng)
                draws[:, i] = draw.min()
                draws[chosen, i] = draw
        return draws

    def _offspring(self, fitted: "_FittedSurrogate") -> list[Architecture]:
        """New candidates, generation by generation, from those with the highest acquisition values."""
        problem = self.problem
        best = np.argsort(
            -self._acquisition_values(fitted, Candidates(problem, [a for a, _ in self._measured])), kind="stable"
        )
        parents = [self._measured[int(i)][0] for i in best[:FOUNDERS]]
        random = self._random_members()
        parents += [random[int(i)] for i in problem.rng.choice(len(random), min(FOUNDERS, len(random)), replace=False)]
        bred: dict[str, Architecture] = {problem.deduplication_key(a): a for a in parents if self._new(a)}
        scored: list[tuple[float, Architecture]] = []
        while len(bred) < max(self.proposals, 2 * self.batch):
            children: dict[str, Architecture] = {}
            for _ in range(GENERATION):
                for _ in range(CHILD_ATTEMPTS):
                    child = self._child(parents)
                    if not problem.feasible(child) or not self._new(child):
                        continue
                    identity = problem.deduplication_key(child)
                    if not (identity in bred or identity in children):
                        children[identity] = child
                        break
            if not children:
                break
            bred |= children
            values = self._acquisition_values(fitted, Candidates(problem, list(children.values())))
            scored += zip(values.tolist(), children.values(), strict=True)
            scored.sort(key=lambda pair: -pair[0])
            parents = [architecture for _, architecture in scored[: 2 * FOUNDERS]]
        return list(bred.values())

    def _child(self, parents: list[Architecture]) -> Architecture:
        """A mutant, or half as often a mutated crossover of two; it is repaired for the hard constraints."""
        space, rng = self.problem.space, self.problem.rng
        one, other = (parents[int(i)] for i in rng.integers(len(parents), size=2))
        child = space.mutate(space.crossover(one, other, rng) if rng.random() < 1 / 3 else one, rng)
        return self.problem.repair(child, lambda a: space.mutate(a, rng), STEPS_TO_LIMITS)

    def get_state(self) -> dict[str, Any]:
        return {
            "asked": [architecture.code for architecture in self._asked.values()],
            "pending": [[number, architecture.code] for number, architecture in self._pending.items()],
            "measured": [[architecture.code, metrics] for architecture, metrics in self._measured],
            "told": self._told,
            "lesson": self._fit and [self._fit.measurements, self._fit.told],
            "drawn": [architecture.code for architecture in self._drawn],
            "design": [architecture.code for architecture in self._design],
            "bred": [architecture.code for architecture in self._bred],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        name = self.problem.space.name
        asked = [Architecture(name, code) for code in state["asked"]]
        self._asked = {self.problem.deduplication_key(architecture): architecture for architecture in asked}
        self._pending = {number: Architecture(name, code) for number, code in state["pending"]}
        self._measured = [(Architecture(name, code), dict(metrics)) for code, metrics in state["measured"]]
        self._told = state["told"]
        self._drawn = [Architecture(name, code) for code in state["drawn"]]
        self._design = [Architecture(name, code) for code in state["design"]]
        self._bred = [Architecture(name, code) for code in state["bred"]]
        self._fit = self._fit_to(*state["lesson"]) if state["lesson"] else None


@dataclass(frozen=True, slots=True)
class _FittedSurrogate:
    """The data of a fitted surrogate, and the front to improve on.

    Args:
        measurements: Number of measurements that it was fitted to.
        told: Number of outcomes at that time.
        front: Predictions for the measured that satisfy the constraints and are not dominated, `[m, objectives]`.
        reference: The reference point of the hypervolume, `[objectives]`.
        least: The lowest prediction of their first objective.
    """

    measurements: int
    told: int
    front: Floats
    reference: Floats
    least: float
