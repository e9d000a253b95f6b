"""Batch norm of shared weights, recalibrated on images that are sorted by class, as files in class folders are.

A supernet of nasbench201 (16 channels, 1 cell) is trained on scikit-learn's digits, sorted by class, for `--epochs`
passes with random paths. Then `--paths` paths are measured on validation data, recalibrated on `--images` training
images: the first ones in the order of the files, or a stratified sample. They are compared with recalibration on all.

    python performance/sorted_folder.py
"""

import argparse
from collections.abc import Iterable

import numpy as np
import torch
from numpy.random import default_rng
from scipy.stats import kendalltau

from nasplat.architecture import Architecture
from nasplat.data.datasets import dataset
from nasplat.data.examples import SAMPLED_BATCH, Examples
from nasplat.nn.supernet import Supernet, recalibrate
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SupernetSpace
from nasplat.training.fit import evaluate
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import SupernetTraining


def by_class(examples: Examples) -> Examples:
    """The same examples, sorted by class."""
    rows = torch.argsort(examples.labels, stable=True)
    return Examples(examples.images[rows], examples.labels[rows], examples.scaling)


def accuracies(
    supernet: Supernet, paths: Iterable[Architecture], training: Examples, validation: Examples, rows: torch.Tensor
) -> list[float]:
    """The validation accuracy of each path, recalibrated on some rows of the training images."""
    found = []
    for path in paths:
        network = supernet.extract(path)
        recalibrate(network, (training.batch(batch)[0] for batch in torch.split(rows, SAMPLED_BATCH)))
        found.append(evaluate(network, validation)["accuracy"])
    return found


def main() -> None:
    """Print the accuracies and their rank correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--paths", type=int, default=60)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = dataset("digits")
    splits = found.load()
    training = by_class(splits.training)
    space = SEARCH_SPACES.get("nasbench201")(channels=16, cells=1)  # type: ignore[call-arg]
    assert isinstance(space, SupernetSpace)
    whole = torch.arange(len(training))
    print("| images for batch norm | mean accuracy | tau with all images |\n|---|---:|---:|")
    rows: dict[str, list[tuple[float, float]]] = {"the first": [], "a stratified sample": [], "all": []}
    for seed in range(arguments.seeds):
        rng = default_rng(seed)
        paths = [space.sample(rng) for _ in range(arguments.paths)]
        with seeded(seed):
            supernet = space.supernet(found.io)
            recipe = Recipe(64, 0.1, 0.9, 5e-4, False)
            SupernetTraining(
                supernet,
                training,
                recipe,
                draw=lambda s: space.sample(default_rng(s)),
                epochs=arguments.epochs,
                seed=seed,
            ).until(arguments.epochs)
        chosen = {
            "the first": whole[: arguments.images],
            "a stratified sample": training.order[: arguments.images],
            "all": training.order,
        }
        measured = {
            name: accuracies(supernet, paths, training, splits.validation, which) for name, which in chosen.items()
        }
        for name, values in measured.items():
            rows[name].append((float(np.mean(values)), float(kendalltau(values, measured["all"]).statistic)))
    for name, each in rows.items():
        accuracy, tau = np.mean(each, axis=0)
        print(f"| {name} | {accuracy:.3f} | {tau:.2f} |")


if __name__ == "__main__":
    main()
