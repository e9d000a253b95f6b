"""Paths of a supernet by importance: draws against exact probabilities, scores against gradients, costs counted."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasplat.architecture import IO, Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import SupernetBenchmark
from nasplat.config import Workload
from nasplat.data.examples import Examples
from nasplat.errors import InputError
from nasplat.sampling.paths import PathImportance, path_sampler
from nasplat.search_spaces.nasbench101 import NASBench101
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import TrainSupernet
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import SupernetTraining

SPACE = NASBench201(channels=2, cells=1)
PATHS = tuple(map(SPACE.parse, ("333333", "104103", "211312")))


def scored(given: list[Architecture], times: int, score: Callable[[list[Architecture]], Tensor]) -> PathImportance:
    """A sampler after some fits."""
    paths = PathImportance(SPACE, given, 1)
    for _ in range(times):
        paths.fit(score)
    return paths


def test_given_paths_are_drawn_in_proportion_to_their_scores() -> None:
    given = [SPACE.sample(default_rng(seed)) for seed in range(4)]
    values = {path: float(number) for number, path in enumerate(given, 1)}
    before = Counter(PathImportance(SPACE, given, 0).sample(4000).items)
    assert all(abs(before[path] / 4000 - 0.25) < 0.03 for path in given)
    paths = scored(given, 20, lambda drawn: torch.tensor([values[path] for path in drawn]))
    assert paths.probabilities()[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    drawn = paths.sample(8000)
    after = Counter(drawn.items)
    assert drawn.weights.tolist() == [1.0] * 8000
    for path in given:
        assert after[path] / 8000 == pytest.approx(0.5 * 0.25 + 0.5 * values[path] / 10, abs=0.02)


def test_choices_of_a_space_follow_the_mean_scores_of_their_paths() -> None:
    paths = scored([], 60, lambda drawn: torch.tensor([1.0 + 9 * (path.code[0] == "2") for path in drawn]))
    first, *others = paths.probabilities()
    assert first[2] == pytest.approx(10 / 14, abs=0.01)
    assert all(abs(each - 0.2).max() < 0.3 for each in others)
    share = np.mean([path.code[0] == "2" for path in paths.sample(4000).items])
    assert share == pytest.approx(0.5 / 5 + 0.5 * first[2], abs=0.03)


def test_scores_that_say_nothing_teach_nothing() -> None:
    for value in (0.0, math.nan, math.inf):
        paths = PathImportance(SPACE, [], 1)
        paths.fit(lambda drawn: torch.full((len(drawn),), value))  # noqa: B023  called at once
        assert all(np.isnan(mean).all() for mean in paths._means)
    again = PathImportance(SPACE, [], 1)
    fitted = scored([], 3, lambda drawn: torch.arange(1.0, len(drawn) + 1))
    again.load_state(fitted.state())
    assert all(map(np.array_equal, again.probabilities(), fitted.probabilities()))


def test_a_training_scores_paths_without_changing_weights_and_counts_the_passes() -> None:
    options = {"epochs": 2, "dataset": "digits", "data": {"subset": 128}, "recipe": {"batch_size": 32}}
    found = {}
    for sampling in ("uniform", "importance"):
        benchmark = Workload(
            "nasbench201",
            "classification",
            {"channels": 2, "cells": 1},
            {**options, "shared_weights": {"sampling": sampling, "paths": 2}},
        ).make()
        assert isinstance(benchmark, SupernetBenchmark)
        benchmark.check_supernet()
        benchmark.prepare()
        given = tuple(benchmark.space.sample(default_rng(seed)) for seed in range(3))
        task = TrainSupernet(id=0, seed=1, architectures=given, epochs=2)
        first, second = (benchmark.train(task, device="cpu", artifacts=MemoryArtifacts()) for _ in range(2))
        assert first.weights == second.weights
        found[sampling] = first
    assert found["uniform"].weights != found["importance"].weights
    more = found["importance"].spent.images - found["uniform"].spent.images
    assert more == 2 * 3 * 32  # in each of two epochs, three paths on a batch


def test_scoring_leaves_weights_gradients_and_moments_alone() -> None:
    io = IO.image(1, 8, 10)
    random = torch.Generator().manual_seed(0)
    data = Examples(torch.randn(64, 1, 8, 8, generator=random), torch.randint(10, (64,), generator=random))
    with seeded(0):
        training = SupernetTraining(
            SPACE.supernet(io), data, Recipe(32, 0.1, momentum=0.9, weight_decay=0.0),
            draw=lambda seed: PATHS[seed], paths=1, epochs=2, seed=0, sampler=PathImportance(SPACE, [], 0),
        )  # fmt: skip
        training.until(1)
        before = {name: value.clone() for name, value in training.state().items()}
        images, targets = data.batch(slice(0, 32))
        paths = [SPACE.sample(default_rng(seed)) for seed in range(3)]
        norms = training._gradient_norms(paths, images, targets)
    after = training.state()
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    network = training.model.path(paths[0])
    loss = cross_entropy(network(images), targets)
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    wanted = torch.cat([each.flatten() for each in gradients if each is not None]).norm()
    assert norms[0].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_space_that_is_no_product_of_genes_is_refused() -> None:
    with pytest.raises(InputError, match=r"shared_weights\.sampling=importance needs a search space that is a product"):
        path_sampler("importance", NASBench101(), [], 0)
    assert path_sampler("fair", SPACE, [], 0) is None
