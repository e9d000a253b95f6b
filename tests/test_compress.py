"""`nasplat compress`: trained networks, transformed, fitted to their weights, and fine-tuned in a run of their own."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

import nasplat
import nasplat.transforms
from nasplat.artifact import MemoryArtifacts
from nasplat.nn.full_stack import FullStack, FullStackConv2d, fit
from nasplat.registry import SEARCH_SPACES
from nasplat.retraining import Retraining
from nasplat.run.compressed import FITTED, ORIGINAL, TUNED, table
from nasplat.task import Evaluate, Measurement
from nasplat.testing.strategies import toy_problem

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
FILTERS = {"name": "full_stack", "filters": 4}
WORDS = ["--transform", "full_stack", "--set", "transform.filters=4", "--epochs", "2", "--checkpoints", "2"]
PATIENCE = 300.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> nasplat.Run:
    return nasplat.search(
        space={"name": "nasbench201", "channels": 4, "cells": 1},
        benchmark={"name": "classification", "epochs": 3, "data": {"subset": 400}, "recipe": {"batch_size": 32}},
        strategy="random_search",
        objectives="accuracy:max",
        evaluations=1,
        out=tmp_path_factory.mktemp("compress") / "run",
        progress=False,
    )


@pytest.fixture(scope="module")
def small(run: nasplat.Run) -> nasplat.Run:
    out = run.folder.parent / "small"
    return nasplat.compress(run, FILTERS, epochs=2, checkpoints=2, out=out, progress=False)


def weights(run: nasplat.Run, trial: int) -> dict[str, torch.Tensor]:
    (measurement,) = run.pick(trial)
    return load(run.directory.artifacts.get(measurement.artifacts["weights"]))


@pytest.mark.slow
def test_a_network_is_measured_as_it_was_as_it_was_fitted_and_fine_tuned(run: nasplat.Run, small: nasplat.Run) -> None:
    compression = small.compression
    assert compression is not None and compression.epochs == 2
    (member,) = compression.members
    states = {state.name: state for state in member.states}
    assert list(states) == [ORIGINAL, FITTED, TUNED]
    original = states[ORIGINAL].values
    assert original is not None and original.mean == run.best.metrics["accuracy"]
    assert [trial.task.fidelity for trial in small.trials() if isinstance(trial, Measurement)] == [0, 1, 2]
    for name in ("memory_bits", "multiplications"):
        assert states[TUNED].costs[name] < states[ORIGINAL].costs[name]
    assert states[TUNED].costs["additions"] == states[ORIGINAL].costs["additions"] == run.best.metrics["macs"]
    assert run.comparison is None and small.kind == "retraining"


@pytest.mark.slow
def test_it_begins_with_the_weights_that_are_fitted_to_the_originals(run: nasplat.Run, small: nasplat.Run) -> None:
    space = run.directory.benchmark().space
    network = space.build(run.best.architecture, run.directory.benchmark().io)
    network.load_state_dict(weights(run, run.best.id))
    rewriting = nasplat.transforms.apply(network, "full_stack", filters=4, fitted=True)
    benchmark, artifacts = small.directory.benchmark(), MemoryArtifacts()
    artifacts.put_tensors(network.state_dict())
    (fitted,) = small.pick(0)
    again = benchmark.measure(fitted.task, device="cpu", artifacts=artifacts)
    assert again.metrics["accuracy"] == fitted.metrics["accuracy"]
    begun = artifacts.get_tensors(again.artifacts["weights"])
    layers = {name: each for name, each in rewriting.network.named_modules() if isinstance(each, FullStackConv2d)}
    assert layers
    for name, layer in layers.items():
        assert torch.equal(begun[f"{name}.filters"], layer.filters), name
    assert small.compression is not None
    assert small.compression.members[0].errors == pytest.approx(rewriting.errors)
    tuned = weights(small, 2)  # a layer that leads nowhere is not trained
    assert any(not torch.equal(tuned[f"{name}.filters"], begun[f"{name}.filters"]) for name in layers)


@pytest.mark.slow
def test_on_trained_weights_the_error_falls_at_every_step_and_own_masks_fit_best(run: nasplat.Run) -> None:
    trained = {name: each for name, each in weights(run, run.best.id).items() if each.ndim == 4}
    assert len(trained) > 5
    for name, weight in trained.items():
        for ratio in (2, 3, 4, 16):
            shared, individual = (fit(weight, FullStack(ratio, masks)).errors for masks in ("shared", "individual"))
            assert all(after <= before + 1e-12 for before, after in itertools.pairwise(shared)), name
            assert individual[-1] <= shared[-1] + 1e-12, name


@pytest.mark.slow
def test_show_json_and_resume_know_what_it_is(small: nasplat.Run, command: CommandLine) -> None:
    shown = command("show", str(small.folder))
    assert shown.returncode == 0 and "as fitted" in shown.stdout and "multiplications" in shown.stdout
    assert "as fitted" in small.report().read_text() and small.comparison is None
    again = json.loads(command("resume", str(small.folder), "--json").stdout)
    (member,) = again["compressed"]
    assert [state["state"] for state in member["states"]] == [ORIGINAL, FITTED, TUNED]
    before, _, after = member["states"]
    assert after["weights_bytes"] < before["weights_bytes"] and after["onnx_bytes"] < before["onnx_bytes"]
    assert after["latency_ms"] > 0


@pytest.mark.slow
def test_pruned_networks_are_compressed_and_spreads_over_images_are_told_from_those_over_seeds(
    run: nasplat.Run, small: nasplat.Run, tmp_path: Path
) -> None:
    options = {"name": "instance_pruning", "macs": 0.8}
    pruned = nasplat.compress(run, options, epochs=1, checkpoints=1, out=tmp_path / "pruned", progress=False)
    assert pruned.compression is not None
    columns, rows = table(pruned.compression)
    assert columns[3] == "expected MACs" and " ± " not in rows[0][3] and all(" ± " in row[3] for row in rows[1:])
    said = "but for expected MACs, where it is the standard deviation over images"
    assert said in pruned.report().read_text() and said not in small.report().read_text()


@pytest.mark.slow
@pytest.mark.exports
def test_it_is_tested_and_exported_like_any_other(small: nasplat.Run, run: nasplat.Run, tmp_path: Path) -> None:
    (final,) = small.test()
    assert final.split == "test"
    folder = small.export(out=tmp_path / "export", format="source", latency=False)  # all: test_transformed_exports.py
    network = nasplat.load(folder)
    images = torch.rand(3, 1, 8, 8)
    want = space_network(small)(images)
    assert torch.equal(network(images), want)
    names: dict[str, Any] = {"__file__": str(folder / "network.py"), "__name__": "network"}
    exec((folder / "network.py").read_text(), names)
    torch.testing.assert_close(names["load"]()(images), want)
    plain = run.export(out=tmp_path / "plain", latency=False)
    assert (folder / "weights.safetensors").stat().st_size < (plain / "weights.safetensors").stat().st_size


def space_network(run: nasplat.Run) -> torch.nn.Module:
    benchmark = run.directory.benchmark()
    network = benchmark.space.build(run.best.architecture, benchmark.io)
    network.load_state_dict(weights(run, run.best.id))
    return network.eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.exports
def test_an_exported_folder_is_compressed_as_the_run_is(run: nasplat.Run, small: nasplat.Run, tmp_path: Path) -> None:
    exported = run.export(out=tmp_path / "exported", latency=False)
    with pytest.raises(nasplat.InputError, match="has no data; name the benchmark"):
        nasplat.compress(exported, FILTERS, progress=False)
    options = run.config.benchmark.options
    options["recipe"] = {name: value for name, value in options["recipe"].items() if name != "distillation"}
    again = nasplat.compress(
        exported, FILTERS, benchmark={"name": "classification", **options}, objectives="accuracy:max", epochs=2,
        checkpoints=2, progress=False,
    )  # fmt: skip
    assert again.folder == tmp_path / "exported-compressed-1"
    assert again.compression is not None and small.compression is not None
    values = [[state.values for state in each.compression.members[0].states] for each in (again, small)]  # type: ignore[union-attr]
    assert values[0] == values[1]


@pytest.mark.slow
@pytest.mark.parametrize(  # a kill with every commit, workers of Ray with --whole
    "way",
    [
        *(pytest.param(outcomes, marks=pytest.mark.sweep(1)) for outcomes in (0, 1, 2)),
        pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.sweep(0)]),
    ],
)
def test_killed_after_some_outcomes_or_on_ray_workers_it_ends_with_the_same_weights(
    way: int | str,
    run: nasplat.Run,
    small: nasplat.Run,
    tmp_path: Path,
    command: CommandLine,
    request: pytest.FixtureRequest,
) -> None:
    out = tmp_path / "again"
    words = ["compress", str(run.folder), *WORDS, "--out", str(out)]
    if isinstance(way, int):
        kill_after(way, words, out)
        done = command("resume", str(out))
    else:
        address = request.getfixturevalue("cluster").address
        done = command(*words, "--executor", "ray", "--ray-address", address)
    assert done.returncode == 0, done.stderr
    assert weights_equal(nasplat.open_run(out), small)


def kill_after(outcomes: int, words: list[str], out: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "nasplat", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ends = time.monotonic() + PATIENCE
    while child.poll() is None and (not out.exists() or measured(out) < outcomes):
        assert time.monotonic() < ends
        time.sleep(0.01)
    child.kill()
    child.wait()


def measured(folder: Path) -> int:
    return len(nasplat.open_run(folder).trials())


def weights_equal(one: nasplat.Run, other: nasplat.Run) -> bool:
    first, second = weights(one, one.best.id), weights(other, other.best.id)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a compression needs a transform"),
        (["--transform", "nope"], "no transform is named 'nope'"),
        (["--transform", "full_stack", "--set", "transform.filters=17"], "at most the 16 filters"),
        (["--transform", "full_stack", "--set", "transform.filter=4"], "did you mean 'filters'?"),
        (["--transform", "full_stack", "--set", "transform.per=stage"], "transforms the whole network"),
        (["--transform", "full_stack", "--transform", "ghost"], "rewrite the same layers"),
        (["--transform", "instance_pruning", "--set", "transform.macs=0.01"], "raise it, or prune more layers"),
        (["--transform", "instance_pruning", "--set", "transform.rise=0.9"], "together at most 1"),
        (["--transform", "ghost", "--pick", "9"], "no finished trial 9"),
        (["--transform", "ghost", "--benchmark", "zero_cost"], "zero_cost"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_refused_and_nothing_is_created(
    words: list[str], said: str, run: nasplat.Run, tmp_path: Path, command: CommandLine
) -> None:
    done = command("compress", str(run.folder), *words, "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and said in " ".join(done.stderr.split()), done.stderr
    assert done.stderr.count("error:") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_epochs_and_distillation_that_the_user_gives_hold(run: nasplat.Run, tmp_path: Path) -> None:
    benchmark = {"name": "classification", **run.config.benchmark.options, "epochs": 1}
    once = nasplat.compress(
        run, "ghost", benchmark=benchmark, recipe={"recipe": {"distillation": 0}}, out=tmp_path / "once", progress=False
    )
    trials = [trial for trial in once.trials() if isinstance(trial, Measurement)]
    assert [trial.task.fidelity for trial in trials] == [0, 1]
    assert all(trial.task.teacher is None and trial.task.tuning is not None for trial in trials)
    assert once.config.benchmark.options["epochs"] == 1


@pytest.mark.slow
def test_networks_that_upscale_are_compressed_without_a_teacher(tmp_path: Path) -> None:
    run = nasplat.search(
        space="esrn/tiny",
        benchmark={"name": "super_resolution", "epochs": 1, "recipe": {"steps": 3}},
        strategy="random_search",
        objectives="psnr_db:max",
        evaluations=1,
        out=tmp_path / "run",
        progress=False,
    )
    small = nasplat.compress(run, {"name": "full_stack", "filters": 2}, out=tmp_path / "small", progress=False)
    assert small.compression is not None
    states = small.compression.members[0].states
    assert states[0].values is not None and states[0].values.mean == run.best.metrics["psnr_db"]
    assert [trial.task.fidelity for trial in small.trials() if isinstance(trial, Measurement)] == [0, 1]


@pytest.mark.slow
@pytest.mark.exports
def test_binary_networks_are_compressed_tested_and_exported(run: nasplat.Run, tmp_path: Path) -> None:
    small = nasplat.compress(
        run, {"name": "balanced_binary", "warmup": 4}, epochs=1, out=tmp_path / "binary", progress=False
    )
    assert small.compression is not None and "bit operations" in table(small.compression)[0]
    (member,) = small.compression.members
    before, _, after = (state.costs for state in member.states)
    assert before["bit_operations"] == 0 < after["bit_operations"] < before["macs"]
    assert after["multiplications"] < before["macs"] / 2
    assert after["memory_bits"] < before["memory_bits"] / 3 and all(0 < error < 1 for error in member.errors.values())
    assert small.test()[0].split == "test"
    folder = small.export(out=tmp_path / "export", latency=False)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(nasplat.load(folder)(images), space_network(small)(images))


class Net(torch.nn.Module):
    """Two convolutions, of which one has a choice."""

    def __init__(self, input_shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        width = nasplat.number("width", (4, 8))
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(input_shape[0], 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, width, 3), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(width, outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[n, outputs]` of images `[n, channels, 8, 8]`."""
        logits: torch.Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


@pytest.mark.slow
def test_a_network_of_ones_own_is_compressed_and_its_run_opened_again(tmp_path: Path) -> None:
    run = nasplat.search(
        space=Net,
        transform={"name": "full_stack", "filters": 2},
        benchmark={"name": "classification", "epochs": 1, "data": {"subset": 100}, "recipe": {"batch_size": 32}},
        strategy="random_search",
        objectives="accuracy:max",
        evaluations=1,
        out=tmp_path / "run",
        progress=False,
    )
    name = run.config.space.name
    assert name.endswith(":Net+full_stack")
    SEARCH_SPACES.restore(name, None)  # as in another process
    with pytest.raises(nasplat.InputError, match="give it"):
        nasplat.open_run(run.folder).resume(evaluations=2, progress=False)
    again = nasplat.open_run(run.folder, space=Net)
    again.resume(evaluations=2, progress=False)
    assert len(again.trials()) == 2
    network = nasplat.load(again.export(out=tmp_path / "export", latency=False), space=Net)
    assert any(isinstance(layer, FullStackConv2d) for layer in network.modules())


@pytest.mark.slow
def test_what_is_transformed_already_is_refused(small: nasplat.Run) -> None:
    with pytest.raises(nasplat.InputError, match="transformed already"):
        nasplat.compress(small, "ghost", progress=False)


def test_originals_need_a_transformed_space() -> None:
    with pytest.raises(nasplat.InputError, match="has no transform"):
        Retraining(toy_problem(), members=["0123"], originals={"0123": "0" * 64})


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("strategy", ["cars", "nsga2", "predictor_guided"])
def test_strategies_search_the_choices_of_stages(strategy: str, command: CommandLine, tmp_path: Path) -> None:
    options = {
        "cars": ["strategy.population=4", "strategy.warmup=1", "benchmark.shared_weights.calibration=64"],
        "nsga2": ["strategy.population=4"],
        "predictor_guided": ["strategy.initial=4"],
    }
    settings = [word for option in options[strategy] for word in ("--set", option)]
    done = command(
        "search", "--space", "nasbench201", "--set", "space.channels=2", "--set", "space.cells=1", "--transform",
        "full_stack", "--set", "transform.per=stage", "--set", "transform.filters=[2,4]", "--benchmark",
        "classification", "--set", "benchmark.epochs=2", "--set", "benchmark.data.subset=100", "--set",
        "benchmark.recipe.batch_size=32", "--strategy", strategy, *settings, "--objective", "accuracy:max",
        "--objective", "memory_bits:min", "--evaluations", "8", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = nasplat.open_run(tmp_path / "run")
    trials = [trial for trial in found.trials() if isinstance(trial, Measurement)]
    assert len({trial.architecture.code.partition(".")[2] for trial in trials}) > 1
    assert all(isinstance(trial.task, Evaluate) and trial.metrics["memory_bits"] > 0 for trial in trials)
