"""What was kept of the layers of a network when it was calibrated."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from nasplat.artifact import Artifacts
from nasplat.errors import ArtifactError
from nasplat.task import LAYERS, Measurement


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The statistics of a layer.

    Args:
        name: The name of the layer in the network.
        values: Its statistics by name, such as the ``variation`` of channel norms, a scalar, or ``norms`` by channel.
    """

    name: str
    values: Mapping[str, NDArray[np.generic]]

    @property
    def figures(self) -> dict[str, float]:
        """Those that are single numbers."""
        return {name: float(value) for name, value in self.values.items() if value.ndim == 0}


def layers_of(measurement: Measurement, artifacts: Artifacts) -> list[LayerStatistics]:
    """The statistics of a network's layers, by the names of layers; none if none were kept.

    Raises:
        ArtifactError: They are missing or damaged.
    """
    handle = measurement.artifacts.get(LAYERS)
    if handle is None:
        return []
    try:
        tensors = load(artifacts.get(handle))
    except SafetensorError as error:
        raise ArtifactError(f"the statistics of layers of trial {measurement.id} are no safetensors: {error}") from None
    layers: dict[str, dict[str, NDArray[np.generic]]] = {}
    for key, value in tensors.items():
        layer, _, name = key.rpartition(".")
        layers.setdefault(layer, {})[name] = value
    return [LayerStatistics(name, layers[name]) for name in sorted(layers, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in names are in the order of numbers, as in networks."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
