"""Graph networks: message passing between the operations of a network, trained on pairs of networks."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nasplat.architecture import Architecture
from nasplat.encodings.encoding import Encodings
from nasplat.encodings.pruned_graph import PrunedGraphs, roles
from nasplat.graph import Role
from nasplat.predictor import FittedState, UncertainPredictor, checked_scores
from nasplat.predictors.ensembling import parts_of
from nasplat.predictors.tabular import FEWEST, unfitted
from nasplat.search_space import SearchSpace
from nasplat.target import Line

if TYPE_CHECKING:
    from torch import Tensor

    from nasplat.nn.graph_network import GraphBatch, GraphNetworks

BATCH = 512
FEW = 150
EPOCHS = 300
"""Default epochs for up to one batch of examples; with more, they decrease with the cube root of the number."""
DECAY = 0.01
HEAD = 64
CHUNK = 16_384
"""Number of architectures that are encoded at once, which bounds the memory."""
ROWS = 256
"""Number of graphs in one forward pass, so that they fit into a cache."""
MOST_EDGES = 3
"""Maximum number of paths between two nodes; larger numbers are clipped."""
FARTHEST = 4.0
"""Standardized features of a graph are clipped at this value; larger ones did not occur in training."""
LEAST_DEVIATION = 1e-3


class GraphNetwork(UncertainPredictor):
    """Ensemble of small graph networks, each trained to order pairs.

    The input of a network is the operations and costs of nodes, the data flow between them, and the numbers of
    `nasplat.encodings.features`. The loss is logistic in the difference of two scores, so only the order of the
    measurements matters. Each member leaves its own part of the examples out, which gives out-of-fold predictions. The
    members' scores are standardized over all examples before they are combined; this is the unit of predictions. A line
    through the out-of-fold predictions, or those of a single network, puts them into the unit of the scores.

    Scoring cells by graph networks was proposed by Wen et al. (2020, "Neural Predictor"). Passing messages in both
    directions is from Dudziak et al. (2020, "BRP-NAS"), who also train on pairs. Pruned graphs, the features of the
    whole graph and all sizes are the project's own.

    Args:
        space: The space of the architectures to score.
        members: Number of networks. Each leaves out one in this number of examples; a single one leaves out none. By
            default 8, and 16 if there are so few examples that each of them matters.
        width: Number of hidden values of a node.
        layers: Number of rounds of message passing.
        epochs: Number of epochs; by default 300 for up to 512 examples, and fewer with more: 148 with 4,236.
        learning_rate: The maximum of the one-cycle schedule.
        dropout: The dropout rate.
        seed: The seed of weights, orders and the parts left out.
    """

    name: ClassVar[str] = "graph_network"

    def __init__(
        self,
        space: SearchSpace,
        *,
        members: Annotated[int, Field(ge=1)] | None = None,
        width: Annotated[int, Field(ge=1)] = 32,
        layers: Annotated[int, Field(ge=0)] = 3,
        epochs: Annotated[int, Field(ge=1)] | None = None,
        learning_rate: Annotated[float, Field(gt=0)] = 3e-3,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(space)
        self.members = members
        self.width = width
        self.layers = layers
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.dropout = dropout
        self.seed = seed
        self._network: GraphNetworks | None = None
        self._standard: dict[str, NDArray[np.float64]] = {}
        self._held_out: NDArray[np.float64] | None = None

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        import torch

        from nasplat.nn.graph_network import train
        from nasplat.training.seeding import seeded

        n = len(architectures)
        scores = checked_scores(self.name, architectures, scores, FEWEST)
        views = Encodings.of(self.space, architectures)
        whole = views.description
        self._network = None
        self._standard = {"center": whole.mean(axis=0), "scale": _inverse(whole.std(axis=0))}
        examples = self._encode(views)
        members = self.members or _members(n)
        part = parts_of(self.space, architectures, members, self.seed)
        seen = (part != np.arange(members)[:, None]) | (members == 1)
        # Ranks instead of scores, because scores could be equal in single precision.
        labels = np.unique(scores, return_inverse=True)[1].astype(np.float32)
        batches = max(1, round(n / BATCH))
        with seeded(self.seed):
            network = self._made(members, examples.nodes.shape[2], whole.shape[1])
            train(
                network,
                examples,
                torch.from_numpy(labels),
                torch.from_numpy(seen.astype(np.float32)),
                epochs=self.epochs or _epochs(n),
                batches=batches,
                learning_rate=self.learning_rate,
                decay=DECAY,
            )
        self._network = network
        said = self._said(examples)
        # A member without any pair of different examples gets the gain 0.
        informed = np.array([len(np.unique(labels[row])) > 1 for row in seen])
        self._standard |= {"mean": said.mean(axis=1), "gain": _inverse(said.std(axis=1)) * informed}
        standardized = self._standardized(said)
        self._held_out = None if members == 1 else standardized[part, np.arange(n)]
        predicted = standardized.mean(axis=0) if self._held_out is None else self._held_out
        self.target_transform = Line.fitted(predicted, scores)
        return self

    @staticmethod
    def passes(examples: int, nodes: int, members: int | None = None) -> int:
        """The number of nodes that the default networks pass in training, to which its time is proportional.

        Args:
            examples: Number of examples.
            nodes: Number of positions in a graph.
            members: Number of networks, if not the default.
        """
        return (members or _members(examples)) * _epochs(examples) * examples * nodes

    def predict_with_deviation(
        self, architectures: Sequence[Architecture]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._network is None:
            raise unfitted()
        said = [self._said(self._encode(views)) for views in Encodings.of(self.space, architectures).chunks(CHUNK)]
        scores = self._standardized(np.concatenate(said, axis=1))
        return scores.mean(axis=0), np.maximum(scores.std(axis=0), LEAST_DEVIATION)

    def out_of_fold(self) -> NDArray[np.float64] | None:
        return self._held_out

    def get_state(self) -> FittedState:
        if self._network is None:
            raise unfitted()
        weights = {f"network.{name}": tensor.numpy() for name, tensor in self._network.state_dict().items()}
        return FittedState(arrays={**weights, **self._standard})

    def set_state(self, state: FittedState) -> None:
        import torch

        weights = {
            name.removeprefix("network."): torch.from_numpy(array)
            for name, array in state.arrays.items()
            if name.startswith("network.")
        }
        standard = {name: state.arrays[name] for name in ("center", "scale", "mean", "gain")}
        (whole,) = standard["center"].shape
        (members,) = standard["mean"].shape
        if (
            standard["scale"].shape != (whole,)
            or standard["gain"].shape != (members,)
            or members != (self.members or members)
        ):
            raise ValueError(
                f"the arrays for standardizing scores have wrong shapes: {[array.shape for array in standard.values()]}"
            )
        network = self._made(members, weights["enter.weight"].shape[1], whole)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit the network: {error}") from error
        self._network, self._standard, self._held_out = network.eval(), standard, None

    def _made(self, members: int, features: int, whole: int) -> "GraphNetworks":
        from nasplat.nn.graph_network import GraphNetworks

        return GraphNetworks(
            members=members,
            features=features,
            whole=whole,
            width=self.width,
            layers=self.layers,
            head=HEAD,
            rate=self.dropout,
        )

    def _encode(self, views: Encodings) -> "GraphBatch":
        """The input of the networks: graphs and their features."""
        from nasplat.nn.graph_network import GraphBatch, summed_up, wired

        graphs = views.graphs
        effective = PrunedGraphs.of(graphs)
        live, edges = effective.live, np.minimum(effective.edges, MOST_EDGES)
        kinds = [i for i, each in enumerate(graphs.operations) if each.role not in (Role.ZERO, Role.IDENTITY)]
        columns = [
            *((graphs.types == kind) & live for kind in kinds),
            np.log1p(graphs.params * live) / 12,  # about 1 for the largest of usual cells
            np.log1p(graphs.macs * live) / 18,
            edges.sum(axis=1) / MOST_EDGES,
            edges.sum(axis=2) / MOST_EDGES,
        ]
        whole = (views.description - self._standard["center"]) * self._standard["scale"]
        return GraphBatch(
            nodes=_tensor(np.stack(columns, axis=2)),
            ways=wired(_tensor(edges)),
            sums=summed_up(_tensor(live), _tensor(roles(graphs, Role.OUTPUT) & live)),
            whole=_tensor(np.clip(whole, -FARTHEST, FARTHEST)),
        )

    def _said(self, batch: "GraphBatch") -> NDArray[np.float64]:
        """The members' predictions, in their own units, `[members, n]`."""
        import torch

        if self._network is None:
            raise unfitted()
        with torch.inference_mode():
            said = [self._network(batch[start : start + ROWS]) for start in range(0, len(batch), ROWS)]
            nothing = torch.zeros(self._network.members, 0)
        return torch.cat([nothing, *said], dim=1).double().numpy()

    def _standardized(self, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """The members' predictions, in units of their deviations over the examples, `[members, n]`."""
        scores: NDArray[np.float64] = (said - self._standard["mean"][:, None]) * self._standard["gain"][:, None]
        return scores


def _members(examples: int) -> int:
    return 16 if examples <= FEW else 8


def _epochs(examples: int) -> int:
    share: float = min(1.0, BATCH / examples) ** (1 / 3)
    return math.ceil(EPOCHS * share)


def _inverse(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / deviation, and 0 for a deviation of 0."""
    constant = deviation < 1e-9
    inverse: NDArray[np.float64] = ~constant / np.where(constant, 1.0, deviation)
    return inverse


def _tensor(array: NDArray[Any]) -> "Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
