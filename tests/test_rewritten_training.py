"""Training of rewritten layers: penalties in the loss, no weight decay of latent values, and what follows a step."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO
from nasplat.data.examples import Examples
from nasplat.nn.full_stack import FullStack, FullStackConv2d, correlation
from nasplat.nn.rewritten import rewritten
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace, SupernetSpace
from nasplat.training.fit import ClassifierTraining
from nasplat.training.recipe import Optimizer, Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import SupernetTraining

DECAY, WEIGHT = 0.1, 0.7


def recipe(optimizer: Optimizer = "sgd", **options: Any) -> Recipe:
    return Recipe(8, 0.05, momentum=0.0, weight_decay=DECAY, schedule="cosine", optimizer=optimizer, **options)


def examples(channels: int = 3, side: int = 6, number: int = 8) -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, channels, side, side, generator=generator)
    return Examples(images, torch.arange(number) % 3)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        stack = FullStackConv2d(nn.Conv2d(4, 8, 3), FullStack(4), fitted=False, orthogonality=WEIGHT)
        return nn.Sequential(nn.Conv2d(3, 4, 3), stack, nn.Flatten(), nn.Linear(32, 3))


def gradients(model: nn.Module, data: Examples, order: Tensor) -> dict[str, Tensor]:
    """Those of cross-entropy and the weighted correlation of masks, by name."""
    images, labels = data.batch(order)
    loss = functional.cross_entropy(model(images), labels)
    for layer in model.modules():
        if isinstance(layer, FullStackConv2d):
            loss = loss + WEIGHT * correlation(layer.latent)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_a_step_is_that_of_the_penalized_loss_without_decay_of_latent_values() -> None:
    model, data = network(), examples()
    with torch.no_grad():
        model.get_parameter("1.latent").mul_(50)  # some are beyond 1, and are brought back
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    wanted = gradients(model, data, torch.arange(8))
    with seeded(0):
        training = ClassifierTraining(model, data, recipe(), epochs=2, seed=0)
        rate = training._optimizer.param_groups[0]["lr"]
        training.until(1)
    for name, weight in model.named_parameters():
        decay = 0.0 if name == "1.latent" else DECAY
        stepped = before[name] - rate * (wanted[name] + decay * before[name])
        torch.testing.assert_close(weight, stepped.clamp(-1, 1) if name == "1.latent" else stepped)
    assert before["1.latent"].abs().max() > 1 and model.get_parameter("1.latent").abs().max() == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_goes_on_from_a_state_to_the_bit(optimizer: Optimizer) -> None:
    def trained(parts: tuple[int, ...]) -> dict[str, Tensor]:
        model, state = network(), None
        for end in parts:
            with seeded(0):
                model = network()
                training = ClassifierTraining(model, examples(), recipe(optimizer, ema=0.9), epochs=3, seed=0)
                if state is not None:
                    training.restore(state)
                training.until(end)
                state = {name: each.clone() for name, each in training.state().items()}
        return {name: each.clone() for name, each in training.network.state_dict().items()}

    whole, parts = trained((3,)), trained((1, 2, 3))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nasbench201", "ghost/small"])
def test_a_path_of_a_supernet_has_the_penalty_of_its_layers(name: str) -> None:
    options = {"channels": 4, "cells": 1} if name == "nasbench201" else {}
    transform = {"filters": 4, "orthogonality": WEIGHT}
    space: SearchSpace = construct("space", SEARCH_SPACES.get(f"{name}+full_stack"), **options, transform=transform)
    assert isinstance(space, SupernetSpace)
    data, io = examples(side=16), IO.image(channels=3, side=16, outputs=3)

    architecture = space.sample(np.random.default_rng(1))
    with seeded(0):
        supernet = space.supernet(io)
        training = SupernetTraining(supernet, data, recipe(), draw=lambda seed: architecture, epochs=1, seed=0)
        supernet.train()
        path = supernet.path(architecture)
        images, labels = data.batch(torch.arange(8))
        plain = functional.cross_entropy(path(images), labels)
        penalties = [layer.penalty() for _, layer in rewritten(path)]
        known = [each for each in penalties if each is not None]
        assert known and all(each > 0 for each in known)
        supernet.zero_grad()
        loss = training.backward(images, labels)
    torch.testing.assert_close(loss, plain.detach() + torch.stack(known).sum().detach())
    assert any(parameter.grad is not None for key, parameter in supernet.named_parameters() if "latent" in key)
