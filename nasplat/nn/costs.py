"""The cost of layers, by formula. No network is built.

Only layers with weights have a cost. If a publication has its own rule of counting, its space adds that metric.
"""

from nasplat.cost import Cost

FLOAT_BITS = 32


def conv2d(inputs: int, outputs: int, kernel: int, pixels: int, *, groups: int = 1, bias: bool = False) -> Cost:
    """A convolution with a square kernel and `pixels` output positions; depth-wise if `groups` equals `inputs`."""
    return _weighted(outputs * (inputs // groups) * kernel**2, outputs * bias, positions=pixels)


def linear(inputs: int, outputs: int) -> Cost:
    """A linear layer with bias."""
    return _weighted(outputs * inputs, outputs, positions=1)


def batch_norm(channels: int) -> Cost:
    """Batch norm with a scale and shift for each channel, which are trained, and a stored mean and variance."""
    return Cost(params=2 * channels, memory_bits=4 * channels * FLOAT_BITS)


def together(*layers: Cost) -> Cost:
    """The total cost of the layers as one part."""
    return Cost.total({str(i): layer for i, layer in enumerate(layers)}).scaled(1)


def _weighted(weights: int, biases: int, *, positions: int) -> Cost:
    params = weights + biases
    return Cost(params=params, macs=weights * positions, memory_bits=params * FLOAT_BITS)
