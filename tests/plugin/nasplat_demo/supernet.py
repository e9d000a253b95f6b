"""Weights that architectures share: perceptrons cut out of the widest one, and an evolution that trains it."""

from typing import TYPE_CHECKING, Any, ClassVar

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, Handle
from nasplat.benchmark import SupernetBenchmark
from nasplat.errors import TrialFailed
from nasplat.problem import Problem
from nasplat.strategy import GenerationalStrategy
from nasplat.task import STATE, Evaluate, FineTuning, Measurement, Outcome, Spent, Task, Trained, TrainSupernet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

EPOCHS = "epochs"
"""What the shared weights call the number of epochs behind them."""


class SharedFormula(SupernetBenchmark):
    """An accuracy by formula, which falls with every epoch: what was measured early looks better than it is.

    The last bias stands for statistics: it is computed for each architecture, and left with the measurement.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    fine_tunes: ClassVar[bool] = True

    @property
    def io(self) -> IO:
        return IO.image(channels=1, side=4, outputs=3)

    @property
    def fidelity(self) -> int:
        return 100

    def prepare(self) -> None:
        pass

    def train(
        self, task: TrainSupernet, *, device: str, artifacts: Artifacts, group: "ProcessGroup | None" = None
    ) -> Trained:
        import torch

        from nasplat.training.seeding import seeded

        if task.weights is None:
            with seeded(task.seed):
                weights = self.space.build(Architecture(self.space.name, "44"), self.io).state_dict()
            weights[EPOCHS] = torch.zeros(())
        else:
            weights = artifacts.get_tensors(task.weights)
        weights = {name: tensor + task.epochs for name, tensor in weights.items()}
        return Trained(task=task, weights=artifacts.put_tensors(weights), spent=Spent(images=100 * task.epochs))

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        import torch

        if task.tuning is not None:
            return self._tuned(task, task.tuning, artifacts)
        if task.weights is None:
            raise TrialFailed("not supported", "this benchmark measures with shared weights alone")
        epochs = int(artifacts.get_tensors(task.weights)[EPOCHS])
        if epochs != task.fidelity:
            raise TrialFailed("no such fidelity", f"the weights have {epochs} epochs behind them, not {task.fidelity}")
        score = sum(int(symbol) for symbol in task.architecture.code) / 8
        bias = torch.full((self.io.outputs,), score + epochs)
        return Measurement(
            task=task,
            metrics={"accuracy": _accuracy(task)},
            artifacts={"statistics": artifacts.put_tensors({"5.bias": bias})},
        )

    def _tuned(self, task: Evaluate, tuning: FineTuning, artifacts: Artifacts) -> Measurement:
        """Every epoch adds one to all weights, as for shared ones."""
        import torch

        if not tuning.begun < task.fidelity <= tuning.end:
            raise TrialFailed("no such fidelity", f"this fine-tuning has no epoch {task.fidelity}")
        if task.continues is None:
            own, done = self._cut(task.architecture, artifacts.get_tensors(tuning.weights)), tuning.begun
        else:
            own = artifacts.get_tensors(task.continues)
            done = int(own.pop(EPOCHS))
        own = {name: tensor + (task.fidelity - done) for name, tensor in own.items()}
        kept = {"weights": artifacts.put_tensors(own)}
        if task.fidelity < tuning.end:
            kept[STATE] = artifacts.put_tensors(own | {EPOCHS: torch.tensor(float(task.fidelity))})
        spent = Spent(images=100 * (task.fidelity - done))
        return Measurement(task=task, metrics={"accuracy": _accuracy(task)}, artifacts=kept, spent=spent)

    def _cut(self, architecture: Architecture, shared: "dict[str, Tensor]") -> "dict[str, Tensor]":
        from nasplat.training.seeding import seeded

        with seeded(0):
            own = self.space.build(architecture, self.io).state_dict()
        return {name: shared[name][tuple(map(slice, tensor.shape))] for name, tensor in own.items()}

    def state_dict(self, measurement: Measurement, *, artifacts: Artifacts) -> "dict[str, Tensor]":
        if measurement.task.weights is None:
            return super().state_dict(measurement, artifacts=artifacts)
        cut = self._cut(measurement.architecture, artifacts.get_tensors(measurement.task.weights))
        return cut | artifacts.get_tensors(measurement.artifacts["statistics"])

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        self.state_dict(measurement, artifacts=artifacts)
        return Measurement(task=measurement.task, metrics=measurement.metrics, split="test")


def _accuracy(task: Evaluate) -> float:
    score = sum(int(symbol) for symbol in task.architecture.code) / 8
    return (0.2 + 0.7 * score) / (1 + task.fidelity / 20)


class SharedGenerations(GenerationalStrategy):
    """Trains the paths of a population, measures it and as many mutants, and keeps the better half.

    Args:
        problem: What is searched.
        size: Architectures in a population.
        epochs: How long it is trained before it is measured again.
    """

    shares_weights: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, size: int = 4, epochs: int = 2) -> None:
        super().__init__(problem)
        self.size = size
        self.epochs = epochs
        self._population: list[Architecture] = []
        self._weights: Handle | None = None
        self._trained = 0

    def next_generation(self, outcomes: list[Outcome]) -> list[Task]:
        problem = self.problem
        match outcomes:
            case [Trained(weights=weights)]:
                self._weights, self._trained = weights, self._trained + self.epochs
                mutants = [problem.space.mutate(member, problem.rng) for member in self._population]
                return [
                    problem.evaluate(each, fidelity=self._trained, weights=weights)
                    for each in dict.fromkeys((*self._population, *mutants))
                ]
            case [Measurement(), *_]:
                ranked = problem.goal.ranked([outcome for outcome in outcomes if isinstance(outcome, Measurement)])
                self._population = [m.architecture for m in ranked[: self.size]]
            case _:
                self._population = [problem.sample() for _ in range(self.size)]
        return [problem.train_supernet(tuple(self._population), epochs=self.epochs, weights=self._weights)]

    def handles(self) -> set[Handle]:
        return super().handles() | ({self._weights} if self._weights else set())

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {
            "population": [member.code for member in self._population],
            "weights": self._weights and self._weights.digest,
            "trained": self._trained,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._population = [self.problem.space.parse(code) for code in state["population"]]
        self._weights = Handle(state["weights"]) if state["weights"] else None
        self._trained = state["trained"]
