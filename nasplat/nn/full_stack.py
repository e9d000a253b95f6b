"""Full-stack filters: many filters of a convolution share few real ones, told apart by binary masks.

Han et al., 2019, "Full-Stack Filters to Build Minimum Viable CNNs" (arXiv:1908.02023). The paper leaves open what
happens if the number of filters is not divisible by the ratio: here the number of full-stack filters is rounded up.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Masks: TypeAlias = Literal["individual", "shared"]

FITS, RESTARTS = 100, 4
"""Maximum number of steps of a fit of shared masks, and number of random starts beside the best row."""


@dataclass(frozen=True, slots=True)
class FullStack:
    """How the filters of a layer are made.

    Filter j is the full-stack filter j mod f, element by element with plus or minus one as its mask says.

    Args:
        ratio: Number of filters that share a full-stack filter, s of the paper.
        masks: ``individual``, a mask for each filter; or ``shared``, filters j and k have one mask if j // f = k // f.
    """

    ratio: int = 4
    masks: Masks = "individual"

    def filters(self, outputs: int) -> int:
        """The number f of full-stack filters of a layer with so many filters."""
        return math.ceil(outputs / self.ratio)

    def mask_count(self, outputs: int) -> int:
        """The number of masks of a layer with so many filters."""
        return outputs if self.masks == "individual" else math.ceil(outputs / self.filters(outputs))

    def which(self, outputs: int) -> tuple[Tensor, Tensor]:
        """The full-stack filter and the mask of each filter, `[outputs]` each."""
        number = torch.arange(outputs)
        filters = self.filters(outputs)
        return number % filters, number if self.masks == "individual" else number // filters

    def bits(self, outputs: int, elements: int, real: int = 32) -> int:
        """The bits that store the weights of a layer: real filters, and one bit for each element of a mask.

        Args:
            outputs: Number of filters.
            elements: Number of weights of a filter.
            real: The bits of a real number.
        """
        return (real * self.filters(outputs) + self.mask_count(outputs)) * elements


class FullStackConv2d(nn.Module):
    """A convolution whose weights are full-stack filters times binary masks.

    Masks are the signs of latent values, through which gradients pass straight; zero counts as positive. The latent
    values stay in [-1, 1] by `clamp_latent`, which training calls after each step. The bias, stride, padding, dilation,
    groups and padding mode are those of the replaced convolution.

    Args:
        convolution: The convolution to replace.
        stack: How its filters are made.
        fitted: Whether filters and masks are fitted to its weights; else they are drawn as the weights of a convolution
            are, from torch's global generator.
    """

    def __init__(self, convolution: nn.Conv2d, stack: FullStack, *, fitted: bool = True) -> None:
        super().__init__()
        self.stack = stack
        self.in_channels, self.out_channels = convolution.in_channels, convolution.out_channels
        self.kernel_size, self.groups = convolution.kernel_size, convolution.groups
        self.geometry: dict[str, Any] = {name: getattr(convolution, name) for name in ("stride", "dilation", "groups")}
        self.padding, self.padding_mode = convolution.padding, convolution.padding_mode
        self._around = list(convolution._reversed_padding_repeated_twice)
        weight = convolution.weight.detach()
        n, *rest = weight.shape
        if fitted:
            found = fit(weight, stack)
            # Latent values as large as drawn ones, so that training can change signs.
            filters, masks = found.filters, found.masks / math.sqrt(found.masks[0].numel())
        else:
            filters, masks = (weight.new_empty(count, *rest) for count in (stack.filters(n), stack.mask_count(n)))
            for each in (filters, masks):
                nn.init.kaiming_uniform_(each, a=math.sqrt(5))
        self.filters, self.latent = nn.Parameter(filters), nn.Parameter(masks)
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())
        filter_of, mask_of = (each.to(weight.device) for each in stack.which(n))
        self.register_buffer("filter_of", filter_of, persistent=False)
        self.register_buffer("mask_of", mask_of, persistent=False)
        self.train(convolution.training)

    filter_of: Tensor
    mask_of: Tensor

    @property
    def weight(self) -> Tensor:
        """The weights of the convolution, `[outputs, inputs / groups, height, width]`."""
        signs: Tensor = _Sign.apply(self.latent)
        return self.filters[self.filter_of] * signs[self.mask_of]

    def forward(self, x: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = functional.pad(x, self._around, mode=self.padding_mode), 0
        return functional.conv2d(x, self.weight, self.bias, padding=padding, **self.geometry)

    @torch.no_grad()
    def clamp_latent(self) -> None:
        """Keep latent values in [-1, 1]; beyond, they would take ever longer to change their sign."""
        self.latent.clamp_(-1.0, 1.0)

    def correlation(self) -> Tensor:
        """The squared deviation of the masks' normalized inner products from those of orthogonal masks, a scalar.

        It is the mean of (X Xᵀ / elements - I)² over pairs of masks, of which the rows of X are made.
        """
        signs: Tensor = _Sign.apply(self.latent).flatten(1)
        products = signs @ signs.T / signs.shape[1]
        return (products - torch.eye(len(products), device=products.device, dtype=products.dtype)).square().mean()

    def packed(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The real filters `[f, inputs / groups, height, width]`, and the masks as bits, eight to a byte."""
        signs = (self.latent.detach() >= 0).flatten().cpu().numpy()
        return self.filters.detach().float().cpu().numpy(), np.packbits(signs)

    def extra_repr(self) -> str:
        """The shape in few words."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, ratio={self.stack.ratio}, "
            f"masks={self.stack.masks}"
        )


def unpacked(
    filters: NDArray[np.float32], bits: NDArray[np.uint8], outputs: int, stack: FullStack
) -> NDArray[np.float32]:
    """The weights `[outputs, …]` of what `FullStackConv2d.packed` gave."""
    shape = stack.mask_count(outputs), *filters.shape[1:]
    signs = np.unpackbits(bits, count=math.prod(shape)).reshape(shape)
    filter_of, mask_of = (each.numpy() for each in stack.which(outputs))
    weights: NDArray[np.float32] = np.where(signs, np.float32(1), np.float32(-1))[mask_of] * filters[filter_of]
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Filters and masks that are near given weights.

    Args:
        filters: The full-stack filters, `[f, …]`.
        masks: Plus or minus one, `[masks, …]`.
        errors: The squared error relative to the squared weights, at the start and after each step; it never rises.
    """

    filters: Tensor
    masks: Tensor
    errors: tuple[float, ...]


@torch.no_grad()
def fit(weights: Tensor, stack: FullStack, *, seed: int = 0) -> Fit:
    """The filters and masks nearest to weights `[outputs, …]`, by alternating least squares.

    Given the masks, a filter is the mean of its weights times their masks; given the filters, a mask is the sign. With
    individual masks the first step is the optimum: signs of the weights, and means of their absolute values. Shared
    masks are fitted for each element alone, from the signs of the largest row and from random signs; the best is kept.

    Args:
        weights: The weights.
        stack: How filters are made.
        seed: Draws the random starts.
    """
    n = len(weights)
    flat = weights.double().flatten(1)
    f, total = stack.filters(n), float(flat.square().sum()) or 1.0
    rows = math.ceil(n / f)
    grouped = torch.zeros(rows * f, flat.shape[1], dtype=flat.dtype, device=flat.device)
    grouped[:n] = flat
    known = (torch.arange(rows * f, device=flat.device) < n).to(flat.dtype).reshape(rows, f, 1)
    grouped = grouped.reshape(rows, f, -1)  # filter j is at [j // f, j % f]
    if stack.masks == "individual":
        masks = _signs(grouped)
        filters = (grouped * masks).sum(0) / known.sum(0)
        errors = [float(((grouped - masks * filters) * known).square().sum()) / total]
        return Fit(
            filters.reshape(f, *weights.shape[1:]).to(weights.dtype),
            masks.reshape(rows * f, -1)[:n].reshape(weights.shape).to(weights.dtype),
            tuple(errors),
        )
    generator = torch.Generator(device="cpu").manual_seed(seed)
    starts = [_signs(grouped.gather(1, grouped.square().sum(0).argmax(0).expand(rows, 1, -1))[:, 0])]
    starts += [_signs(torch.randn(rows, flat.shape[1], generator=generator).to(flat)) for _ in range(RESTARTS)]
    found = [_alternated(grouped, known, start) for start in starts]
    each = torch.stack([((grouped - m[:, None] * x) * known).square().sum((0, 1)) for x, m, _ in found])
    best = each.argmin(0)
    elements = torch.arange(flat.shape[1], device=flat.device)
    filters = torch.stack([x for x, _, _ in found])[best, :, elements].T
    masks = torch.stack([m for _, m, _ in found])[best, :, elements].T
    history = [error / total for error in found[0][2]]
    history.append(float(each.min(0).values.sum()) / total)
    return Fit(
        filters.reshape(f, *weights.shape[1:]).to(weights.dtype),
        masks.reshape(rows, *weights.shape[1:]).to(weights.dtype),
        tuple(history),
    )


def _alternated(grouped: Tensor, known: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Filters `[f, elements]`, masks `[rows, elements]` and errors, from a start until nothing moves."""
    errors: list[float] = []
    for _ in range(FITS):
        filters = (grouped * masks[:, None]).sum(0) / known.sum(0)
        errors.append(float(((grouped - masks[:, None] * filters) * known).square().sum()))
        better = _signs((grouped * filters * known).sum(1))
        if torch.equal(better, masks):
            break
        masks = better
    filters = (grouped * masks[:, None]).sum(0) / known.sum(0)
    return filters, masks, errors


def _signs(values: Tensor) -> Tensor:
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


class _Sign(torch.autograd.Function):
    """The sign, zero as positive, whose gradient passes straight through (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor) -> Tensor:
        return _signs(latent)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
