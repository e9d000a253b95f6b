"""The options of the benchmark of generators: the recipe, and where latent vectors are drawn from."""

from typing import Annotated, Literal

from pydantic import Field

from nasplat.errors import InputError
from nasplat.options import Options


class GenerationRecipeOptions(Options):
    """How a generator and its discriminator are trained, with the non-saturating loss (Goodfellow et al., 2014).

    Args:
        steps: The steps of an epoch. Each step changes the discriminator once and then the generator once.
        batch_size: The samples of a step, real ones and generated ones.
        learning_rate: The learning rate of Adam, for both networks.
        first_decay: The decay of Adam's average of gradients.
        second_decay: The decay of Adam's average of their squares.
        discriminator: Whether all generators have the same `fixed` discriminator, or each one `alike`, with its depth
            and its widths in reverse.
        spectral_norm: Whether the layers of the discriminator have spectral norm 1 (Miyato et al., 2018). On digits,
            generators came nearer to the data without it, on the ring with it.
    """

    steps: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    first_decay: Annotated[float, Field(ge=0, lt=1)] = 0.5
    second_decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    discriminator: Literal["fixed", "alike"] = "fixed"
    spectral_norm: bool = False


class SamplerOptions(Options):
    """Where latent vectors are drawn from in training. Metrics are always those of samples of the prior.

    Args:
        name: The standard normal `prior`, or `importance`: a mixture of the prior with a flow that learns where scores
            are high (after arXiv:1910.02519, see docs/decisions/023-importance.md).
        score: What a latent vector is scored by: the norm of the generator's Jacobian there (`jacobian`), or of the
            gradient of the generator's loss with respect to it (`loss_gradient`).
        corrected: Whether weights undo the change of density, so that the mean loss is that of the prior.
        share: The share of draws from the flow; the rest is from the prior.
        warmup: The steps before the flow is fitted for the first time.
        interval: The steps between two fits.
        instances: The draws of the prior that are scored at each fit.
        spread: The deviation of the Gaussian around an instance, as a multiple of the median distance to its nearest
            neighbour.
        fit_steps: The steps of the flow at each fit.
        probes: The backward passes for the norm of a Jacobian (Hutchinson, 1990).
    """

    name: Literal["prior", "importance"] = "prior"
    score: Literal["jacobian", "loss_gradient"] = "jacobian"
    corrected: bool = True
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    warmup: Annotated[int, Field(ge=0)] = 200
    interval: Annotated[int, Field(ge=1)] = 100
    instances: Annotated[int, Field(ge=2)] = 512
    spread: Annotated[float, Field(ge=0)] = 0.2
    fit_steps: Annotated[int, Field(ge=1)] = 30
    probes: Annotated[int, Field(ge=1)] = 1

    def check(self) -> None:
        """Refuse options that have no effect.

        Raises:
            InputError: An option of importance sampling is given, but the sampler is the prior.
        """
        if self.name == "prior" and (given := sorted(self.model_fields_set - {"name"})):
            changed = [name for name in given if getattr(self, name) != type(self).model_fields[name].default]
            if changed:
                raise InputError(
                    f"sampler.{changed[0]} has no effect with sampler.name=prior; add --set "
                    "benchmark.sampler.name=importance (options={'benchmark.sampler.name': 'importance'}), or leave it "
                    "out"
                )
