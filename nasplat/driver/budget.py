"""The budget of a whole search."""

from dataclasses import dataclass

from nasplat.errors import InputError
from nasplat.task import Outcome


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits; the search ends at the first that is reached, after the work in flight.

    Args:
        evaluations: Evaluations asked for; cache hits and failures count.
        seconds: Wall-clock seconds of searching, summed over all sessions of a resumed run.
        images: Training images processed.
        device_seconds: Seconds of work, summed over devices.

    Raises:
        InputError: A limit is not positive.
    """

    evaluations: int | None = None
    seconds: float | None = None
    images: int | None = None
    device_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.limits().items():
            if not value > 0:
                raise InputError(f"a budget must be positive, but got {name}={value:g}")

    @property
    def ends(self) -> bool:
        """Whether every search reaches the budget at some time."""
        return self.evaluations is not None or self.seconds is not None

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        named = {
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "images": self.images,
            "device_seconds": self.device_seconds,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(slots=True)
class Spending:
    """The budget that a search has spent so far, in the units of `Budget`."""

    evaluations: int = 0
    seconds: float = 0.0
    images: int = 0
    device_seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Add the work of an outcome; evaluations are counted when they are asked for."""
        self.images += outcome.spent.images
        self.device_seconds += outcome.spent.seconds

    def fraction(self, budget: Budget) -> float:
        """The spent part of the budget; 1 when a limit is reached."""
        spent = {
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "images": self.images,
            "device_seconds": self.device_seconds,
        }
        return min(1.0, max((spent[name] / limit for name, limit in budget.limits().items()), default=0.0))
