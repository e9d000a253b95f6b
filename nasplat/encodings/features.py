"""Features of a network for predictors, the same for every space.

They are computed from the pruned graph, so isomorphic codes get the same features: the amounts of operations, depth
and width, the operations on the paths from input to output, and signal propagation at initialization.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nasplat.encodings.pruned_graph import PrunedGraphs, roles
from nasplat.graph import Graphs, Role

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK = 16_384
"""Number of graphs that are processed at once, which bounds the memory."""
FAR = 1e6
"""Longer than any path."""
ANGLES = (0.0, 0.5, 0.9)
"""Cosines between two inputs, whose values at the output are computed."""
POOLED = 0.7
"""Assumed factor by which pooling shrinks a signal; neighbors are correlated, so their average shrinks less than for
independent values."""


def describe(graphs: Graphs) -> Floats:
    """The features listed by `names`, for each graph: `[n, features]`, finite and unscaled, as suits trees."""
    chunks = [
        np.stack([values for _, values in _all(PrunedGraphs.of(graphs[start : start + CHUNK]))], axis=1)
        for start in range(0, len(graphs), CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.zeros((0, len(names(graphs))))


def names(graphs: Graphs) -> list[str]:
    """The names of the columns of `describe`; the same for all graphs of a space."""
    return [name for name, _ in _all(PrunedGraphs.of(graphs[:1]))]


def _all(effective: PrunedGraphs) -> Iterator[tuple[str, Floats]]:
    """All features by name."""
    parts = _Parts(effective)
    for group in (_amounts, _lengths, _ways, _ends, _walks, _places, _signals):
        for name, values in group(parts):
            yield name, np.asarray(values, dtype=np.float64)


class _Parts:
    """The data that features are computed from; all masks are `[n, nodes]` and cover only live nodes."""

    def __init__(self, effective: PrunedGraphs) -> None:
        graphs = effective.graphs
        kernels = np.array([operation.kernel for operation in graphs.operations] + [1])[graphs.types]
        live = effective.live
        self.graphs, self.live = graphs, live
        self.n, self.nodes = live.shape
        self.start, self.end = roles(graphs, Role.INPUT) & live, roles(graphs, Role.OUTPUT) & live
        self.convolution, self.pooling = (roles(graphs, role) & live for role in (Role.CONVOLUTION, Role.POOLING))
        self.wide, self.narrow = self.convolution & (kernels > 1), self.convolution & (kernels == 1)
        self.inner = live & ~self.start & ~self.end
        self.reach = (kernels - 1) / 2 * self.inner  # how far a node's window reaches beyond its own pixel
        self.ways = effective.edges.astype(np.float64)
        self.joined = effective.edges > 0
        self.params, self.macs = graphs.params * live, graphs.macs * live
        self.share = self.ways / np.maximum(self.ways.sum(axis=1, keepdims=True), 1)

    def kinds(self) -> dict[str, Bools]:
        """The operations that features distinguish in every space."""
        return {"wide convolution": self.wide, "narrow convolution": self.narrow, "pooling": self.pooling}

    def extreme(self, length: Floats, *, longest: bool) -> Floats:
        """The longest or shortest path from an input to an output by the given length of nodes; -1 without a path."""
        best, none = (np.maximum, -FAR) if longest else (np.minimum, FAR)
        far = np.where(self.start, 0.0, none)
        for j in range(self.nodes):
            before = best.reduce(np.where(self.joined[:, :, j], far, none), axis=1)
            on = np.where(self.live[:, j], before + length[:, j], none)
            far[:, j] = np.where(self.start[:, j], 0.0, on)
        found = best.reduce(np.where(self.end, far, none), axis=1)
        return np.where(np.abs(found) > FAR / 2, -1.0, found)

    def mean_product(self, factor: Floats) -> Floats:
        """The mean, over random walks from the outputs back to an input, of the product of the nodes' factors.

        A walk takes each edge into a node with equal probability. The mean of x to the power of a count is its
        generating function: the derivatives at 1 give the count's mean and variance.
        """
        mean = self.start.astype(np.float64)
        for j in range(self.nodes):
            through = (self.share[:, :, j] * mean).sum(axis=1) * factor[:, j]
            mean[:, j] = np.where(self.start[:, j], 1.0, np.where(self.live[:, j], through, 0.0))
        met: Floats = (mean * self.end).sum(axis=1) / np.maximum(self.end.sum(axis=1), 1)
        return met

    def between(self, sources: Bools, targets: Bools) -> Floats:
        """Number of pairs in which a node of the first kind feeds a node of the second."""
        pairs: Floats = (self.joined & sources[:, :, None] & targets[:, None, :]).sum(axis=(1, 2)).astype(np.float64)
        return pairs


def _amounts(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """The amounts of operations and costs."""
    graphs = parts.graphs
    for number, operation in enumerate(graphs.operations):
        if operation.role not in (Role.ZERO, Role.IDENTITY, Role.INPUT, Role.OUTPUT):
            yield f"{operation.name} nodes", ((graphs.types == number) & parts.live).sum(axis=1)
    yield "nodes", parts.inner.sum(axis=1)
    yield "edges", parts.joined.sum(axis=(1, 2))
    yield "edges, with multiplicity", parts.ways.sum(axis=(1, 2))
    yield "log params", np.log(parts.params.sum(axis=1) + 1e4)
    yield "log macs", np.log(parts.macs.sum(axis=1) + 1e6)
    yield "log macs of the largest node", np.log(parts.macs.max(axis=1) + 1e5)
    yield "log params beside convolutions", np.log((parts.params * ~parts.convolution).sum(axis=1) + 1e4)
    for kind, mask in parts.kinds().items():
        yield f"log params in {kind}", np.log((parts.params * mask).sum(axis=1) + 1e4)
    yield "share of pooling", parts.pooling.sum(axis=1) / np.maximum(parts.inner.sum(axis=1), 1)


def _lengths(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """The longest and the shortest path from input to output, by several measures."""
    measures = {
        "nodes": parts.inner.astype(np.float64),
        "convolutions": parts.convolution.astype(np.float64),
        "pooling": parts.pooling.astype(np.float64),
        "pixels seen": parts.reach,
    }
    for name, length in measures.items():
        yield f"most {name} on a way", parts.extreme(length, longest=True)
        yield f"fewest {name} on a way", parts.extreme(length, longest=False)
    yield "most pixels seen by convolutions", parts.extreme(parts.reach * parts.convolution, longest=True)


def _ways(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """The number of paths from input to output, and the average contents of a path."""
    counted = {
        "convolutions": parts.convolution,
        "wide convolutions": parts.wide,
        "pooling": parts.pooling,
    }
    ways = parts.start.astype(np.float64)
    bare = ways.copy()  # those without a convolution
    sums = {name: np.zeros_like(ways) for name in counted}
    for j in range(parts.nodes):
        into, first = parts.ways[:, :, j], parts.start[:, j]
        here = (into * ways).sum(axis=1)
        for name, mask in counted.items():
            sums[name][:, j] = np.where(first, 0.0, (into * sums[name]).sum(axis=1) + here * mask[:, j])
        bare[:, j] = np.where(first, 1.0, (into * bare).sum(axis=1) * ~parts.convolution[:, j])
        ways[:, j] = np.where(first, 1.0, here)
    total = (ways * parts.end).sum(axis=1)
    yield "log ways", np.log1p(total)
    yield "log ways without convolution", np.log1p((bare * parts.end).sum(axis=1))
    for name, each in sums.items():
        yield f"{name} per way", (each * parts.end).sum(axis=1) / np.maximum(total, 1)
    direct = parts.start[:, :, None] & parts.end[:, None, :]
    yield "direct ways", (parts.ways * direct).sum(axis=(1, 2))


def _ends(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """Which kinds of nodes feed which."""
    everything = np.ones_like(parts.live)
    yield "nodes fed by an input", parts.between(parts.start, everything)
    yield "nodes that feed an output", parts.between(everything, parts.end)
    inner = {"convolution": parts.convolution, "pooling": parts.pooling}
    for name, mask in inner.items():
        yield f"input to {name}", parts.between(parts.start, mask)
        yield f"{name} to output", parts.between(mask, parts.end)
        for after, other in inner.items():
            yield f"{name} to {after}", parts.between(mask, other)
    for kind, mask in parts.kinds().items():
        yield f"share of {kind} in outputs", (parts.share * mask[:, :, None] * parts.end[:, None, :]).sum(axis=(1, 2))


def _walks(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """The nodes on random walks from the output back to the input."""
    one, step = np.ones((parts.n, parts.nodes)), 1e-3
    for kind, mask in {"convolution": parts.convolution, **parts.kinds()}.items():
        yield f"chance of no {kind}", parts.mean_product(np.where(mask, 0.0, 1.0))
        yield f"half to the number of {kind}", parts.mean_product(np.where(mask, 0.5, 1.0))
    at_one = parts.mean_product(one)
    for kind in ("convolution", "wide convolution", "pooling"):
        mask = {"convolution": parts.convolution, **parts.kinds()}[kind]
        above, below = (parts.mean_product(np.where(mask, 1 + sign * step, 1.0)) for sign in (1, -1))
        mean = (above - below) / (2 * step)
        yield f"mean number of {kind}", mean
        yield f"variance of the number of {kind}", (above - 2 * at_one + below) / step**2 + mean - mean**2


def _places(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """The maximum number of convolutions before a node and after it, averaged over the nodes of a kind."""
    before, behind = np.zeros((parts.n, parts.nodes)), np.zeros((parts.n, parts.nodes))
    for j in range(parts.nodes):
        deepest = np.where(parts.joined[:, :, j], before, 0.0).max(axis=1)
        before[:, j] = np.where(parts.live[:, j], deepest + parts.convolution[:, j], 0.0)
    for i in reversed(range(parts.nodes)):
        deepest = np.where(parts.joined[:, i], behind, 0.0).max(axis=1)
        behind[:, i] = np.where(parts.live[:, i], deepest + parts.convolution[:, i], 0.0)
    weights = {name: each.astype(np.float64) for name, each in {"macs": parts.macs, **parts.kinds()}.items()}
    for name, weight in weights.items():
        total = np.maximum(weight.sum(axis=1), 1)
        yield f"depth of {name}", (before * weight).sum(axis=1) / total
        yield f"height of {name}", (behind * weight).sum(axis=1) / total


def _signals(parts: _Parts) -> Iterator[tuple[str, Floats]]:
    """How the angle between two inputs changes, in a wide network with random weights.

    Mean-field theory of signal propagation (Poole et al., 2016; the ReLU's kernel is Cho and Saul's, 2009), applied to
    cells. A convolution, with its ReLU and batch norm, gives unit variance and a correlation by the kernel, and its
    output is independent of all other nodes. A sum keeps the covariances of its inputs, which distinguishes two paths
    with the same signal from two with different signals. Pixels are not modelled, so pooling only shrinks.
    """
    within = np.zeros((parts.n, parts.nodes, parts.nodes))  # covariance of two nodes for one input
    across = [np.zeros_like(within) for _ in ANGLES]  # and for two inputs
    unrelated = _relu_kernel(np.zeros(1))
    fresh = parts.start | parts.convolution
    for j in range(parts.nodes):
        into = parts.ways[:, :, j]
        scale = np.where(parts.pooling[:, j], POOLED, 1.0)
        passes = ~fresh[:, j] & parts.live[:, j]
        sums = np.einsum("ni,nik->nk", into, within)
        variance = np.maximum((sums * into).sum(axis=1), 1e-9)
        for cosine, covariance in zip(ANGLES, across, strict=True):
            sums_across = np.einsum("ni,nik->nk", into, covariance)
            common = (sums_across * into).sum(axis=1)
            kernel = (_relu_kernel(common / variance) - unrelated) / (1 - unrelated)  # batch norm takes the mean away
            _set(covariance, j, np.where(passes[:, None], sums_across * scale[:, None], 0.0))
            new = np.where(parts.convolution[:, j], kernel, np.where(passes, common * scale**2, 0.0))
            covariance[:, j, j] = np.where(parts.start[:, j], cosine, new)
        _set(within, j, np.where(passes[:, None], sums * scale[:, None], 0.0))
        within[:, j, j] = np.where(fresh[:, j], 1.0, np.where(passes, variance * scale**2, 0.0))
    power = (np.diagonal(within, axis1=1, axis2=2) * parts.end).sum(axis=1)
    yield "log power at the output", np.log(np.maximum(power, 1e-2))
    for cosine, covariance in zip(ANGLES, across, strict=True):
        common = (np.diagonal(covariance, axis1=1, axis2=2) * parts.end).sum(axis=1)
        yield f"cosine at the output of {cosine:g}", common / np.maximum(power, 1e-9)


def _set(covariance: Floats, j: int, values: Floats) -> None:
    covariance[:, j, :] = values
    covariance[:, :, j] = values


def _relu_kernel(cosine: Floats) -> Floats:
    """The correlation of two ReLUs of standard normal variables with the given correlation."""
    cosine = np.clip(cosine, -1.0, 1.0)
    return (np.sqrt(1 - cosine**2) + cosine * (np.pi - np.arccos(cosine))) / np.pi
