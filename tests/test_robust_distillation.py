"""Distillation that weighs classes and follows the largest loss, and labels that people did not give."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.data.examples import Examples
from nasplat.errors import InputError, TrialFailed
from nasplat.executors.executor import perform
from nasplat.options import construct
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, Measurement, Teacher
from nasplat.training.distillation import (
    NOT_GIVEN,
    Distillation,
    Perturbations,
    class_weights,
    divergence,
    largest_divergence,
    perturbed,
)
from nasplat.training.fit import EVALUATION_BATCH, ClassifierTraining
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded

SPACE = NASBench201(channels=2, cells=1)
CLASSES = 4
RECIPE = Recipe(8, 0.1, 0.9, 0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(each - max(logits)) for each in logits]
    return [power / sum(powers) for power in powers]


def by_hand(logits: Tensor, wanted: Tensor, temperature: float, row: list[float]) -> float:
    """The weighted mean of divergences, number by number."""
    total = 0.0
    for student, teacher in zip(logits.tolist(), wanted.tolist(), strict=True):
        p, q = (softmax([each / temperature for each in row]) for row in (teacher, student))
        divergence = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        total += row[teacher.index(max(teacher))] * divergence * temperature**2
    return total / len(logits)


def linear(seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(9, CLASSES))


def examples(count: int = 32, given: Tensor | None = None) -> Examples:
    images = torch.randn(count, 1, 3, 3, generator=generator(5))
    return Examples(images, torch.arange(count) % CLASSES, given=given)


def training_of(distillation: Distillation | None, data: Examples | None = None, **options: Any) -> ClassifierTraining:
    recipe = replace(RECIPE, **options)
    return ClassifierTraining(linear(), data or examples(), recipe, epochs=2, seed=1, distillation=distillation)


def robust(copies: int = 2, size: float = 0.5, weight: float = 0.5) -> Distillation:
    return Distillation(linear(9), weight, 2.0, perturbations=Perturbations(copies, size))


def kept(training: ClassifierTraining) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training.state().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# The weights of classes


def test_weights_are_inverse_to_how_often_the_teacher_answers() -> None:
    logits = random(50, CLASSES)
    sums = [sum(column) for column in zip(*map(softmax, logits.tolist()), strict=True)]
    inverse = [1 / each for each in sums]
    expected = [CLASSES * each / sum(inverse) for each in inverse]
    assert class_weights([logits]).tolist() == pytest.approx(expected, rel=1e-12)
    found = class_weights(part.float() for part in torch.split(logits, 7))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.dtype == torch.float64
    assert found.sum().item() == pytest.approx(CLASSES, rel=1e-12)


def test_a_class_that_is_never_answered_has_a_bounded_weight() -> None:
    logits = torch.tensor([[900.0, 900.0, 0.0]] * 10)
    inverse = [1 / 5, 1 / 5, 3]
    assert class_weights([logits]).tolist() == pytest.approx([3 * each / sum(inverse) for each in inverse], rel=1e-12)


def test_perturbed_copies_are_scaled_to_the_sum_of_the_weights() -> None:
    weights = class_weights([random(50, CLASSES)])
    rows = perturbed(weights, 3, 0.5, generator(2))
    drawn = torch.rand(3, CLASSES, dtype=torch.float64, generator=generator(2)).tolist()
    assert torch.equal(rows[0], weights)
    for row, more in zip(rows[1:].tolist(), drawn, strict=True):
        raised = [w + 0.5 * each for w, each in zip(weights.tolist(), more, strict=True)]
        assert row == pytest.approx([CLASSES * each / sum(raised) for each in raised], rel=1e-12)
    assert rows.sum(1).tolist() == pytest.approx([CLASSES] * 4, rel=1e-12)
    assert not (rows[1:] >= weights).all(1).any(), "a copy that is above the weights always has the larger loss"
    assert torch.equal(perturbed(weights, 0, 0.5, generator()), weights[None])


# The loss


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_largest_of_the_rows(temperature: float) -> None:
    logits, wanted = random(40, CLASSES), random(40, CLASSES, seed=1)
    assert (logits.argmax(1) != wanted.argmax(1)).any()
    rows = perturbed(class_weights([wanted]), 4, 2.0, generator(3))
    losses = [by_hand(logits, wanted, temperature, row) for row in rows.tolist()]
    assert len({round(loss, 6) for loss in losses}) == 5
    for row, loss in zip(rows, losses, strict=True):
        assert largest_divergence(logits, wanted, temperature, row[None]).item() == pytest.approx(loss, rel=1e-12)
    assert largest_divergence(logits, wanted, temperature, rows).item() == pytest.approx(max(losses), rel=1e-12)
    ones = torch.ones(1, CLASSES, dtype=torch.float64)
    plain = divergence(logits, wanted, temperature).item()
    assert largest_divergence(logits, wanted, temperature, ones).item() == pytest.approx(plain, rel=1e-12)


def test_the_largest_row_is_found_anew_for_each_batch() -> None:
    rows = torch.tensor([[1.9, 0.1], [0.1, 1.9]], dtype=torch.float64)
    student = torch.zeros(3, 2, dtype=torch.float64)
    for answer in (0, 1):
        wanted = torch.zeros(3, 2, dtype=torch.float64)
        wanted[:, answer] = 4
        largest = by_hand(student, wanted, 1.0, rows[answer].tolist())
        assert largest_divergence(student, wanted, 1.0, rows).item() == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("equal", [False, True])
def test_the_gradient_is_that_of_the_largest_row_alone(equal: bool) -> None:
    logits, wanted = random(6, CLASSES).requires_grad_(), random(6, CLASSES, seed=1)
    rows = perturbed(class_weights([wanted]), 2, 0.0 if equal else 2.0, generator(3))
    losses = [by_hand(logits.detach(), wanted, 2.0, row) for row in rows.tolist()]
    row = rows[losses.index(max(losses))].tolist()
    (found,) = torch.autograd.grad(largest_divergence(logits, wanted, 2.0, rows), logits)
    step = 1e-5
    for i in range(6):
        for k in range(CLASSES):
            ends = []
            for sign in (1, -1):
                moved = logits.detach().clone()
                moved[i, k] += sign * step
                ends.append(by_hand(moved, wanted, 2.0, row))
            assert found[i, k].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def test_the_share_of_the_loss_is_the_weighted_one() -> None:
    teacher, images = linear(9).double(), random(12, 1, 3, 3)
    logits, labels_loss = random(12, CLASSES, seed=1), torch.tensor(0.7, dtype=torch.float64)
    with torch.no_grad():
        wanted = teacher(images)
    rows = perturbed(class_weights([wanted]), 2, 2.0, generator())
    loss = Distillation(teacher, 0.4, 3.0, rows).loss(images, logits, labels_loss)
    largest = max(by_hand(logits, wanted, 3.0, row) for row in rows.tolist())
    assert loss.item() == pytest.approx(0.6 * 0.7 + 0.4 * largest, rel=1e-12)
    plain = Distillation(teacher, 0.4, 3.0).loss(images, logits, labels_loss)
    assert torch.equal(plain, (1 - 0.4) * labels_loss + 0.4 * divergence(logits, wanted, 3.0))


def test_a_teacher_that_has_no_training_mode_is_frozen_as_it_is() -> None:
    class Program(nn.Linear):
        def train(self, mode: bool = True) -> "Program":
            raise NotImplementedError("Calling train() is not supported yet.")

    teacher = nn.Sequential(nn.Dropout(), Program(9, CLASSES))
    teaching = Distillation(teacher, 0.5, 1.0)
    assert not any(module.training for module in teaching.teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


# In a training


def test_a_training_draws_the_weights_from_the_teachers_answers_for_all_images() -> None:
    data = examples(EVALUATION_BATCH + 1)
    training = training_of(robust(), data)
    next(training.batches())
    weighed = training._distillation
    assert weighed is not None
    with torch.no_grad():
        expected = class_weights([weighed.teacher(data.images)])
    assert weighed.class_weights is not None
    assert weighed.class_weights.shape == (3, CLASSES)
    assert weighed.class_weights[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert torch.equal(weighed.class_weights, perturbed(weighed.class_weights[0], 2, 0.5, generator(1)))


def test_without_class_weights_nothing_of_a_training_changes() -> None:
    data = examples()
    training = training_of(Distillation(linear(9), 0.5, 2.0), data, label_smoothing=0.1)
    order = torch.randperm(32, generator=generator(1))
    assert "class_weights" not in training.state()
    for rows, (images, labels) in zip(torch.split(order, 8), training.batches(), strict=True):
        assert torch.equal(labels, data.labels[rows])
        logits = training.model(images)
        with torch.no_grad():
            wanted = linear(9)(images)
        former = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        expected = 0.5 * former + 0.5 * divergence(logits, wanted, 2.0)
        assert torch.equal(training.loss(training.model, images, labels), expected)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_resumed_training_has_the_same_weights_and_ends_the_same_to_the_bit(epochs: int) -> None:
    with seeded(3):
        whole = training_of(robust())
        whole.until(2)
        expected = kept(whole)
    with seeded(3):
        begun = training_of(robust())
        begun.until(epochs)
        state = kept(begun)
    with seeded(4):
        asked: list[int] = []
        distillation = robust()
        resumed = training_of(distillation)
        resumed.restore(state)
        handle = distillation.teacher.register_forward_hook(lambda module, given, out: asked.append(len(out)))
        resumed.until(2)
        handle.remove()
        assert same(kept(resumed), expected)
        assert asked == [8] * 4 * (2 - epochs), "it asked the teacher for more than its batches"
    assert state["class_weights"].shape == (3, CLASSES)
    plain = training_of(Distillation(linear(9), 0.5, 2.0))
    plain.until(2)
    assert not torch.equal(plain.state()["model.1.weight"], expected["model.1.weight"])


def test_a_state_of_another_recipe_is_refused() -> None:
    teachings: list[Callable[[], Distillation]] = [robust, lambda: Distillation(linear(9), 0.5, 2.0)]
    for begun, resumed in (teachings, teachings[::-1]):
        with pytest.raises(TrialFailed, match=r"weighting of classes.*continue with the recipe") as refusal:
            training_of(resumed()).restore(training_of(begun()).state())
        assert refusal.value.kind == "another recipe"


# Labels that people did not give


def test_labels_that_are_the_teachers_answers_are_left_to_the_teacher() -> None:
    given = torch.arange(32) % 3 == 0
    data = examples(given=given)
    training = training_of(Distillation(linear(9), 0.5, 2.0), data)
    order = torch.randperm(32, generator=generator(1))
    for rows, (_, labels) in zip(torch.split(order, 8), training.batches(), strict=True):
        wanted = [data.labels[row].item() if given[row] else NOT_GIVEN for row in rows]
        assert labels.tolist() == wanted
    alone = training_of(None, data)
    assert all((labels >= 0).all() for _, labels in alone.batches())
    moved = data.to("cpu").given
    assert moved is not None
    assert torch.equal(moved, given)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_batch_without_given_labels_has_the_gradient_of_the_teachers_loss_alone(smoothing: float) -> None:
    data, weight = examples(given=torch.zeros(32, dtype=torch.bool)), 0.3
    training = training_of(robust(weight=weight), data, label_smoothing=smoothing)
    images, labels = next(training.batches())
    teaching = training._distillation
    assert teaching is not None
    assert teaching.class_weights is not None
    assert (labels == NOT_GIVEN).all()
    loss = training.loss(training.model, images, labels)
    found = torch.autograd.grad(loss, list(training.model.parameters()))
    alone = weight * largest_divergence(training.model(images), teaching.teacher(images), 2.0, teaching.class_weights)
    wanted = torch.autograd.grad(alone, list(training.model.parameters()))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    for one, other in zip(found, wanted, strict=True):
        assert one.isfinite().all()
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_on_labels_is_the_mean_over_the_given_ones(smoothing: float) -> None:
    given = torch.arange(32) % 3 == 0
    training = training_of(Distillation(linear(9), 0.0, 2.0), examples(given=given), label_smoothing=smoothing)
    images, labels = next(training.batches())
    rows = labels != NOT_GIVEN
    assert 0 < rows.sum() < 8
    expected = functional.cross_entropy(training.model(images[rows]), labels[rows], label_smoothing=smoothing)
    assert training.loss(training.model, images, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_with_all_labels_given_the_loss_is_the_same_to_the_bit() -> None:
    losses: list[list[float]] = []
    for given in (None, torch.ones(70, dtype=torch.bool)):
        data = examples(70, given=given)
        training = training_of(Distillation(linear(9), 0.5, 2.0), data, label_smoothing=0.1, batch_size=7)
        losses.append([training.loss(training.model, *batch).item() for batch in training.batches()])
    assert losses[0] == losses[1]


# Through the benchmark


def prepared(**options: Any) -> Classification:
    benchmark = construct(
        "benchmark", Classification, SPACE, epochs=2, subset=80, batch_size=16, **{"distillation": 0.7, **options}
    )
    benchmark.check()
    benchmark.prepare()
    return benchmark


def measured(benchmark: Classification, store: MemoryArtifacts, code: str = "211312", **options: Any) -> Measurement:
    task = Evaluate(**{"id": 3, "seed": 7, "architecture": SPACE.parse(code), "fidelity": 1, **options})
    outcome = perform(task, benchmark, device="cpu", artifacts=store)
    assert isinstance(outcome, Measurement), outcome
    return outcome


def test_class_weights_without_distillation_are_refused() -> None:
    with pytest.raises(InputError, match=r"recipe.distillation must be above 0.*benchmark.recipe.distillation=0.5"):
        prepared(class_weights=True, distillation=0)


def test_a_network_learns_differently_from_a_teacher_with_class_weights() -> None:
    store = MemoryArtifacts()
    plain, weighed = prepared(), prepared(class_weights=True, perturbations=2, perturbation=0.5)
    first = measured(plain, store)
    teacher = Teacher(architecture=first.architecture, weights=first.artifacts["weights"])
    one, other = (measured(benchmark, store, "333333", teacher=teacher) for benchmark in (plain, weighed))
    assert one.artifacts["weights"] != other.artifacts["weights"]
    rows = store.get_tensors(other.artifacts["state"])["class_weights"]
    assert rows.shape == (3, 10)
    assert rows.sum(1).tolist() == pytest.approx([10] * 3, rel=1e-12)


def test_what_labelled_the_data_teaches_tasks_without_a_teacher() -> None:
    store, reads = MemoryArtifacts(), []

    def teacher() -> nn.Module:
        reads.append(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def labelled(**options: Any) -> Classification:
        benchmark = prepared(**options)
        benchmark.__dict__["_dataset"] = replace(benchmark._dataset, teacher=teacher)
        return benchmark

    benchmark = labelled(class_weights=True)
    taught = [measured(benchmark, store, code).artifacts["weights"] for code in ("000000", "111111", "000000")]
    assert taught[0] == taught[2]
    assert len(reads) == 1
    assert measured(prepared(), store, "000000").artifacts["weights"] != taught[0]
    untaught = measured(labelled(distillation=0), store, "000000").artifacts["weights"]
    assert untaught == measured(prepared(distillation=0), store, "000000").artifacts["weights"]
    assert len(reads) == 1
