"""Full-stack filters: many filters of a convolution share few real ones, told apart by binary masks.

Han et al., 2019, "Full-Stack Filters to Build Minimum Viable CNNs" (arXiv:1908.02023). The paper leaves open what
happens if the number of filters is not divisible by the ratio: here the number of full-stack filters is rounded up.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from nasplat.cost import Operations
from nasplat.nn.bits import PackedBits
from nasplat.nn.convolution import Geometry
from nasplat.nn.rewritten import Rewritten

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
        """The number f of full-stack filters of a layer with `outputs` filters."""
        return math.ceil(outputs / self.ratio)

    def mask_count(self, outputs: int) -> int:
        """The number of masks of a layer with `outputs` filters."""
        return outputs if self.masks == "individual" else math.ceil(outputs / self.filters(outputs))

    def bits(self, outputs: int, elements: int, real: int = 32) -> int:
        """The bits that store the weights of a layer: real filters, and one bit for each element of a mask.

        Args:
            outputs: Number of filters.
            elements: Number of weights of a filter.
            real: The bits of a real number.
        """
        return (real * self.filters(outputs) + self.mask_count(outputs)) * elements


class FullStackConv2d(Rewritten):
    """A convolution whose weights are full-stack filters times binary masks.

    Masks are the signs of latent values, through which gradients pass straight; zero counts as positive. The latent
    values stay in [-1, 1], and take no weight decay, which would change signs. The bias, stride, padding, dilation,
    groups and padding mode are those of the replaced convolution.

    Args:
        convolution: The convolution to replace.
        stack: How its filters are made.
        fitted: Whether filters and masks are fitted to its weights; else they are drawn as the weights of a convolution
            are, from torch's global generator.
        orthogonality: The weight of the masks' `correlation` in the loss.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset({"latent"})

    def __init__(
        self, convolution: nn.Conv2d, stack: FullStack, *, fitted: bool = True, orthogonality: float = 0.0
    ) -> None:
        super().__init__()
        self.stack, self.orthogonality = stack, orthogonality
        self.geometry = Geometry.of(convolution)
        weight = convolution.weight.detach()
        n, *rest = weight.shape
        if fitted:
            found = fit(weight, stack)
            filters, masks = found.filters, _latent(found.masks)
        else:
            filters, masks = (weight.new_empty(count, *rest) for count in (stack.filters(n), stack.mask_count(n)))
            for each in (filters, masks):
                nn.init.kaiming_uniform_(each, a=math.sqrt(5))
        self.filters, self.latent = nn.Parameter(filters), nn.Parameter(masks)
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())
        self.train(convolution.training)

    @property
    def weight(self) -> Tensor:
        """The weights of the convolution, `[outputs, inputs / groups, height, width]`."""
        return _weights(self.filters, _Sign.apply(self.latent), self.stack, self.geometry.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.filters, self.latent, self.bias)

    def convolved(self, x: Tensor, filters: Tensor, latent: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of maps `[B, inputs, H, W]` with other filters, latent values and bias of the same shapes."""
        weight = _weights(filters, _Sign.apply(latent), self.stack, self.geometry.outputs)
        return self.geometry.convolved(x, weight, bias)

    def penalty(self) -> Tensor | None:
        return self.orthogonality * correlation(self.latent) if self.orthogonality else None

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep latent values in [-1, 1]; beyond, they would take ever longer to change their sign."""
        self.latent.clamp_(-1.0, 1.0)

    def stored_bits(self) -> int:
        real = torch.finfo(self.filters.dtype).bits
        biases = 0 if self.bias is None else self.bias.numel() * real
        return self.stack.bits(self.geometry.outputs, self.filters[0].numel(), real) + biases

    def operations(self, macs: int) -> Operations:
        """Each product with a full-stack filter is made once; the filters of one stack use it with their signs."""
        return Operations(macs * self.stack.filters(self.geometry.outputs) // self.geometry.outputs, macs)

    def packed(self) -> "PackedFullStackConv2d":
        return PackedFullStackConv2d(self)

    @torch.no_grad()
    def dense(self) -> nn.Conv2d:
        layer = self.geometry.made(bias=self.bias is not None).to(self.filters)
        layer.weight.copy_(self.weight)
        if self.bias is not None and layer.bias is not None:
            layer.bias.copy_(self.bias)
        return layer.train(self.training)

    @torch.no_grad()
    def unpack(self, packed: nn.Module) -> None:
        assert isinstance(packed, PackedFullStackConv2d)
        self.filters.copy_(packed.filters)
        self.latent.copy_(_latent(packed.true().to(self.latent) * 2 - 1))
        if self.bias is not None and packed.bias is not None:
            self.bias.copy_(packed.bias)

    def extra_repr(self) -> str:
        """The shape in few words."""
        return f"{self.geometry}, ratio={self.stack.ratio}, masks={self.stack.masks}"


class PackedFullStackConv2d(PackedBits):
    """A convolution of full-stack filters, with eight elements of its binary masks in a byte.

    Args:
        layer: The layer with the weights.
    """

    def __init__(self, layer: FullStackConv2d) -> None:
        super().__init__(layer.latent.detach() >= 0)
        self.stack, self.geometry = layer.stack, layer.geometry
        self.filters = nn.Parameter(layer.filters.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.geometry.outputs
        f = self.stack.filters(outputs)
        rows, positive = math.ceil(outputs / f), self.true()
        filters = self.filters.repeat(rows, 1, 1, 1)
        if self.stack.masks == "shared":
            positive = positive.repeat_interleave(f, 0)
        if rows * f > outputs:
            filters = filters[:outputs]
            positive = positive[:outputs] if self.stack.masks == "shared" else positive
        return self.geometry.convolved(x, torch.where(positive, filters, -filters), self.bias)


def _weights(filters: Tensor, signs: Tensor, stack: FullStack, outputs: int) -> Tensor:
    """The weights of a convolution from real filters `[f, …]` and masks of plus and minus one."""
    if stack.masks == "shared":
        signs = signs.repeat_interleave(len(filters), 0)[:outputs]
    return filters.repeat(math.ceil(outputs / len(filters)), 1, 1, 1)[:outputs] * signs


def correlation(latent: Tensor) -> Tensor:
    """The squared deviation of masks' normalized inner products from those of orthogonal masks, a scalar.

    It is the mean of (X Xᵀ / elements - I)² over pairs of masks, of which the rows of X are made.

    Args:
        latent: The latent values of masks, `[masks, …]`.
    """
    signs: Tensor = _Sign.apply(latent).flatten(1)
    products = signs @ signs.T / signs.shape[1]
    return (products - torch.eye(len(products), device=products.device, dtype=products.dtype)).square().mean()


def _latent(masks: Tensor) -> Tensor:
    """Latent values with the signs of masks, as large as drawn ones, so that training can change signs."""
    return masks / math.sqrt(masks[0].numel())


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
