"""Distances of generated samples from data, against brute force and other formulas."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from scipy.linalg import sqrtm
from torch import Tensor, nn

from nasplat.errors import InputError, TrialFailed
from nasplat.generation.distances import Discrepancy, covered_modes, frechet_distance, median_bandwidth
from nasplat.generation.training import GanRecipe, GanTraining, generated
from nasplat.sampling.drawn import Prior
from nasplat.sampling.importance import Importance, ImportanceRecipe


def test_the_discrepancy_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    made, data = rng.normal(0, 1, (7, 3)), rng.normal(0.5, 2, (9, 3))
    width = median_bandwidth(data)
    assert width == pytest.approx(np.median([math.dist(a, b) for i, a in enumerate(data) for b in data[:i]]))

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return math.exp(-(math.dist(a, b) ** 2) / (2 * width**2))

    within = [
        sum(kernel(a, b) for i, a in enumerate(each) for j, b in enumerate(each) if i != j)
        / len(each)
        / (len(each) - 1)
        for each in (made, data)
    ]
    between = sum(kernel(a, b) for a in made for b in data) / (len(made) * len(data))
    assert Discrepancy(data)(made) == pytest.approx(sum(within) - 2 * between, abs=1e-12)


def test_the_discrepancy_is_zero_on_average_for_one_distribution_and_grows_with_the_shift() -> None:
    rng = np.random.default_rng(1)
    found = {
        shift: [Discrepancy(rng.normal(0, 1, (60, 2)), 1.5)(rng.normal(shift, 1, (60, 2))) for _ in range(200)]
        for shift in (0.0, 0.5, 1.0)
    }
    error = np.std(found[0.0]) / len(found[0.0]) ** 0.5
    assert abs(np.mean(found[0.0])) < 4 * error and min(found[0.0]) < 0
    assert np.mean(found[0.0]) < np.mean(found[0.5]) < np.mean(found[1.0])


def test_the_frechet_distance_is_that_of_the_root_of_the_product() -> None:
    rng = np.random.default_rng(2)
    made, data = rng.normal(0, 1, (50, 5)) @ rng.normal(0, 1, (5, 5)), rng.normal(1, 2, (80, 5))
    ours, theirs = np.cov(made, rowvar=False), np.cov(data, rowvar=False)
    root = np.asarray(sqrtm(ours @ theirs)).real
    wanted = ((made.mean(0) - data.mean(0)) ** 2).sum() + np.trace(ours + theirs - 2 * root)
    assert frechet_distance(made, data) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(made, made) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(made, made + 3) == pytest.approx(45, abs=1e-6)


def test_features_that_do_not_vary_have_a_distance_too() -> None:
    flat, other = np.ones((4, 3)), np.zeros((5, 3))
    assert frechet_distance(flat, other) == pytest.approx(3)
    few = np.random.default_rng(3).normal(0, 1, (3, 20))  # fewer than dimensions
    assert frechet_distance(few, few + 1) == pytest.approx(20, abs=1e-4)
    assert median_bandwidth(flat) == 1


def test_modes_are_covered_by_samples_near_their_centres() -> None:
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    made = np.concatenate([np.full((97, 2), 0.1), np.array([[10, 0.5], [0, 10.0], [5, 5]])])
    assert covered_modes(made, centres, 1.0) == (1, 0.99)
    assert covered_modes(made, centres, 1.0, least=0.01) == (3, 0.99)
    assert covered_modes(made, centres, 0.2, least=0.0) == (2, 0.98)


def test_too_few_samples_and_values_that_are_not_finite_are_refused() -> None:
    one, two = np.zeros((1, 2)), np.zeros((2, 2))
    for function in (frechet_distance, lambda a, b: Discrepancy(b, 1.0)(a)):
        for pair in ((one, two), (two, np.zeros((2, 3)))):
            with pytest.raises(InputError, match="at least two samples"):
                function(*pair)
        with pytest.raises(InputError, match="finite"):
            function(two, np.full((2, 2), np.nan))


# Training


def ring(count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    angles = torch.randint(8, (count,), generator=random) * math.pi / 4
    return 2 * torch.stack([angles.cos(), angles.sin()], 1) + 0.1 * torch.randn(count, 2, generator=random)


def training(seed: int = 0, *, importance: bool = True, **options: Any) -> GanTraining:
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    random = torch.Generator().manual_seed(seed)
    recipe = ImportanceRecipe(instances=64, steps=2, batch=32)
    sampler = Importance(2, recipe, random) if importance else Prior(2, random)
    gan = GanRecipe(**({"batch": 32, "warmup": 10, "interval": 10} | options))
    return GanTraining(generator, discriminator, ring(500, 1), gan, sampler, random)


@pytest.mark.parametrize("score", ["jacobian", "loss_gradient"])
def test_a_training_comes_nearer_to_the_data_and_repeats(score: str) -> None:
    data = ring(500, 2).numpy().astype(np.float64)
    one, other = training(score=score), training(score=score)
    before = generated(one.generator, 500, 2, 0).double().numpy()
    one.until(150)
    for steps in (7, 60, 150):
        other.until(steps)
    assert isinstance(one.sampler, Importance) and one.sampler.fitted
    for mine, theirs in zip(one.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    after = generated(one.generator, 500, 2, 0).double().numpy()
    discrepancy = Discrepancy(data)
    assert discrepancy(after) < 0.7 * discrepancy(before)


def test_a_state_of_another_training_is_refused() -> None:
    state = training(importance=False).state()
    other = {**state, "generator.0.weight": torch.zeros(3, 3)}
    for wrong in ({}, other, {name: tensor for name, tensor in state.items() if name != "random"}):
        with pytest.raises(TrialFailed, match="does not fit"):
            training(importance=False).load_state(wrong)
    with pytest.raises(TrialFailed, match="does not fit"):
        training(importance=True).load_state(state)
    with pytest.raises(TrialFailed, match="does not fit"):
        training(importance=False).load_state(training(importance=True).state())


@pytest.mark.parametrize("importance", [False, True])
def test_a_training_goes_on_from_its_state(importance: bool) -> None:
    whole = training(importance=importance)
    whole.until(25)
    state = copy.deepcopy(whole.state())
    whole.until(40)
    again = training(seed=9, importance=importance)
    again.load_state(load(save(state)))
    assert again.losses != whole.losses
    again.until(40)
    for mine, theirs in zip(whole.generator.parameters(), again.generator.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert again.losses == whole.losses and again.steps == 40


def test_weights_of_draws_count_in_both_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, weighted = (training(importance=False) for _ in range(2))
    sample = weighted.sampler.sample
    monkeypatch.setattr(weighted.sampler, "sample", lambda count: replace(sample(count), weights=torch.zeros(count)))
    plain.until(1)
    weighted.until(1)
    assert weighted.losses[0] == 0 < plain.losses[0] and weighted.losses[1] < plain.losses[1]


def test_a_training_that_diverges_fails() -> None:
    far = training(importance=False, learning_rate=1e30)
    with pytest.raises(TrialFailed, match="after"):
        far.until(50)


def test_samples_are_of_the_prior_and_leave_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    ones, others = generated(network, 30, 2, 4, batch=7), generated(network, 30, 2, 4)
    assert torch.equal(ones, others) and network.training and network[0].num_batches_tracked == 0
