"""Networks that score graphs: messages along edges and against them, for several members at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu_, softplus

CLIP = 1.0
"""The longest gradient of a member."""
FEWEST_STEPS = 6
"""Torch divides by zero where warming up is a single step."""
WARMING = 0.2
"""Which part of the training the learning rate rises for."""


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """What a network sees of graphs.

    Args:
        nodes: Features of each node, zeros where there is none, `[n, nodes, features]`.
        ways: What reaches a node from itself, along edges and against edges, `[n, nodes, 3 nodes]`; see `wired`.
        sums: What the graph is summed up by: weights of nodes, for three sums, `[n, 3, nodes]`; see `summed_up`.
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

    Columns 3 j, 3 j + 1 and 3 j + 2 belong to node j: what it says to itself, to those it leads to, and to those that
    lead to it.
    """
    n, nodes, _ = edges.shape
    itself = torch.eye(nodes).expand(n, nodes, nodes)
    return torch.stack([itself, edges.transpose(1, 2), edges], dim=3).reshape(n, nodes, 3 * nodes)


def summed_up(live: Tensor, ends: Tensor) -> Tensor:
    """The weights `[n, 3, nodes]` of nodes in the sum of the outputs, the mean and the sum of all.

    Args:
        live: 1 for a node that counts and 0 for others, `[n, nodes]`.
        ends: 1 for an output and 0 for others, `[n, nodes]`.
    """
    return torch.stack([ends, live / live.sum(dim=1, keepdim=True).clamp_min(1), live / 4], dim=1)


def dropped(x: Tensor, rate: float) -> Tensor:
    """Dropout that is the same for all members of `[members, ...]`, since drawing takes longer than multiplying."""
    return x * ((torch.rand(x.shape[1:]) >= rate) / (1 - rate))


def uniform(members: int, inputs: int, outputs: int) -> Tensor:
    """Weights to start from, `[members, inputs, outputs]`."""
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
    """One round: h + dropout(relu(norm(h A + sum over edges in of h B + sum over edges out of h C))).."""

    def __init__(self, members: int, width: int, rate: float) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.cat([uniform(members, width, width) for _ in range(3)], dim=2))
        self.gain = nn.Parameter(torch.ones(members, 1, 1, width))
        self.shift = nn.Parameter(torch.zeros(members, 1, 1, width))
        self.rate = rate

    def forward(self, h: Tensor, ways: Tensor) -> Tensor:
        """From nodes `[members, n, nodes, width]` to the same."""
        members, n, nodes, width = h.shape
        said = torch.bmm(h.reshape(members, -1, width), self.words).reshape(members, n, 3 * nodes, width)
        heard = layer_norm(torch.matmul(ways, said), (width,))
        new = relu_(torch.addcmul(self.shift, heard, self.gain))
        return h + dropped(new, self.rate) if self.training else new.add_(h)


class GraphNetworks(nn.Module):
    """An ensemble of directed-graph networks, which share nothing but the time they take.

    Nodes exchange messages for some rounds. A perceptron then sees the outputs, the mean and the sum of all nodes, and
    the features of the whole graph. All members are computed at once, by batched products.

    Args:
        members: How many there are.
        features: Of a node.
        whole: Features of a graph.
        width: Numbers that a node holds.
        layers: Rounds of messages.
        head: Units in both hidden layers of the perceptron.
        rate: Of dropout.
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
        self.score = Linears(members, head, 1, gain=0.1)  # so that training starts from no opinion

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
    """How wrongly each member orders what its mask lets it see, `[members]`.

    It is the mean of log(1 + exp(worse's score - better's score)) over the pairs whose labels differ (Burges et al.,
    2005, "RankNet"); without such pairs, 0.

    Args:
        scores: `[members, n]`.
        labels: `[n]`; the higher the better.
        mask: 1 for what a member sees and 0 for the rest, `[members, n]`.
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
    """Teach every member the order of what its mask lets it see; what it does not see has no effect on it.

    Orders and dropout are drawn from torch's generator.

    Args:
        network: What is taught; afterwards it is in evaluation mode.
        graphs: The examples.
        labels: `[n]`; the higher the better.
        mask: 1 for what a member sees and 0 for the rest, `[members, n]`.
        epochs: How often each example is seen.
        batches: Steps in an epoch.
        learning_rate: The highest of the one cycle (Smith & Topin, 2019).
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
    """Shorten the gradient of each member on its own, lest members learn from what others see."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    length = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0).sqrt()
    factor = (CLIP / (length + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))
