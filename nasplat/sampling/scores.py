"""How much a generator's training may learn of a latent vector: norms of Jacobians and of gradients of the loss."""

from collections.abc import Callable

import torch
from torch import Tensor

Generator = Callable[[Tensor], Tensor]
"""Takes latent vectors `[n, dimensions]` and gives samples `[n, …]`."""
Loss = Callable[[Tensor], Tensor]
"""Takes samples and gives the generator's loss of each `[n]`."""


def jacobian_norms(generate: Generator, latents: Tensor, probes: int, random: torch.Generator) -> Tensor:
    """Hutchinson's estimate of the Frobenius norm of the Jacobian of a generator at each latent vector `[n]`.

    The mean of |Jᵀv|² over v of independent signs is |J|² (Hutchinson, 1990, "A stochastic estimator of the trace");
    each probe takes one backward pass. Samples of a batch must not depend on one another: batch norm must be in
    evaluation mode.

    Args:
        generate: The generator.
        latents: Latent vectors `[n, dimensions]`.
        probes: How many v are drawn for each.
        random: Draws the probes, on the CPU.
    """
    given = latents.detach().requires_grad_()
    made = generate(given)
    squares = torch.zeros(len(given), dtype=made.dtype, device=made.device)
    for probe in range(probes):
        signs = torch.randint(2, made.shape, generator=random).to(made) * 2 - 1
        (gradient,) = torch.autograd.grad(made, given, signs, retain_graph=probe + 1 < probes)
        squares += gradient.flatten(1).square().sum(1) / probes
    return squares.sqrt().detach()


def loss_gradient_norms(generate: Generator, loss: Loss, latents: Tensor) -> Tensor:
    """The norm of the gradient of the generator's loss with respect to each latent vector `[n]`.

    Args:
        generate: The generator, without dependence between samples of a batch.
        loss: The generator's loss of each sample.
        latents: Latent vectors `[n, dimensions]`.
    """
    given = latents.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(generate(given)).sum(), given)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms
