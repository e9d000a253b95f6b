"""Parts of shared layers that no path of a step uses: which they are, and that a step leaves them alone."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples
from nasplat.nn.nested import nested, parameter_parts
from nasplat.nn.supernet import Supernet
from nasplat.options import construct
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.task import Evaluate, TrainSupernet
from nasplat.training.fit import evaluate
from nasplat.training.recipe import Optimizer, Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import Decay, SupernetTraining
from nasplat.training.unused_parts import unused_parts

SPACE = GhostSmall()
DIGITS = IO.image(1, 8, 10)
PATHS = tuple(SPACE.sample(default_rng(seed)) for seed in range(3))


def fresh() -> Supernet:
    with seeded(0):
        return SPACE.supernet(DIGITS).double()


@cache
def examples() -> Examples:
    training = dataset("digits").load().training
    return Examples(training.images[:32].double(), training.labels[:32])


def training_of(
    supernet: Supernet,
    optimizer: Optimizer = "sgd",
    *,
    decay: Decay = "used",
    draw: Callable[[int], Architecture] = lambda seed: PATHS[seed % 3],
    paths: int = 2,
) -> SupernetTraining:
    rate = 0.1 if optimizer == "sgd" else 1e-3
    recipe = Recipe(16, rate, momentum=0.9, weight_decay=0.05, optimizer=optimizer, gradient_norm=1.0)
    return SupernetTraining(supernet, examples(), recipe, draw=draw, paths=paths, epochs=2, seed=3, decay=decay)


def numbered_uses(supernet: Supernet) -> dict[Architecture, dict[str, Tensor]]:
    """For each path what it uses of each parameter, found by numbering all weights: the numbers that its copy has."""
    numbered = copy.deepcopy(supernet)
    parameters, last = list(numbered.parameters()), 0
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) + last)
            last += parameter.numel()
    uses: dict[Architecture, dict[str, Tensor]] = {}
    for path in PATHS:
        numbers = torch.cat([parameter.detach().flatten() for parameter in numbered.extract(path).parameters()]).long()
        used = torch.zeros(last, dtype=torch.bool).index_fill(0, numbers, True)
        parts = torch.split(used, [parameter.numel() for parameter in parameters])
        uses[path] = {
            name: part.view_as(parameter)
            for (name, parameter), part in zip(numbered.named_parameters(), parts, strict=True)
        }
    return uses


def test_parts_are_those_of_the_small_layer_and_whole_layers_have_none_unused() -> None:
    whole = nn.Conv2d(4, 4, 5)
    small = nested(whole, lambda: nn.Conv2d(2, 3, 3, bias=False))
    assert dict(parameter_parts(small)) == {whole.weight: (slice(3), slice(2), slice(1, 4), slice(1, 4))}
    assert dict(parameter_parts(whole)) == {whole.weight: ..., whole.bias: ...}
    assert set(unused_parts([small])) == {whole.weight}
    assert not unused_parts([small, whole])


@pytest.mark.slow
def test_a_part_is_unused_if_no_path_has_its_weights() -> None:
    supernet = fresh()
    uses = numbered_uses(supernet)
    names = {parameter: name for name, parameter in supernet.named_parameters()}
    for paths in (PATHS[:1], PATHS[:2], PATHS):
        unused = {names[p]: mask for p, mask in unused_parts([supernet.path(path) for path in paths]).items()}
        partly = 0
        for name in names.values():
            used = torch.stack([uses[path][name] for path in paths]).any(dim=0)
            if used.any() and not used.all():
                partly += 1
                assert torch.equal(unused[name], ~used), name
            else:  # left out, or masked nowhere
                assert name not in unused or not unused[name].any(), name
        assert partly > 10


@pytest.mark.slow
def test_a_step_is_that_of_an_optimizer_that_knows_each_weight_by_itself() -> None:
    """Nesterov's momentum with an L2 penalty by hand, weight by weight, for the weights that the step's paths use."""
    supernet, order = fresh(), iter([0, 1, 2, 0, 2, 1, 1, 1])
    uses = numbered_uses(supernet)
    taken: list[Architecture] = []

    def draw(seed: int) -> Architecture:
        taken.append(PATHS[next(order)])
        return taken[-1]

    training = training_of(supernet, draw=draw)
    weights = {name: p.detach().clone() for name, p in supernet.named_parameters()}
    momenta = {name: torch.zeros_like(p) for name, p in weights.items()}
    for images, labels in [*training.batches(), *training.batches()]:
        rate = float(training.state()["learning_rate"])
        taken.clear()
        training._take(images, labels)
        for name, parameter in supernet.named_parameters():
            if parameter.grad is None:
                continue
            used = uses[taken[0]][name] | uses[taken[1]][name]
            gradient = parameter.grad + 0.05 * weights[name]
            momenta[name] = torch.where(used, 0.9 * momenta[name] + gradient, momenta[name])
            moved = weights[name] - rate * (gradient + 0.9 * momenta[name])
            weights[name] = torch.where(used, moved, weights[name])
        for name, parameter in supernet.named_parameters():
            assert torch.allclose(parameter, weights[name], rtol=0, atol=1e-12), name
    state = training.state()
    for name, momentum in momenta.items():
        assert torch.allclose(state.get(f"momentum.{name}", torch.zeros_like(momentum)), momentum, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_unused_parts_keep_weights_and_moments_to_the_bit(optimizer: Optimizer) -> None:
    def kept(decay: Decay) -> Iterator[bool]:
        """Whether unused parts of what is kept for each parameter change in a step on the third path."""
        supernet = fresh()
        training = training_of(supernet, optimizer, decay=decay, draw=lambda seed: chosen[0], paths=1)
        chosen = [PATHS[0]]
        batches = list(training.batches())
        training._take(*batches[0])
        chosen[:] = [PATHS[2]]
        before = {name: tensor.clone() for name, tensor in training.state().items()}
        training._take(*batches[1])
        after = training.state()
        names = {parameter: name for name, parameter in supernet.named_parameters()}
        for parameter, mask in unused_parts([supernet.path(PATHS[2])]).items():
            for what in ("model.", "momentum.", "square."):
                name = what + names[parameter]
                if name in before and mask.any():
                    yield torch.equal(after[name][mask], before[name][mask])

    assert all(kept("used"))
    assert not all(kept("all"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_goes_on_from_its_state_to_the_bit(optimizer: Optimizer) -> None:
    def weights(*, interrupted: bool) -> dict[str, Tensor]:
        supernet = fresh()
        training = training_of(supernet, optimizer)
        training.until(1)
        if interrupted:
            state, supernet = training.state(), fresh()
            training = training_of(supernet, optimizer)
            training.go_on_from(state)
        training._generator.manual_seed(999)
        training.until(2)
        return {name: p.detach() for name, p in supernet.named_parameters()}

    whole, parts = weights(interrupted=False), weights(interrupted=True)
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())


# In the benchmark


def prepared(decay: Literal["all", "used"]) -> Classification:
    benchmark = construct("benchmark", Classification, SPACE, epochs=2, subset=256, decay=decay, paths=2)
    benchmark.prepare()
    return benchmark


@pytest.mark.slow
def test_what_is_measured_is_what_is_left() -> None:
    store = MemoryArtifacts()

    def trained(decay: Literal["all", "used"]) -> Handle:
        task = TrainSupernet(id=1, seed=11, architectures=PATHS, epochs=1)
        return prepared(decay).train(task, device="cpu", artifacts=store).weights

    weights = trained("used")
    assert weights != trained("all")
    task = Evaluate(id=2, seed=5, architecture=PATHS[0], fidelity=1, weights=weights)
    benchmark = prepared("used")
    measurement = benchmark.measure(task, device="cpu", artifacts=store)
    with seeded(123):
        network: nn.Module = SPACE.build(PATHS[0], DIGITS)
    network.load_state_dict(prepared("all").state_dict(measurement, artifacts=store))
    found: dict[str, Any] = evaluate(network, benchmark._splits("cpu").validation)
    assert found == {name: measurement.metrics[name] for name in found}
