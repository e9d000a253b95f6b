"""The calibrators by name."""

import numpy as np
from numpy.typing import NDArray

from nasplat.calibration.operational import PAPER, USUAL, Operational
from nasplat.calibration.outputs import Calibrator, Floats, Outputs
from nasplat.calibration.rivals import Isotonic, Platt, Temperature, Uncalibrated
from nasplat.errors import InputError, unknown

RIVALS: dict[str, type[Uncalibrated | Temperature | Platt | Isotonic]] = {
    "none": Uncalibrated,
    "temperature": Temperature,
    "platt": Platt,
    "isotonic": Isotonic,
}
OPERATIONAL = "operational"
NAMES = (*RIVALS, OPERATIONAL)
"""The names of all calibrators."""


def fit(
    name: str, outputs: Outputs, labels: NDArray[np.int64], *, paper: bool = False, medoids: Floats | None = None
) -> Calibrator:
    """A calibrator, fitted to labelled pictures.

    Args:
        name: One of `NAMES`.
        outputs: What the network gives for the labelled pictures.
        labels: Their classes `[n]`, at least two of them.
        paper: Whether the operational calibrator has the paper's settings; they need `medoids`.
        medoids: The features of the medoids of all operation pictures `[10, dimensions]`, by `clusters.k_medoids`.

    Raises:
        InputError: The name is unknown, the labels are fewer than two or not classes of the network, or medoids are
            missing.
    """
    if name == OPERATIONAL:
        return Operational.fit(outputs, labels, recipe=PAPER if paper else USUAL, medoids=medoids if paper else None)
    if name not in RIVALS:
        raise InputError(unknown("calibrator", name, NAMES))
    return RIVALS[name].fit(outputs, labels)
