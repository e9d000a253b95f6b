"""The classifiers whose features a Fréchet distance compares. They were trained once, and their weights are kept.

The distance of Heusel et al. (2017) uses Inception, trained on photographs of 299 x 299 pixels. For small grey images
`performance/generation_features.py` trained small ones, on the training split of each data set. Figures can be compared
only if the classifier is the same, so its digest is part of a run's protocol.
"""

import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from nasplat.errors import InputError

FOLDER = Path(__file__).parent / "classifiers"
FEATURES = 32
"""The number of features."""


class FeatureNetwork(nn.Module):
    """Three convolutions and a hidden layer of features, for grey images of a side.

    Args:
        side: The height and width of images, in pixels.
        classes: The number of classes.
    """

    def __init__(self, side: int, classes: int = 10) -> None:
        super().__init__()
        rest = -(-side // 4)
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * rest * rest, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[batch, classes]` of images `[batch, 1, side, side]` in -1..1."""
        logits: Tensor = self.head(self.features(images))
        return logits


def weights_of(dataset: str) -> Path:
    """The file with the weights of a data set's classifier."""
    return FOLDER / f"{dataset}.safetensors"


@cache
def digest(dataset: str) -> str:
    """The beginning of the SHA-256 of a classifier's file: figures with the same one can be compared."""
    return hashlib.sha256(weights_of(dataset).read_bytes()).hexdigest()[:12]


def feature_network(dataset: str, side: int) -> FeatureNetwork:
    """The classifier of a data set, in evaluation mode.

    Raises:
        InputError: There is none.
    """
    from safetensors.torch import load_file

    if not (path := weights_of(dataset)).exists():
        raise InputError(f"no classifier was trained for {dataset}; there are {', '.join(known())}")
    with torch.device("meta"):
        network = FeatureNetwork(side)
    network.load_state_dict(load_file(path), assign=True)
    return network.eval()


def known() -> list[str]:
    """The data sets that have a classifier."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


@torch.no_grad()
def described(network: FeatureNetwork, images: Tensor, *, batch: int = 500) -> tuple[Tensor, Tensor]:
    """The features `[n, 32]` of images, and the class `[n]` of each, on the CPU."""
    found = [network.features(part) for part in torch.split(images.cpu(), batch)]
    features = torch.cat(found)
    return features, network.head(features).argmax(1)
