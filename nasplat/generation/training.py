"""Adversarial training of a generator, step by step, with latent vectors of any sampler."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from nasplat.errors import TrialFailed
from nasplat.sampling.drawn import Sampler
from nasplat.sampling.scores import jacobian_norms, loss_gradient_norms
from nasplat.training.fit import below
from nasplat.training.optimizer_state import load_optimizer, optimizer_state, prefixed

CHECKED = 50
"""The steps after which losses are looked at."""
STEPS, RANDOM, LOSSES, SAMPLER = "steps", "random", "losses", "sampler."
"""The names of what a state has besides networks and optimizers."""


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

    Draws are made on the CPU, so that they are the same on every device; networks and data are on one device.

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
        sampler: Sampler[Tensor],
        random: torch.Generator,
    ) -> None:
        self.generator, self.discriminator, self.data = generator, discriminator, data
        self.recipe, self.sampler, self.random = recipe, sampler, random
        self._networks = {"generator": generator, "discriminator": discriminator}
        self._optimizers = {
            name: torch.optim.Adam(each.parameters(), recipe.learning_rate, recipe.betas)
            for name, each in self._networks.items()
        }
        self.steps = 0
        self._losses = torch.zeros(2, device=data.device)

    @property
    def losses(self) -> tuple[float, float]:
        """The last losses of generator and discriminator."""
        generator, discriminator = self._losses.tolist()
        return generator, discriminator

    def until(self, steps: int) -> None:
        """Train until so many steps have been taken in all.

        Raises:
            TrialFailed: A loss is not finite.
        """
        for each in self._networks.values():
            each.train()
        while self.steps < steps:
            self._step()
            # Not after each step, since a GPU would wait for every look.
            if self.steps % CHECKED == 0 or self.steps == steps:
                self._check()

    def _check(self) -> None:
        if not all(map(math.isfinite, self.losses)):
            generator, discriminator = self.losses
            raise TrialFailed(
                "diverged",
                f"after {self.steps} steps the loss of the generator is {generator} and that of the discriminator "
                f"{discriminator}",
            )

    def _step(self) -> None:
        recipe, done = self.recipe, self.steps
        if done >= recipe.warmup and (done - recipe.warmup) % recipe.interval == 0:
            self._learn()
        rows = torch.randint(len(self.data), (recipe.batch,), generator=self.random)
        latents, weights = self._drawn()
        with torch.no_grad():
            made = self.generator(latents)
        real = softplus(-self._logits(self.data[rows.to(self.data.device)])).mean()
        fooled = real + (weights * softplus(self._logits(made))).mean()
        self._follow("discriminator", fooled)
        latents, weights = self._drawn()
        missed = (weights * self._missed(self.generator(latents))).mean()
        self._follow("generator", missed)
        self._losses = torch.stack([missed, fooled]).detach()
        self.steps += 1

    def _drawn(self) -> tuple[Tensor, Tensor]:
        drawn = self.sampler.sample(self.recipe.batch)
        return drawn.items.to(self.data.device), drawn.weights.to(self.data.device)

    def _follow(self, which: str, loss: Tensor) -> None:
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
        for each in self._networks.values():
            each.eval()
        self.sampler.fit(self._score)
        for each in self._networks.values():
            each.train()

    def _score(self, latents: Tensor) -> Tensor:
        given = latents.to(self.data.device)
        if self.recipe.score == "jacobian":
            return jacobian_norms(self.generator, given, self.recipe.probes, self.random)
        return loss_gradient_norms(self.generator, self._missed, given)

    def state(self) -> dict[str, Tensor]:
        """All that goes on, by name: networks, optimizers, the sampler and random numbers."""
        found = {STEPS: torch.tensor(self.steps), RANDOM: self.random.get_state(), LOSSES: self._losses.cpu()}
        for name, network in self._networks.items():
            found |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
            found |= prefixed(f"{name}_optimizer.", optimizer_state(self._optimizers[name]))
        return found | prefixed(SAMPLER, self.sampler.state())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            TrialFailed: The state is of other networks, or none.
        """
        try:
            self.steps, self._losses = int(state[STEPS]), state[LOSSES].to(self.data.device)
            for name, network in self._networks.items():
                network.load_state_dict(below(f"{name}.", state))
                load_optimizer(self._optimizers[name], below(f"{name}_optimizer.", state))
            self.sampler.load_state(below(SAMPLER, state))
            self.random.set_state(state[RANDOM])
        except (KeyError, RuntimeError, ValueError) as error:  # torch refuses weights of another shape so
            reason = " ".join(str(error).split())
            raise TrialFailed("another network", f"the state to continue from does not fit: {reason}") from None


def generated(generator: nn.Module, count: int, dimensions: int, seed: int, *, batch: int = 1000) -> Tensor:
    """Samples of the prior, whatever the training drew from `[count, …]`, without gradients."""
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, dimensions, generator=random)
    device = next((each.device for each in generator.parameters()), latents.device)
    before = generator.training
    generator.eval()
    with torch.no_grad():
        found = torch.cat([generator(each.to(device)) for each in torch.split(latents, batch)])
    generator.train(before)
    return found
