"""The cost of layers, by formula; no network is built.

`published` has the figure ``table_macs`` as NAS-Bench-201 counts: besides multiply-accumulates, every element
that batch norm (two for each), ReLU (one) and pooling (one for each input of the window) touch. The rule was
read off the benchmark's published column, which it reproduces on all 15,625 rows.
"""

from nasplat.cost import Cost

FLOAT_BITS = 32


def conv2d(inputs: int, outputs: int, kernel: int, pixels: int, *, bias: bool = False) -> Cost:
    """A dense convolution with a square kernel and `pixels` output positions."""
    return _weighted(outputs * inputs * kernel**2, outputs * bias, positions=pixels)


def linear(inputs: int, outputs: int) -> Cost:
    """A linear layer with bias."""
    return _weighted(outputs * inputs, outputs, positions=1)


def batch_norm(channels: int, pixels: int) -> Cost:
    """Batch norm with a learnt scale and shift for each channel."""
    return Cost(
        params=2 * channels,
        memory_bits=2 * channels * FLOAT_BITS,
        published={"table_macs": 2 * channels * pixels},
    )


def relu(channels: int, pixels: int) -> Cost:
    """A ReLU on every element."""
    return Cost(published={"table_macs": channels * pixels})


def pool(channels: int, pixels: int, window: int) -> Cost:
    """Pooling with `pixels` output positions, each over `window` inputs."""
    return Cost(published={"table_macs": channels * pixels * window})


def _weighted(weights: int, biases: int, *, positions: int) -> Cost:
    macs = weights * positions
    return Cost(
        params=weights + biases,
        macs=macs,
        memory_bits=(weights + biases) * FLOAT_BITS,
        published={"table_macs": macs},
    )
