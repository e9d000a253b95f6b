"""The rise of the learning rate: by its formula, resumed to the bit, and refused where it never ends."""

import math

import pytest
import torch
from torch import nn

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.data.examples import Examples
from nasplat.errors import InputError, TrialFailed
from nasplat.options import construct
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, TrainSupernet
from nasplat.training.fit import ClassifierTraining
from nasplat.training.recipe import Recipe, Schedule

SPACE = NASBench201(channels=2, cells=1)
PEAK, EPOCHS, STEPS = 0.1, 4, 5


def training(schedule: Schedule, warmup_steps: int | None) -> ClassifierTraining:
    images = torch.randn(STEPS * 2, 3, generator=torch.Generator().manual_seed(0))
    network = nn.Linear(3, 2, device="cpu")
    nn.init.constant_(network.weight, 0.5)
    nn.init.constant_(network.bias, 0.0)
    recipe = Recipe(2, PEAK, 0.9, 0.0, schedule=schedule, warmup_steps=warmup_steps)
    return ClassifierTraining(network, Examples(images, torch.arange(STEPS * 2) % 2), recipe, epochs=EPOCHS, seed=0)


def rates(training: ClassifierTraining) -> list[float]:
    """The learning rate of each step, and the one after the last."""
    found = [float(training.state()["learning_rate"])]
    for _ in range(EPOCHS):
        for batch in training.batches():
            training._take(*batch)
            found.append(float(training.state()["learning_rate"]))
    return found


def half_cosine(first: float, last: float, part: float) -> float:
    return first + (last - first) * (1 - math.cos(math.pi * part)) / 2


@pytest.mark.parametrize(("schedule", "end"), [("one_cycle", PEAK / 25e4), ("cosine", PEAK / 25)])
@pytest.mark.parametrize("warmup", [1, 7, EPOCHS * STEPS - 1])
def test_the_rate_rises_for_so_many_steps_and_then_falls(schedule: Schedule, end: float, warmup: int) -> None:
    total = EPOCHS * STEPS
    expected = [
        half_cosine(PEAK / 25, PEAK, step / warmup)
        if step <= warmup
        else half_cosine(PEAK, end, (step - warmup) / (total - warmup))
        for step in range(total + 1)
    ]
    found = rates(training(schedule, warmup))
    assert found == pytest.approx(expected, rel=1e-9)
    assert found[warmup] == max(found)


def test_without_one_the_schedules_are_those_of_torch() -> None:
    total = EPOCHS * STEPS
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=PEAK)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, PEAK / 25)
    assert rates(training("cosine", None))[0] == cosine.get_last_lr()[0] == PEAK
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=PEAK)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=total + 1, cycle_momentum=False)
    expected = [cycle.get_last_lr()[0]]
    for _ in range(total):
        optimizer.step()
        cycle.step()
        expected.append(cycle.get_last_lr()[0])
    assert rates(training("one_cycle", None)) == expected


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("warmup", [7, 15])
def test_a_training_resumes_within_the_rise_and_after_it(schedule: Schedule, warmup: int) -> None:
    whole = training(schedule, warmup)
    whole.until(EPOCHS)
    first = training(schedule, warmup)
    first.until(2)
    second = training(schedule, warmup)
    second.restore(first.state())
    second.until(EPOCHS)
    expected, found = whole.state(), second.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_training_with_a_rise_that_does_not_end_fails_by_name(schedule: Schedule) -> None:
    with pytest.raises(TrialFailed, match="fewer steps than the whole training has, 20, but warmup_steps is 20; lower"):
        training(schedule, EPOCHS * STEPS)


# In the benchmark


def made(**options: object) -> Classification:
    return construct("benchmark", Classification, SPACE, **{"epochs": 2, "batch_size": 128, "subset": 512, **options})


@pytest.mark.parametrize("given", [6, 7])
def test_one_that_never_ends_is_refused_before_anything_is_trained(given: int) -> None:
    benchmark = made(warmup_steps=given, batch_size=100, subset=400)  # 3 steps of 100 of the 300 images to train on
    for where in (benchmark.prepare, benchmark.data_notes):
        with pytest.raises(
            InputError, match=rf"must be below the steps of the whole training, 6 here, but got {given}; "
        ):
            where()
    made(warmup_steps=5, batch_size=100, subset=400).prepare()


def test_none_that_lasts_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="warmup_steps"):
        made(warmup_steps=0)


@pytest.mark.slow
def test_a_benchmark_hands_it_to_both_kinds_of_training() -> None:
    for options in ({}, {"schedule": "cosine"}):
        store, steps = MemoryArtifacts(), 3
        benchmark = made(warmup_steps=steps, **options)
        benchmark.prepare()
        path = SPACE.parse("211312")
        alone = benchmark.measure(
            Evaluate(id=1, seed=1, architecture=path, fidelity=1), device="cpu", artifacts=store
        ).artifacts["state"]
        shared = benchmark.train(
            TrainSupernet(id=2, seed=1, architectures=(path,), epochs=1), device="cpu", artifacts=store
        ).weights
        assert store.get_tensors(alone)["learning_rate"] == store.get_tensors(shared)["learning_rate"] == PEAK
