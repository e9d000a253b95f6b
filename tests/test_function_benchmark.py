"""A function of a user's own as a benchmark: what it is given, what it may return, and what is kept of it."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import nn

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.authoring.checkpoint import Checkpoint
from nasplat.authoring.function import Function, FunctionBenchmark, function_benchmark, measures
from nasplat.authoring.reporting import MOST_EPOCHS, Reporter, TrialStopped
from nasplat.config import Workload
from nasplat.curve import StopRule
from nasplat.errors import InputError, TrialFailed
from nasplat.executors.executor import perform
from nasplat.executors.sending import Sent
from nasplat.metric import Metric
from nasplat.objective import Goal, Objective
from nasplat.options import construct, defaults, described_options
from nasplat.problem import Problem
from nasplat.task import (
    STATE,
    Evaluate,
    Failure,
    Measurement,
    Spent,
    decode_outcome,
    decode_task,
    encode_outcome,
    encode_task,
)
from nasplat.testing import BENCHMARK_CHECKS, ToySpace

SPACE = ToySpace()
CODE = SPACE.parse("0123")
TASK = Evaluate(id=0, seed=5, architecture=CODE, fidelity=3)


def train(
    network: nn.Module,
    *,
    epochs: int = 3,
    seed: int,
    device: str,
    checkpoint: Checkpoint,
    report: Reporter,
    split: str,
    learning_rate: float = 0.01,
) -> Mapping[str, Any]:
    """Train on noise.

    Args:
        learning_rate: The rate of Adam.
    """
    inputs = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(int(split == "test"))).to(device)
    labels = inputs.flatten(1)[:, :10].argmax(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    state = checkpoint.load() or {"epoch": 0}
    if state["epoch"]:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(state["epoch"], epochs):
        for batch in torch.randperm(24).reshape(3, 8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
        report(epoch + 1, {"loss": loss.detach(), "noise": np.random.rand() + random.random()}, images=24)  # noqa: NPY002
        checkpoint.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1})
    right = network.eval()(inputs).argmax(1) == labels
    return {"accuracy": right.float().mean(), "rate": np.float64(learning_rate)}


def made(function: Function, **options: Any) -> FunctionBenchmark:
    """The benchmark of a function on the toy space."""
    return construct("benchmark", function_benchmark(function), SPACE, **options)


def measured(function: Function, task: Evaluate = TASK, **options: Any) -> Measurement:
    """The measurement by a function."""
    return made(function, **options).measure(task, device="cpu", artifacts=MemoryArtifacts())


@pytest.mark.slow
@pytest.mark.parametrize("check", BENCHMARK_CHECKS, ids=lambda check: check.__name__)
def test_a_training_function_keeps_the_contract(check: Callable[..., None]) -> None:
    check(lambda: made(train, learning_rate=0.02))


def test_options_are_the_annotated_parameters() -> None:
    benchmark = function_benchmark(train)
    assert defaults(benchmark) == {"epochs": 3, "learning_rate": 0.01}
    epochs, rate = described_options(benchmark)
    assert (epochs.type, epochs.meaning) == ("int >= 1", "The epochs of a full measurement.")
    assert rate.meaning == "The rate of Adam."
    assert (benchmark.__module__, benchmark.__qualname__) == (train.__module__, "train")
    assert benchmark.__doc__ is not None and benchmark.__doc__.startswith("Train on noise.")
    with pytest.raises(InputError, match="no option of benchmark is named 'learning_rat'; did you mean"):
        made(train, learning_rat=1)
    with pytest.raises(InputError, match=r"benchmark\.learning_rate: input should be a valid number"):
        made(train, learning_rate="fast")
    assert measured(train, learning_rate=0.5).metrics["rate"] == 0.5


def test_only_what_is_declared_is_given() -> None:
    calls: list[dict[str, Any]] = []

    def all_of(network: nn.Module, *, epochs: int = 4, seed: int, device: str, split: str, **other: Any) -> Any:
        calls.append({"epochs": epochs, "seed": seed, "device": device, "split": split, **other})
        return {"accuracy": 1}

    def none_of(network: nn.Module, verbose=False, loss: Callable[..., Any] = nn.functional.mse_loss) -> Any:  # type: ignore[no-untyped-def]
        calls.append({"verbose": verbose, "loss": loss})
        return {"accuracy": 0}

    measured(all_of, replace(TASK, fidelity=2, seed=2**62 + 7))
    measured(none_of, replace(TASK, fidelity=1))
    assert calls == [
        {"epochs": 2, "seed": 7, "device": "cpu", "split": "validation"},
        {"verbose": False, "loss": nn.functional.mse_loss},
    ]
    assert made(all_of).fidelities == range(1, 5) and made(none_of).fidelities == range(1, 2)
    assert defaults(function_benchmark(none_of)) == {"verbose": False}


def test_architectures_and_choices_need_no_network() -> None:
    def of_code(architecture: Architecture) -> Any:
        return {"accuracy": int(architecture.code, 36) / 36**4}

    def of_choices(choices: Mapping[str, str], *, factor: Literal[1, 2] = 1) -> Any:
        return {"params": factor * sum(map(int, choices.values()))}

    assert measured(of_code, replace(TASK, fidelity=1)).metrics == {"accuracy": int("0123", 36) / 36**4}
    measurement = measured(of_choices, replace(TASK, fidelity=1), factor=2)
    assert measurement.metrics == {"params": 60} and not measurement.artifacts
    assert not function_benchmark(of_code).trains
    with pytest.raises(InputError, match="give it a parameter `split`"):
        made(of_code).final(measurement, device="cpu", artifacts=MemoryArtifacts())


def test_weights_are_those_of_the_network_after_the_call() -> None:
    artifacts, kept = MemoryArtifacts(), []

    def training(network: nn.Module) -> Any:
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        kept.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"accuracy": 0.5}

    benchmark = made(training)
    measurement = benchmark.measure(replace(TASK, fidelity=1), device="cpu", artifacts=artifacts)
    state = benchmark.state_dict(measurement, artifacts=artifacts)
    assert state.keys() == kept[0].keys() and all(torch.equal(state[name], kept[0][name]) for name in state)


def test_weights_that_are_tied_are_kept() -> None:
    artifacts = MemoryArtifacts()
    weight = torch.ones(2, 2)
    handle = artifacts.put_tensors({"a": weight, "b": weight.T, "c": weight})
    assert all(torch.equal(tensor, weight) for tensor in artifacts.get_tensors(handle).values())


def test_what_is_reported_is_the_curve() -> None:
    measurement = measured(train)
    assert list(measurement.curve) == [1, 2, 3]
    assert all(set(figures) == {"loss", "noise"} for figures in measurement.curve.values())
    assert measurement.spent.images == 72
    assert measured(train).curve == measurement.curve  # numpy and random are seeded, too
    body = encode_outcome(measurement)
    assert decode_outcome(body) == measurement
    assert "curve" not in encode_outcome(replace(measurement, curve={}))


def test_a_failure_keeps_what_was_reported() -> None:
    def failing(network: nn.Module, report: Reporter) -> Any:
        report(1, {"loss": 2.0})
        report(1, {"accuracy": 0.25})
        raise KeyError("labels")

    outcome = perform(replace(TASK, fidelity=1), made(failing), device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(outcome, Failure)
    assert outcome.kind == "KeyError" and outcome.curve == {1: {"loss": 2.0, "accuracy": 0.25}}
    assert 'raise KeyError("labels")' in outcome.traceback
    assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize("swallows", [False, True])
def test_a_rule_stops_a_trial(swallows: bool) -> None:
    seen = []

    def training(network: nn.Module, report: Reporter, epochs: int = 5) -> Any:
        for epoch in range(1, epochs + 1):
            try:
                report(epoch, {"accuracy": epoch / 10})
            except Exception:  # noqa: BLE001  what careless code does
                continue
            except BaseException:
                if not swallows:
                    raise
            seen.append(epoch)
        return {"accuracy": 1.0}

    stop = StopRule(metric="accuracy", maximize=True, thresholds=((2, 0.15), (3, 0.5)))
    task = replace(TASK, stop=stop, fidelity=5)
    assert decode_task(encode_task(task)) == task
    outcome = perform(task, made(training), device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(outcome, Failure) and outcome.kind == "stopped"
    assert outcome.message == "by epoch 3, accuracy had not reached 0.5, the median of the trials before"
    assert outcome.curve.keys() >= {1, 2, 3} and (seen == [1, 2] or swallows)


def test_a_rule_counts_the_best_value_so_far() -> None:
    stop, nan = StopRule(metric="loss", maximize=False, thresholds=((2, 0.5),)), float("nan")

    def stops(*reports: tuple[int, str, float]) -> bool:
        reporter = Reporter("f", stop)
        try:
            for epoch, metric, value in reports:
                reporter(epoch, {metric: value})
        except TrialStopped:
            return True
        return False

    assert not stops((1, "loss", 0.4), (2, "loss", 0.9))
    assert not stops((1, "loss", 0.5), (2, "loss", nan))
    assert stops((1, "loss", 0.6), (2, "loss", 0.6))
    assert not stops((1, "loss", 0.6))
    assert not stops((2, "accuracy", 0.6))
    assert stops((1, "loss", nan), (2, "loss", nan))
    assert not stops((1, "loss", nan), (2, "loss", 0.5))


def test_a_rule_of_many_epochs_costs_no_more_for_each_report() -> None:
    epochs = MOST_EPOCHS
    stop = StopRule(metric="loss", maximize=False, thresholds=tuple((epoch, 1.0) for epoch in range(epochs)))
    reporter, began = Reporter("f", stop), time.process_time()
    for epoch in range(epochs):
        reporter(epoch, {"loss": 0.5})
    assert time.process_time() - began < 1  # 5 s if each report went through all thresholds and epochs


@pytest.mark.parametrize("images", [-5, 2.5, "3", None])
def test_a_wrong_number_of_images_fails_the_trial_and_nothing_of_it_is_logged(images: Any) -> None:
    def training(network: nn.Module, report: Reporter) -> Any:
        report(1, {"loss": 1.0}, images=7)
        report(2, {"loss": 1.0}, images=images)
        return {"accuracy": 1.0}

    task = replace(TASK, fidelity=1)
    outcome = perform(task, made(training), device="cpu", artifacts=MemoryArtifacts())
    assert isinstance(outcome, Failure) and outcome.kind == "wrong report"
    assert f"reports images={images!r}; give the training images" in outcome.message
    assert outcome.curve == {1: {"loss": 1.0}}
    assert decode_outcome(encode_outcome(outcome)) == outcome


@pytest.mark.parametrize("images", [-1, 2.5, float("nan")])
def test_no_work_processes_a_number_of_images_that_a_log_could_not_tell(images: Any) -> None:
    with pytest.raises(InputError, match="images must be a whole number, 0 or more"):
        Spent(images=images)


def test_higher_fidelities_continue_from_a_checkpoint_alone() -> None:
    def without(network: nn.Module, *, epochs: int = 2, report: Reporter) -> Any:
        for epoch in range(epochs):
            report(epoch, {"loss": 1.0})
        return {"accuracy": 0.0}

    assert STATE not in measured(without, replace(TASK, fidelity=1)).artifacts
    assert list(measured(without, replace(TASK, fidelity=2)).curve) == [0, 1]
    artifacts = MemoryArtifacts()
    first = made(train).measure(replace(TASK, fidelity=2), device="cpu", artifacts=artifacts)
    going = replace(TASK, id=1, seed=99, continues=first.artifacts[STATE])
    second = made(train).measure(going, device="cpu", artifacts=artifacts)
    assert list(second.curve) == [3] and STATE not in second.artifacts
    whole = measured(train)
    assert second.curve[3] == whole.curve[3]
    assert (second.metrics, second.artifacts) == (whole.metrics, whole.artifacts)


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"fidelity": 2}, "already past it"), ({"architecture": SPACE.parse("1111")}, "another network")],
)
def test_a_state_of_another_training_is_refused(change: dict[str, Any], kind: str) -> None:
    artifacts = MemoryArtifacts()
    first = made(train).measure(replace(TASK, fidelity=2), device="cpu", artifacts=artifacts)
    with pytest.raises(TrialFailed) as failed:
        made(train).measure(
            replace(TASK, continues=first.artifacts[STATE], **change), device="cpu", artifacts=artifacts
        )
    assert failed.value.kind == kind


def test_a_checkpoint_gives_back_what_was_saved() -> None:
    tensor, array = torch.arange(3.0), np.arange(4, dtype=np.int16).reshape(2, 2)
    state = {
        "tensor": tensor,
        "array": array,
        "nested": {0: [1, 2.5, None, True, "text", float("inf")], "betas": (0.9, 0.999), "rate": np.float32(0.5)},
    }
    artifacts, first = MemoryArtifacts(), Checkpoint(7, 1, keep=True)
    first.save(state)
    tensor += 1  # training goes on in place
    handle = first.put(CODE, artifacts)
    assert handle is not None
    second = Checkpoint(8, 2, keep=True)
    second.resume(handle, CODE, artifacts)
    with torch.random.fork_rng(devices=[]):
        found = second.load()
    assert found is not None and second.seed == 7
    assert torch.equal(found.pop("tensor"), torch.arange(3.0))
    assert np.array_equal(found.pop("array"), array) and found["nested"] == state["nested"]
    assert type(found["nested"]["betas"]) is tuple


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), b"bytes", {2.5: 1}, np.array(["a"])], ids=lambda value: type(value).__name__
)
def test_a_checkpoint_refuses_what_it_cannot_keep(value: object) -> None:
    with pytest.raises(TrialFailed, match=r"but state\['deep'\]\[0\] is \w+; save its state_dict"):
        Checkpoint(0, 1, keep=False).save({"deep": [value]})
    with pytest.raises(TrialFailed, match="must be given a dictionary"):
        Checkpoint(0, 1, keep=False).save(value if not isinstance(value, dict) else [value])  # type: ignore[arg-type]


RETURNED: dict[str, tuple[Any, str, str]] = {
    "nothing": (None, "no metric", "must return its metrics by name, such as {'accuracy': 0.9}, but returns None"),
    "a number": (0.9, "no metric", "but returns 0.9"),
    "an empty mapping": ({}, "no metric", "but returns {}"),
    "a name that is no text": ({1: 0.5}, "no metric", "must name its metrics by text, but returns one as 1"),
    "text": ({"accuracy": "0.9"}, "no number", "accuracy is '0.9'; return one number"),
    "a truth value": ({"accuracy": True}, "no number", "accuracy is bool"),
    "a tensor of many": ({"accuracy": torch.zeros(2)}, "no number", "Tensor of shape (2,) on cpu; return one number"),
    "a tensor without a value": ({"accuracy": torch.zeros((), device="meta")}, "no number", "shape () on meta"),
    "more than a float": ({"loss": 10**400}, "no number", "loss is a whole number beyond the largest float"),
    "an array": ({"loss": np.zeros((1, 1))}, "no number", "ndarray of shape (1, 1)"),
    "percent": ({"accuracy": 93.5}, "impossible metric", "a fraction of 0 to 1, but got 93.5; if it is in percent"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_is_no_metric_is_refused(case: str) -> None:
    value, kind, said = RETURNED[case]
    with pytest.raises(TrialFailed) as failed:
        measured(lambda_of(value), replace(TASK, fidelity=1))
    assert failed.value.kind == kind and said in str(failed.value) and "evaluate" in str(failed.value)


def lambda_of(value: Any) -> Function:
    """A function that returns the value."""

    def evaluate(architecture: Architecture) -> Any:
        return value

    return evaluate


@pytest.mark.parametrize(
    "value", [torch.tensor(0.5, requires_grad=True), np.float32(0.5), np.array(0.5), 0.5, torch.tensor(0.5).half()]
)
def test_a_tensor_without_dimensions_is_a_number(value: Any) -> None:
    metrics = measured(lambda_of({"accuracy": value}), replace(TASK, fidelity=1)).metrics
    assert metrics == {"accuracy": 0.5} and type(metrics["accuracy"]) is float


def test_reports_are_checked() -> None:
    report = Reporter("f")
    report(2, {"loss": float("nan")})
    for epoch in (1, -1, 2.5, None):
        with pytest.raises(TrialFailed, match=r"that do not fall, but f reports .* after 2"):
            report(epoch, {"loss": 1.0})  # type: ignore[arg-type]
    with pytest.raises(TrialFailed, match="f must report its metrics by name"):
        report(3, 0.5)  # type: ignore[arg-type]


def test_a_function_must_leave_the_network_that_is_exported() -> None:
    def changing(network: nn.Module) -> Any:
        network.add_module("head", nn.Linear(2, 2))
        return {"accuracy": 0.5}

    with pytest.raises(
        TrialFailed, match=r"must leave the network .* but it changed head.bias, head.weight;"
    ) as failed:
        measured(changing, replace(TASK, fidelity=1))
    assert failed.value.kind == "another network"


def test_the_test_split_only_measures() -> None:
    def trains_again(network: nn.Module, *, split: str) -> Any:
        nn.init.ones_(network[1].weight)  # type: ignore[index]
        return {"accuracy": 0.5}

    artifacts, benchmark = MemoryArtifacts(), made(train)
    measurement = benchmark.measure(TASK, device="cpu", artifacts=artifacts)
    final = benchmark.final(measurement, device="cpu", artifacts=artifacts)
    assert (final.split, final.task) == ("test", TASK) and final.metrics.keys() == measurement.metrics.keys()
    with pytest.raises(InputError, match="must only measure when it is called with split='test'"):
        made(trains_again).final(measurement, device="cpu", artifacts=artifacts)


def test_declared_metrics_are_held_to() -> None:
    @measures("accuracy", "latency_ms", code_metrics=["latency_ms"])
    def declared(architecture: Architecture) -> Any:
        return {"accuracy": 0.5}

    benchmark = made(declared)
    assert benchmark.metrics == ("accuracy", "latency_ms") and benchmark.code_metrics == {"latency_ms"}
    with pytest.raises(TrialFailed, match="must return all metrics that it declares by `measures`, but latency_ms"):
        measured(declared, replace(TASK, fidelity=1))
    with pytest.raises(InputError, match="must be given the names of all metrics"):
        measures("accuracy", code_metrics=["latency_ms"])
    problem = Problem(SPACE, Goal((Objective("acuracy", True),)), io=benchmark.io)
    with pytest.raises(InputError, match="no metric is named 'acuracy'; did you mean 'accuracy'"):
        problem.check_metrics(benchmark.metrics)
    problem.check_metrics(made(train).metrics)  # known only from a measurement
    assert made(train).can_measure("acuracy") and not benchmark.can_measure("acuracy")
    assert Metric.known("accuracy") is not None


def refused(network: nn.Module, x: int) -> Any:
    """A parameter without a default."""


def unresolved(network: nn.Module, rate: "Nowhere" = 1) -> Any:  # type: ignore[name-defined]  # noqa: F821
    """An annotation that names nothing."""


async def asynchronous(network: nn.Module) -> Any:
    """Not a function that returns."""


def generating(network: nn.Module) -> Any:
    """Not a function that returns."""
    yield {"accuracy": 0.5}


def nameless(model: nn.Module) -> Any:
    """The first parameter has another name."""


def clashing(network: nn.Module, *, metrics: int = 3) -> Any:
    """An option with the name of an attribute."""


def never(network: nn.Module, *, epochs: int = 0) -> Any:
    """Trains for no epochs."""


REFUSED: dict[str, tuple[Any, str]] = {
    "a class": (dict, "must be written with `def`"),
    "a parameter without a default": (refused, "x of .*refused has none; give it one"),
    "an annotation of nothing": (unresolved, "annotations of .*unresolved cannot be read"),
    "async": (asynchronous, "asynchronous is async"),
    "yield": (generating, "generating yields; return a dictionary"),
    "no network": (nameless, r"must be `network` .* but is 'model' in .*nameless\(model"),
    "no parameter": (lambda: None, "but is 'missing'"),
    "a name that is taken": (clashing, "an option cannot be called 'metrics'"),
    "no epochs": (never, "at least 1, but its default in .*never is 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_form_is_refused_with_its_remedy(case: str) -> None:
    function, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        function_benchmark(function)


@pytest.mark.slow
def test_a_class_made_here_works_in_another_process(tmp_path: Path) -> None:
    """As on a Ray worker: cloudpickle sends the class, and what it holds, by value where it cannot be imported."""
    source = tmp_path / "sent.py"
    source.write_text(
        "import pickle, sys\n"
        "from nasplat.architecture import Architecture\n"
        "from nasplat.options import construct, defaults\n"
        "from nasplat.task import Evaluate\n"
        "cls = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert defaults(cls) == {'factor': 2}, defaults(cls)\n"
        "task = Evaluate(id=0, seed=1, architecture=Architecture('toy', '0123'), fidelity=1)\n"
        "print(construct('benchmark', cls, None, factor=3).measure(task, device='cpu', artifacts=None).metrics)\n"
    )
    offset = 0.25

    def closure(architecture: Architecture, *, factor: int = 2) -> Any:
        return {"value": factor * offset}

    (tmp_path / "class").write_bytes(cloudpickle.dumps(function_benchmark(closure)))
    done = subprocess.run([sys.executable, source, tmp_path / "class"], capture_output=True, text=True)
    assert done.stdout == "{'value': 0.75}\n", done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"stop": ["accuracy", "up", []]},
        {"stop": ["accuracy"]},
        {"stop": ["accuracy", "max", [[1]]]},
        {"stop": ["accuracy", "max", [[-1, 0.5]]]},
        {"teacher": ["toy"]},
    ],
)
def test_a_malformed_task_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode_task({**encode_task(TASK), **change})


@pytest.mark.parametrize("curve", [3, [[1]], [[1, {"loss": "low"}]], [[True, {}]]])
def test_a_malformed_curve_is_refused(curve: Any) -> None:
    body = encode_outcome(Failure(task=TASK, kind="stopped", message=""))
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode_outcome({**body, "curve": curve})


def test_what_cannot_be_sent_to_workers_is_refused_before_they_start() -> None:
    lock = threading.Lock()

    def holding(network: nn.Module) -> Any:
        with lock:
            return {"accuracy": 0.5}

    def free(network: nn.Module) -> Any:
        return {"accuracy": 0.5}

    Sent(Workload("toy", "mine:free", adopted={"mine:free": function_benchmark(free)}))
    with pytest.raises(InputError, match=r"must be sent mine:holding .* '_thread.lock' object; open files"):
        Sent(Workload("toy", "mine:holding", adopted={"mine:holding": function_benchmark(holding)}))


EAGER = """
import sys
import nasplat

def evaluate(network):
    return {"accuracy": 0.5}

if "receiving" in sys.argv:
    nasplat.search(space="nasbench201", benchmark=evaluate, objectives="accuracy:max", evaluations=1)
"""


def test_a_module_that_searches_while_a_worker_imports_it_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "eager.py").write_text(EAGER)
    send = (
        "import eager, nasplat, pickle; from nasplat.authoring.function import function_benchmark;"
        "from nasplat.config import Workload; from nasplat.executors.sending import Sent;"
        "print(pickle.dumps(Sent(Workload('toy', 'eager:evaluate',"
        "adopted={'eager:evaluate': function_benchmark(eager.evaluate)}))).hex())"
    )
    sent = subprocess.run([sys.executable, "-c", send], cwd=tmp_path, capture_output=True, text=True, check=True)
    take = "import pickle, sys; print(type(pickle.loads(bytes.fromhex(sys.stdin.read()))).__name__)"
    words = [sys.executable, "-c", take]
    taken = subprocess.run(words, input=sent.stdout, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert taken.stdout.strip() == "Workload"
    done = subprocess.run([*words, "receiving"], input=sent.stdout, cwd=tmp_path, capture_output=True, text=True)
    assert "the module of eager:evaluate starts a search while it is imported" in done.stderr
