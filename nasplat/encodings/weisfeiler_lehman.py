"""Weisfeiler-Lehman features: countable hashes of the sub-expressions of pruned graphs."""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nasplat.encodings.pruned_graph import PrunedGraphs

Hashes = NDArray[np.uint64]

NOTHING = np.uint64(0)
"""The hash at positions without a live node."""
DEPTHS = (1, 2)
"""How far around a node the bounded expressions look back, in nodes."""


def hashed(effective: PrunedGraphs) -> Hashes:
    """Four hashes for every live node, `[n, nodes, 4]`; equal expressions have equal hashes.

    The first is of the whole expression that the node computes from the inputs. The second is of all later uses of its
    output. The others are of its operation with those up to one and two nodes before it (as in Weisfeiler and Lehman's
    labels). An expression does not depend on the numbering of nodes. Different expressions share a hash only with
    probability 2^-64.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        own = _mixed((effective.graphs.types.astype(np.int64) + 3).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        ways = effective.edges.astype(np.uint64)
        whole, after = own.copy(), own.copy()
        nodes = own.shape[1]
        for j in range(nodes):
            whole[:, j] = _mixed(own[:, j] + (_mixed(whole) * ways[:, :, j]).sum(axis=1))
        for i in reversed(range(nodes)):
            after[:, i] = _mixed(own[:, i] + (_mixed(after) * ways[:, i]).sum(axis=1))
        found, near = [whole, after], own
        for _ in range(max(DEPTHS)):
            near = _mixed(own + np.uint64(31) * (_mixed(near)[:, :, None] * ways).sum(axis=1))
            found.append(near)
    return np.where(effective.live[:, :, None], np.stack(found, axis=2), NOTHING)


class Vocabulary:
    """The vocabulary: the expressions in a training set.

    Args:
        hashes: For each of the four hashes, the sorted vocabulary.
    """

    def __init__(self, hashes: list[Hashes]) -> None:
        self.hashes = hashes

    @classmethod
    def of(cls, hashes: Hashes) -> Self:
        """The vocabulary of a training set; never empty, since it includes the hash of positions without a node."""
        return cls([np.unique(np.append(each, NOTHING)) for each in np.moveaxis(hashes, 2, 0)])

    def counted(self, hashes: Hashes) -> sparse.csr_array:
        """The count of each expression of the vocabulary, `[n, expressions]`, each row divided by √(1 + its square).

        So cells with many nodes have only slightly more weight than cells with few.
        """
        blocks = []
        for entries, each in zip(self.hashes, np.moveaxis(hashes, 2, 0), strict=True):
            place = np.searchsorted(entries, each).clip(max=len(entries) - 1)
            rows, nodes = np.nonzero((entries[place] == each) & (each != NOTHING))
            cells = rows, place[rows, nodes]
            blocks.append(sparse.coo_array((np.ones(len(rows)), cells), shape=(len(hashes), len(entries))))
        table = sparse.csr_array(sparse.hstack(blocks))
        scale = 1 / np.sqrt(1 + np.asarray(table.multiply(table).sum(axis=1)).ravel())
        return sparse.csr_array(sparse.diags_array(scale) @ table)


def _mixed(values: Hashes) -> Hashes:
    """Mix values over all 64 bits; each step is invertible, so different values stay different."""
    values = values.copy()
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        values ^= values >> np.uint64(33)
        values *= factor
    values ^= values >> np.uint64(33)
    return values
