"""A network that upscales pictures leaves its run as any other does, and takes pictures of any size."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nasplat.architecture import IO
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.export import bundle, opening
from nasplat.nn.residual_dense.network import ResidualDenseNetwork
from nasplat.registry import SEARCH_SPACES
from nasplat.run.directory import RunDirectory
from nasplat.testing.exports import write_export
from nasplat.testing.runs import searched

pytestmark = [pytest.mark.exports, pytest.mark.slow]

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


def config(scale: int) -> SearchConfig:
    """A search of a moment."""
    benchmark = {
        "name": "super_resolution", "dataset": "photos", "scale": scale, "epochs": 1, "steps": 3, "batch_size": 2,
        "patch": 8, "training_pictures": 2, "validation_pictures": 1, "precision": "float32",
        "width": 64, "height": 48,
    }  # fmt: skip
    return SearchConfig.read(
        {
            "space": "esrn/tiny",
            "benchmark": benchmark,
            "strategy": "random_search",
            "objectives": ["psnr_db:max", "params:min"],
            "budget": {"evaluations": 2},
        }
    )


@pytest.fixture(scope="module", params=[2, 3])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Path]:
    """A run and the export of its best network."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    searched(folder, Assembly.of(config(request.param)).config)
    run = RunDirectory(folder)
    bundle.export(run, run.history().picks("best")[0], folder / "network")
    return run, folder / "network"


@pytest.fixture
def folder(exported: tuple[RunDirectory, Path], tmp_path: Path) -> Path:
    """A copy of the export that a test may damage."""
    return Path(shutil.copytree(exported[1], tmp_path / "network"))


def test_the_folder_says_how_many_times_it_upscales(exported: tuple[RunDirectory, Path]) -> None:
    run, folder = exported
    (best,) = run.history().picks("best")
    description = json.loads((folder / "architecture.json").read_text())
    scale = run.benchmark().io.scale
    assert scale in (2, 3)
    assert (description["scale"], description["outputs"]) == (scale, 3)
    assert description["input_shape"] == [3, 48 // scale, 64 // scale]
    assert description["space"] == {"name": "esrn/tiny"}
    assert description["measured"] == {"split": "validation", **best.metrics}
    assert "PSNR" in description["protocol"]
    assert description["verification"]["batches"] == [1, 5]
    assert load_file(folder / "weights.safetensors").keys() == bundle.load(folder).state_dict().keys()


def test_an_opened_folder_knows_its_architecture(exported: tuple[RunDirectory, Path]) -> None:
    run, folder = exported
    opened = opening.opened(folder)
    (best,) = run.history().picks("best")
    assert opened.architecture == best.architecture
    assert opened.io == run.benchmark().io
    assert isinstance(opened.network, ResidualDenseNetwork)
    assert not opened.network.training


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 2, 2), (1, 12, 16), (3, 37, 5), (2, 5, 64), (7, 24, 33)])
def test_onnx_takes_any_batch_and_any_sides(
    exported: tuple[RunDirectory, Path], batch: int, height: int, width: int
) -> None:
    """It was written at 2 pictures of 12 x 16, and is verified at others than these."""
    network, scale = bundle.load(exported[1]), opening.opened(exported[1]).io.scale or 0
    session = onnxruntime.InferenceSession(exported[1] / "model.onnx", providers=["CPUExecutionProvider"])
    pictures = np.random.default_rng(batch * height * width).random((batch, 3, height, width), dtype=np.float32)
    (given,) = session.run(["upscaled"], {"images": pictures})
    with torch.no_grad():
        expected = network(torch.from_numpy(pictures)).numpy()
    assert isinstance(given, np.ndarray)
    assert given.shape == expected.shape == (batch, 3, scale * height, scale * width)
    assert np.abs(given - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_the_onnx_file_names_what_is_free(exported: tuple[RunDirectory, Path]) -> None:
    model = onnx.load(exported[1] / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    (images,) = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]


def test_an_export_upscales_a_picture_on_the_command_line(
    command: CommandLine, exported: tuple[RunDirectory, Path], tmp_path: Path
) -> None:
    run, _ = exported
    done = command("export", run.folder, "--out", "network")
    assert done.returncode == 0, done.stderr
    scale = run.benchmark().io.scale or 0
    picture = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save("in.png")
    done = command("upscale", "network", "in.png", "--out", "out.png")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        values = bundle.load(tmp_path / "network")(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0]
    expected = (values.clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    with Image.open("out.png") as result:
        assert result.size == (30 * scale, 21 * scale)
        assert np.abs(np.asarray(result) - expected).max() <= 0.501


def changed(folder: Path, **fields: Any) -> None:
    """Replace fields of the description, or leave them out where they are None."""
    path = folder / "architecture.json"
    description = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in description.items() if value is not None}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scale": None}, "does not fit this version: the networks of the search space esrn/tiny upscale images"),
        ({"scale": 0}, r"architecture\.json is damaged: scale"),
        ({"scale": -2}, r"architecture\.json is damaged: scale"),
        ({"scale": "two"}, r"architecture\.json is damaged: scale"),
        ({"scale": 2.5}, r"architecture\.json is damaged: scale"),
        ({"scale": 7}, "upscale images 2, 3 or 4 times .* but got scale=7"),
        ({"scale": 4}, "size mismatch"),
        ({"input_shape": [1, 24, 32]}, "keep the number of channels"),
        ({"outputs": 1}, "keep the number of channels"),
        ({"input_shape": [3]}, "does not fit"),
        ({"architecture": "S_9_8_8"}, "does not fit this version"),
        ({"space": {"name": "esrn/small"}}, "does not fit"),
        ({"space": {"name": "nasbench201"}}, "does not fit this version"),
    ],
)
def test_damage_to_the_description_is_told(
    command: CommandLine, folder: Path, tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    changed(folder, **fields)
    with pytest.raises(InputError, match=says):
        bundle.load(folder)
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    done = command("upscale", "network", "in.png")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "in-x2.png").exists()


def test_a_picture_network_cannot_be_passed_off_as_a_classifier(tmp_path: Path) -> None:
    space = SEARCH_SPACES.get("nasbench201")()
    architecture = space.sample(np.random.default_rng(0))
    network = space.build(architecture, IO.image(3, 8, 10))
    write_export(tmp_path / "classifier", architecture, IO((3, 8, 8), 10, 2), network)
    with pytest.raises(InputError, match="of the search space nasbench201 classify images, but the data"):
        bundle.load(tmp_path / "classifier")
