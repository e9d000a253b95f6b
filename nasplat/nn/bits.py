"""Eight bits in a byte, for layers that store what is true or false."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from nasplat.nn.rewritten import Packed


class PackedBits(Packed):
    """A layer with a tensor of booleans, of which a byte has eight, the first one as its highest bit.

    Args:
        true: The booleans.
    """

    bits: Tensor
    powers: Tensor

    def __init__(self, true: Tensor) -> None:
        super().__init__()
        self._shape = tuple(true.shape)
        padded = functional.pad(true.flatten().to(torch.uint8), (0, -true.numel() % 8)).reshape(-1, 8)
        powers = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=true.device)
        self.register_buffer("bits", (padded * powers).sum(1, dtype=torch.uint8))
        self.register_buffer("powers", powers, persistent=False)

    def true(self) -> Tensor:
        """The booleans, unpacked."""
        count = math.prod(self._shape)
        bits = (self.bits.unsqueeze(1) & self.powers).bool().flatten()
        return (bits if count % 8 == 0 else bits[:count]).reshape(*self._shape)
