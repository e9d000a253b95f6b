"""What a network costs, known without training it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of a network, or of one part of it.

    Args:
        params: Trainable parameters.
        macs: Multiply-accumulates of convolutions and linear layers for one example, and nothing else.
        memory_bits: Bits that store the parameters.
        published: Further figures, each under its own metric name: what a publication counts by rules of its own, or
            what a table says.
        parts: The cost of each named part; where there are parts, they sum to the whole.
    """

    params: int = 0
    macs: int = 0
    memory_bits: int = 0
    published: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, "Cost"] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Mapping[str, "Cost"]) -> Self:
        """The sum of named parts, which the result keeps.

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
        """The totals by metric name, as objectives and constraints know them."""
        return {
            "params": self.params,
            "macs": self.macs,
            "memory_bits": self.memory_bits,
            **self.published,
        }
