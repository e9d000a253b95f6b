"""The benchmark of generators: what is measured, what fails, and what leaves a run."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from nasplat.architecture import IO, Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.generation import Generation
from nasplat.config import SearchConfig, Workload
from nasplat.data.datasets import dataset
from nasplat.errors import InputError, TrialFailed
from nasplat.export import bundle, opening
from nasplat.export.formats import Format
from nasplat.generation.comparison import Comparison
from nasplat.generation.data import images, ring
from nasplat.generation.space import SAMPLES, GenerativeSpace
from nasplat.report.page import write_report
from nasplat.run.directory import RunDirectory
from nasplat.task import STATE, Evaluate, Measurement
from nasplat.testing.runs import searched

LINEAR = Architecture("generator/linear", "011110")
SHORT: dict[str, Any] = {"dataset": "ring", "epochs": 2, "samples": 200, "recipe": {"steps": 10, "batch_size": 16}}
FOLLOWING = {"name": "importance", "warmup": 5, "interval": 5, "instances": 32, "fit_steps": 2}


def made(space: str = "generator/linear", **options: Any) -> Generation:
    """The benchmark, prepared; options replace those of `SHORT`."""
    benchmark = Workload(space, "generation", {}, {**SHORT, **options}).make()
    assert isinstance(benchmark, Generation)
    benchmark.check()
    benchmark.prepare()
    return benchmark


def measured(benchmark: Generation, fidelity: int = 2, store: MemoryArtifacts | None = None) -> Measurement:
    """A measurement of a small generator."""
    task = Evaluate(id=0, seed=3, architecture=LINEAR, fidelity=fidelity)
    return benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts() if store is None else store)


@pytest.mark.parametrize("name", ["ring", "digits"])
def test_data_is_near_to_data_and_covers_its_modes(name: str) -> None:
    samples = ring() if name == "ring" else images(dataset(name))
    near = Comparison.of(name, samples.validation[:1000])(samples.training[:1000])
    far = Comparison.of(name, samples.validation[:1000])(torch.randn_like(samples.training[:1000]))
    assert near["modes"] == {"ring": 8, "digits": 10}[name] >= far["modes"]
    assert near["frechet"] < 0.1 * far["frechet"] and abs(near["mmd_squared"]) < 0.1 * far["mmd_squared"]
    assert samples.training.min() >= -1 or name == "ring"


@pytest.mark.parametrize("sampler", [{}, FOLLOWING, {**FOLLOWING, "score": "loss_gradient", "corrected": False}])
def test_a_training_in_parts_is_the_whole(sampler: dict[str, Any]) -> None:
    benchmark, store = made(sampler=sampler, target=1e9, target_interval=7), MemoryArtifacts()
    part = measured(benchmark, 1, store)
    whole = measured(benchmark)
    task = replace(part.task, fidelity=2, seed=99, continues=part.artifacts[STATE])
    continued = made(sampler=sampler, target=1e9, target_interval=7).measure(task, device="cpu", artifacts=store)
    assert continued.artifacts == whole.artifacts
    seconds = continued.metrics["seconds_to_target"]
    assert seconds == part.metrics["seconds_to_target"] > 0
    assert {**whole.metrics, "seconds_to_target": seconds} == continued.metrics


def test_a_target_counts_steps_until_it_is_reached() -> None:
    assert "steps_to_target" not in measured(made()).metrics
    near = made(target=1e9, target_interval=7)
    assert near.can_measure("steps_to_target") and not made().can_measure("steps_to_target")
    assert measured(near).metrics["steps_to_target"] == 7
    assert "steps_to_target" not in measured(made(target=-1.0, target_interval=7, target_metric="mmd_squared")).metrics
    plain, counted = measured(made()).metrics, measured(near).metrics
    assert {name: counted[name] for name in plain} == plain, "looking for the target changed the training"


def test_importance_sampling_and_another_discriminator_change_the_training() -> None:
    found = [
        measured(made(**options)).metrics["frechet"]
        for options in (
            {},
            {"sampler": FOLLOWING},
            {"sampler": {**FOLLOWING, "corrected": False}},
            {"recipe": {**SHORT["recipe"], "discriminator": "alike"}},
            {"recipe": {**SHORT["recipe"], "spectral_norm": True}},
        )
    ]
    assert len(set(found)) == len(found)


def test_a_training_that_diverges_is_a_failure() -> None:
    with pytest.raises(TrialFailed, match="the loss of the generator is nan"):
        measured(made(recipe={**SHORT["recipe"], "learning_rate": 1e30}))


def test_statistics_of_batch_norm_are_those_of_the_prior() -> None:
    benchmark, store = made(), MemoryArtifacts()
    task = Evaluate(id=0, seed=3, architecture=Architecture("generator/linear", "011111"), fidelity=2)
    measurement = benchmark.measure(task, device="cpu", artifacts=store)
    state = benchmark.state_dict(measurement, artifacts=store)
    network = benchmark.space.build(task.architecture, benchmark.io)
    network.load_state_dict(state)
    latents = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = network.get_submodule("layers.0.0")(latents[:, :2]).mean(0)
    assert torch.allclose(mean, state["layers.0.1.running_mean"], atol=0.15)


@pytest.mark.parametrize(
    ("space", "options", "says"),
    [
        ("nasbench201", {}, "a search space of generators, but nasbench201 is none"),
        ("generator", {}, "generate images .*generator/linear"),
        ("generator/linear", {"data": {"subset": 100}}, "data.subset has no effect on the ring"),
        ("generator/linear", {"sampler": {"share": 0.2}}, "sampler.share has no effect with sampler.name=prior"),
    ],
)
def test_what_does_not_fit_is_refused(space: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        made(space, **options)


def test_other_benchmarks_refuse_generators_and_generators_other_data() -> None:
    with pytest.raises(InputError, match="generate images, but the data is for classification"):
        Workload("generator", "classification", {}, {}).make().space.check_io(IO.image(1, 8, 10))
    space = made().space
    assert isinstance(space, GenerativeSpace)
    with pytest.raises(InputError, match="latent vectors of 16 numbers, but got the input shape"):
        space.check_io(IO.generated(8, (2,)))


def config(space: str, data: str) -> SearchConfig:
    benchmark = {"name": "generation", **SHORT, "dataset": data, "epochs": 1}
    return SearchConfig.read(
        {
            "space": space,
            "benchmark": benchmark,
            "strategy": "random_search",
            "objectives": ["frechet:min", "params:min"],
            "budget": {"evaluations": 2},
        }
    )


@pytest.mark.exports
@pytest.mark.slow
@pytest.mark.parametrize(("space", "data"), [("generator", "digits"), ("generator/linear", "ring")])
def test_a_generator_leaves_its_run_with_a_script_that_draws(space: str, data: str, tmp_path: Path) -> None:
    searched(tmp_path / "run", config(space, data))
    run = RunDirectory(tmp_path / "run")
    best = run.history().picks("best")[0]
    folder = tmp_path / "network"
    description = bundle.export(run, best, folder, test=True, formats=list(Format))
    io = run.benchmark().io
    assert description["sample_shape"] == list(io.output_shape) and description["final"]["split"] == "test"
    assert {"model.onnx", "network.py", "predict.py", "model.pt2"} <= set(description["files"])
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    latents = np.random.default_rng(0).standard_normal((3, io.input_shape[0]), dtype=np.float32)
    (samples,) = session.run(["samples"], {"latents": latents})
    network = opening.load(folder)
    with torch.no_grad():
        assert np.allclose(network(torch.from_numpy(latents)).numpy(), samples, atol=1e-5)
    file = "samples.png" if data == "digits" else "samples.csv"
    script = [sys.executable, str(folder / "predict.py")]
    subprocess.run([*script, file, "--count", "5", "--seed", "1"], cwd=tmp_path, check=True)
    if data == "digits":
        sheet = np.asarray(Image.open(tmp_path / file))
        assert sheet.shape == (2 * 50 + 2, 3 * 50 + 2)  # 8 pixels, six times as large
        wanted = ((torch.from_numpy(seeded_samples(session, 16 * 2)) + 1) * 127.5).round().byte()
        assert np.array_equal(sheet[2:50, 2:50][::6, ::6], wanted[0, 0])
    else:
        lines = (tmp_path / file).read_text().splitlines()
        assert lines[0] == "x0,x1" and len(lines) == 6
    wrong = subprocess.run([*script, "missing/file.png"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "missing/file.png cannot be written" in wrong.stderr
    assert "latent vectors" in (folder / "README.md").read_text()
    assert json.loads((folder / "verify.json").read_text())["formats"]["onnx"]["real"] is not None


def seeded_samples(session: onnxruntime.InferenceSession, latents: int) -> Any:
    """What the script draws for `--count 5 --seed 1`."""
    given = np.random.default_rng(1).standard_normal((5, latents), dtype=np.float32)
    return session.run(["samples"], {"latents": given})[0]


@pytest.mark.parametrize(("space", "data"), [("generator", "digits"), ("generator/linear", "ring")])
def test_a_report_shows_samples_of_the_front(space: str, data: str, tmp_path: Path) -> None:
    searched(tmp_path / "run", config(space, data))
    run = RunDirectory(tmp_path / "run")
    write_report(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    section = page.partition("<h2>Samples</h2>")[2].partition("<h2>")[0]
    front = run.history().front
    assert section.count("<figcaption>") == len(front) >= 1
    assert section.count("data:image/png;base64" if data == "digits" else "<svg") == len(front)
    digest = front[0].artifacts[SAMPLES].digest
    (tmp_path / "run" / "artifacts" / digest[:2] / f"{digest[2:]}.safetensors").write_bytes(b"damaged")
    write_report(run, tmp_path / "page.html")
    assert "Cannot be shown: " in (tmp_path / "page.html").read_text()
