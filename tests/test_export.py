"""The network that was measured is the network that is exported: a real, tiny run and what leaves it."""

import copy
import csv
import gzip
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.artifact import Handle
from nasplat.config import SearchConfig
from nasplat.data.dataset import Dataset
from nasplat.data.datasets import DATASETS, dataset
from nasplat.data.examples import Examples, Splits
from nasplat.driver.assembly import Assembly
from nasplat.driver.loop import Search
from nasplat.errors import InputError, RunError
from nasplat.executors.inline import InlineExecutor
from nasplat.export import bundle
from nasplat.export.verification import Verification
from nasplat.nn.onnx import write_onnx
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Measurement

pytestmark = [pytest.mark.exports, pytest.mark.slow]

VERIFIED = {"random": asdict(Verification(0.0, 1.0, (1,))), "real": None}
"""What is said of an export that is not in question."""

FILES = {
    "architecture.json", "weights.safetensors", "model.onnx", "README.md", "verify.json", "predict.py",
}  # fmt: skip


def search(folder: Path, **changes: Any) -> RunDirectory:
    """A finished run of random search, small unless `changes` say otherwise."""
    tree: dict[str, Any] = {
        "space": {"name": "nasbench201", "channels": 4, "cells": 1},
        "benchmark": {"name": "classification", "dataset": "digits", "epochs": 1},
        "strategy": "random_search",
        "objectives": ["accuracy:max", "params:min"],
        "budget": {"evaluations": 3},
    }
    assembly = Assembly.of(SearchConfig.read(tree | changes))
    run = RunDirectory.create(folder, assembly.config)
    with run.writing() as log, InlineExecutor(assembly.benchmark, run.artifacts) as executor:
        Search(assembly.problem, assembly.strategy, executor, log, assembly.budget).run()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return search(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def measurements(run: RunDirectory) -> list[Measurement]:
    found = run.history().measurements
    assert len(found) == 3
    assert all(measurement.cached_from is None for measurement in found)
    return found


@pytest.fixture(scope="module")
def exported(run: RunDirectory, measurements: list[Measurement]) -> list[tuple[Path, dict[str, Any]]]:
    """Every trial's export with a final measurement, and what `export` returned."""
    folders = [run.folder / "export" / str(measurement.id) for measurement in measurements]
    return [
        (folder, bundle.export(run, measurement, folder, test=True))
        for folder, measurement in zip(folders, measurements, strict=True)
    ]


@pytest.fixture
def folder(exported: list[tuple[Path, dict[str, Any]]], tmp_path: Path) -> Path:
    """A copy of an export that a test may damage."""
    return Path(shutil.copytree(exported[0][0], tmp_path / "network"))


def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def logits_of(folder: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    (logits,) = session(folder).run(["logits"], {"images": images})
    assert isinstance(logits, np.ndarray)
    return logits


# What is in the folder


def test_an_export_is_files_that_say_where_they_come_from(
    run: RunDirectory, measurements: list[Measurement], exported: list[tuple[Path, dict[str, Any]]]
) -> None:
    for measurement, (folder, returned) in zip(measurements, exported, strict=True):
        assert {path.name for path in folder.iterdir()} == FILES
        description = json.loads((folder / "architecture.json").read_text())
        assert description == json.loads(json.dumps(returned))
        assert description["space"] == {"name": "nasbench201", "channels": 4, "cells": 1}
        assert description["architecture"] == measurement.architecture.code
        assert (description["input_shape"], description["outputs"]) == ([1, 8, 8], 10)
        assert description["trained"] is True
        assert description["measured"] == {"split": "validation", **measurement.metrics}
        assert description["final"]["split"] == "test"
        assert description["run"] == {"trial": measurement.id, "seed": measurement.task.seed, "fidelity": 1}
        assert description["versions"]["torch"] == version("torch")


def test_the_exported_weights_are_the_measured_artifact_byte_for_byte(
    run: RunDirectory, measurements: list[Measurement], exported: list[tuple[Path, dict[str, Any]]]
) -> None:
    for measurement, (folder, _) in zip(measurements, exported, strict=True):
        handle = measurement.artifacts["weights"]
        content = (folder / "weights.safetensors").read_bytes()
        assert content == run.artifacts.get(handle)
        assert Handle.of(content) == handle
    assert len({measurement.artifacts["weights"] for measurement in measurements}) == 3


FRESH = """
import json, sys
from pathlib import Path
from nasplat.data.datasets import dataset
from nasplat.export.bundle import load
from nasplat.training.fit import evaluate

splits = dataset("digits").load()
found = []
for folder in sys.argv[1:]:
    network = load(Path(folder))
    assert not network.training
    found.append([evaluate(network, splits.validation), evaluate(network, splits.test)])
print(json.dumps(found))
"""


def test_a_fresh_process_gets_the_recorded_figures_from_the_folders_alone(
    measurements: list[Measurement], exported: list[tuple[Path, dict[str, Any]]]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *(str(folder) for folder, _ in exported)],
        check=True,
        capture_output=True,
        text=True,
    )
    for measurement, (_, description), (validation, test) in zip(
        measurements, exported, json.loads(done.stdout), strict=True
    ):
        assert validation["accuracy"] == measurement.metrics["accuracy"]
        assert test["accuracy"] == description["final"]["accuracy"]
        assert validation["loss"] == pytest.approx(measurement.metrics["loss"], rel=1e-6)
        assert test["loss"] == pytest.approx(description["final"]["loss"], rel=1e-6)


def test_the_final_figures_are_those_of_the_benchmark(
    run: RunDirectory, measurements: list[Measurement], exported: list[tuple[Path, dict[str, Any]]]
) -> None:
    benchmark = Assembly.of(run.config).benchmark
    for measurement, (_, description) in zip(measurements, exported, strict=True):
        final = benchmark.final(measurement, device="cpu", artifacts=run.artifacts)
        assert description["final"] == {"split": "test", **final.metrics}


def test_onnx_gives_the_logits_of_torch_and_the_recorded_accuracy(
    measurements: list[Measurement], exported: list[tuple[Path, dict[str, Any]]]
) -> None:
    validation = dataset("digits").load().validation
    for measurement, (folder, _) in zip(measurements, exported, strict=True):
        given = logits_of(folder, validation.images.numpy())
        with torch.no_grad():
            expected = bundle.load(folder)(validation.images).numpy()
        assert np.abs(given - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
        hits = (given.argmax(axis=1) == validation.labels.numpy()).sum()
        assert hits / len(validation) == measurement.metrics["accuracy"]


def test_the_onnx_file_is_valid_and_whole(exported: list[tuple[Path, dict[str, Any]]]) -> None:
    for folder, _ in exported:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        assert [value.name for value in model.graph.input] == ["images"]
        assert [value.name for value in model.graph.output] == ["logits"]


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_batch_sizes_are_free(exported: list[tuple[Path, dict[str, Any]]], batch: int) -> None:
    images = np.random.default_rng(batch).standard_normal((batch, 1, 8, 8), dtype=np.float32)
    for folder, _ in exported:
        together = logits_of(folder, images)
        assert together.shape == (batch, 10)
        alone = np.concatenate([logits_of(folder, image[None]) for image in images[:3]])
        assert np.abs(together[:3] - alone).max() < 1e-4


def test_the_cost_is_that_of_the_exported_network(exported: list[tuple[Path, dict[str, Any]]]) -> None:
    for folder, description in exported:
        network = bundle.load(folder)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 1, 8, 8))
        assert description["cost"]["params"] == sum(parameter.numel() for parameter in network.parameters())
        assert 2 * description["cost"]["macs"] == counter.get_total_flops()
        assert description["cost"].items() <= description["measured"].items()


def test_the_verification_is_recorded(exported: list[tuple[Path, dict[str, Any]]]) -> None:
    for _, description in exported:
        verification = description["verification"]
        assert 0 <= verification["largest_difference"] <= verification["allowed"]
        assert len(set(verification["batches"])) > 1


# What goes wrong


@pytest.mark.parametrize("change", [0.01, float("nan")], ids=["slightly", "not a number"])
def test_an_onnx_file_that_disagrees_is_never_exported(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    write = write_onnx

    def write_perturbed(network: nn.Module, shape: tuple[int, ...], path: Path, **how: Any) -> None:
        other = copy.deepcopy(network)
        with torch.no_grad():
            list(other.parameters())[-1][3] += change * 10
        write(other, shape, path)
        assert path.is_file()

    monkeypatch.setattr(bundle, "write_onnx", write_perturbed)
    with pytest.raises(RunError, match=r"differs from torch by .* nothing was exported"):
        bundle.export(run, measurements[0], tmp_path / "network")
    assert not list(tmp_path.iterdir())


def test_an_exporter_that_fails_leaves_nothing_behind(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: nn.Module, shape: tuple[int, ...], path: Path, **how: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "write_onnx", fail)
    with pytest.raises(KeyboardInterrupt):
        bundle.export(run, measurements[0], tmp_path / "network")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_that_exists_is_written_over(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "network"
    match kind:
        case "folder":
            target.mkdir()
        case "file":
            target.write_text("mine")
        case _:
            target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="network exists; choose another --out"):
        bundle.export(run, measurements[0], target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_created_is_refused(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        bundle.export(run, measurements[0], tmp_path / "file" / "network")


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def scramble(path: Path) -> None:
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
@pytest.mark.parametrize("damage", [lose, empty, cut, scramble])
def test_loading_names_the_file_that_is_missing_or_damaged(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    with pytest.raises(InputError) as refused:
        bundle.load(folder)
    assert str(folder) in str(refused.value)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", 2, "format 2"),
        ("architecture", "21131", "6 symbols"),
        ("architecture", "21131x", "'x'"),
        ("architecture", 211312, "architecture"),
        ("space", {"name": "nasbenc201", "channels": 4, "cells": 1}, "did you mean 'nasbench201'"),
        ("space", {"channels": 4, "cells": 1}, "name"),
        ("space", {"name": "nasbench201", "channels": 4, "depth": 1}, "depth"),
        ("space", "nasbench201", "space"),
        ("space", {"name": "nasbench201", "channels": 5, "cells": 1}, "size mismatch"),
        ("input_shape", None, "input_shape"),
        ("input_shape", [8, 8], "size mismatch"),
        ("outputs", 11, "size mismatch"),
    ],
)
def test_loading_says_what_is_wrong_in_the_description(folder: Path, key: str, value: object, said: str) -> None:
    path = folder / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError) as refused:
        bundle.load(folder)
    assert str(folder) in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize("key", ["format", "space", "architecture", "input_shape", "outputs"])
def test_loading_names_what_the_description_lacks(folder: Path, key: str) -> None:
    path = folder / "architecture.json"
    description = json.loads(path.read_text())
    del description[key]
    path.write_text(json.dumps(description))
    with pytest.raises(InputError, match=key):
        bundle.load(folder)


@pytest.mark.parametrize("text", ["[]", "null", '"network"', "3"])
def test_loading_refuses_a_description_that_is_none(folder: Path, text: str) -> None:
    (folder / "architecture.json").write_text(text)
    with pytest.raises(InputError):
        bundle.load(folder)


def test_loading_refuses_the_weights_of_another_network(
    folder: Path, exported: list[tuple[Path, dict[str, Any]]]
) -> None:
    shutil.copy(exported[1][0] / "weights.safetensors", folder)
    with pytest.raises(InputError, match="network"):
        bundle.load(folder)


@pytest.mark.parametrize("damage", [lose, empty, cut, scramble])
def test_a_damaged_artifact_is_noticed_and_nothing_is_exported(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    other = RunDirectory(Path(shutil.copytree(run.folder, tmp_path / "copy")))
    handle = measurements[0].artifacts["weights"]
    damage(other.artifacts.path(handle))
    with pytest.raises(RunError, match=f"artifact {handle} (is damaged|is missing|cannot be read)"):
        bundle.export(other, measurements[0], tmp_path / "network")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_an_artifact_of_other_weights_under_the_handle_is_noticed(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path
) -> None:
    other = RunDirectory(Path(shutil.copytree(run.folder, tmp_path / "copy")))
    first, second = (measurement.artifacts["weights"] for measurement in measurements[:2])
    shutil.copy(other.artifacts.path(second), other.artifacts.path(first))
    with pytest.raises(RunError, match="is damaged"):
        bundle.export(other, measurements[0], tmp_path / "network")


def test_a_trial_answered_from_the_cache_has_no_network_of_its_own(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path
) -> None:
    cached = Measurement(task=measurements[0].task, metrics=measurements[0].metrics, cached_from=0)
    with pytest.raises(InputError, match=r"trial \d+ left no weights.*cache hit"):
        bundle.export(run, cached, tmp_path / "network")


def test_exporting_and_loading_leave_the_global_generators_alone(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path
) -> None:
    torch.rand(3)  # so that this is no state in which a seed might have left them
    before = generator_states()
    bundle.export(run, measurements[0], tmp_path / "network", test=True)
    assert generator_states() == before
    bundle.load(tmp_path / "network")
    assert generator_states() == before


def generator_states() -> tuple[list[int], str]:
    return torch.get_rng_state().tolist(), repr(np.random.get_state())  # noqa: NPY002


# Other runs


@pytest.fixture
def odd_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A data set whose images have odd and different sides."""

    def load() -> Splits:
        generator = torch.Generator().manual_seed(0)

        def part(number: int) -> Examples:
            images = torch.randn(number, 2, 7, 9, generator=generator)
            return Examples(images, (images[:, 0].mean(dim=(1, 2)) > 0).long())

        return Splits(part(96), part(48), lambda: part(32))

    monkeypatch.setitem(DATASETS, "odd", Dataset("odd", IO((2, 7, 9), 2), load))
    yield "odd"


def test_images_with_odd_sides_are_exported_and_verified_too(odd_data: str, tmp_path: Path) -> None:
    run = search(
        tmp_path / "run",
        benchmark={"name": "classification", "dataset": odd_data, "epochs": 1, "batch_size": 16},
        budget={"evaluations": 1},
    )
    (measurement,) = run.history().measurements
    description = bundle.export(run, measurement, tmp_path / "network")
    assert description["input_shape"] == [2, 7, 9]
    validation = dataset(odd_data).load().validation
    given = logits_of(tmp_path / "network", validation.images.numpy())
    with torch.no_grad():
        expected = bundle.load(tmp_path / "network")(validation.images).numpy()
    assert given.shape == (48, 2)
    assert np.abs(given - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
    assert (given.argmax(axis=1) == validation.labels.numpy()).mean() == measurement.metrics["accuracy"]


@pytest.fixture
def table_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run of one trial on a small table of cells without convolutions."""
    space, path = NASBench201(), tmp_path / "data" / "nasbench201" / "table.csv.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch_str", "c10_valid_200", "c10_test_200", "c10_train_time_12ep_s"])
        for choices in itertools.product("014", repeat=6):
            writer.writerow([space.official(space.parse("".join(choices))), 50, 60, 12])
    monkeypatch.setenv("NASPLAT_DATA", str(path.parents[1]))
    return search(tmp_path / "run", space="nasbench201", benchmark="nasbench201", budget={"evaluations": 1})


def test_a_run_on_a_table_has_no_weights_unless_fresh_ones_will_do(table_run: RunDirectory, tmp_path: Path) -> None:
    (measurement,) = table_run.history().measurements
    target = tmp_path / "network"
    with pytest.raises(InputError, match=r"trial 0 left no weights.*--untrained"):
        bundle.export(table_run, measurement, target)
    assert not target.exists()
    description = bundle.export(table_run, measurement, target, untrained=True)
    assert description["trained"] is False
    assert "measured" not in description, "the figures of a table are not those of fresh weights"
    assert {path.name for path in target.iterdir()} == FILES - {"predict.py"}  # a table knows no pictures
    network = bundle.load(target)
    assert sum(parameter.numel() for parameter in network.parameters()) == measurement.metrics["params"]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images).numpy()
    assert np.abs(logits_of(target, images.numpy()) - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_fresh_weights_are_those_that_training_would_start_from_each_time(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "write_onnx", lambda network, io, path, **how: None)  # slow, and not in question here
    monkeypatch.setattr(bundle, "verified", lambda *given, **how: VERIFIED)
    architecture, seed = measurements[0].architecture, measurements[0].task.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = NASBench201(channels=4, cells=1).build(architecture, IO.image(1, 8, 10)).state_dict()
    torch.rand(3)
    before = generator_states()
    for name in ("a", "b"):
        assert bundle.export(run, measurements[0], tmp_path / name, untrained=True)["trained"] is False
        fresh = bundle.load(tmp_path / name).state_dict()
        assert fresh.keys() == start.keys()
        assert all(torch.equal(fresh[key], start[key]) for key in start)
    assert generator_states() == before


def test_fresh_weights_have_no_final_figures(
    run: RunDirectory, measurements: list[Measurement], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"measures the weights of the search, not fresh ones"):
        bundle.export(run, measurements[0], tmp_path / "network", untrained=True, test=True)
    assert not list(tmp_path.iterdir())


# Shared weights


@pytest.fixture
def shared_run(shared_plugins: None, tmp_path: Path) -> RunDirectory:
    """A run of several generations, of which the last one's shared weights are left."""
    names = {"space": "demo_perceptron", "benchmark": "demo_shared", "strategy": "demo_shared"}
    assembly = Assembly.of(
        SearchConfig.read(names | {"objectives": ["accuracy:max", "params:min"], "budget": {"evaluations": 40}})
    )
    run = RunDirectory.create(tmp_path / "run", assembly.config)
    with run.writing() as log, InlineExecutor(assembly.benchmark, run.artifacts) as executor:
        Search(
            assembly.problem, assembly.strategy, executor, log, assembly.budget, artifacts=run.artifacts
        ).run()  # fmt: skip
    return run


def test_a_path_is_exported_with_the_shared_weights_and_the_statistics_it_was_measured_with(
    shared_run: RunDirectory, tmp_path: Path
) -> None:
    member = shared_run.history().front[-1]
    bundle.export(shared_run, member, tmp_path / "network", test=True)
    exported = bundle.load(tmp_path / "network").state_dict()
    assert member.task.weights is not None
    shared = shared_run.artifacts.get_tensors(member.task.weights)
    assert set(exported) == {f"{layer}.{kind}" for layer in (1, 3, 5) for kind in ("weight", "bias")}
    for name, tensor in exported.items():
        if name == "5.bias":
            assert torch.equal(tensor, shared_run.artifacts.get_tensors(member.artifacts["statistics"])[name])
        else:
            assert torch.equal(tensor, shared[name][tuple(map(slice, tensor.shape))])


def test_a_path_of_weights_that_were_replaced_is_refused_with_what_can_be_had(
    shared_run: RunDirectory, tmp_path: Path
) -> None:
    early = shared_run.history().measured[0]
    with pytest.raises(InputError, match=r"shared weights of trial 1, after 2 epochs.*pick a trial of the front"):
        bundle.export(shared_run, early, tmp_path / "network")
    assert not (tmp_path / "network").exists()


def test_shared_weights_that_are_lost_are_not_called_replaced(shared_run: RunDirectory, tmp_path: Path) -> None:
    member = shared_run.history().front[0]
    assert member.task.weights is not None
    shared_run.artifacts.path(member.task.weights).unlink()
    with pytest.raises(RunError, match=f"artifact {member.task.weights} is missing"):
        bundle.export(shared_run, member, tmp_path / "network")
    assert not (tmp_path / "network").exists()
