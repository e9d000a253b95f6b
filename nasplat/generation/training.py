"""Adversarial training of a generator, step by step, with latent vectors of any sampler."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nasplat.errors import TrialFailed
from nasplat.sampling.drawn import Sampler
from nasplat.sampling.scores import jacobian_norms, loss_gradient_norms


@dataclass(frozen=True, slots=True)
class GanRecipe:
    """How a generator and a discriminator are trained, with the non-saturating loss (Goodfellow et al., 2014).

    Args:
        batch: The samples of a step, real ones and generated ones.
        learning_rate: That of Adam for both networks.
        betas: The decays of Adam's averages.
        score: What draws of the prior are scored by when the sampler learns.
        probes: Backward passes for a Jacobian's norm.
        warmup: The steps before the sampler learns for the first time.
        interval: The steps between two times.
    """

    batch: int = 128
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.9)
    score: Literal["jacobian", "loss_gradient"] = "jacobian"
    probes: int = 1
    warmup: int = 200
    interval: int = 100


class GanTraining:
    """A training that goes on from any step as if it had not been interrupted.

    Args:
        generator: Takes latent vectors `[n, dimensions]`.
        discriminator: Takes samples and gives a logit of each, `[n]` or `[n, 1]`.
        data: Real samples `[n, …]`.
        recipe: How they are trained.
        sampler: Draws latent vectors.
        random: Draws real samples and probes; that of the sampler may be the same.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        data: Tensor,
        recipe: GanRecipe,
        sampler: Sampler,
        random: torch.Generator,
    ) -> None:
        self.generator, self.discriminator, self.data = generator, discriminator, data
        self.recipe, self.sampler, self.random = recipe, sampler, random
        self._optimizers = [
            torch.optim.Adam(each.parameters(), recipe.learning_rate, recipe.betas)
            for each in (generator, discriminator)
        ]
        self.steps = 0
        self.losses: tuple[float, float] = (0.0, 0.0)
        """The last losses of generator and discriminator."""

    def until(self, steps: int) -> None:
        """Train until so many steps have been taken in all.

        Raises:
            TrialFailed: A loss is not finite.
        """
        self.generator.train()
        self.discriminator.train()
        while self.steps < steps:
            self._step()

    def _step(self) -> None:
        recipe, done = self.recipe, self.steps
        if done >= recipe.warmup and (done - recipe.warmup) % recipe.interval == 0:
            self._learn()
        rows = torch.randint(len(self.data), (recipe.batch,), generator=self.random)
        drawn = self.sampler.sample(recipe.batch)
        with torch.no_grad():
            made = self.generator(drawn.items)
        real = softplus(-self._logits(self.data[rows])).mean()
        fooled = real + (drawn.weights * softplus(self._logits(made))).mean()
        self._follow(1, fooled)
        drawn = self.sampler.sample(recipe.batch)
        missed = (drawn.weights * self._missed(self.generator(drawn.items))).mean()
        self._follow(0, missed)
        self.losses = (missed.item(), fooled.item())
        self.steps += 1
        if not all(map(torch.isfinite, (missed.detach(), fooled.detach()))):
            raise TrialFailed("diverged", f"a loss is {self.losses} after {self.steps} steps")

    def _follow(self, which: int, loss: Tensor) -> None:
        optimizer = self._optimizers[which]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    def _logits(self, samples: Tensor) -> Tensor:
        found: Tensor = self.discriminator(samples).reshape(len(samples))
        return found

    def _missed(self, made: Tensor) -> Tensor:
        """The generator's loss of each sample."""
        return softplus(-self._logits(made))

    def _learn(self) -> None:
        """Let the sampler learn what training learns most of now. Networks are in evaluation mode meanwhile."""
        self.generator.eval()
        self.discriminator.eval()
        if self.recipe.score == "jacobian":
            self.sampler.fit(lambda z: jacobian_norms(self.generator, z, self.recipe.probes, self.random))
        else:
            self.sampler.fit(lambda z: loss_gradient_norms(self.generator, self._missed, z))
        self.generator.train()
        self.discriminator.train()

    def state(self) -> dict[str, Any]:
        """All that goes on, but for the sampler and the generator of random numbers."""
        return {
            "steps": self.steps,
            "networks": [each.state_dict() for each in (self.generator, self.discriminator)],
            "optimizers": [each.state_dict() for each in self._optimizers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.steps = int(state["steps"])
        parts: Sequence[tuple[Any, Any]] = [
            *zip((self.generator, self.discriminator), state["networks"], strict=True),
            *zip(self._optimizers, state["optimizers"], strict=True),
        ]
        for each, values in parts:
            each.load_state_dict(values)


def generated(generator: nn.Module, count: int, dimensions: int, seed: int, *, batch: int = 1000) -> Tensor:
    """Samples of the prior, whatever the training drew from `[count, …]`, without gradients."""
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, dimensions, generator=random)
    before = generator.training
    generator.eval()
    with torch.no_grad():
        found = torch.cat([generator(each) for each in torch.split(latents, batch)])
    generator.train(before)
    return found
