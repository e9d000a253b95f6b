"""The cost of a network, computed without training it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from nasplat.errors import InputError

MOST = 2**53
"""Maximum of each figure of a cost: so far, integers are exact in floating-point numbers."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a network, or of one part of it.

    Args:
        params: Trainable parameters.
        macs: Multiply-accumulates of convolutions and linear layers only, for one example.
        memory_bits: Bits that store the parameters.
        published: Further metrics by name: counted by the own rules of a publication, or taken from a table.
        parts: The cost of each named part; if there are parts, they sum to the whole.
        counted: Whether parameters, multiply-accumulates and memory are known. If not, they are 0 here, and no metrics.

    Raises:
        InputError: A figure is larger than `MOST`, as of a network whose width is a slip of the pen.
    """

    params: int = 0
    macs: int = 0
    memory_bits: int = 0
    published: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, "Cost"] = field(default_factory=dict)
    counted: bool = True

    def __post_init__(self) -> None:
        if self.params > MOST or self.macs > MOST or self.memory_bits > MOST:
            raise InputError(
                f"the figures of a network's cost must be at most {MOST:.3g}, but got {float(self.params):.3g} "
                f"parameters, {float(self.macs):.3g} multiply-accumulates and {float(self.memory_bits):.3g} bits; "
                "choose smaller options of its space"
            )

    @classmethod
    def total(cls, parts: Mapping[str, "Cost"]) -> Self:
        """The sum of named parts; the result keeps the parts.

        >>> Cost.total({"stem": Cost(params=2), "head": Cost(params=3, macs=5)}).metrics()
        {'params': 5, 'macs': 5, 'memory_bits': 0}
        """
        published: dict[str, float] = {}
        for part in parts.values():
            for name, value in part.published.items():
                published[name] = published.get(name, 0) + value
        return cls(
            params=sum(part.params for part in parts.values()),
            macs=sum(part.macs for part in parts.values()),
            memory_bits=sum(part.memory_bits for part in parts.values()),
            published=published,
            parts=parts,
        )

    def scaled(self, times: int) -> "Cost":
        """The cost of this part used `times` times, without its parts."""
        return Cost(
            params=times * self.params,
            macs=times * self.macs,
            memory_bits=times * self.memory_bits,
            published={name: times * value for name, value in self.published.items()},
        )

    def metrics(self) -> dict[str, float]:
        """The totals by the metric names that objectives and constraints use."""
        counts = {"params": self.params, "macs": self.macs, "memory_bits": self.memory_bits}
        return {**(counts if self.counted else {}), **self.published}
