"""Importance sampling: draws where scores are high, by a flow that is mixed with the prior (arXiv:1910.02519).

Much of the paper could not be read. Certain are its parts: scores by the norm of the Jacobian, a conditional Gaussian
around the instances of a batch, and a flow that is fitted to them. How they go together here is a reconstruction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nasplat.errors import InputError
from nasplat.sampling.drawn import Drawn, Score
from nasplat.sampling.flow import Flow

FITTED = "fitted"
"""The name of what a state has besides the flow."""


@dataclass(frozen=True, slots=True)
class ImportanceRecipe:
    """How draws follow scores.

    Args:
        share: The share of draws from the flow, at least 0 and below 1; the rest is from the prior.
        corrected: Whether weights undo the change of density, so that the loss is that of the prior.
        instances: How many draws of the prior are scored when the flow is fitted.
        spread: The deviation of the Gaussian around an instance, as a multiple of the median distance to its nearest
            neighbour.
        steps: The flow's steps at each fit.
        batch: The instances of such a step.
    """

    share: float = 0.5
    corrected: bool = True
    instances: int = 512
    spread: float = 0.2
    steps: int = 30
    batch: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(
                f"the share of draws from the flow is at least 0 and below 1, but got {self.share:g}: without draws "
                "from the prior, weights have no bound; lower it"
            )


class Importance:
    """Draws from a defensive mixture: the prior, and a flow where scores are high.

    Until it was fitted once, all draws are from the prior.

    Args:
        dimensions: The dimensions of a draw, at least 2.
        recipe: How draws follow scores.
        generator: Draws.
        seed: Draws the flow's first weights.
    """

    def __init__(self, dimensions: int, recipe: ImportanceRecipe, generator: torch.Generator, *, seed: int = 0) -> None:
        self.dimensions, self.recipe, self._generator = dimensions, recipe, generator
        self.flow = Flow(dimensions, seed=seed)
        self.fitted = False

    def sample(self, count: int) -> Drawn[Tensor]:
        """So many draws. With correction, weights are prior / mixture, at most 1 / (1 - share); else they are 1."""
        items = torch.randn(count, self.dimensions, generator=self._generator)
        if not self.fitted or not self.recipe.share:
            return Drawn(items, torch.ones(count))
        chosen = torch.rand(count, generator=self._generator) < self.recipe.share
        drawn = self.flow.sample(count, self._generator)
        # A flow may send noise far away; such draws would spoil the generator's training.
        items = torch.where((chosen & drawn.isfinite().all(1))[:, None], drawn.nan_to_num(), items)
        return Drawn(items, self.weights(items) if self.recipe.corrected else torch.ones(count))

    def weights(self, items: Tensor) -> Tensor:
        """The density of the prior over that of the mixture `[n]`."""
        with torch.no_grad():
            ratio = self.flow.log_density(items) - log_prior(items)
        share = self.recipe.share
        return 1 / (1 - share + share * ratio.clamp(max=80).exp())

    def fit(self, score: Score[Tensor]) -> None:
        """Fit the flow to draws around instances of the prior, each chosen in proportion to its score.

        Scores that are all 0, or not finite, teach nothing.
        """
        recipe = self.recipe
        instances = torch.randn(recipe.instances, self.dimensions, generator=self._generator)
        scores = score(instances).detach().to(instances)
        if not scores.isfinite().all() or not scores.sum() > 0:
            return
        rows = torch.multinomial(scores, recipe.instances, replacement=True, generator=self._generator)
        deviation = recipe.spread * nearest_distance(instances)
        noise = torch.randn(instances.shape, generator=self._generator)
        self.flow.fit(instances[rows] + deviation * noise, recipe.steps, recipe.batch, self._generator)
        self.fitted = True

    def state(self) -> dict[str, Tensor]:
        """All that goes on, but for the generator."""
        return {FITTED: torch.tensor(self.fitted), **self.flow.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            KeyError, RuntimeError, ValueError: The state is of another sampler.
        """
        self.flow.load_state({name: tensor for name, tensor in state.items() if name != FITTED})
        self.fitted = bool(state[FITTED])


def log_prior(items: Tensor) -> Tensor:
    """The logarithm of the density of the standard normal distribution `[n]`."""
    return -0.5 * items.square().sum(1) - 0.5 * items.shape[1] * math.log(2 * math.pi)


def nearest_distance(items: Tensor) -> Tensor:
    """The median distance of a draw to its nearest neighbour."""
    distances = torch.cdist(items, items)
    return distances.fill_diagonal_(math.inf).amin(1).median()
