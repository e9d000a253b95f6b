"""The risk of a picker and what is estimated of a picking, against brute force and pools whose truth is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nasplat.picking.estimates import Estimate, belonging, held_out_ranks, is_wide, prior_of, separation
from nasplat.picking.picker import Picker, PickerRecipe, fit, risk

QUICK = PickerRecipe(steps=200)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def by_hand(positives: list[float], unlabelled: list[float], prior: float) -> tuple[float, float]:
    """R+ and R- by plain sums."""
    right = sum(sigmoid(-g) for g in positives) / len(positives)
    wrong = sum(sigmoid(g) for g in positives) / len(positives)
    return prior * right, sum(sigmoid(g) for g in unlabelled) / len(unlabelled) - prior * wrong


def slopes(positives: list[float], unlabelled: list[float], prior: float, *, negative: bool) -> list[float]:
    """The derivatives of R+ + R-, or of -R-, by central differences."""
    scores, step, found = positives + unlabelled, 1e-6, []

    def value(scores: list[float]) -> float:
        plus, minus = by_hand(scores[: len(positives)], scores[len(positives) :], prior)
        return -minus if negative else plus + minus

    for place in range(len(scores)):
        up, down = list(scores), list(scores)
        up[place] += step
        down[place] -= step
        found.append((value(up) - value(down)) / (2 * step))
    return found


def gradient(positives: list[float], unlabelled: list[float], prior: float) -> tuple[float, list[float]]:
    scores = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (positives, unlabelled)]
    loss = risk(scores[0], scores[1], prior)
    torch.autograd.backward(loss)
    return float(loss.detach()), [float(each) for score in scores for each in score.grad]  # type: ignore[union-attr]


def test_risk_and_gradient_agree_with_sums_by_hand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        positives, unlabelled = rng.normal(0, 2, 5).tolist(), rng.normal(0, 2, 9).tolist()
        prior = float(rng.uniform(0.05, 0.5))
        plus, minus = by_hand(positives, unlabelled, prior)
        value, grad = gradient(positives, unlabelled, prior)
        assert value == pytest.approx(plus + max(minus, 0), abs=1e-12)
        assert grad == pytest.approx(slopes(positives, unlabelled, prior, negative=minus < 0), abs=1e-8)


def test_a_feature_that_does_not_vary_is_not_scaled_up() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 4, generator=generator)
    features[:, 1], features[:, 2], features[:, 3] = 0.0, 1000 + 1e-5 * features[:, 2], 1e-7 * features[:, 3]
    picker = fit(features[:10], features, 0.3, generator, PickerRecipe(steps=1))
    assert picker.std.tolist() == [*features.std(0)[:1].tolist(), 1.0, 1.0, *features.std(0)[3:].tolist()]


def test_where_the_negative_risk_is_below_zero_its_gradient_is_turned_and_not_cut_off() -> None:
    positives, unlabelled, prior = [1.0, 2.0], [-6.0, -5.0, -7.0], 0.5
    _, minus = by_hand(positives, unlabelled, prior)
    assert minus < 0
    value, grad = gradient(positives, unlabelled, prior)
    assert value == pytest.approx(by_hand(positives, unlabelled, prior)[0])
    # A clamp at 0 would leave unlabelled images without a gradient; the sign of R- alone would push them down further.
    assert all(each < 0 for each in grad[2:]), "a step against the gradient must raise unlabelled scores"
    assert all(each > 0 for each in grad[:2]), "and must lower those of positives"


def test_a_picker_attends_and_scores_as_its_formula_says() -> None:
    torch.manual_seed(0)
    picker = Picker(40).double()
    features = torch.randn(3, 40, dtype=torch.float64)
    first, last = picker.attention[0].weight, picker.attention[2].weight
    for row, score in zip(features, picker.requires_grad_(False)(features), strict=True):
        gates = torch.sigmoid(last @ torch.relu(first @ row))  # type: ignore[operator]
        assert float(score) == pytest.approx(float(picker.score.weight[0] @ (row * gates) + picker.score.bias[0]))


def clouds(*, share: float, distance: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positives, unlabelled features, and which of these belong: two clouds in 20 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    belongs = torch.arange(2000) < share * 2000
    unlabelled = torch.randn(2000, 20, generator=generator)
    unlabelled[belongs, :4] += distance
    positives = torch.randn(80, 20, generator=generator)
    positives[:, :4] += distance
    return positives, unlabelled, belongs


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_prior_is_estimated_where_the_picker_tells(share: float) -> None:
    found = []
    for seed in range(3):
        positives, unlabelled, belongs = clouds(share=share, distance=3, seed=seed)
        ranks = held_out_ranks(positives, unlabelled, None, seed, QUICK)
        prior = prior_of(ranks, seed)
        assert prior.low < prior.value < prior.high
        found.append(prior.value)
        picker = fit(positives, unlabelled, share, torch.Generator().manual_seed(seed), QUICK)
        best = picker(unlabelled).argsort(descending=True)[: int(share * len(unlabelled))]
        assert belongs[best].double().mean() > 0.8
    assert np.mean(found) == pytest.approx(share, rel=0.3)


def test_ranks_come_from_pickers_that_saw_neither_positive_nor_image() -> None:
    positives, unlabelled, _ = clouds(share=0.0, distance=0, seed=1)  # nothing to learn: only leaking tells them apart
    ranks = held_out_ranks(positives, unlabelled, 0.2, 0, QUICK)
    assert abs(float(ranks.mean()) - 0.5) < 0.15
    assert separation(ranks, 0.2) < 0.45
    same = held_out_ranks(positives, unlabelled, 0.2, 0, QUICK)
    assert (ranks == same).all()


def test_recall_and_precision_of_a_picking_hold_the_truth_in_their_intervals() -> None:
    for seed in range(3):
        positives, unlabelled, belongs = clouds(share=0.2, distance=3, seed=seed)
        ranks = held_out_ranks(positives, unlabelled, 0.2, seed, QUICK)
        picker = fit(positives, unlabelled, 0.2, torch.Generator().manual_seed(seed), QUICK)
        rows = picker(unlabelled).argsort(descending=True)[:400]
        recall, precision = belonging(ranks, 400 / len(unlabelled), Estimate(0.2, 0.2, 0.2))
        assert recall.low - 0.03 <= float(belongs[rows].sum() / belongs.sum()) <= recall.high + 0.03
        assert precision.low - 0.03 <= float(belongs[rows].double().mean()) <= precision.high + 0.03


def test_a_precision_is_no_more_than_one() -> None:
    assert belonging(np.array([0.0, 0.1]), 0.01, Estimate(0.5, 0.4, 0.6))[1].value == 1.0


def test_few_positives_make_a_wide_interval() -> None:
    few = prior_of(np.array([0.01, 0.05, 0.2, 0.4]), 0)
    many = prior_of(np.random.default_rng(0).uniform(0, 0.2, 500), 0)
    assert is_wide(few) and not is_wide(many)
    assert many.value == pytest.approx(0.2, rel=0.15)
