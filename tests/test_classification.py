"""Training from scratch on digits: who sees which images, what repeats, and what a trial that fails leaves behind."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.transforms import v2

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.data.dataset import Dataset
from nasplat.data.datasets import DATASETS, dataset
from nasplat.data.examples import Examples, Splits
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.options import construct
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, Failure, Measurement, Outcome, decode_outcome, encode_task
from nasplat.training.augmentation import RandomCropEach, RandomHorizontalFlipEach, augmentation
from nasplat.training.fit import evaluate
from nasplat.training.seeding import seeded

SPACE = NASBench201(channels=4, cells=1)
CODE = "211312"
TRAINING = 1_078


def task_for(seed: int = 7, *, code: str = CODE, fidelity: int = 1, **options: Any) -> Evaluate:
    return Evaluate(id=3, seed=seed, architecture=SPACE.parse(code), fidelity=fidelity, **options)


def prepared(name: str = "digits", **options: Any) -> Classification:
    benchmark = construct("benchmark", Classification, SPACE, dataset=name, **options)
    benchmark.check()
    benchmark.prepare()
    return benchmark


def measure(benchmark: Classification, task: Evaluate, store: MemoryArtifacts) -> Measurement:
    return benchmark.measure(task, device="cpu", artifacts=store)


def final(benchmark: Classification, measurement: Measurement, store: MemoryArtifacts) -> Measurement:
    return benchmark.final(measurement, device="cpu", artifacts=store)


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Splits], Splits]], str]:
    """Registers the digits after a change to their splits; gives the name."""

    def register(change: Callable[[Splits], Splits]) -> str:
        name = f"altered {len(DATASETS)}"
        altered = Dataset(name, dataset("digits").io, lambda: change(dataset("digits").load()))
        monkeypatch.setitem(DATASETS, name, altered)
        return name

    return register


def not_numbers(examples: Examples) -> Examples:
    return Examples(torch.full_like(examples.images, float("nan")), examples.labels)


def garbage(examples: Examples) -> Examples:
    """Noise far outside of the data, under labels turned by one."""
    noise = torch.randn(examples.images.shape, generator=torch.Generator().manual_seed(0))
    return Examples(1e3 * noise, (examples.labels + 1) % 10)


# The data


def test_the_splits_are_disjoint_and_together_all_images() -> None:
    splits = dataset("digits").load()
    images = torch.cat([splits.training.images, splits.validation.images, splits.test.images])
    labels = torch.cat([splits.training.labels, splits.validation.labels, splits.test.labels])
    low, high = images.min(), images.max()
    pixels = ((images - low) / (high - low) * 16).round().to(torch.int64).flatten(1).tolist()
    bunch = load_digits()
    rows = bunch.images.reshape(-1, 64).tolist()
    given = {(tuple(row), label) for row, label in zip(rows, bunch.target.tolist(), strict=True)}
    assert len(given) == 1_797  # no image is there twice, so that equal sets mean disjoint parts
    assert len(pixels) == 1_797
    assert {(tuple(row), label) for row, label in zip(pixels, labels.tolist(), strict=True)} == given
    assert [len(part) for part in (splits.training, splits.validation, splits.test)] == [TRAINING, 359, 360]


def test_every_split_has_its_share_of_every_class() -> None:
    splits = dataset("digits").load()
    everything = Counter(load_digits().target.tolist())
    for part in (splits.training, splits.validation, splits.test):
        counts = Counter(part.labels.tolist())
        for label, number in everything.items():
            assert abs(counts[label] - number * len(part) / 1_797) <= 1.5


def test_the_splits_are_the_same_each_time_whatever_the_global_generators() -> None:
    first = dataset("digits").load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        second = dataset("digits").load()
    for a, b in zip(parts(first), parts(second), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def parts(splits: Splits) -> list[Examples]:
    return [splits.training, splits.validation, splits.test]


def test_images_are_what_was_declared_and_standardised_by_the_training_split() -> None:
    digits = dataset("digits")
    assert digits.io == IO.image(1, 8, 10)
    splits = digits.load()
    for part in parts(splits):
        assert tuple(part.images.shape[1:]) == (1, 8, 8)
        assert (part.images.dtype, part.labels.dtype) == (torch.float32, torch.int64)
        assert set(part.labels.tolist()) == set(range(digits.io.outputs))
    assert splits.training.images.mean().item() == pytest.approx(0, abs=1e-5)
    assert splits.training.images.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_an_unknown_data_set_is_refused_with_near_matches() -> None:
    with pytest.raises(InputError, match=r"'digit'.*did you mean 'digits'"):
        prepared("digit")


# Who sees what


@pytest.mark.slow
def test_measuring_never_looks_at_test_images(altered: Callable[[Callable[[Splits], Splits]], str]) -> None:
    store = MemoryArtifacts()
    clean = measure(prepared(), task_for(), store)
    for spoil in (not_numbers, garbage):
        name = altered(lambda splits, spoil=spoil: replace(splits, read_test=lambda: spoil(splits.test)))  # type: ignore[misc]
        assert measure(prepared(name), task_for(), store) == clean
    assert clean.split == "validation"
    assert clean.metrics["accuracy"] != final(prepared(), clean, store).metrics["accuracy"]


@pytest.mark.slow
def test_validation_images_guide_but_do_not_train(altered: Callable[[Callable[[Splits], Splits]], str]) -> None:
    store = MemoryArtifacts()
    clean = measure(prepared(), task_for(), store)
    name = altered(lambda splits: replace(splits, validation=garbage(splits.validation)))
    spoilt = measure(prepared(name), task_for(), store)
    assert spoilt.artifacts == clean.artifacts
    assert spoilt.metrics["accuracy"] < clean.metrics["accuracy"]


@pytest.mark.slow
def test_training_images_train(altered: Callable[[Callable[[Splits], Splits]], str]) -> None:
    store = MemoryArtifacts()
    name = altered(lambda splits: replace(splits, training=garbage(splits.training)))
    assert measure(prepared(name), task_for(), store).artifacts != measure(prepared(), task_for(), store).artifacts


@pytest.mark.slow
def test_the_final_figures_are_of_the_test_split_alone(altered: Callable[[Callable[[Splits], Splits]], str]) -> None:
    store = MemoryArtifacts()
    measurement = measure(prepared(), task_for(), store)
    clean = final(prepared(), measurement, store)
    assert (clean.split, clean.task, clean.artifacts) == ("test", measurement.task, measurement.artifacts)
    elsewhere = altered(
        lambda splits: Splits(not_numbers(splits.training), not_numbers(splits.validation), splits.read_test)
    )
    assert final(prepared(elsewhere), measurement, store) == clean
    on_test = altered(lambda splits: replace(splits, read_test=lambda: garbage(splits.test)))
    assert final(prepared(on_test), measurement, store).metrics != clean.metrics


@pytest.mark.slow
def test_the_final_accuracy_is_that_of_the_stored_weights() -> None:
    store = MemoryArtifacts()
    benchmark = prepared()
    measurement = measure(benchmark, task_for(fidelity=2), store)
    network = SPACE.build(measurement.architecture, benchmark.io)
    network.load_state_dict(store.get_tensors(measurement.artifacts["weights"]))
    network.eval()
    splits = dataset("digits").load()
    for examples, figures in (
        (splits.validation, measurement.metrics),
        (splits.test, final(benchmark, measurement, store).metrics),
    ):
        with torch.no_grad():
            logits = torch.cat([network(image[None]) for image in examples.images]).double()
        hits = [
            int(np.argmax(row)) == label for row, label in zip(logits.tolist(), examples.labels.tolist(), strict=True)
        ]
        assert figures["accuracy"] == sum(hits) / len(hits)
        assert figures["loss"] == pytest.approx(cross_entropy(logits, examples.labels), rel=1e-5)


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    scores = np.exp(logits.numpy())
    chosen = scores[np.arange(len(labels)), labels.numpy()] / scores.sum(axis=1)
    return float(-np.log(chosen).mean())


def test_a_measurement_without_weights_has_nothing_to_test() -> None:
    with pytest.raises(InputError, match="trial 3 left no weights"):
        final(prepared(), Measurement(task=task_for(), metrics={"accuracy": 0.5}), MemoryArtifacts())


# What repeats


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    store = MemoryArtifacts()
    benchmark = prepared()
    first, other = measure(benchmark, task_for(7), store), measure(benchmark, task_for(8), store)
    assert measure(benchmark, task_for(7), store) == first  # and what was measured between them leaves no trace
    assert measure(prepared(), task_for(7), MemoryArtifacts()) == first
    assert other.artifacts != first.artifacts
    assert other.metrics["loss"] != first.metrics["loss"]


@pytest.mark.slow
def test_the_seed_decides_where_training_starts() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(learning_rate=1e-12, momentum=0.0)  # nothing moves but the statistics of batch norm
    starts = [store.get_tensors(measure(benchmark, task_for(seed), store).artifacts["weights"]) for seed in (7, 8)]
    stem = [start["stem.0.weight"] for start in starts]
    assert (stem[0] - stem[1]).abs().max().item() > 0.01


@pytest.mark.slow
def test_measurements_do_not_depend_on_the_global_generators() -> None:
    store = MemoryArtifacts()
    benchmark = prepared()
    first = measure(benchmark, task_for(), store)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(12345)
        assert measure(benchmark, task_for(), store) == first
    finally:
        torch.set_rng_state(state)


@pytest.mark.slow
def test_the_global_generators_are_left_as_they_were() -> None:
    def states() -> tuple[list[int], str, str]:
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), repr(random.getstate())  # noqa: NPY002

    torch.rand(3)  # so that this is no state in which a seed might have left them
    before = states()
    store = MemoryArtifacts()
    benchmark = prepared()
    assert states() == before
    measurement = measure(benchmark, task_for(), store)
    assert states() == before
    final(benchmark, measurement, store)
    assert states() == before
    outcome = perform(task_for(), prepared(learning_rate=1e6), device="cpu", artifacts=store)
    assert isinstance(outcome, Failure)
    assert states() == before


# How much is trained


@pytest.mark.parametrize(
    ("batch_size", "images"), [(64, TRAINING // 64 * 64), (7, TRAINING), (500, 1_000), (1_078, 1_078), (5_000, 1_078)]
)
def test_an_epoch_sees_all_complete_batches(batch_size: int, images: int) -> None:
    benchmark = prepared(batch_size=batch_size)
    assert measure(benchmark, task_for(code="000100"), MemoryArtifacts()).spent.images == images


@pytest.mark.slow
def test_the_task_says_how_many_epochs() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(epochs=5)
    assert benchmark.fidelity == 5
    outcomes = [perform(task_for(fidelity=n), benchmark, device="cpu", artifacts=store) for n in (1, 3)]
    assert [outcome.spent.images for outcome in outcomes] == [1_024, 3_072]
    assert len({measured(outcome).artifacts["weights"] for outcome in outcomes}) == 2


def measured(outcome: Outcome) -> Measurement:
    assert isinstance(outcome, Measurement)
    return outcome


@pytest.mark.slow
def test_training_learns() -> None:
    measurement = measure(prepared(), task_for(fidelity=5), MemoryArtifacts())
    assert measurement.metrics["accuracy"] > 0.85
    assert set(measurement.metrics) == set(Classification.metrics)


# What fails


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def test_a_diverging_training_is_a_failure_that_says_so() -> None:
    task = task_for(fidelity=2)
    failed = failure(perform(task, prepared(learning_rate=1e6), device="cpu", artifacts=MemoryArtifacts()))
    assert (failed.task, failed.kind) == (task, "diverged")
    assert failed.message == "the training loss of epoch 1 of 2 is nan"
    assert "TrialFailed" in failed.traceback
    assert failed.spent.seconds > 0


def test_a_training_that_diverges_in_its_last_step_is_a_failure_too() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(batch_size=1_078, learning_rate=1e30)  # one step: its loss is from before, and finite
    failed = failure(perform(task_for(), benchmark, device="cpu", artifacts=store))
    assert failed.kind == "diverged"
    assert not store.added


def test_images_that_are_not_numbers_fail_as_diverged(altered: Callable[[Callable[[Splits], Splits]], str]) -> None:
    def one_bad_pixel(splits: Splits) -> Splits:
        images = splits.training.images.clone()
        images[:, 0, 4, 4] = float("nan")
        return replace(splits, training=Examples(images, splits.training.labels))

    store = MemoryArtifacts()
    failed = failure(perform(task_for(), prepared(altered(one_bad_pixel)), device="cpu", artifacts=store))
    assert failed.kind == "diverged"
    assert "nan" in failed.message
    assert not store.added


@pytest.mark.parametrize("fidelity", [0, 11])
def test_a_fidelity_outside_of_the_whole_training_is_refused(fidelity: int) -> None:
    failed = failure(perform(task_for(fidelity=fidelity), prepared(), device="cpu", artifacts=MemoryArtifacts()))
    assert failed.kind == "no such fidelity"
    assert failed.message == f"the fidelity must be between 1 and 10 epochs, but is {fidelity}"


# Augmentation


def test_every_image_of_a_batch_is_cropped_at_a_place_of_its_own() -> None:
    images = torch.randint(256, (64, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crop = RandomCropEach(2)
    with seeded(1):
        places = crop.make_params([images])
    with seeded(1):
        cropped = crop(images)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    found = set(zip(places["top"].tolist(), places["left"].tolist(), strict=True))
    assert {top for top, _ in found} == {left for _, left in found} == set(range(5))
    assert len(found) > 12
    for row, (image, top, left) in enumerate(zip(images, places["top"], places["left"], strict=True)):
        one = v2.functional.crop(v2.functional.pad(image, [2]), int(top), int(left), 6, 5)
        assert torch.equal(cropped[row], one)


def test_about_half_of_the_images_are_flipped_and_none_if_they_may_not() -> None:
    images = torch.arange(4, dtype=torch.uint8).repeat(400, 1, 8, 2)  # no row is its own mirror image, wherever cut
    images[:, :, :, :] += 1
    with seeded(2):
        both = augmentation(images, mirrored=True)(images)
        cropped = augmentation(images, mirrored=False)(images)

    def falls(batch: Tensor) -> Tensor:
        """Whether the middle of each image falls from left to right by more than it rises."""
        steps = batch[:, 0, 4, 2:6].int().diff(dim=1)
        return (steps < 0).sum(1) > (steps > 0).sum(1)

    assert not falls(cropped).any()
    assert 150 < falls(both).sum().item() < 250
    with seeded(3):
        flipped = RandomHorizontalFlipEach()(images)
    straight = (flipped == images).flatten(1).all(1)
    assert torch.equal(flipped[~straight], v2.functional.horizontal_flip(images[~straight]))
    assert 150 < straight.sum().item() < 250


def test_what_is_padded_is_as_dark_as_the_darkest() -> None:
    images = torch.full((50, 1, 8, 8), 3.0)
    images[0, 0, 0, 0] = -0.7
    with seeded(0):
        changed = augmentation(images, mirrored=False)(images[1:])
    assert {round(value, 3) for value in changed.unique().tolist()} == {-0.7, 3.0}


@pytest.mark.slow
def test_augmentation_is_of_training_alone_and_repeats_with_the_seed() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(augment=True)
    augmented, plain = measure(benchmark, task_for(), store), measure(prepared(), task_for(), store)
    assert augmented.artifacts != plain.artifacts
    assert augmented.spent == plain.spent
    assert measure(prepared(augment=True), task_for(), MemoryArtifacts()) == augmented
    network = SPACE.build(augmented.architecture, benchmark.io)
    network.load_state_dict(store.get_tensors(augmented.artifacts["weights"]))
    assert evaluate(network, dataset("digits").load().validation) == augmented.metrics


def test_images_differ_between_epochs_and_within_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Watched(NASBench201):
        """Networks that keep what they were given to train on."""

        def build(self, architecture: Architecture, io: IO) -> nn.Module:
            network = super().build(architecture, io)
            network.register_forward_pre_hook(
                lambda network, given: seen.append(given[0].clone()) if network.training else None
            )
            return network

    image = dataset("digits").load().training.images[:1]
    examples = Examples(image.repeat(64, 1, 1, 1), torch.arange(64) % 10)
    alike = Splits(examples, examples, lambda: examples)
    monkeypatch.setitem(DATASETS, "alike", Dataset("alike", IO.image(1, 8, 10), lambda: alike))
    benchmark = construct(
        "benchmark", Classification, Watched(channels=4, cells=1), dataset="alike", augment=True, batch_size=64
    )
    measure(benchmark, task_for(fidelity=2), MemoryArtifacts())
    kinds = [{tuple(image.flatten().tolist()) for image in batch} for batch in seen]
    assert [len(batch) for batch in seen] == [64, 64]
    assert all(5 < len(kind) <= 9 for kind in kinds)  # the nine places of a crop with a border of one
    assert not torch.equal(seen[0], seen[1])


# Precision


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "inside"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_only_training_computes_in_the_chosen_precision(precision: str, inside: torch.dtype) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()

    class Watched(NASBench201):
        """Networks that keep in what precision they compute."""

        def build(self, architecture: Architecture, io: IO) -> nn.Module:
            network = super().build(architecture, io)
            network.register_forward_hook(lambda network, _, logits: seen.add((network.training, logits.dtype)))
            return network

    store = MemoryArtifacts()
    benchmark = construct("benchmark", Classification, Watched(channels=4, cells=1), epochs=3, precision=precision)
    measurement = measure(benchmark, task_for(fidelity=3), store)
    final(benchmark, measurement, store)
    assert seen == {(True, inside), (False, torch.float32)}
    assert measurement.metrics["accuracy"] > 0.5
    weights = store.get_tensors(measurement.artifacts["weights"])
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}  # the latter counts batches


@pytest.mark.slow
def test_precision_on_the_cpu_is_float32_unless_asked_otherwise() -> None:
    store = MemoryArtifacts()
    auto, full, half = (
        measure(prepared(precision=precision), task_for(), store).artifacts["weights"]
        for precision in ("auto", "float32", "bfloat16")
    )
    assert auto == full
    assert half != full


# Going on

AIDED: dict[str, Any] = {
    "augment": True,
    "cutout": 3,
    "drop_path": 0.3,
    "auxiliary": 0.4,
    "ema": 0.95,
    "label_smoothing": 0.1,
    "gradient_norm": 1.0,
}


def continued(benchmark: Classification, store: MemoryArtifacts, *fidelities: int, **options: Any) -> list[Measurement]:
    """Measurements that each go on from the one before; only the first has the seed that counts."""
    parts: list[Measurement] = []
    for fidelity in fidelities:
        state = parts[-1].artifacts["state"] if parts else None
        task = task_for(7 + len(parts), fidelity=fidelity, continues=state, **options)
        parts.append(measure(benchmark, task, store))
    return parts


@pytest.mark.sweep(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.0}, {"augment": True}, {"precision": "bfloat16"}, AIDED, {**AIDED, "optimizer": "adam"}],
    ids=str,
)
def test_going_on_gives_to_the_bit_what_an_uninterrupted_training_gives(options: dict[str, Any]) -> None:
    store = MemoryArtifacts()
    benchmark = prepared(epochs=6, batch_size=100, **options)
    parts = continued(benchmark, store, 1, 2, 4)
    whole = measure(prepared(epochs=6, batch_size=100, **options), task_for(7, fidelity=4), MemoryArtifacts())
    assert parts[-1].metrics == whole.metrics
    assert parts[-1].artifacts == whole.artifacts  # the weights, and the state to go on from: equal content, one name
    assert [part.spent.images for part in parts] == [1_000, 1_000, 2_000]
    last = measure(benchmark, task_for(1, fidelity=6, continues=parts[-1].artifacts["state"]), store)
    assert last.artifacts == measure(benchmark, task_for(7, fidelity=6), store).artifacts
    assert set(last.artifacts) == {"weights"}  # the whole is done; there is nothing to go on with


class WithDropout(NASBench201):
    """Networks that draw from torch's generator in every step."""

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.3), super().build(architecture, io))


@pytest.mark.slow
def test_what_the_network_draws_by_itself_goes_on_too() -> None:
    store = MemoryArtifacts()
    benchmark = Classification(WithDropout(channels=4, cells=1), epochs=3)
    parts = continued(benchmark, store, 1, 2, 3)
    assert parts[-1].artifacts == measure(benchmark, task_for(7, fidelity=3), store).artifacts


@pytest.mark.slow
def test_a_lower_fidelity_is_the_beginning_of_the_whole_training() -> None:
    store = MemoryArtifacts()
    first, second = (measure(prepared(epochs=epochs), task_for(), store) for epochs in (2, 20))
    rates = [store.get_tensors(m.artifacts["state"])["learning_rate"].item() for m in (first, second)]
    steps = TRAINING // 64
    assert rates[0] == pytest.approx(one_cycle(steps, 2 * steps), rel=1e-9)
    assert rates[1] == pytest.approx(one_cycle(steps, 20 * steps), rel=1e-9)


def one_cycle(step: int, steps: int, peak: float = 0.1) -> float:
    """The learning rate after so many steps: a cosine from peak/25 up over 30 %, then down to peak/250,000."""
    up = 0.3 * (steps + 1) - 1
    low, high, part = (peak / 25, peak, step / up) if step <= up else (peak / 25e4, peak, (steps - step) / (steps - up))
    return float(low + (high - low) * (1 - np.cos(np.pi * part)) / 2)


ELSEWHERE = """
import json, sys
from pathlib import Path
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import decode_task, encode_outcome

task = decode_task(json.loads(sys.argv[1]))
artifacts = MemoryArtifacts({task.continues.digest: Path(sys.argv[2]).read_bytes()})
benchmark = Classification(NASBench201(channels=4, cells=1), epochs=4)
benchmark.prepare()
measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
print(json.dumps(encode_outcome(measurement)))
"""


@pytest.mark.slow
def test_another_process_goes_on_with_what_travels_with_the_task(tmp_path: Path) -> None:
    store = MemoryArtifacts()
    benchmark = prepared(epochs=4)
    state = measure(benchmark, task_for(fidelity=2), store).artifacts["state"]
    task = task_for(1, fidelity=3, continues=state)
    (tmp_path / "state").write_bytes(store.get(state))
    # A number of threads changes the order in which sums are taken, so both have one.
    threads = torch.get_num_threads()
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(encode_task(task)), str(tmp_path / "state")],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
        text=True,
    )
    there = measured(decode_outcome(json.loads(done.stdout)))
    assert there == measure(benchmark, task, store)
    assert there.artifacts == measure(benchmark, task_for(fidelity=3), store).artifacts


@pytest.mark.slow
def test_a_state_that_does_not_fit_is_a_failure_that_says_so() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(epochs=4)
    left = measure(benchmark, task_for(fidelity=2), store).artifacts
    other = WithDropout(channels=4, cells=1)

    def failed(benchmark: Classification, **options: Any) -> Failure:
        task = task_for(continues=options.pop("continues", left["state"]), **options)
        return failure(perform(task, benchmark, device="cpu", artifacts=store))

    assert "is of 2 epochs, but the task asks for 2" in failed(benchmark, fidelity=2).message
    assert "is of 2 epochs, but the task asks for 1" in failed(benchmark, fidelity=1).message
    same_shape = failed(benchmark, fidelity=3, code="241312")  # pooling for a skip: no tensor tells them apart
    assert same_shape.kind == "another network"
    assert f"is of nasbench201:{CODE}, but the task is for nasbench201:241312" in same_shape.message
    assert failed(Classification(other, epochs=4), fidelity=3).kind == "another network"
    assert "of 4 epochs with 16 steps of 64 images" in failed(prepared(epochs=5), fidelity=3).message
    assert failed(benchmark, fidelity=3, continues=left["weights"]).kind == "not a state"
    assert failed(benchmark, fidelity=3, continues=store.put(b"no safetensors")).kind == "not a state"
    lost = failed(benchmark, fidelity=3, continues=Handle("0" * 64))
    assert lost.kind == "artifact lost"
    assert "was not sent with the task" in lost.message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_network_trained_on_cuda_is_the_one_stored() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(epochs=3)
    before = torch.cuda.get_rng_state().tolist(), torch.get_rng_state().tolist()
    measurement = benchmark.measure(task_for(fidelity=3), device="cuda", artifacts=store)
    on_cuda = benchmark.final(measurement, device="cuda", artifacts=store)
    on_cpu = final(prepared(), measurement, store)
    assert (torch.cuda.get_rng_state().tolist(), torch.get_rng_state().tolist()) == before
    assert measurement.metrics["accuracy"] > 0.6
    assert all(tensor.device.type == "cpu" for tensor in store.get_tensors(measurement.artifacts["weights"]).values())
    assert on_cuda.metrics["accuracy"] == pytest.approx(on_cpu.metrics["accuracy"], abs=0.01)
    assert on_cuda.metrics["loss"] == pytest.approx(on_cpu.metrics["loss"], rel=1e-2)


def test_the_interface_of_the_network_is_that_of_the_data() -> None:
    assert Classification(SPACE).io == IO.image(1, 8, 10)
