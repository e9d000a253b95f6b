"""ReNAS: a small convolutional network that ranks architectures by tensors of their cells."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState, Predictor, TooFew, checked_scores
from nasplat.search_space import SearchSpace
from nasplat.target import Line
from nasplat.training import ranking
from nasplat.training.seeding import seeded

Loss: TypeAlias = Literal["logistic", "hinge", "mse"]
Labels: TypeAlias = Literal["standard", "minmax"]
Maps: TypeAlias = Literal["full", "type"]
Schedule: TypeAlias = Literal["cosine", "constant"]
Select: TypeAlias = Literal["last", "best", "validation"]

PREDICTION_BATCH = 512
HELD_OUT = 5
"""One in this number of examples is held out for validation, if the epoch is chosen on it."""

MEAN, SCALE, NETWORK = "mean", "scale", "network."
COUNTER = "num_batches_tracked"
"""The batch counter of batch norm, which is not used because the momentum is fixed."""


class ReNAS(Predictor):
    """ReNAS: a convolutional network on adjacency matrix, types and costs.

    After Xu et al. (2021), "ReNAS: relativistic evaluation of neural architecture search".

    Every element of `space.tensors` is standardized over the examples, if it varies among them. The network is the
    paper's (sec. 3.1). It learns to order pairs of architectures, not to predict their scores (sec. 3.2). The
    published program has the logistic loss, full batches and 200 epochs, and keeps the best epoch as `select="best"`.
    The weight and the form of the continuity term are reconstructions. `estimate` puts predictions into the unit of the
    scores by a line through those for the examples.

    Args:
        space: The space of the architectures to score.
        loss: ``logistic`` or ``hinge`` on pairs, or ``mse``, the paper's baseline, on labels.
        margin: The margin of the hinge loss: the required lead of the better one of a pair.
        continuity: The weight of the term that gives architectures with similar labels similar features; 0 for none.
        tensor: All maps, or only the map of types, the paper's other baseline.
        labels: Scaling of the scores for ``mse``: to mean 0 and deviation 1, or to 0 to 1 as in the published
            program. For the other losses, only their order matters.
        epochs: Passes over the examples.
        learning_rate: The initial learning rate of Adam.
        schedule: The learning-rate schedule: a cosine to 0, or constant as published.
        weight_decay: The weight decay of AdamW.
        batch_size: Maximum number of examples in one step; all pairs of a batch are compared.
        select: The epoch whose weights are kept: the last, the one with the best Kendall's tau on the examples (the
            published rule), or the one with the best tau on a fifth of them that is held out for validation.
        seed: The seed of the initial weights, the batches and the validation examples.

    Raises:
        InputError: An option has an invalid value.
    """

    name: ClassVar[str] = "renas"

    def __init__(
        self,
        space: SearchSpace,
        *,
        loss: Loss = "logistic",
        margin: float = 1.0,
        continuity: float = 0.0,
        tensor: Maps = "full",
        labels: Labels = "standard",
        epochs: int = 60,
        learning_rate: float = 1e-3,
        schedule: Schedule = "cosine",
        weight_decay: float = 0.0,
        batch_size: int = 64,
        select: Select = "last",
        seed: int = 0,
    ) -> None:
        super().__init__(space)
        if epochs < 1 or not 2 <= batch_size <= ranking.LARGEST_BATCH:
            raise InputError(
                f"epochs must be at least 1 and batch_size 2 to {ranking.LARGEST_BATCH}, but got epochs={epochs}, "
                f"batch_size={batch_size}"
            )
        if learning_rate <= 0 or min(margin, continuity, weight_decay) < 0:
            raise InputError(
                "learning_rate must be positive, and margin, continuity and weight_decay must not be negative, but "
                f"got learning_rate={learning_rate}, margin={margin}, continuity={continuity}, "
                f"weight_decay={weight_decay}"
            )
        self.loss = loss
        self.margin = margin
        self.continuity = continuity
        self.tensor = tensor
        self.labels = labels
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.select = select
        self.seed = seed
        self._network: Network | None = None

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        """Fit to scores `[n]`, higher being better, and return self. An earlier fit is replaced.

        Raises:
            InputError: There are fewer than two architectures (four, if some are held out for validation), or a score
                is not a finite number.
        """
        held_out = max(2, len(architectures) // HELD_OUT) if self.select == "validation" else 0
        if len(architectures) < 2 + held_out:
            raise TooFew(
                f"renas needs at least {2 + held_out} architectures with select={self.select!r}, but got "
                f"{len(architectures)}"
            )
        scores = checked_scores(self.name, architectures, scores, 2)
        maps = self._maps(architectures)
        varies = np.ptp(maps, axis=0) > 0.0
        self._mean = maps.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._scale = np.where(varies, maps.std(axis=0, dtype=np.float64), 1.0).astype(np.float32)
        self._network = None
        with seeded(self.seed):
            network = Network(*maps.shape[1:3])
        self._train(network, self._standardized(maps), torch.from_numpy(self._scaled(scores)), held_out)
        self._network = network.eval()
        self.target_transform = Line.fitted(self.predict(architectures), scores)
        return self

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        network = self._fitted()
        scores = np.empty(len(architectures))
        for start in range(0, len(architectures), PREDICTION_BATCH):
            batch = slice(start, start + PREDICTION_BATCH)
            scores[batch] = _scores(network, self._standardized(self._maps(architectures[batch])))
        return scores

    def get_state(self) -> FittedState:
        state = {name: tensor for name, tensor in self._fitted().state_dict().items() if not name.endswith(COUNTER)}
        weights = {NETWORK + name: tensor.numpy().copy() for name, tensor in state.items()}
        return FittedState(arrays={MEAN: self._mean, SCALE: self._scale, **weights})

    def set_state(self, state: FittedState) -> None:
        mean, scale = state.arrays[MEAN], state.arrays[SCALE]
        if mean.ndim != 3 or scale.shape != mean.shape:
            raise ValueError(
                f"mean and scale must have the same shape, with three axes, but got {mean.shape} and {scale.shape}"
            )
        with seeded(self.seed):
            network = Network(*mean.shape[:2])
        for name, tensor in network.state_dict().items():
            if name.endswith(COUNTER):
                continue
            array = state.arrays[NETWORK + name]
            if array.shape != tensor.shape:
                raise ValueError(f"{name} must have the shape {tuple(tensor.shape)}, but got {array.shape}")
            tensor.copy_(torch.from_numpy(array.copy()))
        self._mean, self._scale, self._network = mean, scale, network.eval()

    def _train(self, network: "Network", maps: Tensor, labels: Tensor, held_out: int) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(labels), generator=rng)
        watched, learnt_from = (order[:held_out], order[held_out:]) if held_out else (order, order)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        best, kept = -np.inf, network.state_dict()
        for epoch in range(self.epochs):
            if self.schedule == "cosine":
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * (1.0 + math.cos(math.pi * epoch / self.epochs)) / 2.0
            network.train()
            shuffled = learnt_from[torch.randperm(len(learnt_from), generator=rng)]
            for batch in shuffled.tensor_split(-(-len(shuffled) // self.batch_size)):
                optimizer.zero_grad()
                predicted, features = network(maps[batch])
                self._loss(predicted, features, labels[batch], rng).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if self.select != "last":
                tau = kendalltau(_scores(network.eval(), maps[watched]), labels[watched].numpy()).statistic
                if tau > best:  # never if all labels or scores are equal, as tau is then NaN
                    best, kept = tau, {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if self.select != "last":
            network.load_state_dict(kept)

    def _loss(self, scores: Tensor, features: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        if self.loss == "mse":
            loss = mse_loss(scores, labels.float())
        else:
            loss = ranking.pairwise(scores, labels, loss=self.loss, margin=self.margin)
        if self.continuity:
            phi: ranking.RankingLoss = "hinge" if self.loss == "hinge" else "logistic"
            loss = loss + self.continuity * ranking.continuity(features, labels, rng=rng, loss=phi, margin=self.margin)
        return loss

    def _scaled(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = np.asarray(scores, dtype=np.float64)
        if np.ptp(scores) == 0.0:
            return np.zeros_like(scores)
        if self.labels == "minmax":
            offset, unit = scores.min(), np.ptp(scores)
        else:
            offset, unit = scores.mean(), scores.std()
        scaled: NDArray[np.float64] = (scores - offset) / unit
        return scaled

    def _maps(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        maps = self.space.tensors(architectures)
        return maps[:, :1] if self.tensor == "type" else maps

    def _standardized(self, maps: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy((maps - self._mean) / self._scale)

    def _fitted(self) -> "Network":
        if self._network is None:
            raise InputError("renas is not fitted; call fit or load first")
        return self._network


class Network(nn.Module):
    """Two convolutions and three linear layers: `[n, maps, nodes, nodes]` in; scores `[n]`, features `[n, 84]` out."""

    def __init__(self, maps: int, nodes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(maps, 38),
            *_convolution(38, 128),
            nn.Flatten(),
            nn.Linear(128 * nodes**2, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.body(maps)
        return self.head(features)[:, 0], features


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


@torch.inference_mode()
def _scores(network: Network, maps: Tensor) -> NDArray[np.float64]:
    # This memory layout halves the time of the convolutions on a CPU.
    scores, _ = network(maps.contiguous(memory_format=torch.channels_last))
    found: NDArray[np.float64] = scores.double().numpy()
    return found
