"""Supernets on digits: how shared weights are trained, and that what is measured with them is what is exported."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from numpy.random import default_rng
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmarks.classification import STATISTICS, Classification
from nasplat.cost import Cost
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples
from nasplat.data.splitting import stratified_order
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.nn.supernet import Supernet
from nasplat.options import construct
from nasplat.search_space import GeneSpace, SupernetSpace
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, TrainSupernet, encode_outcome
from nasplat.testing import ToySpace
from nasplat.training.fit import MODEL, below, evaluate
from nasplat.training.path_sampling import FairPaths
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import Decay, SupernetTraining, epochs_behind

SPACE = NASBench201(channels=2, cells=1)
DIGITS = IO.image(1, 8, 10)
PATHS = tuple(map(SPACE.parse, ("211312", "333333", "104103")))


def prepared(**options: Any) -> Classification:
    benchmark = construct("benchmark", Classification, SPACE, **{"epochs": 4, **options})
    benchmark.prepare()
    return benchmark


def training(epochs: int = 1, *, paths: tuple[Architecture, ...] = PATHS, **options: Any) -> TrainSupernet:
    return TrainSupernet(id=1, seed=11, architectures=paths, epochs=epochs, **options)


def trained(benchmark: Classification, task: TrainSupernet, store: MemoryArtifacts) -> Handle:
    return benchmark.train(task, device="cpu", artifacts=store).weights


def evaluation(weights: Handle, *, fidelity: int = 1, path: int = 0) -> Evaluate:
    return Evaluate(id=2, seed=5, architecture=PATHS[path], fidelity=fidelity, weights=weights)


def measured(benchmark: Classification, task: Evaluate, store: MemoryArtifacts) -> Measurement:
    return benchmark.measure(task, device="cpu", artifacts=store)


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def weights_of(handle: Handle, store: MemoryArtifacts) -> dict[str, Tensor]:
    return below(MODEL, load(store.get(handle)))


# Training


@pytest.mark.slow
def test_a_task_goes_on_with_weights_momentum_and_learning_rate_and_a_seed_of_its_own() -> None:
    store, benchmark = MemoryArtifacts(), prepared(paths=2)
    half = trained(benchmark, training(1), store)
    rest = TrainSupernet(id=9, seed=999, architectures=PATHS, epochs=1, weights=half)
    whole = trained(prepared(paths=2), rest, store)
    assert (epochs_behind(load(store.get(half))), epochs_behind(load(store.get(whole)))) == (1, 2)
    other = TrainSupernet(id=9, seed=1_000, architectures=PATHS, epochs=1, weights=half)
    assert trained(prepared(paths=2), other, store) != whole, "tried again after a failure, it would fail again"

    # One training that never stops, but draws from another generator in its second epoch.
    def draw(seed: int) -> Architecture:
        return PATHS[int(default_rng(seed).integers(len(PATHS)))]

    with seeded(11):
        supernet, examples = SPACE.supernet(DIGITS), dataset("digits").load().training
        unbroken = SupernetTraining(
            supernet, examples, Recipe(64, 0.1, 0.9, 5e-4), draw=draw, paths=2, epochs=4, seed=11
        )
        unbroken.until(1)
    unbroken._generator.manual_seed(999)
    unbroken.until(2)
    given = weights_of(whole, store)
    assert all(torch.equal(given[name], parameter) for name, parameter in supernet.named_parameters())


@pytest.mark.slow
def test_training_repeats_and_depends_on_the_seed() -> None:
    store = MemoryArtifacts()
    first, again = (trained(prepared(), training(), store) for _ in range(2))
    other = TrainSupernet(id=1, seed=12, architectures=PATHS, epochs=1)
    assert first == again != trained(prepared(), other, store)


@pytest.mark.slow
def test_only_the_given_paths_change_and_without_any_all_of_them_do() -> None:
    store, benchmark = MemoryArtifacts(), prepared()
    with seeded(11):
        fresh = SPACE.supernet(DIGITS)
    for paths, some in ((PATHS[:1], True), ((), False)):
        after = weights_of(trained(benchmark, training(paths=paths), store), store)
        on_path = {id(p) for p in fresh.path(PATHS[0]).parameters()}
        changed = {name: not torch.equal(p, after[name]) for name, p in fresh.named_parameters()}
        if some:
            assert changed == {name: id(p) in on_path for name, p in fresh.named_parameters()}
        else:
            assert all(changed.values())


def test_the_gradient_of_a_batch_is_the_mean_over_its_paths() -> None:
    splits = dataset("digits").load()
    images, labels = splits.training.images[:32].double(), splits.training.labels[:32]
    with seeded(0):
        supernet = SPACE.supernet(DIGITS).double()
    chosen = iter([PATHS[0], PATHS[1], PATHS[1]])
    recipe = Recipe(batch_size=32, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    training = SupernetTraining(
        supernet, Examples(images, labels), recipe, draw=lambda seed: next(chosen), paths=3, epochs=1, seed=0
    )
    loss = training.backward(images, labels)
    given = {name: p.grad for name, p in supernet.named_parameters()}
    expected, losses = dict[str, Tensor](), []
    for path in (PATHS[0], PATHS[1], PATHS[1]):
        supernet.zero_grad()
        each = functional.cross_entropy(supernet(images, path), labels)
        torch.autograd.backward(each)
        losses.append(each.detach())
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                expected[name] = expected.get(name, torch.zeros_like(p)) + p.grad / 3
    assert float(loss) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-6)  # summed in float32
    assert {name for name, gradient in given.items() if gradient is not None} == set(expected)
    for name, gradient in expected.items():
        assert torch.allclose(given[name], gradient, atol=1e-12), name  # type: ignore[arg-type]


class Members:
    """What two threads have in place of a process group."""

    def __init__(self, rank: int, meeting: threading.Barrier, messages: dict[int, Tensor]) -> None:
        self._rank = rank
        self._meeting = meeting
        self._messages = messages

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return 2

    def allreduce(self, tensors: list[Tensor]) -> "Members":
        self._messages[self._rank] = tensors[0].clone()
        self._meeting.wait(300)
        tensors[0].copy_(self._messages[0] + self._messages[1])
        self._meeting.wait(300)
        return self

    def wait(self) -> None:
        """It has happened already."""


# The last path is a dead end: a convolution behind `none` has no gradient, and weight decay must leave it alone too.
CELLS = (*PATHS, SPACE.parse("300000"))
MOBILE = tuple(GhostSmall().sample(default_rng(i)) for i in range(4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "drawn", "paths", "ends", "decay"),
    [
        (SPACE, CELLS, 2, None, "all"),
        (SPACE, CELLS, 3, None, "all"),
        (GhostSmall(), MOBILE, 2, None, "all"),
        (GhostSmall(), MOBILE, 2, None, "used"),
        (SPACE, CELLS, 3, PATHS[1::-1], "all"),
    ],
    ids=["two paths", "three paths", "two paths of nested layers", "the same, used parts", "a fair sandwich of three"],
)
def test_two_members_end_with_the_weights_that_one_ends_with(
    space: SupernetSpace,
    drawn: tuple[Architecture, ...],
    paths: int,
    ends: tuple[Architecture, Architecture] | None,
    decay: Decay,
) -> None:
    splits = dataset("digits").load()
    examples = Examples(splits.training.images[:256].double(), splits.training.labels[:256])
    recipe = Recipe(batch_size=32, learning_rate=0.1, momentum=0.9, weight_decay=0.01, gradient_norm=1.0)

    def supernet_after(group: Any) -> dict[str, Tensor]:
        supernet = start()
        training = SupernetTraining(
            supernet,
            examples,
            recipe,
            draw=FairPaths(drawn) if ends else lambda seed: drawn[seed % 4],
            paths=paths,
            epochs=2,
            seed=3,
            group=group,
            ends=ends,
            decay=decay,
        )
        training.until(2)
        return {name: p.detach() for name, p in supernet.named_parameters()}

    with seeded(0):
        fresh = space.supernet(DIGITS).double()

    def start() -> Supernet:
        return copy.deepcopy(fresh)

    alone = supernet_after(None)
    meeting, messages = threading.Barrier(2), dict[int, Tensor]()
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(supernet_after, [Members(rank, meeting, messages) for rank in (0, 1)]))
    for together in both:
        for name, parameter in alone.items():
            assert torch.allclose(together[name], parameter, rtol=0, atol=1e-12), name
    assert any(not torch.equal(alone[name], p) for name, p in fresh.named_parameters())


def test_a_limit_on_the_gradient_and_a_cosine_are_kept_to() -> None:
    splits = dataset("digits").load()
    with seeded(0):
        supernet = SPACE.supernet(DIGITS)
    before = [p.detach().clone() for p in supernet.parameters()]
    rate, limit = 0.5, 1e-3
    recipe = Recipe(1_078, rate, momentum=0.0, weight_decay=0.0, schedule="cosine", gradient_norm=limit)
    training = SupernetTraining(supernet, splits.training, recipe, draw=lambda seed: PATHS[0], epochs=2, seed=0)
    training.until(1)  # one step
    moved = torch.cat([(p - old).flatten() for p, old in zip(supernet.parameters(), before, strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(rate * limit, rel=1e-3)
    assert float(training.state()["learning_rate"]) == pytest.approx((rate + rate / 25) / 2)


@pytest.mark.slow
def test_images_are_counted_for_every_path_they_go_through() -> None:
    outcome = prepared(paths=3).train(training(2), device="cpu", artifacts=MemoryArtifacts())
    assert outcome.spent.images == 3 * 2 * 1_024  # 16 whole batches of 64
    warmup = prepared(paths=3).train(training(2, paths=()), device="cpu", artifacts=MemoryArtifacts())
    assert warmup.spent.images == 2 * 1_024


def test_training_past_the_plan_is_refused() -> None:
    failed = failure(perform(training(5), prepared(), device="cpu", artifacts=MemoryArtifacts()))
    assert failed.kind == "past the plan"
    assert "0 epochs" in failed.message and "epochs=4" in failed.message


class Bare(GeneSpace):
    """A space that offers no supernet."""

    name = "bare"
    genes = ToySpace.genes

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return ToySpace().cost(architecture, io)

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        return ToySpace().build(architecture, io)


def test_a_space_without_a_supernet_fails_by_name() -> None:
    benchmark = Classification(Bare(), epochs=2)
    benchmark.prepare()
    failed = failure(perform(training(paths=()), benchmark, device="cpu", artifacts=MemoryArtifacts()))
    assert failed.kind == "no supernet"
    assert "bare" in failed.message


@pytest.mark.parametrize("altered", ["another supernet", "a trained network", "not a safetensors"])
def test_weights_of_something_else_are_refused(altered: str) -> None:
    store, benchmark = MemoryArtifacts(), prepared()
    if altered == "another supernet":
        other = Classification(NASBench201(channels=3, cells=1), epochs=4)
        other.prepare()
        handle, kind = trained(other, training(), store), "another network"
    elif altered == "a trained network":
        task = Evaluate(id=2, seed=5, architecture=PATHS[0], fidelity=1)
        handle, kind = measured(benchmark, task, store).artifacts["state"], "another network"
    else:
        handle, kind = store.put(b"nonsense"), "not a state"
    refused: tuple[Task, ...] = (evaluation(handle), training(weights=handle))
    for wrong in refused:
        assert failure(perform(wrong, benchmark, device="cpu", artifacts=store)).kind == kind


def test_weights_that_diverged_fail_their_training() -> None:
    failed = failure(perform(training(2), prepared(learning_rate=1e8), device="cpu", artifacts=MemoryArtifacts()))
    assert failed.kind == "diverged"


# Measuring


@pytest.mark.slow
@pytest.mark.parametrize("path", range(len(PATHS)))
def test_the_network_that_is_measured_is_the_one_that_is_built_from_what_is_left(path: int) -> None:
    store, benchmark = MemoryArtifacts(), prepared()
    weights = trained(benchmark, training(2), store)
    measurement = measured(benchmark, evaluation(weights, fidelity=2, path=path), store)
    assert set(measurement.artifacts) == {STATISTICS}, "weights are shared and stand in the task"
    elsewhere = Classification(SPACE, epochs=4)  # not prepared: another process, which only exports
    with seeded(123):
        network = SPACE.build(PATHS[path], DIGITS)
    network.load_state_dict(elsewhere.state_dict(measurement, artifacts=store))
    found = evaluate(network, dataset("digits").load().validation)
    assert found == {name: measurement.metrics[name] for name in found}
    assert benchmark.final(measurement, device="cpu", artifacts=store).metrics == evaluate(
        network, dataset("digits").load().test
    )


@pytest.mark.slow
def test_measuring_trains_nothing_and_leaves_the_shared_weights_alone() -> None:
    store, benchmark = MemoryArtifacts(), prepared()
    weights = trained(benchmark, training(), store)
    first = measured(benchmark, evaluation(weights, path=1), store)
    measured(benchmark, evaluation(weights, path=0), store)
    again = measured(benchmark, evaluation(weights, path=1), store)
    assert encode_outcome(first) == encode_outcome(again)
    assert first.spent.images == 0
    given = below(MODEL, load(store.get(weights)))
    network = benchmark.state_dict(first, artifacts=store)
    with seeded(0):
        supernet = SPACE.supernet(DIGITS)
    supernet.load_state_dict(given)
    for name, parameter in supernet.path(PATHS[1]).named_parameters():
        assert torch.equal(network[name], parameter), name


@pytest.mark.slow
def test_recalibrated_statistics_are_the_mean_over_equal_batches_of_a_stratified_sample() -> None:
    """By hand, for the stem, whose input are the images themselves."""
    store, benchmark = MemoryArtifacts(), prepared(calibration=300)
    weights = trained(benchmark, training(), store)
    left = load(store.get(measured(benchmark, evaluation(weights), store).artifacts[STATISTICS]))
    stem = weights_of(weights, store)["parts.stem.0.weight"].double()
    examples = dataset("digits").load().training
    images = examples.images[stratified_order(examples.labels.numpy())[:300].copy()].double()
    batches = [functional.conv2d(batch, stem, padding=1) for batch in (images[:150], images[150:])]
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variance = torch.stack([batch.var(dim=(0, 2, 3), unbiased=True) for batch in batches]).mean(dim=0)
    assert torch.allclose(left["stem.1.running_mean"].double(), mean, atol=1e-6)
    assert torch.allclose(left["stem.1.running_var"].double(), variance, rtol=1e-5)
    assert int(left["stem.1.num_batches_tracked"]) == 2


def test_a_network_without_batch_norm_leaves_nothing_and_can_be_had() -> None:
    space = ToySpace()
    benchmark = Classification(space, epochs=2)
    benchmark.prepare()
    store = MemoryArtifacts()
    paths = (space.parse("0123"), space.parse("3210"))
    weights = trained(benchmark, TrainSupernet(id=1, seed=1, architectures=paths, epochs=1), store)
    task = Evaluate(id=2, seed=5, architecture=paths[0], fidelity=1, weights=weights)
    measurement = measured(benchmark, task, store)
    assert not measurement.artifacts
    with seeded(0):
        network = space.build(paths[0], DIGITS)
    network.load_state_dict(benchmark.state_dict(measurement, artifacts=store))
    assert evaluate(network, dataset("digits").load().validation)["accuracy"] == measurement.metrics["accuracy"]


@pytest.mark.exports
@pytest.mark.slow
def test_statistics_of_the_batch_are_measured_with_and_cannot_be_exported() -> None:
    store = MemoryArtifacts()
    weights = trained(prepared(), training(2), store)
    by_batch = prepared(statistics="batch")
    measurement = measured(by_batch, evaluation(weights, fidelity=2), store)
    assert not measurement.artifacts
    with seeded(0):
        supernet: Supernet = SPACE.supernet(DIGITS)
    supernet.load_state_dict(weights_of(weights, store))
    validation = dataset("digits").load().validation
    logits = supernet.train().path(PATHS[0])(validation.images)
    accuracy = (logits.argmax(1) == validation.labels).double().mean()
    assert measurement.metrics["accuracy"] == pytest.approx(float(accuracy), abs=1e-9)
    with pytest.raises(InputError, match="statistics=recalibrated"):
        by_batch.state_dict(measurement, artifacts=store)


@pytest.mark.slow
def test_the_fidelity_is_the_number_of_epochs_behind_the_weights() -> None:
    store, benchmark = MemoryArtifacts(), prepared()
    weights = trained(benchmark, training(2), store)
    failed = failure(perform(evaluation(weights, fidelity=3), benchmark, device="cpu", artifacts=store))
    assert failed.kind == "no such fidelity"
    assert "2, but is 3" in failed.message


def test_weights_that_are_gone_are_a_lost_artifact() -> None:
    gone = evaluation(Handle("0" * 64))
    assert failure(perform(gone, prepared(), device="cpu", artifacts=MemoryArtifacts())).kind == "artifact lost"


@pytest.mark.slow
def test_a_worker_reads_the_weights_of_a_generation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store, benchmark = MemoryArtifacts(), prepared()
    weights = trained(benchmark, training(), store)
    reads: list[Handle] = []
    whole = MemoryArtifacts.get

    def counting(self: MemoryArtifacts, handle: Handle) -> bytes:
        reads.append(handle)
        return whole(self, handle)

    monkeypatch.setattr(MemoryArtifacts, "get", counting)
    for path in range(3):
        measured(benchmark, evaluation(weights, path=path), store)
    assert reads == [weights]


@pytest.mark.slow
def test_shared_weights_learn() -> None:
    store, benchmark = MemoryArtifacts(), prepared(epochs=12)
    weights = trained(benchmark, training(12), store)
    accuracies = [
        measured(benchmark, evaluation(weights, fidelity=12, path=path), store).metrics["accuracy"] for path in range(3)
    ]
    assert min(accuracies) > 0.5, accuracies
