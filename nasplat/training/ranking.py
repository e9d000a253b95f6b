"""Ranking losses, which train an order instead of values, over all pairs of a batch with different labels."""

from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn.functional import pdist, softplus

from nasplat.errors import InputError

RankingLoss: TypeAlias = Literal["logistic", "hinge"]

LARGEST_BATCH = 1024
"""The number of pairs grows with the square of the batch. Half a million pairs fit into the memory of any device."""


def pairwise(scores: Tensor, labels: Tensor, *, loss: RankingLoss = "logistic", margin: float = 1.0) -> Tensor:
    """The pairwise ranking loss of a batch: the mean of phi(better's score - worse's score) over pairs, a scalar.

    phi(z) is log(1 + exp(-z)) ("logistic") or max(0, margin - z) ("hinge") (Xu et al., 2021, "ReNAS", sec. 3.2).
    Each pair counts once. Pairs with equal labels do not count; if all labels are equal, the loss is 0. Only the order
    of the labels matters.

    Args:
        scores: The scores of a network, `[n]`; the higher the better.
        labels: The measured values, `[n]`; the higher the better.
        loss: The function phi.
        margin: The margin of the hinge loss, in units of the scores.

    Raises:
        InputError: The shapes differ, the batch has more than 1,024 members, or the loss is unknown.
    """
    _check(scores, labels, dimensions=1)
    lead = (scores[:, None] - scores[None, :])[labels[:, None] > labels[None, :]]
    return _mean_penalty(lead, loss, margin)


def continuity(
    features: Tensor, labels: Tensor, *, rng: Generator, loss: RankingLoss = "logistic", margin: float = 1.0
) -> Tensor:
    """A ranking loss between distances of features and differences of labels: near labels should have near features.

    All distances between two examples of the batch are ranked as `pairwise` ranks scores, by the absolute differences
    of their labels. There are n^4 / 8 comparisons of two distances. Therefore each distance is compared with one
    other, drawn anew in each call.

    This is a reconstruction: ReNAS (Xu et al., 2021, sec. 3.2) has a term for continuity besides its ranking loss, but
    the published code does not contain it.

    Args:
        features: Representations, `[n, features]`.
        labels: The measured values, `[n]`.
        rng: Draws the comparisons; on the CPU.
        loss: The function phi, as for `pairwise`.
        margin: The margin of the larger distance in the hinge loss.

    Raises:
        InputError: The shapes differ, the batch has more than 1,024 members, or the loss is unknown.
    """
    _check(features, labels, dimensions=2)
    distances, gaps = pdist(features), pdist(labels[:, None])
    other = torch.randperm(len(gaps), generator=rng).to(gaps.device)
    direction = torch.sign(gaps - gaps[other])
    lead = direction * (distances - distances[other])
    return _mean_penalty(lead[direction != 0], loss, margin)


def _mean_penalty(lead: Tensor, loss: RankingLoss, margin: float) -> Tensor:
    if loss == "logistic":
        penalty = softplus(-lead)
    elif loss == "hinge":
        penalty = (margin - lead).clamp_min(0.0)
    else:
        raise InputError(f"a ranking loss is 'logistic' or 'hinge', but got {loss!r}")
    return penalty.sum() / max(len(penalty), 1)


def _check(values: Tensor, labels: Tensor, dimensions: int) -> None:
    if values.ndim != dimensions or labels.ndim != 1 or len(values) != len(labels):
        raise InputError(
            f"a ranking loss takes {dimensions}-dimensional values and one label for each, but got the shapes "
            f"{tuple(values.shape)} and {tuple(labels.shape)}"
        )
    if len(labels) > LARGEST_BATCH:
        raise InputError(
            f"a ranking loss takes at most {LARGEST_BATCH} members, but got {len(labels)}; split them into batches"
        )
