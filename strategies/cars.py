"""CARS (Yang et al., 2020, "CARS: Continuous evolution for efficient neural architecture search", CVPR)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.errors import InputError
from nasplat.evolution.race import Race, RaceOptions, RacePlan
from nasplat.evolution.selection import ProtectedSorting
from nasplat.problem import ATTEMPTS, Problem
from nasplat.registry import PredictorName
from nasplat.strategy import GenerationalStrategy
from nasplat.surrogates.prescreening import Prescreening
from nasplat.task import Measurement, Outcome, Task, Trained, TrainSupernet, decode_measurement, encode_outcome

CHILD_ATTEMPTS = 200
"""Maximum number of infeasible or duplicate offspring before a random architecture replaces a child."""
RANDOM = 1.0
"""The draw of `_child` that gives a random architecture."""
TRAININGS = 10
"""Maximum number of failed trainings in a row before the search ends."""


@dataclass(frozen=True, slots=True)
class Child:
    """An architecture to be measured for the first time.

    Args:
        architecture: The architecture.
        parents: The codes of its parents; empty for a random one.
    """

    architecture: Architecture
    parents: tuple[str, ...] = ()


class CARS(GenerationalStrategy):
    """CARS: a supernet and a population evolve together, large networks protected.

    After Yang et al. (2020), "CARS: continuous evolution for efficient neural architecture search", alg. 1.

    The supernet is first trained on paths drawn uniformly, including infeasible ones. Then each generation has three
    steps: the supernet is trained on the paths of the population; parents and their offspring are measured with its
    weights, unchanged; and non-dominated sorting selects the next population. No network is trained from scratch. The
    search ends when the supernet has been trained for all of the benchmark's epochs. Accuracies under different
    weights are not comparable, so the result is the front of the last generation.

    Small networks learn faster and would displace large ones before these have learned: the small-model trap. A
    second sorting protects large networks. With `speed`, it sorts by size and by how slowly the first objective has
    improved since the previous generation. With `inverse_size`, as in the published code, it sorts by size and the
    first objective. "Size" means all objectives after the first; without any, nothing is protected. Constraints on
    measured metrics come before either sorting: until some networks satisfy them, only the violation counts.

    The strategy draws the members of a generation; the order of paths in a training depends on that task's seed. A
    training that fails is repeated with another seed. A network whose measurement fails leaves the population.

    The paper does not define the speed of a child, which has no previous generation. With `inherited`, it is the mean
    of its parents, or of the population. With `measured`, the child is also measured with the previous weights, while
    the new ones are trained. Both keep the range of sizes equally well (``performance/small_model_trap.py``), so the
    default is the one without a cost. The direction of the second sorting is an interpretation of the paper's text:
    the authors say that it is for larger models whose accuracy rises slowly. The paper changes each node of a mutant
    with a probability of one half; here mutation and crossover are the space's own, gene by gene.

    With `prescreen` above 1, more offspring are made than measured, and a predictor selects the best by prediction
    (`nasplat.surrogates.prescreening`). Accuracies under different weights are not comparable, so the predictor is
    fitted only to the newest generation: parents and children measured with the same weights. Pre-screening is not
    part of the paper, and it ignores the protection.

    With `finish=race`, the result is not believed as it comes: the best of all networks of the last generation, parents
    and their offspring, are fine-tuned from the shared weights by successive halving, and the result is the front of
    those that were trained to the end (`nasplat.evolution.race`). The race is not part of the paper. Its images come on
    top of those of the supernet. The fidelity of its networks counts both kinds of epochs.

    Args:
        problem: The search problem.
        population: Number of survivors of a generation, and of their offspring.
        warmup: Epochs on uniform paths; by default a tenth of all, as in the paper.
        interval: Epochs of each generation; by default a fiftieth of all, as in the paper.
        mutation: The part of the offspring that are mutants.
        crossover: The part of the offspring with two parents; the rest is drawn at random.
        protection: The criterion of the second sorting.
        child_speed: How the speed of a child is determined.
        prescreen: Number of offspring made for each one that is measured; 1 measures all of them.
        predictor: The predictor for pre-screening.
        finish: What the search ends with: the front of the last generation, or a final race.
        race: The plan of the race.

    Attributes:
        parents: The population, with its latest measurements; after a race the finalists.
    """

    shares_weights: ClassVar[bool] = True

    former_options: ClassVar[Mapping[str, str]] = {"prefilter": "prescreen"}

    def __init__(
        self,
        problem: Problem,
        *,
        population: Annotated[int, Field(ge=2)] = 32,
        warmup: Annotated[int, Field(ge=1)] | None = None,
        interval: Annotated[int, Field(ge=1)] | None = None,
        mutation: Annotated[float, Field(ge=0, le=1)] = 0.25,
        crossover: Annotated[float, Field(ge=0, le=1)] = 0.25,
        protection: Literal["speed", "inverse_size", "none"] = "speed",
        child_speed: Literal["inherited", "measured"] = "inherited",
        prescreen: Annotated[int, Field(ge=1)] = 1,
        predictor: PredictorName = "random_forest",
        finish: Literal["front", "race"] = "front",
        race: RaceOptions = RaceOptions(),
    ) -> None:
        super().__init__(problem)
        self.population = population
        self.warmup = warmup
        self.interval = interval
        self.mutation = mutation
        self.crossover = crossover
        self.protection = protection
        self.child_speed = child_speed
        self.prescreen = prescreen
        self.predictor = predictor
        self.finish = finish
        self.race = race
        self._prescreening = Prescreening(problem, predictor, factor=prescreen)
        epochs = problem.fidelity
        self._warmup = warmup or max(1, round(epochs / 10))
        self._interval = interval or max(1, round(epochs / 50))
        if self._warmup + self._interval > epochs:
            raise InputError(
                f"cars needs {self._warmup} epochs for the warm-up and {self._interval} for each generation, but the "
                f"benchmark's whole training has {epochs}; raise it, by --set benchmark.epochs "
                f"(options={{'benchmark.epochs': …}}), to "
                f"{self._warmup + self._interval} or more, or shorten the warm-up, by --set strategy.warmup "
                "(options={'strategy.warmup': …})"
            )
        if mutation + crossover > 1:
            raise InputError(
                f"the sum of mutation and crossover must be at most 1, but got mutation={mutation}, "
                f"crossover={crossover}"
            )
        self.tunes = finish == "race"
        if race != RaceOptions() and not self.tunes:
            raise InputError(
                "options of a race have no effect without one, but got strategy.race with strategy.finish=front; add "
                "--set strategy.finish=race (options={'strategy.finish': 'race'}), or leave them out"
            )
        self._plan = race.plan(population, epochs) if self.tunes else RacePlan((), ())
        self._selection = ProtectedSorting(problem.goal)
        self._weights: Handle | None = None
        self._epochs = 0
        self._failed = 0
        self.parents: list[Measurement] = []
        self._children: list[Child] = []
        self._before: dict[str, float] = {}
        self._racing: Race | None = None
        self._over = False

    @property
    def progress(self) -> float:
        if self._over:
            return 1.0
        raced = self._racing.passes(self.generation_progress) if self._racing else 0
        return (self._epochs + raced) / (self.problem.fidelity + self._plan.passes)

    def next_generation(self, outcomes: list[Outcome]) -> list[Task]:
        """The tasks of half a generation: the training, or the measurements with the trained weights."""
        measured = [outcome for outcome in outcomes if isinstance(outcome, Measurement)]
        if self._racing:
            if measured:
                self.parents = measured
            return self._rung(self._racing, measured)
        training = [outcome for outcome in outcomes if isinstance(outcome.task, TrainSupernet)]
        if not outcomes and not self._weights and not self._failed:
            return [self._training()]
        if training:
            self._before |= {m.architecture.code: self._loss(m) for m in measured}
            return self._after_training(training[0])
        if not outcomes:
            return []  # the search is finished
        self._select(measured)
        if self._epochs == self.problem.fidelity:
            if not self.tunes or self._weights is None:
                return []
            self._racing = Race(self.problem, self._plan, self._weights, self._epochs)
            return self._rung(self._racing, measured)
        self._before = {m.architecture.code: self._loss(m) for m in self.parents}
        filtering = self._prescreening.fit((m.architecture, m.metrics) for m in measured)
        self._children = self._prescreened() if filtering else self._offspring(self.population)
        tasks: list[Task] = [self._training()]
        if self.protection == "speed" and self.child_speed == "measured":
            tasks += [self._evaluation(child.architecture) for child in self._children]
        return tasks

    def _after_training(self, training: Outcome) -> list[Task]:
        """Evaluate parents, then children, with the new weights; repeat a failed training with another seed."""
        if not isinstance(training, Trained):
            self._failed += 1
            return [self._training()] if self._failed < TRAININGS else []
        self._failed = 0
        self._weights = training.weights
        self._epochs += training.task.epochs
        if not self.parents and not self._children:
            self._children = self._offspring(self.population)  # the initial population
        architectures = [*(m.architecture for m in self.parents), *(child.architecture for child in self._children)]
        return [self._evaluation(architecture) for architecture in architectures]

    def _rung(self, racing: Race, measured: list[Measurement]) -> list[Task]:
        """The next rung of the race, of the best that were measured; none after the last."""
        tasks = racing.next(measured)
        self._over = not tasks
        return list(tasks)

    def _training(self) -> Task:
        if self._weights is None:
            return self.problem.train_supernet((), epochs=self._warmup)
        paths = tuple(m.architecture for m in self.parents)
        epochs = min(self._interval, self.problem.fidelity - self._epochs)  # the last generation may be shorter
        return self.problem.train_supernet(paths, epochs=epochs, weights=self._weights)

    def _evaluation(self, architecture: Architecture) -> Task:
        return self.problem.evaluate(architecture, fidelity=self._epochs, weights=self._weights)

    def _select(self, measured: list[Measurement]) -> None:
        """Select the survivors among parents and children."""
        protected = self._protected(measured)
        self.parents = self._selection.survivors(measured, self.population, self.problem.rng, protected=protected)
        self._children = []

    def _protected(self, measured: list[Measurement]) -> list[tuple[float, ...]] | None:
        """The losses of the second sorting: slow or good, and large."""
        if self.protection == "none" or len(self.problem.goal.objectives) == 1:
            return None
        sizes = [tuple(-loss for loss in self.problem.goal.losses(m)[1:]) for m in measured]
        if self.protection == "inverse_size":
            return [(self._loss(m), *size) for m, size in zip(measured, sizes, strict=True)]
        speeds = self._measured_speeds(measured)
        return [(speeds[m.architecture.code], *size) for m, size in zip(measured, sizes, strict=True)]

    def _measured_speeds(self, measured: list[Measurement]) -> dict[str, float]:
        """The improvement of each architecture's first objective in this generation, by code."""
        codes = [m.architecture.code for m in measured]
        speeds = {
            code: self._before[code] - self._loss(m)
            for code, m in zip(codes, measured, strict=True)
            if code in self._before
        }
        usual = mean(speeds.values()) if speeds else 0.0
        parents = {child.architecture.code: child.parents for child in self._children}
        for code in codes:
            if code not in speeds:
                known = [speeds[parent] for parent in parents.get(code, ()) if parent in speeds]
                speeds[code] = mean(known) if known else usual
        return speeds

    def _loss(self, measurement: Measurement) -> float:
        return self.problem.goal.losses(measurement)[0]

    def _prescreened(self) -> list[Child]:
        """At most a population of children: the best by prediction of several times as many."""
        children = self._offspring(self.population * self.prescreen)
        best = self._prescreening.best([child.architecture for child in children], self.population)
        return [children[i] for i in best]

    def _offspring(self, number: int) -> list[Child]:
        """This number of offspring, all different; fewer only if nothing new can be found."""
        identity, rng = self.problem.deduplication_key, self.problem.rng
        taken = {identity(m.architecture) for m in self.parents}
        children: list[Child] = []
        attempts = ATTEMPTS
        for _ in range(number):
            draw = rng.random() if self.parents else RANDOM
            for attempt in range(attempts):
                child = self._child(draw if attempt < CHILD_ATTEMPTS else RANDOM)
                held = self.problem.held(child.architecture, lambda member: identity(member) not in taken)
                if held is None:  # all that a partial table holds are taken
                    break
                if self.problem.feasible(held) and identity(held) not in taken:
                    taken.add(identity(held))
                    children.append(replace(child, architecture=held))
                    break
            else:
                attempts = CHILD_ATTEMPTS  # all random ones are duplicates; a mutant may still be new
        return children

    def _child(self, draw: float) -> Child:
        """A mutant, a crossover or a random architecture, decided by `draw`, a random number from 0 to 1."""
        space, rng = self.problem.space, self.problem.rng
        if draw >= self.mutation + self.crossover:
            return Child(self.problem.draw())
        one, other = (self.parents[i].architecture for i in rng.integers(len(self.parents), size=2))
        if draw < self.mutation:
            return Child(space.mutate(one, rng), (one.code,))
        return Child(space.crossover(one, other, rng), (one.code, other.code))

    def handles(self) -> set[Handle]:
        shared = {self._weights} if self._weights else set()
        return super().handles() | shared | ({self._racing.weights} if self._racing else set())

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "weights": self._weights and self._weights.digest,
            "epochs": self._epochs,
            "failed": self._failed,
            "parents": [encode_outcome(parent) for parent in self.parents],
            "children": [[child.architecture.code, *child.parents] for child in self._children],
            "before": dict(self._before),
            **({"race": self._racing.get_state(), "over": self._over} if self._racing else {}),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._weights = Handle(state["weights"]) if state["weights"] else None
        self._epochs = state["epochs"]
        self._failed = state["failed"]
        self.parents = [decode_measurement(body) for body in state["parents"]]
        name = self.problem.space.name
        self._children = [Child(Architecture(name, code), tuple(parents)) for code, *parents in state["children"]]
        self._before = dict(state["before"])
        self._racing = Race.restored(self.problem, self._plan, state["race"]) if "race" in state else None
        self._over = state.get("over", False)
