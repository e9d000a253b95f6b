"""A final race: networks are fine-tuned from shared weights by successive halving."""

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
            the supernet takes.
        entrants: The number of networks that enter; by default twice the finalists, or the population if that is less.
        finalists: The number of networks that are trained to the end.
        eta: One in `eta` networks goes on from rung to rung, and for `eta` times as many epochs.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    entrants: Annotated[int, Field(ge=1)] | None = None
    finalists: Annotated[int, Field(ge=1)] = 5
    eta: Annotated[int, Field(ge=2)] = 2


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
    def of(cls, entrants: int, finalists: int, eta: int, passes: int) -> "RacePlan":
        """The longest race that takes at most so many passes.

        A rung takes a fraction of the epochs of the next, one in `eta`, but one epoch more than the rung before.

        Raises:
            InputError: The passes do not suffice for an epoch in each rung.
        """
        finalists = min(finalists, entrants)
        sizes = [finalists]
        while sizes[0] < entrants:
            sizes.insert(0, min(sizes[0] * eta, entrants))
        rungs, best = len(sizes), None
        for whole in range(rungs, passes + 1):
            epochs = (max(rung + 1, round(whole / eta ** (rungs - 1 - rung))) for rung in range(rungs))
            plan = cls(tuple(sizes), tuple(epochs))
            if plan.passes > passes:
                break
            best = plan
        if best is None:
            shortest = cls(tuple(sizes), tuple(range(1, rungs + 1))).passes
            raise InputError(
                f"a race of {entrants} networks to {finalists} takes {shortest} passes over the training images at "
                f"least, one epoch for each rung, but may take {passes}; raise strategy.race.epochs, or lower "
                "strategy.race.entrants"
            )
        return best


class Race:
    """A race in progress: rung after rung, the best go on with their training.

    The finalists are what successive halving leaves (Jamieson and Talwalkar, 2016, "Non-stochastic best arm
    identification", alg. 1), by fronts instead of one figure. Small networks are ahead in shared weights, and would
    leave no room for large ones. So two sortings choose who enters, as in CARS: by the objectives, and by the first
    objective and a large size, where "size" means all objectives after the first. Later rungs go by the objectives.

    Each training begins with shared weights. Its learning rate spans the whole race, so that rungs before the last are
    measured in the middle of it, and compare with one another only. A training that fails leaves the race, and its
    place stays empty.

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
    def passes(self) -> int:
        """Passes over the training images in the completed rungs."""
        plan = self._plan
        return RacePlan(plan.sizes[: self.rung], plan.epochs[: self.rung]).passes

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
        return {"weights": self._tuning.weights.digest, "begun": self._tuning.begun, "rung": self.rung}

    @classmethod
    def restored(cls, problem: Problem, plan: RacePlan, state: dict[str, Any]) -> "Race":
        """The race of a state."""
        race = cls(problem, plan, Handle(state["weights"]), state["begun"])
        race.rung = state["rung"]
        return race
