"""A final race: networks are fine-tuned from shared weights by successive halving."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from nasplat.artifact import Handle
from nasplat.errors import InputError
from nasplat.evolution.selection import ProtectedSorting
from nasplat.options import Options
from nasplat.problem import Problem
from nasplat.task import STATE, Evaluate, FineTuning, Measurement


class RaceOptions(Options):
    """The plan of a final race.

    Args:
        epochs: Passes over the training images that all trainings of the race may take together; by default as many as
            it takes to train each finalist for half of `benchmark.epochs`.
        bracket_size: The number of networks that enter; by default twice the finalists, or the population if that is
            less.
        finalists: The number of networks that are trained to the end; by default 5, or the population if that is less.
        eta: One in `eta` networks goes on from rung to rung, and for `eta` times as many epochs.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    bracket_size: Annotated[int, Field(ge=1)] | None = None
    finalists: Annotated[int, Field(ge=1)] | None = None
    eta: Annotated[int, Field(ge=2)] = 2

    def plan(self, population: int, epochs: int) -> "RacePlan":
        """The plan of a search with a population, whose supernet is trained for a number of epochs.

        Raises:
            InputError: More networks enter than a generation has, or fewer than are to reach the end; or the epochs do
                not suffice for an epoch in each rung.
        """
        finalists = min(self.bracket_size or population, population, 5) if self.finalists is None else self.finalists
        bracket = min(population, 2 * finalists) if self.bracket_size is None else self.bracket_size
        if not finalists <= bracket <= 2 * population:
            most = min(max(bracket, finalists), 2 * population)
            option, value = ("bracket_size", most) if finalists <= most else ("finalists", population)
            raise InputError(
                "a race must have at least as many networks in its bracket as finalists, and at most twice the "
                f"population, parents and offspring, but got strategy.race.bracket_size={bracket}, "
                f"strategy.race.finalists={finalists} and strategy.population={population}; change it, by --set "
                f"strategy.race.{option}={value} (options={{'strategy.race.{option}': {value}}})"
            )
        sizes = [finalists]
        while sizes[0] < bracket:
            sizes.insert(0, min(sizes[0] * self.eta, bracket))
        if self.epochs is None:
            return RacePlan.of(sizes, self.eta, max(len(sizes), round(epochs / 2)))
        shortest = RacePlan.of(sizes, self.eta, len(sizes)).passes
        if self.epochs < shortest:
            raise InputError(
                f"a race of {bracket} networks to {finalists} takes {shortest} passes over the training images at "
                f"least, one epoch for each rung, but may take {self.epochs}; raise it, by --set "
                f"strategy.race.epochs={shortest} (options={{'strategy.race.epochs': {shortest}}}), or let "
                "fewer enter, by --set strategy.race.bracket_size (options={'strategy.race.bracket_size': …})"
            )
        return RacePlan.longest(sizes, self.eta, self.epochs)


@dataclass(frozen=True, slots=True)
class RacePlan:
    """Who races how far.

    Args:
        sizes: The number of networks of each rung, falling.
        epochs: The epochs of fine-tuning at the end of each rung, rising.
    """

    sizes: tuple[int, ...]
    epochs: tuple[int, ...]

    @property
    def passes(self) -> int:
        """Passes over the training images in all rungs together."""
        before = (0, *self.epochs)
        return sum(size * (after - done) for size, after, done in zip(self.sizes, self.epochs, before, strict=False))

    @classmethod
    def of(cls, sizes: Sequence[int], eta: int, whole: int) -> "RacePlan":
        """The race of these sizes whose finalists are trained for a number of epochs, at least one for each rung.

        A rung takes a fraction of the epochs of the next, one in `eta`, but one epoch more than the rung before.
        """
        rungs = len(sizes)
        return cls(
            tuple(sizes), tuple(max(rung + 1, round(whole / eta ** (rungs - 1 - rung))) for rung in range(rungs))
        )

    @classmethod
    def longest(cls, sizes: Sequence[int], eta: int, passes: int) -> "RacePlan":
        """The longest race of these sizes that takes at most this number of passes, which suffice for the shortest."""
        wholes = range(len(sizes), passes + 1)  # a longer race never takes fewer passes
        return cls.of(sizes, eta, wholes[bisect_right(wholes, passes, key=lambda n: cls.of(sizes, eta, n).passes) - 1])


class Race:
    """A race in progress: rung after rung, the best go on with their training.

    The finalists are what successive halving leaves (Jamieson and Talwalkar, 2016, "Non-stochastic best arm
    identification", alg. 1), by fronts instead of one figure. Small networks are ahead in shared weights, and would
    leave no room for large ones. So two sortings choose who enters, as in CARS: by the objectives, and by the first
    objective and a large size, where "size" means all objectives after the first. Later rungs go by the objectives.
    Where all violate a constraint on a measured metric, as early in a training, only the violation counts.

    Each training begins with shared weights. Its learning rate spans the whole race, so that rungs before the last are
    measured in the middle of it, and compare with one another only. A training that fails leaves the race, and its
    place stays empty. If a budget ends the search inside a rung, the front is of what that rung has measured.

    Args:
        problem: The search problem.
        plan: Who races how far.
        weights: The shared weights.
        begun: The number of epochs that these were trained for.
    """

    def __init__(self, problem: Problem, plan: RacePlan, weights: Handle, begun: int) -> None:
        self._problem = problem
        self._plan = plan
        self._tuning = FineTuning(weights=weights, begun=begun, epochs=plan.epochs[-1])
        self._selection = ProtectedSorting(problem.goal)
        self.rung = 0

    @property
    def weights(self) -> Handle:
        """The shared weights that each training begins with."""
        return self._tuning.weights

    def passes(self, rung: float) -> float:
        """Passes over the training images so far.

        Args:
            rung: The part of the rung in work that is complete, from 0 to 1.
        """
        plan, begun = self._plan, self.rung
        before, after = (RacePlan(plan.sizes[:n], plan.epochs[:n]).passes for n in (max(begun - 1, 0), begun))
        return before + rung * (after - before)

    def next(self, measured: Sequence[Measurement]) -> list[Evaluate]:
        """The trainings of the next rung; none after the last, or if none is left.

        Args:
            measured: What entered the race, or the measurements of the rung before.
        """
        if self.rung == len(self._plan.sizes) or not measured:
            return []
        losses = [self._problem.goal.losses(each) for each in measured]
        large = None
        if not self.rung and len(losses[0]) > 1:
            large = [(first, *(-size for size in sizes)) for first, *sizes in losses]
        chosen = self._selection.survivors(measured, self._plan.sizes[self.rung], self._problem.rng, protected=large)
        fidelity = self._tuning.begun + self._plan.epochs[self.rung]
        tasks = [
            self._problem.evaluate(
                each.architecture,
                fidelity=fidelity,
                continues=each.artifacts.get(STATE) if self.rung else None,
                tuning=self._tuning,
            )
            for each in chosen
        ]
        self.rung += 1
        return tasks

    def get_state(self) -> dict[str, Any]:
        """The state for `restored`, as JSON."""
        return {
            "weights": self._tuning.weights.digest,
            "begun": self._tuning.begun,
            "rung": self.rung,
            "sizes": list(self._plan.sizes),
            "epochs": list(self._plan.epochs),
        }

    @classmethod
    def restored(cls, problem: Problem, plan: RacePlan, state: dict[str, Any]) -> "Race":
        """The race of a state.

        Raises:
            KeyError, ValueError: It was planned otherwise, as by another version.
        """
        if (state["sizes"], state["epochs"]) != (list(plan.sizes), list(plan.epochs)):
            raise ValueError(f"its race has the plan {state['sizes']}, {state['epochs']}, and not {plan}")
        race = cls(problem, plan, Handle(state["weights"]), state["begun"])
        race.rung = state["rung"]
        return race
