"""Binary convolutions with balanced filters and gated residuals.

Shen et al., 2020, "Balanced Binary Neural Networks with Gated Residual" (arXiv:1909.12117). No code of the authors was
found, and only the abstract, the introduction and a summary could be read. Reconstructed are: balance for each filter
instead of for each layer, gates that begin at one, the position of batch norm, and the residual where the stride or the
number of channels changes. The scale is as in Rastegari et al., 2016, "XNOR-Net", sec. 3.1.

Batch norm before the sign is part of the layer, because what a network gives a convolution is often the output of a
ReLU, whose signs would all be plus one.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.cost import Operations
from nasplat.errors import InputError, TrialFailed
from nasplat.nn.bits import PackedBits
from nasplat.nn.convolution import Geometry
from nasplat.nn.rewritten import Rewritten

DIGITS = 16
"""The significant bits of a scale. Recomputed from packed weights, it then is the same, whatever the rounding."""


class BinaryConv2d(nn.Module):
    """A convolution of binary weights and activations, in place of an ordinary one.

    `[B, inputs, H, W]` to the shape of the replaced convolution. The signs of inputs are convolved with the signs of
    weights, and multiplied by the scale of the filter; the inputs times a gate are added. Inputs are normalized before
    their sign is taken.

    Args:
        convolution: The convolution to replace.
        balanced: Whether the latent weights of each filter are centred before their signs are taken.
        gated: Whether the real inputs are added to the outputs, each channel times a learned gate.
        warmup: The number of training steps in which activations are real, clipped to [-1, 1].
        fitted: Whether latent weights begin with its weights; else they are drawn as the weights of a convolution are,
            from torch's global generator.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        *,
        balanced: bool = True,
        gated: bool = True,
        warmup: int = 0,
        fitted: bool = True,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": convolution.weight.device, "dtype": convolution.weight.dtype}
        self.sign = NormalizedSign(convolution.in_channels, warmup=warmup, **like)
        self.filters = BinaryFilters(convolution, balanced=balanced, gated=gated, fitted=fitted)
        self.gate = GatedResidual(convolution) if gated else None
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.filters(self.sign(x))
        return result if self.gate is None else result + self.gate(x)


class BinaryFilters(Rewritten):
    """A convolution whose weights are plus or minus the scale of their filter.

    With latent weights W of a filter, the signs are those of W - mean(W) if it is balanced, and the scale is the mean
    of their absolute values, rounded to `DIGITS` significant bits. Gradients pass straight through the sign where its
    input is in [-1, 1]; because the mean is subtracted inside of the graph, those of a balanced filter sum to zero.
    Zero counts as positive. Sums of products of signs are integers, so that they are exact in every order, but for
    reduced precision in training. Padding adds zeros, which are neither sign: kernels for bits must leave them out.

    Args:
        convolution: The convolution to replace.
        balanced: Whether latent weights are centred.
        gated: Whether a gated residual is added to its outputs, for the count of operations.
        fitted: Whether latent weights begin with its weights; else they are drawn.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset({"latent"})

    def __init__(self, convolution: nn.Conv2d, *, balanced: bool, gated: bool, fitted: bool) -> None:
        super().__init__()
        self.geometry, self.balanced, self.gated = Geometry.of(convolution), balanced, gated
        weight = convolution.weight.detach()
        if fitted:
            self.latent = nn.Parameter(weight.clone())
        else:
            self.latent = nn.Parameter(torch.empty_like(weight))
            nn.init.kaiming_uniform_(self.latent, a=math.sqrt(5))
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())
        self.train(convolution.training)

    @property
    def weight(self) -> Tensor:
        """The weights of the convolution, `[outputs, inputs / groups, height, width]`."""
        signs, scale = self.binary(self.latent)
        return signs * scale[:, None, None, None]

    def binary(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The signs `[outputs, …]` and the scales `[outputs]` of latent weights `[outputs, …]`."""
        if self.balanced:
            latent = latent - latent.mean((1, 2, 3), keepdim=True)
        return sign(latent), _Rounded.apply(latent.abs().mean((1, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.latent, self.bias)

    def convolved(self, x: Tensor, latent: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of signs `[B, inputs, H, W]` with other latent weights and biases of the same shapes."""
        return _scaled(self.geometry, x, *self.binary(latent), bias)

    def stored_bits(self) -> int:
        real = torch.finfo(self.latent.dtype).bits
        return self.latent.numel() + real * (len(self.latent) + (0 if self.bias is None else len(self.bias)))

    def operations(self, macs: int) -> Operations:
        """Products and sums of signs are bit operations. Each output is multiplied by its scale.

        A gated residual takes a multiplication and an addition more for each output.
        """
        outputs = macs // self.latent[0].numel()
        return Operations(outputs * (1 + self.gated), outputs * self.gated, macs)

    def packed(self) -> "PackedBinaryFilters":
        return PackedBinaryFilters(self)

    @torch.no_grad()
    def unpack(self, packed: nn.Module) -> None:
        """Latent weights are set whose mean is zero, so that centring changes none of their signs."""
        assert isinstance(packed, PackedBinaryFilters)
        positive = packed.true()
        elements = positive[0].numel()
        share = positive.sum((1, 2, 3), keepdim=True).to(self.latent.dtype)
        sizes = torch.where(positive, share, elements - share)  # of either sign, half of the sum
        sizes = elements / (2 * sizes) if self.balanced else torch.ones_like(sizes)
        # Where all weights have one sign, no zero-mean values have these signs; the scale is then 0, or unbalanced.
        alone = (share == 0) | (share == elements)
        sizes = torch.where(alone & self.balanced, 0.0, sizes) * packed.scale[:, None, None, None]
        self.latent.copy_(torch.where(positive, sizes, -sizes))
        if self.bias is not None and packed.bias is not None:
            self.bias.copy_(packed.bias)

    def extra_repr(self) -> str:
        """The shape in few words."""
        return f"{self.geometry}, balanced={self.balanced}"


class PackedBinaryFilters(PackedBits):
    """A convolution of binary weights, eight of which are in a byte, and a scale for each filter.

    Args:
        layer: The layer with the latent weights.
    """

    one: Tensor

    def __init__(self, layer: BinaryFilters) -> None:
        with torch.no_grad():
            signs, scale = layer.binary(layer.latent)
        super().__init__(signs > 0)
        self.geometry = layer.geometry
        self.scale = nn.Parameter(scale)
        self.register_buffer("one", torch.ones_like(scale[0]), persistent=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return _scaled(self.geometry, x, _signs(self.true(), self.one), self.scale, self.bias)


class NormalizedSign(Rewritten, nn.BatchNorm2d):
    """Batch norm and then the sign, whose gradient passes straight through where its input is in [-1, 1].

    In evaluation it compares inputs with a threshold for each channel, as its packed form does: mean - bias · deviation
    / weight. In training, activations are real during a warm-up, clipped to [-1, 1]: weights become
    binary first, and activations after. What is measured always has binary ones. What is not a number stays so.

    Args:
        channels: The number of channels of `[B, channels, H, W]`.
        warmup: The number of training steps with real activations.
        device: Where its tensors are.
        dtype: Their type.
    """

    jumps: ClassVar[bool] = True
    steps: Tensor

    def __init__(
        self,
        channels: int,
        *,
        warmup: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, device=device, dtype=dtype)
        self.warmup = warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=device))

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.running_mean is None:
            return self.activated(super().forward(x), training=self.training)
        assert self.running_var is not None
        activations = evaluated(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        return straight(activations, super().forward(x)) if torch.is_grad_enabled() else activations

    def activated(self, x: Tensor, *, training: bool) -> Tensor:
        """The activations of normalized inputs of the same shape, in training or not."""
        # Without momentum, statistics for the evaluation are recalibrated, where activations are binary.
        if self.warmup and training and self.momentum is not None and self.steps < self.warmup:
            return functional.hardtanh(x)
        return sign(x)

    def before_training(self, steps: int) -> None:
        """Refuse a warm-up that is as long as the training."""
        if self.warmup >= steps:
            raise TrialFailed(
                "warm-up too long",
                f"the warm-up of binary activations must be below the steps of the whole training, {steps:,} here, but "
                f"is {self.warmup:,}; lower transform.warmup, or train for more epochs",
            )

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the step."""
        self.steps += 1

    def stored_bits(self) -> int:
        """A threshold for each channel, and a bit for its direction."""
        return self.num_features * (torch.finfo(self.weight.dtype).bits + 1)

    def packed(self) -> "PackedNormalizedSign":
        return PackedNormalizedSign(self)

    @torch.no_grad()
    def unpack(self, packed: nn.Module) -> None:
        """Batch norm becomes the identity but for the threshold, which is its mean."""
        assert isinstance(packed, PackedNormalizedSign) and self.running_mean is not None
        assert self.running_var is not None
        known = packed.threshold.isfinite()
        up = torch.where(packed.true(), 1.0, -1.0).to(self.weight)
        before = packed.threshold.nextafter(torch.full_like(packed.threshold, -math.inf))
        self.running_mean.copy_(torch.where(known, torch.where(packed.true(), packed.threshold, before), 0.0))
        self.running_var.fill_(1.0)
        self.weight.copy_(torch.where(known, up, 0.0))
        self.bias.copy_(torch.where(known, 0.0, -up * packed.threshold.sign()))
        self.steps.fill_(self.warmup)


class PackedNormalizedSign(PackedBits):
    """The sign of inputs less a threshold for each channel.

    Args:
        layer: The layer with batch norm.

    Raises:
        InputError: Its batch norm has no statistics, or some that are not numbers.
    """

    jumps: ClassVar[bool] = True
    one: Tensor

    def __init__(self, layer: NormalizedSign) -> None:
        if layer.running_mean is None or layer.running_var is None:
            raise InputError("a binary layer without statistics of batch norm cannot be packed; recalibrate it first")
        with torch.no_grad():
            values, up = threshold(layer.weight, layer.bias, layer.running_mean, layer.running_var, layer.eps)
        if values.isnan().any():
            raise InputError("a binary layer cannot be packed, since statistics of its batch norm are not numbers")
        super().__init__(up)
        self.threshold = nn.Parameter(values)
        self.register_buffer("one", torch.ones_like(values[0]), persistent=False)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return compared(x, self.threshold, self.true(), self.one)


class GatedResidual(Rewritten):
    """The inputs of a convolution in the shape of its outputs, each channel times a learned gate, which begins at one.

    The paper's rule where shapes differ is not known; this one has no weights. With a stride, inputs are averaged over
    blocks of that size. Where there are more outputs than inputs, these are repeated in turn. Where there are fewer,
    output j is the sum of the inputs j, j + outputs, and so on, divided by the largest number of terms. Additions of
    these means are no operations, as those of pooling are none.

    Args:
        convolution: The convolution, for which `keeps_sides` holds.
    """

    undecayed: ClassVar[frozenset[str]] = frozenset({"gate"})

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.inputs, self.outputs = convolution.in_channels, convolution.out_channels
        self.stride, weight = convolution.stride, convolution.weight
        self.gate = nn.Parameter(torch.ones(self.outputs, device=weight.device, dtype=weight.dtype))
        self.train(convolution.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.gated(x, self.gate)

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """The residual of inputs `[B, inputs, H, W]` with other gates `[outputs]`."""
        inputs, outputs = self.inputs, self.outputs
        if max(self.stride) > 1:
            x = functional.avg_pool2d(x, self.stride, self.stride, ceil_mode=True, count_include_pad=False)
        times = math.ceil(max(inputs, outputs) / min(inputs, outputs))
        if outputs > inputs:
            x = x.repeat(1, times, 1, 1)[:, :outputs]
        elif outputs < inputs:
            x = functional.pad(x, (0, 0, 0, 0, 0, times * outputs - inputs))
            x = torch.unflatten(x, 1, (times, outputs)).sum(1) / times
        return x * gate[:, None, None]

    def extra_repr(self) -> str:
        """The shape in few words."""
        return f"{self.inputs}, {self.outputs}, stride={self.stride}"


def keeps_sides(geometry: Geometry) -> bool:
    """Whether the sides of a convolution's outputs are those of its inputs, divided by the stride and rounded up."""
    if geometry.padding == "same":
        return True
    padding = (0, 0) if isinstance(geometry.padding, str) else geometry.padding
    sides = zip(padding, geometry.dilation, geometry.kernel_size, strict=True)
    return all(2 * added == distance * (kernel - 1) for added, distance, kernel in sides)


def entropy(latent: Tensor, *, balanced: bool) -> Tensor:
    """The entropy of the signs of each filter in bits, `[outputs]`, of latent weights `[outputs, …]`."""
    flat = latent.flatten(1)
    share = (flat - flat.mean(1, keepdim=True) * balanced >= 0).double().mean(1)
    return -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)) / math.log(2)


def sign(x: Tensor) -> Tensor:
    """Plus or minus one; the gradient passes straight through where x is in [-1, 1] (Hubara et al., 2016)."""
    result: Tensor = _ClippedSign.apply(x)
    return result


def threshold(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Where the sign of batch norm changes in each channel, and whether it is positive from there on, else below.

    Zero counts as positive, so the threshold of a channel that is positive below is the next number. A channel whose
    weight is zero has the sign of its bias everywhere: its threshold is infinite.
    """
    exact = mean.double() - bias.double() * (variance.double() + eps).sqrt() / weight.double()
    constant = torch.where(bias >= 0, -math.inf, math.inf)
    values = torch.where(weight == 0, constant, exact).to(mean.dtype)
    return torch.where(weight >= 0, values, values.nextafter(torch.full_like(values, math.inf))), weight >= 0


def evaluated(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """The signs of the batch norm of maps `[B, C, H, W]` in evaluation; not numbers where a threshold is none."""
    values, up = threshold(weight, bias, mean, variance, eps)
    return compared(x, values, up, torch.where(values.isnan(), values, 1.0)[:, None, None])


def straight(activations: Tensor, normalized: Tensor) -> Tensor:
    """The activations, with the gradient of the sign of what was normalized, all of one shape."""
    signs = sign(normalized)
    return activations.detach() + (signs - signs.detach())


def compared(x: Tensor, values: Tensor, up: Tensor, one: Tensor) -> Tensor:
    """Plus one where maps `[B, C, H, W]` are on the positive side of thresholds `[C]`, else minus one.

    What is not a number stays so.

    Args:
        x: The maps.
        values: The thresholds.
        up: Whether a channel is positive from its threshold on, else below it.
        one: The number one, of the type of the maps.
    """
    values, up = values[:, None, None], up[:, None, None]
    return torch.where(x.isnan(), x, _signs((x >= values) == up, one))


def _signs(positive: Tensor, one: Tensor) -> Tensor:
    return torch.where(positive, one, -one)


def _scaled(geometry: Geometry, x: Tensor, signs: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    result = geometry.convolved(x, signs, None) * scale[:, None, None]
    return result if bias is None else result + bias[:, None, None]


class _ClippedSign(torch.autograd.Function):
    """The sign, zero as positive; what is not a number stays so, so that a training that diverges is seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return torch.where(x.isnan(), x, torch.where(x >= 0, 1.0, -1.0).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        passed: Tensor = gradients[0] * inside
        return passed


class _Rounded(torch.autograd.Function):
    """The nearest number of `DIGITS` significant bits, whose gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(x)
        rounded: Tensor = torch.ldexp((mantissa * 2**DIGITS).round() / 2**DIGITS, exponent)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
