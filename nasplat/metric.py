"""What the name of a metric says: its direction, its unit, and the values that it can have."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Self

from nasplat.errors import InputError

FRACTION = "fraction"
PARAMETERS, MACS, OPERATIONS, BITS = "parameters", "multiply-accumulates", "operations", "bits"
COST_UNITS = frozenset({PARAMETERS, MACS, OPERATIONS, BITS})
"""The units of costs, which are known without training."""
_QUALIFIERS = (
    r"(?:_(?:seed\d*|\d+seeds?|repeat\d*|run\d*|\d+(?:ep|epochs)?|mean|median|val|valid|validation|test|train))*"
)
"""What may follow the name: ``accuracy_seed3``, ``loss_1seed``, ``acc_108ep_mean``. Anything may precede it, but words
that turn it into another metric."""
_NO_OTHER = r"(?!(?:\w+_)?(?:inv|inverse|neg|negative|minus|log|rank|delta|diff|std|var|to|per)_)"
"""Words before the name that make another metric of it: ``inv_loss``, ``time_to_accuracy``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of architectures: its name, which direction is better, and its unit.

    Args:
        name: The name, as in objectives and as the column of a table.
        maximize: Whether higher values are better.
        unit: The unit; empty if the name does not say.
        low: The least possible value.
        high: The largest possible value.
    """

    name: str
    maximize: bool
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def known(cls, name: str) -> Self | None:
        """The metric that a name stands for, or None if it is not one of the known names.

        >>> Metric.known("loss_1seed")
        Metric(name='loss_1seed', maximize=False, unit='', low=0.0, high=inf)
        >>> Metric.known("set5_psnr_db").unit, Metric.known("accuracy_deviation")
        ('dB', None)
        """
        if name.lower() == "score":  # in this project, of scores higher are better
            return cls(name, True)
        for pattern, maximize, unit, low, high in _KNOWN:
            if pattern.fullmatch(name):
                return cls(name, maximize, unit, low, high)
        return None

    @classmethod
    def of(cls, name: str, maximize: bool | None = None) -> Self:
        """The metric of a name, with its direction if the name does not say.

        Raises:
            InputError: The name is unknown and no direction is given, or the direction contradicts the name.
        """
        known = cls.known(name)
        if known is None and maximize is None:
            raise InputError(
                f"it is not known whether higher or lower {name} is better; write {name}:max if higher is, or "
                f"{name}:min if lower is, where the metric is named"
            )
        if known is None:
            return cls(name, bool(maximize))
        if maximize not in (None, known.maximize):
            raise InputError(
                f"{known.comparative} {name} is better, but got {name}:{'max' if maximize else 'min'}; "
                f"write {name} alone, or give a metric that means something else another name"
            )
        return known

    @classmethod
    def sought(cls, name: str, maximize: bool) -> Self:
        """The metric of a search's objective, whose direction is the search's."""
        return replace(cls.known(name) or cls(name, maximize), maximize=maximize)

    @classmethod
    def of_json(cls, tree: Any) -> Self | None:
        """The metric that `as_json` described; None if it is something else, such as the text of earlier versions."""
        match tree:
            case {"name": str(name), "direction": "max" | "min" as direction, "unit": str() | None as unit}:
                return replace(cls.sought(name, direction == "max"), unit=unit or "")
        return None

    def as_json(self) -> dict[str, Any]:
        """Name, direction and unit as JSON values."""
        return {"name": self.name, "direction": "max" if self.maximize else "min", "unit": self.unit or None}

    @property
    def sign(self) -> float:
        """1 if higher is better, else -1: the factor that makes scores, of which higher are better, from values."""
        return 1.0 if self.maximize else -1.0

    @property
    def comparative(self) -> str:
        """The better direction: ``higher`` or ``lower``."""
        return "higher" if self.maximize else "lower"

    @property
    def labelled(self) -> str:
        """The name with its unit: ``accuracy (fraction)``."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def __str__(self) -> str:
        unit = "a fraction of 0 to 1, " if self.unit == FRACTION else f"{self.unit}, " if self.unit else ""
        return f"{self.name} ({unit}{self.comparative} is better)"

    def check(self, value: float) -> None:
        """Check that the metric can have this value.

        Raises:
            InputError: It cannot; the message says the rule, the value and the remedy.
        """
        if self.low <= value <= self.high:
            return
        if self.unit == FRACTION:
            raise InputError(
                f"{self.name} must be a fraction of 0 to 1, but got {value:.15g}; if it is in percent, divide all by "
                "100, so that there is one unit everywhere"
            )
        raise InputError(
            f"{self.name} must be {self._range}, but got {value:.15g}; correct it, or give a metric that means "
            "something else another name"
        )

    @property
    def _range(self) -> str:
        if self.high < math.inf:
            return f"between {self.low:g} and {self.high:g}"
        return "above 0" if self.low > 0 else f"at least {self.low:g}"


def parse_metric(text: str) -> tuple[str, bool | None]:
    """The name of a metric, and its direction if the text says it: ``loss``, ``top1:max``, ``error:min``.

    Raises:
        InputError: What follows the last colon is no direction.
    """
    name, colon, direction = text.rpartition(":")
    if not colon:
        return text, None
    if direction not in ("max", "min") or not name:
        raise InputError(f"a metric must be NAME, NAME:max or NAME:min, but got {text!r}")
    return name, direction == "max"


def spelt(tree: Any) -> str:
    """A metric in one line, from the JSON of a file of this version or of an earlier one, which has a text."""
    metric = Metric.of_json(tree)
    return str(metric or tree or "score")


_LEAST = math.ulp(0.0)
"""The smallest number above 0."""
_STEMS = (
    ("accuracy|acc", True, FRACTION, 0.0, 1.0),
    ("error|error_rate", False, FRACTION, 0.0, 1.0),
    ("loss", False, "", 0.0, math.inf),
    ("psnr_db|gain_db", True, "dB", -math.inf, math.inf),
    ("ssim", True, "", -1.0, 1.0),
    ("ms", False, "ms", _LEAST, math.inf),
    ("seconds", False, "s", 0.0, math.inf),
    ("params", False, PARAMETERS, 0.0, math.inf),
    ("macs|macs_expected", False, MACS, 0.0, math.inf),
    ("multiplications|additions|operations", False, OPERATIONS, 0.0, math.inf),
    ("bits", False, BITS, 0.0, math.inf),
)
"""What a known name ends in, whether higher is better, its unit and its range."""
_KNOWN = tuple(
    (re.compile(rf"{_NO_OTHER}(?:\w+_)?(?:{stem}){_QUALIFIERS}", re.IGNORECASE), maximize, unit, low, high)
    for stem, maximize, unit, low, high in _STEMS
)
"""Pattern, whether higher is better, unit and range of each known name."""
