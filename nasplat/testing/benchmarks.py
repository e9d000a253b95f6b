"""The contract of a benchmark as checks. Each takes a function that makes a benchmark with cheap measurements."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias, TypeVar

from numpy.random import default_rng

from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.errors import InputError, TrialFailed
from nasplat.metric import Metric
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.task import STATE, Evaluate, FineTuning, Measurement, Trained, encode_outcome
from nasplat.testing.common import check_configuration, does_not_apply, global_generators_untouched

MakeBenchmark: TypeAlias = Callable[[], Benchmark]
MakeSupernetBenchmark: TypeAlias = Callable[[], SupernetBenchmark]
Made = TypeVar("Made", bound=Benchmark)

LISTED_CHECKED = 50
"""Number of listed members, drawn at random, that are checked one by one, and of mutants and others beside them."""


def measures_what_it_declares(make: MakeBenchmark) -> None:
    """Every measurement has all declared metrics, finite, fractions between 0 and 1, and names its split.

    Metrics of the code are among the declared ones.
    """
    benchmark, task, _ = _prepared(make)
    measurement = _measure(benchmark, task)
    missing = set(benchmark.metrics) - set(measurement.metrics)
    assert not missing, f"a measurement lacks {missing}"
    undeclared = set(benchmark.code_metrics) - set(benchmark.metrics)
    assert not undeclared, f"{undeclared} are metrics of the code, but are not declared metrics"
    for name, value in measurement.metrics.items():
        assert math.isfinite(value), f"{name} is {value}"
        metric = Metric.known(name)
        assert metric is None or metric.low <= value <= metric.high, f"{name} is {value}, which no {name} can be"
    assert measurement.split in ("validation", "test"), f"the split is {measurement.split!r}"


def carries_the_task(make: MakeBenchmark) -> None:
    """A measurement has its task, unchanged."""
    benchmark, task, _ = _prepared(make)
    assert _measure(benchmark, task).task == task, "the measurement is of another task"


def same_task_same_measurement(make: MakeBenchmark) -> None:
    """The seed is in the task: two instances give the same metrics and the same weights."""
    outcomes = []
    for _ in range(2):
        benchmark, task, _ = _prepared(make)
        measurement = _measure(benchmark, task)
        body = encode_outcome(measurement)
        outcomes.append((body["metrics"], body.get("artifacts")))
    assert outcomes[0] == outcomes[1], f"the same task gave {outcomes[0]} and {outcomes[1]}"


def earlier_tasks_leave_no_trace(make: MakeBenchmark) -> None:
    """Earlier measurements do not affect later ones."""
    benchmark, task, problem = _prepared(make)
    first = _measure(benchmark, task)
    _measure(benchmark, problem.evaluate(problem.sample()))
    second = _measure(benchmark, task)
    assert first.metrics == second.metrics, f"measured again later: {second.metrics}, first {first.metrics}"


def global_generators_are_left_alone(make: MakeBenchmark) -> None:
    """No global generator is drawn from or seeded, by measuring or by the final measurement."""
    benchmark, task, _ = _prepared(make)
    artifacts = MemoryArtifacts()
    with global_generators_untouched():
        measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
        with suppress(InputError):  # there is nothing to test
            benchmark.final(measurement, device="cpu", artifacts=artifacts)


def final_is_on_the_test_split(make: MakeBenchmark) -> None:
    """The final measurement is of the same task, on the test split, with the declared metrics.

    A benchmark whose measurements leave nothing to test raises an error.
    """
    benchmark, task, _ = _prepared(make)
    artifacts = MemoryArtifacts()
    measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
    try:
        final = benchmark.final(measurement, device="cpu", artifacts=artifacts)
    except InputError as error:
        does_not_apply(f"{type(benchmark).__name__} leaves nothing to test: {error}")
    assert final.split == "test", f"the final measurement is on {final.split!r}"
    assert final.task == task, "the final measurement is of another task"
    assert set(benchmark.metrics) <= set(final.metrics), "the final measurement lacks metrics"


def weights_belong_to_the_network(make: MakeBenchmark) -> None:
    """Weights that a measurement names are kept, as safetensors, and load into the network it measured.

    They are available without `prepare`.
    """
    from nasplat.training.seeding import seeded

    benchmark, task, _ = _prepared(make)
    artifacts = MemoryArtifacts()
    measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
    for handle in measurement.artifacts.values():
        artifacts.get(handle)
    if "weights" not in measurement.artifacts:
        does_not_apply(f"{type(benchmark).__name__} leaves no weights")
    with seeded(0):
        network = benchmark.space.build(task.architecture, benchmark.io)
    network.load_state_dict(make().state_dict(measurement, artifacts=artifacts))


def networks_fit_its_data(make: MakeBenchmark) -> None:
    """The space builds networks for the benchmark's `io`, and full fidelity is at least 1."""
    import torch

    from nasplat.training.seeding import seeded

    benchmark, task, _ = _prepared(make)
    if not benchmark.space.builds:
        does_not_apply(f"the networks of {benchmark.space.name} cannot be built")
    with seeded(0):
        network = benchmark.space.build(task.architecture, benchmark.io).eval()
        given = network(torch.randn(2, *benchmark.io.input_shape))
    assert tuple(given.shape) == (2, *benchmark.io.output_shape), f"the network gives {tuple(given.shape)}"
    assert benchmark.fidelity >= 1, f"full fidelity is {benchmark.fidelity}"


def preparing_again_is_harmless(make: MakeBenchmark) -> None:
    """`prepare` may be called twice."""
    benchmark, task, _ = _prepared(make)
    before = _measure(benchmark, task).metrics
    benchmark.prepare()
    assert _measure(benchmark, task).metrics == before, "a second prepare changed the measurement"


def continued_equals_uninterrupted(make: MakeBenchmark) -> None:
    """Resuming from the state of a lower fidelity gives the result of an uninterrupted measurement, on any worker.

    Benchmarks that have no lower fidelity, or leave no ``state`` there, have nothing to continue.
    """
    benchmark, task, _ = _prepared(make)
    store = MemoryArtifacts()
    parts: list[Measurement] = []
    for fidelity in sorted({1, (benchmark.fidelity + 1) // 2, benchmark.fidelity}):
        continues = parts[-1].artifacts[STATE] if parts else None
        # Only the first seed counts, and a worker has only the data of the task.
        part = replace(task, fidelity=fidelity, continues=continues, seed=task.seed + len(parts))
        worker, artifacts = _prepared(make)[0], MemoryArtifacts(store.added)
        try:
            measured = worker.measure(part, device="cpu", artifacts=artifacts)
        except TrialFailed:
            assert not parts, "a measurement cannot continue from the state that an earlier one left"
            does_not_apply(f"{type(benchmark).__name__} does not measure at a fidelity of {fidelity}")
        parts.append(measured)
        store.added |= artifacts.added
        if STATE not in measured.artifacts:
            break
    if len(parts) == 1:
        does_not_apply(f"{type(benchmark).__name__} leaves no state to continue from")
    whole = _measure(benchmark, replace(task, fidelity=parts[-1].task.fidelity))
    assert parts[-1].metrics == whole.metrics, f"continued: {parts[-1].metrics}, uninterrupted: {whole.metrics}"
    assert parts[-1].artifacts == whole.artifacts, (
        "a continued measurement left other artifacts than an uninterrupted one"
    )
    images = sum(part.spent.images for part in parts)
    assert images == whole.spent.images, f"the parts cost {images} images, the whole {whole.spent.images}"


def same_training_same_weights(make: MakeSupernetBenchmark) -> None:
    """The seed is in the task: two instances train to the same weights, and leave global generators alone."""
    weights = []
    for _ in range(2):
        benchmark, _, problem = _prepared(make)
        with global_generators_untouched():
            weights.append(_trained(benchmark, problem, MemoryArtifacts()).weights)
    assert weights[0] == weights[1], "the same training gave different weights"


def training_goes_on_where_it_was_left(make: MakeSupernetBenchmark) -> None:
    """Further training changes the weights. Their fidelity is the total number of completed epochs."""
    benchmark, task, problem = _prepared(make)
    artifacts = MemoryArtifacts()
    first = _trained(benchmark, problem, artifacts)
    other, _, _ = _prepared(make)  # another worker
    second = _trained(other, problem, artifacts, weights=first.weights)
    assert second.weights != first.weights, "further training did not change the weights"
    for fidelity in (1, 2):
        wanted = replace(task, weights=second.weights, fidelity=fidelity)
        try:
            other.measure(wanted, device="cpu", artifacts=artifacts)
        except TrialFailed as error:
            assert fidelity == 1, (
                f"the weights were trained for two epochs, but a measurement at fidelity 2 is refused: {error}"
            )
        else:
            assert fidelity == 2, (
                "the weights were trained for two epochs, but a measurement at fidelity 1 is not refused"
            )


def shared_weights_are_measured_as_they_are(make: MakeSupernetBenchmark) -> None:
    """Measurements with shared weights are reproducible after any others, and process no training images."""
    benchmark, task, problem = _prepared(make)
    artifacts = MemoryArtifacts()
    weights = _trained(benchmark, problem, artifacts).weights
    task = replace(task, weights=weights, fidelity=1)
    other = problem.evaluate(problem.sample(), weights=weights, fidelity=1)
    first, _, again = (benchmark.measure(t, device="cpu", artifacts=artifacts) for t in (task, other, task))
    same = (first.metrics, first.artifacts) == (again.metrics, again.artifacts)
    assert same, f"measured again, shared weights gave {again.metrics} after {first.metrics}"
    assert first.spent.images == 0, f"measuring with shared weights trained on {first.spent.images} images"


def what_shared_weights_measured_can_be_had(make: MakeSupernetBenchmark) -> None:
    """An instance that is not prepared gives the measured network, which can be tested.

    The network has the shared weights and the tensors left by the measurement. These load into the network built by
    the space.
    """
    from nasplat.training.seeding import seeded

    benchmark, task, problem = _prepared(make)
    artifacts = MemoryArtifacts()
    task = replace(task, weights=_trained(benchmark, problem, artifacts).weights, fidelity=1)
    measurement = benchmark.measure(task, device="cpu", artifacts=artifacts)
    with seeded(0):
        network = benchmark.space.build(task.architecture, benchmark.io)
    network.load_state_dict(make().state_dict(measurement, artifacts=artifacts))
    final = benchmark.final(measurement, device="cpu", artifacts=artifacts)
    assert final.split == "test", f"the final measurement is on {final.split!r}"


def analytic_metrics_are_consistent(make: MakeBenchmark) -> None:
    """Free metrics have the same names for all feasible architectures, and constant finite values."""
    benchmark, _, problem = _prepared(make)
    other = _prepared(make)[0]
    names = set(benchmark.analytic_metrics(problem.sample()))
    for _ in range(20):
        architecture = problem.sample()
        metrics = dict(benchmark.analytic_metrics(architecture))
        assert set(metrics) == names, f"{architecture} has {sorted(metrics)}, another one {sorted(names)}"
        assert all(map(math.isfinite, metrics.values())), (
            f"an analytic metric of {architecture} is not finite: {metrics}"
        )
        again = dict(other.analytic_metrics(architecture))
        assert metrics == again, f"analytic metrics of {architecture} change: {metrics}, then {again}"


def listed_members_are_what_can_be_measured(make: MakeBenchmark) -> None:
    """`enumerable_members` are members of the space, each once, and `feasible` is true for these networks only."""
    benchmark, _, problem = _prepared(make)
    listed = benchmark.enumerable_members
    if listed is None:
        does_not_apply(f"{type(benchmark).__name__} lists no members")
    codes = {member.code for member in listed}
    assert not (benchmark.looks_up and benchmark.trains), "a benchmark that looks figures up trains nothing"
    assert len(codes) == len(listed), f"{len(listed) - len(codes):,} members are listed more than once"
    space, rng = benchmark.space, default_rng(0)
    some = [listed[int(i)] for i in rng.integers(len(listed), size=LISTED_CHECKED)]
    for member in some:
        assert space.parse(member.code) == member, f"{member} is listed, but is no member of {space.name}"
        assert benchmark.feasible(member), f"{member} is listed, but not feasible"
    beside = [*(space.sample(rng) for _ in some), *(space.mutate(member, rng) for member in some)]
    unlisted = [each for each in beside if each.code not in codes and benchmark.feasible(each)]
    if unlisted:  # they may be other codes of what is listed
        keys = {problem.key(member) for member in listed}
        assert all(problem.key(each) in keys for each in unlisted), f"{unlisted[0]} is feasible, but not listed"


def options_are_configuration(make: MakeBenchmark) -> None:
    """Constructor options are annotated, keyword-only and stored under their own names."""
    check_configuration(make(), given=1)


def fine_tuning_begins_with_shared_weights_and_goes_on(make: MakeSupernetBenchmark) -> None:
    """Fine-tuning depends on the weights that it begins with; in two parts it gives the same as in one."""
    benchmark, task, problem = _prepared(make)
    if not benchmark.fine_tunes:
        does_not_apply(f"{type(benchmark).__name__} does not fine-tune")
    artifacts = MemoryArtifacts()
    first = _trained(benchmark, problem, artifacts)
    second = _trained(benchmark, problem, artifacts, weights=first.weights)

    def tuned(weights: Handle, begun: int, fidelity: int, continues: Handle | None = None) -> Measurement:
        tuning = FineTuning(weights=weights, begun=begun, epochs=2)
        asked = replace(task, fidelity=fidelity, tuning=tuning, continues=continues)
        return benchmark.measure(asked, device="cpu", artifacts=artifacts)

    part = tuned(first.weights, 1, 2)
    whole, continued = tuned(first.weights, 1, 3), tuned(first.weights, 1, 3, part.artifacts[STATE])
    assert (whole.metrics, whole.artifacts) == (continued.metrics, continued.artifacts), (
        "fine-tuning in two parts gave something else than in one"
    )
    assert whole.spent.images == part.spent.images + continued.spent.images > part.spent.images > 0
    assert tuned(second.weights, 2, 4).artifacts["weights"] != whole.artifacts["weights"], (
        "other shared weights gave the same fine-tuned ones"
    )
    for fidelity in (1, 4):
        try:
            tuned(first.weights, 1, fidelity)
        except TrialFailed:
            continue
        raise AssertionError(f"a fine-tuning of epochs 2 and 3 was measured at fidelity {fidelity}")


BENCHMARK_CHECKS: tuple[Callable[[MakeBenchmark], None], ...] = (
    measures_what_it_declares,
    carries_the_task,
    same_task_same_measurement,
    earlier_tasks_leave_no_trace,
    global_generators_are_left_alone,
    final_is_on_the_test_split,
    weights_belong_to_the_network,
    networks_fit_its_data,
    preparing_again_is_harmless,
    continued_equals_uninterrupted,
    analytic_metrics_are_consistent,
    listed_members_are_what_can_be_measured,
    options_are_configuration,
)

SUPERNET_CHECKS: tuple[Callable[[MakeSupernetBenchmark], None], ...] = (
    same_training_same_weights,
    training_goes_on_where_it_was_left,
    shared_weights_are_measured_as_they_are,
    what_shared_weights_measured_can_be_had,
    fine_tuning_begins_with_shared_weights_and_goes_on,
)
"""Additional checks of a `SupernetBenchmark`. Its whole training must have at least two epochs."""


def _prepared(make: Callable[[], Made]) -> tuple[Made, Evaluate, Problem]:
    """The benchmark, ready, with a task for it and the problem that the task comes from."""
    benchmark = make()
    benchmark.check()
    benchmark.prepare()
    problem = Problem.of(benchmark, Goal((Objective(next(iter(benchmark.metrics), "accuracy"), True),)), seed=1)
    return benchmark, problem.evaluate(problem.sample()), problem


def _measure(benchmark: Benchmark, task: Evaluate) -> Measurement:
    return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())


def _trained(
    benchmark: SupernetBenchmark, problem: Problem, artifacts: MemoryArtifacts, *, weights: Handle | None = None
) -> Trained:
    """An epoch on two paths, with the same paths and the same seed each time."""
    paths = tuple(benchmark.space.sample(default_rng(i)) for i in range(2))
    task = replace(problem.train_supernet(paths, epochs=1, weights=weights), seed=1)
    return benchmark.train(task, device="cpu", artifacts=artifacts)
