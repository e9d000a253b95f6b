"""Comparison of generated samples with real ones, by all metrics of the benchmark."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nasplat.generation.data import NEAR, ring_centres
from nasplat.generation.distances import Discrepancy, Floats, covered_modes, frechet_distance
from nasplat.generation.features import FeatureNetwork, described, feature_network

LEAST = 0.025
"""The share of the samples that covers a mode."""


@dataclass(frozen=True)
class Comparison:
    """Real samples, ready to be compared with.

    Args:
        discrepancy: The discrepancy from them.
        features: The features of them `[n, dimensions]`.
        network: What gives features and classes of images; None for points.
    """

    discrepancy: Discrepancy
    features: Floats
    network: FeatureNetwork | None

    @classmethod
    def of(cls, dataset: str, data: Tensor) -> "Comparison":
        """That with samples `[n, …]` of a data set."""
        flat = data.flatten(1).double().numpy()
        if data.ndim == 2:
            return cls(Discrepancy(flat), flat, None)
        network = feature_network(dataset, data.shape[-1])
        return cls(Discrepancy(flat), described(network, data)[0].double().numpy(), network)

    def __call__(self, made: Tensor) -> dict[str, float]:
        """The metrics of generated samples `[n, …]`.

        Raises:
            InputError: There are fewer than two samples, or a value is not finite.
        """
        flat = made.flatten(1).double().numpy()
        if self.network is None:
            features = flat
            modes, _ = covered_modes(flat, ring_centres().numpy(), NEAR, least=LEAST)
        else:
            found, classes = described(self.network, made)
            features = found.double().numpy()
            modes = int((np.bincount(classes.numpy()) >= max(LEAST * len(made), 1)).sum())
        return {
            "frechet": frechet_distance(features, self.features),
            "mmd_squared": self.discrepancy(flat),
            "modes": float(modes),
        }
