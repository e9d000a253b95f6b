"""What an export holds besides its ONNX model: program, source, card, preprocessing and what was compared."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from nasplat.benchmarks.classification import Classification
from nasplat.benchmarks.nasbench201 import NASBench201Table
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.data.datasets import dataset
from nasplat.errors import InputError, RunError
from nasplat.export import bundle, formats
from nasplat.export.card import card, escaped
from nasplat.export.formats import Format
from nasplat.export.predicting import predict_script
from nasplat.export.verification import source_network
from nasplat.nn.program import write_program
from nasplat.registry import SEARCH_SPACES
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.esrn import ESRNTiny
from nasplat.task import Measurement
from nasplat.testing.runs import searched

pytestmark = [pytest.mark.exports, pytest.mark.slow]

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two tiny networks that read digits."""
    from nasplat.config import SearchConfig
    from nasplat.driver.assembly import Assembly

    config = SearchConfig.read(
        {
            "space": {"name": "nasbench201", "channels": 4, "cells": 1},
            "benchmark": {"name": "classification", "dataset": "digits", "epochs": 2},
            "strategy": "random_search",
            "objectives": ["accuracy:max", "params:min"],
            "budget": {"evaluations": 2},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    searched(folder, Assembly.of(config).config)
    return RunDirectory(folder)


@pytest.fixture(scope="module")
def best(run: RunDirectory) -> Measurement:
    return run.history().pick("best")


@pytest.fixture(scope="module")
def whole(run: RunDirectory, best: Measurement) -> tuple[Path, dict[str, Any]]:
    """An export in all forms, and what `export` returned."""
    folder = run.folder / "whole"
    return folder, bundle.export(run, best, folder, formats=list(Format), features=True, latency=True)


def test_all_forms_give_what_torch_gives(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, document = whole
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "architecture.json", "weights.safetensors", "model.onnx", "model.pt2", "network.py", "predict.py", "README.md",
        "verify.json",
    }  # fmt: skip
    assert document["files"] == sorted(names)
    images = dataset("digits").load().validation.images[:7]
    network = bundle.load(folder)
    with torch.no_grad():
        expected = network(images)
        program = torch.export.load(folder / "model.pt2").module()(images)
        source = source_network(folder / "network.py")(images)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (given,) = session.run(["logits"], {"images": images.numpy()})
    for other in (program, source, torch.from_numpy(given)):
        assert (other - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item())


def test_features_are_what_the_last_linear_layer_takes(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (features,) = onnxruntime.InferenceSession(folder / "model.onnx").run(["features"], {"images": images.numpy()})
    logits = bundle.load(folder)(images).detach().numpy()
    weights = bundle.load(folder).state_dict()
    head = [name for name in weights if name.startswith("head") and weights[name].ndim == 2]
    weight, bias = weights[head[0]].numpy(), weights[head[0].replace("weight", "bias")].numpy()
    assert features.shape == (3, weight.shape[1])
    assert np.abs(features @ weight.T + bias - logits).max() < 1e-4


def test_features_need_a_linear_layer_and_an_onnx_model(run: RunDirectory, best: Measurement, tmp_path: Path) -> None:
    from nasplat.nn.onnx import write_onnx

    space = ESRNTiny()
    network = space.build(space.sample(np.random.default_rng(0)), space.reference_io).eval()
    with pytest.raises(InputError, match="leave out --features"):
        write_onnx(network, (3, 8, 8), tmp_path / "model.onnx", purpose="super-resolution", features=True)
    with pytest.raises(InputError, match="--format onnx or all"):
        bundle.export(run, best, tmp_path / "network", formats=[Format.SOURCE], features=True)
    assert not list(tmp_path.iterdir())


def test_what_was_compared_is_recorded_for_every_form(whole: tuple[Path, dict[str, Any]]) -> None:
    verify = json.loads((whole[0] / "verify.json").read_text())
    assert (verify["real"], verify["why"]) == (16, "")
    assert set(verify["formats"]) == {"onnx", "pt2", "source"}
    for name, kinds in verify["formats"].items():
        more = {"source": {"random_float64"}, "onnx": {"random_features", "real_features"}}
        assert set(kinds) == {"random", "real"} | more.get(name, set())
        for check in kinds.values():
            assert 0 <= check["largest_difference"] <= check["allowed"]
            assert len(set(check["batches"])) > 1
    assert verify["formats"]["source"]["random_float64"]["allowed"] == 1e-9
    assert verify["formats"]["onnx"]["real"]["dtype"] == "float32"
    shares = [
        kinds["random"]["largest_difference"] / kinds["random"]["allowed"] for kinds in verify["formats"].values()
    ]
    told = whole[1]["verification"]
    assert told["largest_difference"] / told["allowed"] == max(shares)


def test_features_that_disagree_are_never_exported(
    run: RunDirectory, best: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasplat.nn import onnx

    def others(network: torch.nn.Module, shape: tuple[int, ...]) -> torch.nn.Module:
        both = with_features(network, shape)

        class Other(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                logits, features = both(images)
                return logits, 1.001 * features

        return Other().eval()

    with_features, write = onnx.with_features, onnx.write_onnx

    def write_another(*given: Any, **how: Any) -> None:
        with monkeypatch.context() as changed:
            changed.setattr(onnx, "with_features", others)
            write(*given, **how)

    monkeypatch.setattr(bundle, "write_onnx", write_another)
    with pytest.raises(RunError, match=r"the output features of the ONNX model differs .* nothing was exported"):
        bundle.export(run, best, tmp_path / "network", features=True)
    assert not list(tmp_path.iterdir())


def test_an_export_says_whether_its_model_gives_features(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, document = whole
    assert document["onnx_outputs"] == ["logits", "features"]
    (row,) = re.findall(r"^\| `model.onnx` .*", (folder / "README.md").read_text(), re.MULTILINE)
    assert "two" in row and "`features`" in row
    without = {name: value for name, value in document.items() if name != "onnx_outputs"}
    without["verify"] = json.loads((folder / "verify.json").read_text())
    assert "two" not in card(without, {}).partition("model.onnx")[2].partition("\n")[0]


def test_classes_may_be_called_anything() -> None:
    how = SuperResolution(ESRNTiny()).preprocessing()
    assert how is not None
    classes = "😀cat", 'a "b"', "it's", "{mode}", "back\\slash\n"
    script = predict_script(replace(how, height=8, width=8, classes=classes), None)
    assert script is not None
    names: dict[str, Any] = {"__name__": "predict"}
    exec(compile(script, "predict.py", "exec"), names)
    assert tuple(names["CLASSES"]) == classes
    assert ", ".join(names["CLASSES"]).encode()


@pytest.mark.parametrize("form", [Format.PT2, Format.SOURCE])
def test_a_form_that_disagrees_is_never_exported(
    run: RunDirectory, best: Measurement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    if form is Format.SOURCE:
        write = formats.write_source

        def write_another(network: Any, io: Any, path: Path, heading: list[str]) -> None:
            write(network, io, path, heading)
            text = path.read_text()
            path.write_text(text.replace("return self.head(", "return 1.001 * self.head("))
            assert path.read_text() != text

        monkeypatch.setattr(bundle, "write_source", write_another)
    else:
        program = write_program
        monkeypatch.setattr(
            bundle,
            "write_program",
            lambda network, *given, **how: program(torch.nn.Sequential(network, torch.nn.Softmax(1)), *given, **how),
        )
    with pytest.raises(RunError, match=r"differs from torch by .* nothing was exported"):
        bundle.export(run, best, tmp_path / "network", formats=[form])
    assert not list(tmp_path.iterdir())


# Preprocessing


def test_preprocessing_is_what_the_benchmark_does_to_pixels(whole: tuple[Path, dict[str, Any]]) -> None:
    how = whole[1]["preprocessing"]
    pixels = load_digits().images.astype(np.float32)
    assert (how["channels"], how["height"], how["width"], how["white"]) == (1, 8, 8, 16.0)
    assert how["classes"] == tuple("0123456789")
    images = dataset("digits").load().validation.images.numpy()[:, 0]
    scaled = (pixels - how["mean"][0]) / how["std"][0]
    for image in images[:5]:
        assert np.abs(scaled - image).max(axis=(1, 2)).min() < 1e-5


def test_data_sets_of_pictures_know_their_classes() -> None:
    clothes = dataset("fashion_mnist").classes
    assert (len(clothes), clothes[0], clothes[9]) == (10, "T-shirt/top", "ankle boot")
    assert dataset("cifar10").classes == dataset("cifar10_jpeg").classes
    assert dataset("cifar10").classes[3] == "cat"
    assert Classification(SEARCH_SPACES.get("nasbench201")(), dataset="digits").inputs(3).shape == (3, 1, 8, 8)  # type: ignore[union-attr]


def test_what_upscales_takes_pictures_as_they_are() -> None:
    how = SuperResolution(ESRNTiny()).preprocessing()
    assert how is not None
    assert (how.mean, how.std, how.height, how.classes) == ((0.0,) * 3, (255.0,) * 3, None, ())


def digit(number: int, path: Path) -> int:
    """Write a picture of a digit, and give its label."""
    bunch = load_digits()
    Image.fromarray((bunch.images[number] * 255 / 16).round().astype(np.uint8)).save(path)
    return int(bunch.target[number])


def test_the_script_says_what_pictures_show(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    script = whole[0] / "predict.py"
    paths = [tmp_path / f"digit {number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        digit(number, path)
    (tmp_path / "broken.png").write_bytes(b"none")
    done = predict(script, *paths, tmp_path / "broken.png", "--top", "2")
    assert done.returncode == 1
    assert re.fullmatch(r".*broken\.png cannot be read: .*\n", done.stderr)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    images = (load_digits().images[:6].astype(np.float32) - whole[1]["preprocessing"]["mean"][0]) / whole[1][
        "preprocessing"
    ]["std"][0]
    chances = torch.softmax(bundle.load(whole[0])(torch.from_numpy(images[:, None]).float()).detach(), 1)
    for line, path, row in zip(lines, paths, chances, strict=True):
        label, percent = re.fullmatch(rf"{re.escape(str(path))}: (\d) ([\d.]+) %, \d [\d.]+ %", line).groups()  # type: ignore[union-attr]
        assert int(label) == row.argmax().item()
        assert float(percent) == pytest.approx(100 * row.max().item(), abs=0.2)
    described = predict(script, "--help")
    assert described.returncode == 0 and "pictures" in described.stdout


def predict(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", script, *map(str, arguments)], capture_output=True, text=True)


def test_the_script_upscales_a_picture(tmp_path: Path) -> None:
    from nasplat.nn.onnx import write_onnx

    space = ESRNTiny()
    network = space.build(space.sample(np.random.default_rng(0)), space.reference_io).eval()
    scale = space.reference_io.scale
    how = SuperResolution(space).preprocessing()
    assert scale is not None and how is not None
    script = predict_script(how, scale)
    assert script is not None
    (tmp_path / "predict.py").write_text(script)
    write_onnx(network, (3, 8, 8), tmp_path / "model.onnx", purpose="super-resolution")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    done = predict(tmp_path / "predict.py", tmp_path / "small.png", tmp_path / "large.png")
    assert done.returncode == 0, done.stderr
    large = np.asarray(Image.open(tmp_path / "large.png"))
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1).permute(1, 2, 0) * 255
    assert large.shape == (9 * scale, 14 * scale, 3)
    assert np.abs(large - expected.numpy()).max() <= 0.51
    failed = predict(tmp_path / "predict.py", tmp_path / "none.png", tmp_path / "large.png")
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1


# The card


def test_the_card_tells_what_there_is_to_know(
    run: RunDirectory, best: Measurement, whole: tuple[Path, dict[str, Any]]
) -> None:
    text = (whole[0] / "README.md").read_text()
    for said in (
        best.architecture.code, "validation", str(best.task.seed), "random\\_search", "accuracy:max", "evaluations 2",
        "torch.export.load", "network.load()", "not measured on test data", "float64", "Latency:",
        "interquartile", "8 x 8", torch.__version__.partition("+")[0],
    ):  # fmt: skip
        assert said in text, said
    assert str(run.folder) not in text
    document = json.loads((whole[0] / "architecture.json").read_text())
    assert document["latency"]["hardware"] and document["latency"]["threads"] == 1


def test_names_that_mean_something_in_markdown_are_escaped(whole: tuple[Path, dict[str, Any]]) -> None:
    assert escaped("a|b\n*c* <i>") == r"a\|b \*c\* \<i\>"
    document = dict(whole[1])
    document["preprocessing"] = {**document["preprocessing"], "classes": ["| a |", "<script>", "[x](y)\n# Title"]}
    document["verify"] = json.loads((whole[0] / "verify.json").read_text())
    text = card(document, {"strategy": "x|y", "from the run": {"run": "a", "strategy": "b*"}})
    assert "<script>" not in text and "\n# Title" not in text
    assert "strategy b\\*" in text and "x\\|y" in text


def test_the_card_says_of_how_many_inputs_more_is_allowed(whole: tuple[Path, dict[str, Any]]) -> None:
    verify = json.loads((whole[0] / "verify.json").read_text())
    document = {**whole[1], "verify": verify}
    assert "Rounding may" not in card(document, {})
    for form, unsteady in (("onnx", 3), ("source", 2)):
        verify["formats"][form]["random"]["unsteady"] = unsteady
    assert "Rounding may turn signs" in card(document, {}) and " 3 at most in a line" in card(document, {})


def test_the_source_does_not_speak_of_this_machine(run: RunDirectory, whole: tuple[Path, dict[str, Any]]) -> None:
    text = (whole[0] / "network.py").read_text()
    assert str(run.folder.parent) not in text
    assert f"Its code is {whole[1]['architecture']}" in text


# What goes wrong


def test_without_data_exports_say_that_no_real_inputs_were_tried(
    run: RunDirectory, best: Measurement, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: Classification, device: str) -> None:
        raise InputError("the pictures are missing; set NASPLAT_DATA")

    monkeypatch.setattr(Classification, "_splits", missing)
    shutil.copytree(run.folder, "run")
    done = command("export", "run", "--out", "network", "--format", "source", "--no-latency")
    assert done.returncode == 0, done.stderr
    assert re.search(r"not verified +on real inputs: the pictures are missing", done.stdout)
    verify = json.loads((tmp_path / "network" / "verify.json").read_text())
    assert verify["real"] is None and "missing" in verify["why"]
    assert verify["formats"]["source"]["real"] is None
    assert "not tried on real inputs" in (tmp_path / "network" / "README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "network").iterdir()) == [
        "README.md", "architecture.json", "network.py", "verify.json", "weights.safetensors",
    ]  # fmt: skip


def test_a_benchmark_need_not_have_inputs() -> None:
    benchmark = NASBench201Table(SEARCH_SPACES.get("nasbench201")())
    assert benchmark.inputs(3) is None
    assert benchmark.preprocessing() is None


EXPORTING = """
import os, random, signal, sys, time
from pathlib import Path
from nasplat.export import bundle
from nasplat.export.formats import Format
from nasplat.run.directory import RunDirectory

run, folder = RunDirectory(Path(sys.argv[1])), Path(sys.argv[2])
best = run.history().pick("best")
bundle.export(run, best, folder / "first", formats=[Format.SOURCE])
began = time.perf_counter()
bundle.export(run, best, folder / "second", formats=[Format.SOURCE])
takes = time.perf_counter() - began
moments = random.Random(0)
for number in range(int(sys.argv[3])):
    child = os.fork()
    if not child:
        bundle.export(run, best, folder / f"killed-{number}", formats=[Format.SOURCE])
        os._exit(0)
    time.sleep(moments.uniform(0, takes))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
KILLED = 12


def test_an_export_that_is_killed_leaves_nothing_that_looks_whole(run: RunDirectory, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", EXPORTING, str(run.folder), str(tmp_path), str(KILLED)]
    subprocess.run(arguments, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    exports = {path.name: path for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert len(exports) < KILLED + 2
    assert any(path.name.startswith(".killed-") for path in tmp_path.iterdir())
    files = {path.name for path in exports["first"].iterdir()}
    for path in exports.values():
        assert {each.name for each in path.iterdir()} == files
        assert bundle.load(path) is not None
        assert source_network(path / "network.py") is not None
