"""Train the classifiers whose features the benchmark `generation` compares, and write their weights.

    python performance/generation_features.py [digits] [fashion_mnist]

Takes two minutes on two cores. The same command gives the same weights on the same machine and versions; figures of
searches are comparable only with the same file, whose digest is printed.
"""

import argparse
from typing import Any

import torch
from safetensors.torch import save
from torch.nn.functional import cross_entropy

from nasplat.data.datasets import dataset
from nasplat.generation.data import symmetric
from nasplat.generation.features import FOLDER, FeatureNetwork, digest, weights_of
from nasplat.storage.files import write_atomically
from nasplat.training.seeding import seeded

EPOCHS = {"digits": 40, "fashion_mnist": 5}


def trained(name: str) -> tuple[FeatureNetwork, float]:
    """The network and its accuracy on the test split."""
    chosen = dataset(name)
    splits = chosen.load()
    images, labels = symmetric(splits.training, chosen), splits.training.labels
    with seeded(0):
        network = FeatureNetwork(images.shape[-1]).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    random = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS[name]):
        for rows in torch.split(torch.randperm(len(images), generator=random), 64):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(network(images[rows]), labels[rows]))
            optimizer.step()
    network.eval()
    with torch.no_grad():
        tested: Any = network(symmetric(splits.test, chosen)).argmax(1) == splits.test.labels
    return network, float(tested.float().mean())


def main() -> None:
    """Train the named classifiers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(EPOCHS), choices=list(EPOCHS), metavar="NAME")
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        network, accuracy = trained(name)
        FOLDER.mkdir(exist_ok=True)
        write_atomically(weights_of(name), save(network.state_dict()))
        print(f"{name}: test accuracy {accuracy:.4f}, {weights_of(name).name} {digest(name)}")


if __name__ == "__main__":
    main()
