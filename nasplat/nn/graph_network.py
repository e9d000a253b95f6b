"""Graph networks that predict scores: messages in both directions of edges, for all ensemble members at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu_, softplus

CLIP = 1.0
"""The largest gradient norm of an ensemble member."""
FEWEST_STEPS = 6
"""The minimum number of steps. Torch divides by zero if the warm-up is a single step."""
WARMING = 0.2
"""The fraction of the training in which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """The input of a network: a batch of graphs.

    Args:
        nodes: Features of each node, zeros for absent nodes, `[n, nodes, features]`.
        ways: Weights of the messages to a node from itself, along edges and against edges, `[n, nodes, 3 nodes]`; see
            `wired`.
        sums: Weights of nodes in three sums over the graph, `[n, 3, nodes]`; see `summed_up`.
        whole: Features of each graph, `[n, whole]`.
    """

    nodes: Tensor
    ways: Tensor
    sums: Tensor
    whole: Tensor

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, chosen: slice | Tensor) -> "GraphBatch":
        """Some of the graphs."""
        return GraphBatch(*(getattr(self, name)[chosen] for name in self.__slots__))


def wired(edges: Tensor) -> Tensor:
    """The weights `[n, nodes, 3 nodes]` of what reaches each node, of edges `[n, nodes, nodes]` that lead from row to
    column.

    Columns 3 j, 3 j + 1 and 3 j + 2 belong to node j: its messages to itself, to its successors, and to its
    predecessors.
    """
    n, nodes, _ = edges.shape
    itself = torch.eye(nodes).expand(n, nodes, nodes)
    return torch.stack([itself, edges.transpose(1, 2), edges], dim=3).reshape(n, nodes, 3 * nodes)


def summed_up(live: Tensor, ends: Tensor) -> Tensor:
    """The weights `[n, 3, nodes]` of nodes in the sum of outputs, the mean of all nodes and the sum of all nodes.

    Args:
        live: 1 for a node of the graph and 0 for others, `[n, nodes]`.
        ends: 1 for an output and 0 for others, `[n, nodes]`.
    """
    return torch.stack([ends, live / live.sum(dim=1, keepdim=True).clamp_min(1), live / 4], dim=1)


def dropped(x: Tensor, rate: float) -> Tensor:
    """Dropout with the same mask for all members of `[members, ...]`, since drawing takes longer than multiplying."""
    return x * ((torch.rand(x.shape[1:]) >= rate) / (1 - rate))


def uniform(members: int, inputs: int, outputs: int) -> Tensor:
    """Initial weights, `[members, inputs, outputs]`."""
    return (2 * torch.rand(members, inputs, outputs) - 1) * math.sqrt(2 / inputs)


class Linears(nn.Module):
    """A linear layer for each member: from `[members, ..., inputs]` to `[members, ..., outputs]`."""

    def __init__(self, members: int, inputs: int, outputs: int, *, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(gain * uniform(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """One batched product."""
        flat = x.reshape(len(x), -1, x.shape[-1])
        y = torch.baddbmm(self.bias, flat, self.weight)
        return y.reshape(*x.shape[:-1], -1)


class Messages(nn.Module):
    """One round of messages: h + dropout(relu(norm(h A + sum over edges in of h B + sum over edges out of h C))).."""

    def __init__(self, members: int, width: int, rate: float) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.cat([uniform(members, width, width) for _ in range(3)], dim=2))
        self.gain = nn.Parameter(torch.ones(members, 1, 1, width))
        self.shift = nn.Parameter(torch.zeros(members, 1, 1, width))
        self.rate = rate

    def forward(self, h: Tensor, ways: Tensor) -> Tensor:
        """Nodes `[members, n, nodes, width]` to the same shape."""
        members, n, nodes, width = h.shape
        said = torch.bmm(h.reshape(members, -1, width), self.words).reshape(members, n, 3 * nodes, width)
        heard = layer_norm(torch.matmul(ways, said), (width,))
        new = relu_(torch.addcmul(self.shift, heard, self.gain))
        return h + dropped(new, self.rate) if self.training else new.add_(h)


class GraphNetworks(nn.Module):
    """An ensemble of directed-graph networks, computed together without shared weights.

    Nodes exchange messages for some rounds. A perceptron then sees the outputs, the mean and the sum of all nodes, and
    the features of the whole graph. All members are computed at once, by batched products.

    Args:
        members: The number of ensemble members.
        features: The number of features of a node.
        whole: The number of features of a graph.
        width: The width of a node's hidden state.
        layers: The number of rounds of messages.
        head: The number of units in both hidden layers of the perceptron.
        rate: The dropout rate.
    """

    def __init__(
        self, *, members: int, features: int, whole: int, width: int, layers: int, head: int, rate: float
    ) -> None:
        super().__init__()
        self.members, self.rate = members, rate
        self.enter = Linears(members, features, width)
        self.rounds = nn.ModuleList(Messages(members, width, rate) for _ in range(layers))
        self.first = Linears(members, 3 * width + whole, head)
        self.second = Linears(members, head, head)
        self.score = Linears(members, head, 1, gain=0.1)  # small initial weights, so initial scores are nearly equal

    def forward(self, batch: GraphBatch) -> Tensor:
        """Scores of each member, `[members, n]`."""
        h = relu_(self.enter(self._shared(batch.nodes)))
        for messages in self.rounds:
            h = messages(h, batch.ways)
        summed = torch.matmul(batch.sums, h).flatten(2)
        seen = torch.cat([summed, self._shared(batch.whole)], dim=-1)
        for layer in (self.first, self.second):
            seen = relu_(layer(seen))
            seen = dropped(seen, self.rate) if self.training else seen
        scores: Tensor = self.score(seen)[..., 0]
        return scores

    def _shared(self, x: Tensor) -> Tensor:
        return x.expand(self.members, *x.shape)


def masked_pairwise(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The pairwise ranking loss of each member on the examples of its mask, `[members]`.

    It is the mean of log(1 + exp(worse's score - better's score)) over the pairs whose labels differ (Burges et al.,
    2005, "RankNet"); without such pairs, 0.

    Args:
        scores: `[members, n]`.
        labels: `[n]`; the higher the better.
        mask: 1 for the examples of a member and 0 for the others, `[members, n]`.
    """
    counts = (labels[:, None] > labels[None, :]) * mask[:, :, None] * mask[:, None, :]
    penalty = softplus(scores[:, None, :] - scores[:, :, None])
    return (penalty * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp_min(1)


def train(
    network: GraphNetworks,
    graphs: GraphBatch,
    labels: Tensor,
    mask: Tensor,
    *,
    epochs: int,
    batches: int,
    learning_rate: float,
    decay: float,
) -> None:
    """Train every member on the order of the examples of its mask. Other examples have no effect on it.

    The order of examples and dropout are drawn from torch's generator.

    Args:
        network: The network to train. It is in evaluation mode afterwards.
        graphs: The examples.
        labels: `[n]`; the higher the better.
        mask: 1 for the examples of a member and 0 for the others, `[members, n]`.
        epochs: The number of passes over the examples.
        batches: The number of steps in an epoch.
        learning_rate: The highest learning rate of the one cycle (Smith & Topin, 2019).
        decay: The decoupled weight decay of AdamW.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(FEWEST_STEPS, epochs * batches), pct_start=WARMING
    )
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(graphs)).chunk(batches):
            optimizer.zero_grad()
            loss = masked_pairwise(network(graphs[chosen]), labels[chosen], mask[:, chosen])
            loss.sum().backward()  # type: ignore[no-untyped-call]
            _clip(network)
            optimizer.step()
            schedule.step()
    network.eval()


def _clip(network: GraphNetworks) -> None:
    """Clip the gradient of each member separately, so members are not affected by the examples of others."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    length = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0).sqrt()
    factor = (CLIP / (length + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))
