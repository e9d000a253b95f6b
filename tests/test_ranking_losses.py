"""Ranking losses against loops over all pairs in float64, and what holds for every ranking loss."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nasplat.errors import InputError
from nasplat.training.ranking import RankingLoss, continuity, pairwise

LOSSES: tuple[RankingLoss, ...] = ("logistic", "hinge")
PHI: dict[RankingLoss, Callable[[float], float]] = {
    "logistic": lambda z: math.log(1.0 + math.exp(-z)),
    "hinge": lambda z: max(0.0, 0.7 - z),
}


def batch(n: int = 23, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and labels of which many are equal, in float64."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=n)), torch.tensor(rng.integers(8, size=n) / 8)


def loops(scores: NDArray[np.float64], labels: NDArray[np.float64], phi: Callable[[float], float]) -> float:
    """The mean over all ordered pairs with different labels, as the paper writes it."""
    penalties = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            sign = np.sign(labels[i] - labels[j])
            if sign != 0:
                penalties.append(phi((scores[i] - scores[j]) * sign))
    return float(np.mean(penalties))


@pytest.mark.parametrize("loss", LOSSES)
def test_pairwise_is_the_mean_over_ordered_pairs(loss: RankingLoss) -> None:
    scores, labels = batch()
    expected = loops(scores.numpy(), labels.numpy(), PHI[loss])
    assert pairwise(scores, labels, loss=loss, margin=0.7).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences(loss: RankingLoss) -> None:
    scores, labels = batch(9)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: pairwise(s, labels, loss=loss, margin=0.7), (scores,))


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_order_of_labels_matters(loss: RankingLoss) -> None:
    scores, labels = batch()
    exact = pairwise(scores, labels, loss=loss)
    assert pairwise(scores, torch.exp(5 * labels) - 3, loss=loss) == exact
    assert pairwise(scores, -labels, loss=loss) != exact


@pytest.mark.parametrize("loss", LOSSES)
def test_neither_the_order_of_the_batch_nor_a_shift_of_scores_matters(loss: RankingLoss) -> None:
    scores, labels = batch()
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(1))
    exact = pairwise(scores, labels, loss=loss).item()
    assert pairwise(scores[shuffled], labels[shuffled], loss=loss).item() == pytest.approx(exact, rel=1e-12)
    assert pairwise(scores + 12, labels, loss=loss).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("labels", [[0.3, 0.3, 0.3], [0.3]])
def test_equal_labels_teach_nothing(loss: RankingLoss, labels: list[float]) -> None:
    scores = torch.arange(float(len(labels)), requires_grad=True)
    value = pairwise(scores, torch.tensor(labels), loss=loss)
    value.backward()  # type: ignore[no-untyped-call]
    assert value == 0 and scores.grad is not None and (scores.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_scores_have_finite_gradients(loss: RankingLoss) -> None:
    scores = torch.tensor([-1e4, 0.0, 1e4, 1e4], requires_grad=True)
    value = pairwise(scores, torch.tensor([4.0, 3.0, 2.0, 1.0]), loss=loss)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value) and scores.grad is not None and torch.isfinite(scores.grad).all()


def test_descent_sorts() -> None:
    labels = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    scores = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.SGD([scores], lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        pairwise(scores, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert scores.argsort().equal(labels.argsort())


def test_refusals() -> None:
    with pytest.raises(InputError, match="shapes"):
        pairwise(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(InputError, match="shapes"):
        pairwise(torch.zeros(3), torch.zeros(4))
    with pytest.raises(InputError, match="at most 1024 members, but got 1025"):
        pairwise(torch.zeros(1025), torch.zeros(1025))
    with pytest.raises(InputError, match="'huber'"):
        pairwise(torch.zeros(3), torch.zeros(3), loss="huber")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="shapes"):
        continuity(torch.zeros(3), torch.zeros(3), rng=torch.Generator())


@pytest.mark.parametrize("loss", LOSSES)
def test_continuity_compares_each_distance_with_a_drawn_one(loss: RankingLoss) -> None:
    _, labels = batch(11)
    features = torch.tensor(np.random.default_rng(2).normal(size=(11, 4)))
    pairs = list(combinations(range(11), 2))
    distances = [math.dist(features[i].tolist(), features[j].tolist()) for i, j in pairs]
    gaps = [abs(labels[i].item() - labels[j].item()) for i, j in pairs]
    drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5)).tolist()
    penalties = [
        PHI[loss]((distances[a] - distances[b]) * math.copysign(1.0, gaps[a] - gaps[b]))
        for a, b in enumerate(drawn)
        if gaps[a] != gaps[b]
    ]
    value = continuity(features, labels, rng=torch.Generator().manual_seed(5), loss=loss, margin=0.7)
    assert value.item() == pytest.approx(np.mean(penalties), rel=1e-12)


def test_continuity_is_the_ranking_of_all_distances_in_the_mean() -> None:
    _, labels = batch(8)
    features = torch.tensor(np.random.default_rng(3).normal(size=(8, 4)))
    rng = torch.Generator().manual_seed(0)
    drawn = torch.stack([continuity(features, labels, rng=rng) for _ in range(2000)])
    pairs = torch.combinations(torch.arange(8))
    distances = (features[pairs[:, 0]] - features[pairs[:, 1]]).norm(dim=1)
    gaps = (labels[pairs[:, 0]] - labels[pairs[:, 1]]).abs()
    exact = loops(distances.numpy(), gaps.numpy(), PHI["logistic"])
    assert drawn.mean().item() == pytest.approx(exact, abs=4 * drawn.std().item() / math.sqrt(2000))


def test_continuity_of_coinciding_features_has_finite_gradients() -> None:
    features = torch.zeros(5, 3, requires_grad=True)
    value = continuity(features, torch.arange(5.0), rng=torch.Generator().manual_seed(0))
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value) and features.grad is not None and torch.isfinite(features.grad).all()
