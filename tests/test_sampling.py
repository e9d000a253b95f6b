"""Importance sampling of latent vectors: scores, the flow's density, weights, and where draws go."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.func import jacrev, vmap

from nasplat.errors import InputError
from nasplat.sampling.drawn import Prior
from nasplat.sampling.flow import Flow
from nasplat.sampling.importance import Importance, ImportanceRecipe, log_prior, nearest_distance
from nasplat.sampling.scores import jacobian_norms, loss_gradient_norms


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steep(latents: Tensor) -> Tensor:
    """A generator whose Jacobian has the norm sqrt(9 x⁴ + 1) at (x, y)."""
    return torch.stack([latents[:, 0] ** 3, latents[:, 1]], 1)


def steepness(latents: Tensor) -> Tensor:
    return (9 * latents[:, 0] ** 4 + 1).sqrt()


def fitted_sampler(recipe: ImportanceRecipe, times: int = 6, seed: int = 0) -> Importance:
    sampler = Importance(2, recipe, seeded(seed), seed=seed)
    for _ in range(times):
        sampler.fit(steepness)
    return sampler


@pytest.fixture(scope="module")
def sampler() -> Importance:
    return fitted_sampler(ImportanceRecipe(instances=512, batch=128, steps=40), times=10)


# Scores


@pytest.fixture(scope="module")
def network() -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 12), nn.Unflatten(1, (3, 4)))


def test_hutchinsons_estimate_is_that_of_the_exact_norm(network: Callable[[Tensor], Tensor]) -> None:
    latents = torch.randn(6, 3, generator=seeded())
    exact = vmap(jacrev(lambda z: network(z[None])[0]))(latents).flatten(1).norm(dim=1)
    many = jacobian_norms(network, latents, 4000, seeded())
    torch.testing.assert_close(many, exact.detach(), rtol=0.03, atol=0)
    squares = torch.stack([jacobian_norms(network, latents, 1, seeded(n)) ** 2 for n in range(500)])
    error = squares.std(0) / len(squares) ** 0.5
    assert ((squares.mean(0) - exact**2).abs() < 4 * error).all()
    assert (error > 0).all() and not latents.requires_grad


def test_the_gradient_of_the_loss_is_that_of_finite_differences(network: Callable[[Tensor], Tensor]) -> None:
    latents = torch.randn(4, 3, generator=seeded()).double()
    double = network.double()  # type: ignore[attr-defined]

    def loss(made: Tensor) -> Tensor:
        return made.flatten(1).square().sum(1)

    found = loss_gradient_norms(double, loss, latents)
    steps = 1e-6 * torch.eye(3, dtype=torch.float64)
    slopes = torch.stack([(loss(double(latents + h)) - loss(double(latents - h))) / 2e-6 for h in steps], 1)
    torch.testing.assert_close(found, slopes.norm(dim=1), rtol=1e-6, atol=0)
    network.float()  # type: ignore[attr-defined]


# The flow


def test_the_density_of_a_flow_is_one_in_all_and_that_of_its_draws() -> None:
    flow = Flow(2, couplings=3, width=16)
    target = torch.randn(600, 2, generator=seeded()) * torch.tensor([0.5, 1.0]) + torch.tensor([1.0, -0.5])
    flow.fit(target, 60, 128, seeded(1))
    side = torch.linspace(-8, 8, 401)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = flow.log_density(grid).exp()
    cell = (side[1] - side[0]) ** 2
    assert float(density.sum() * cell) == pytest.approx(1, abs=0.01)
    mean = (density[:, None] * grid).sum(0) * cell
    draws = flow.sample(20_000, seeded(2))
    assert (draws.mean(0) - mean).abs().max() < 0.05
    for quarter in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        inside = ((grid * torch.tensor(quarter)) > 0).all(1)
        share = ((draws * torch.tensor(quarter)) > 0).all(1).float().mean()
        assert float(share) == pytest.approx(float((density * inside).sum() * cell), abs=0.02)


def test_a_fit_raises_the_likelihood_and_goes_on_from_its_state() -> None:
    target = torch.randn(300, 2, generator=seeded()) * 0.3 + 2

    def likelihood(flow: Flow) -> float:
        with torch.no_grad():
            return float(flow.log_density(target).mean())

    whole = Flow(2, width=16)
    before, draws = likelihood(whole), seeded(1)
    whole.fit(target, 20, 64, draws)
    state, middle = copy.deepcopy(whole.state()), draws.get_state()
    whole.fit(target, 20, 64, draws)
    other, again = Flow(2, width=16, seed=5), torch.Generator()
    other.load_state(state)
    again.set_state(middle)
    other.fit(target, 20, 64, again)
    assert likelihood(whole) == likelihood(other) > before + 1


# Draws and weights


def test_draws_go_where_the_jacobian_is_large(sampler: Importance) -> None:
    items = sampler.sample(8000).items
    prior = Prior(2, seeded(5)).sample(8000).items
    assert float(steepness(items).mean()) > 1.2 * float(steepness(prior).mean())
    own, plain = (float(jacobian_norms(steep, each, 4, seeded(6)).mean()) for each in (items, prior))
    assert own > 1.2 * plain


def test_weights_average_to_one_and_correct_the_mean(sampler: Importance) -> None:
    drawn = sampler.sample(40_000)
    weights, count = drawn.weights, len(drawn.weights)
    assert float(weights.min()) >= 0 and float(weights.max()) <= 1 / (1 - sampler.recipe.share) + 1e-5
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / count**0.5
    for value, wanted in ((drawn.items[:, 0] ** 2, 1.0), (drawn.items[:, 0] ** 4, 3.0), (drawn.items[:, 1], 0.0)):
        estimates = weights * value
        error = float(estimates.std()) / count**0.5
        assert abs(float(estimates.mean()) - wanted) < 4 * error
    plain = float((drawn.items[:, 0] ** 4).mean())
    assert plain > 3.5, "without weights the mean is another"


def test_a_corrected_estimate_of_what_follows_the_score_varies_less(sampler: Importance) -> None:
    drawn = sampler.sample(20_000)
    prior = Prior(2, seeded(7)).sample(20_000).items
    corrected = (drawn.weights * steepness(drawn.items)).var()
    assert float(corrected) < 0.9 * float(steepness(prior).var())


def test_without_correction_all_weigh_the_same_and_before_learning_all_are_of_the_prior() -> None:
    plain = fitted_sampler(ImportanceRecipe(corrected=False, instances=64, steps=3, batch=32), times=1)
    assert (plain.sample(100).weights == 1).all()
    fresh = Importance(2, ImportanceRecipe(), seeded(3))
    wanted = Prior(2, seeded(3)).sample(50)
    assert torch.equal(fresh.sample(50).items, wanted.items) and (wanted.weights == 1).all()


def test_the_same_seed_draws_the_same() -> None:
    recipe = ImportanceRecipe(instances=64, steps=3, batch=32)
    ones, others = (fitted_sampler(recipe, times=2).sample(64) for _ in range(2))
    assert torch.equal(ones.items, others.items) and torch.equal(ones.weights, others.weights)
    assert not torch.equal(ones.items, fitted_sampler(recipe, times=2, seed=1).sample(64).items)


@pytest.mark.parametrize("scores", [lambda z: torch.zeros(len(z)), lambda z: torch.full((len(z),), math.nan)])
def test_scores_that_say_nothing_teach_nothing(scores: Callable[[Tensor], Tensor]) -> None:
    sampler = Importance(2, ImportanceRecipe(), seeded())
    sampler.fit(scores)
    assert not sampler.fitted


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_without_the_prior_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="below 1"):
        ImportanceRecipe(share=share)


def test_the_prior_is_normal_and_distances_are_those_of_neighbours() -> None:
    items = torch.randn(500, 3, generator=seeded())
    wanted = torch.from_numpy(norm.logpdf(items.numpy()).sum(1))
    torch.testing.assert_close(log_prior(items), wanted, check_dtype=False)
    line = torch.tensor([[0.0], [1.0], [3.0], [10.0], [14.0]])
    assert float(nearest_distance(line)) == 2.0
