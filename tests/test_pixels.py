"""A picture file of any kind becomes the same pixels for every command and for the exported script, or is refused."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

import images
from images import Readable, Refused
from nasplat.architecture import IO
from nasplat.benchmark import Preprocessing
from nasplat.benchmarks.classification import Classification
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.benchmarks.zero_cost import ZeroCost
from nasplat.data import picture_files, pixels
from nasplat.data.dataset import Dataset, Source
from nasplat.data.datasets import dataset
from nasplat.data.picture_files import Survey, UnreadablePictures
from nasplat.data.picture_sets import picture_set, read_picture
from nasplat.errors import InputError
from nasplat.export import opening, upscaling
from nasplat.export.predicting import predict_script
from nasplat.nn.onnx import write_onnx
from nasplat.options import complete
from nasplat.registry import SEARCH_SPACES
from nasplat.training.seeding import seeded

Command = Callable[..., "subprocess.CompletedProcess[str]"]

READABLE, REFUSED = images.readable(), images.refused()
each_readable = pytest.mark.parametrize("file", READABLE, ids=lambda file: file.name)
each_refused = pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.name)
SIDE = 24


def resized(picture: images.Pixels, width: int = SIDE, height: int = SIDE) -> images.Pixels:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def differ(given: images.Values, expected: images.Values) -> int:
    """The largest difference in levels."""
    assert given.shape == expected.shape
    return int(np.abs(given.astype(int) - expected.astype(int)).max())


def write(folder: Path, files: "list[Readable] | list[Refused]") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).write_bytes(file.content)
    return folder


def plain(folder: Path, count: int = 1, *, name: str = "plain", side: int = 16) -> None:
    """Ordinary pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        seed = [number, *"/".join(folder.parts[-2:]).encode()]  # no content is in two parts
        noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name} {number}.png")


def in_classes(folder: Path, odd: "list[Readable] | list[Refused]") -> Path:
    """A folder of classes, one of which has odd pictures."""
    for part, name in product(("train", "val", "test"), ("odd", "plain")):
        plain(folder / part / name)
    (folder / "train" / "odd" / "plain 0.png").unlink()
    write(folder / "train" / "odd", odd)
    return folder


# What files become


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that are read."""
    return write(tmp_path_factory.mktemp("odd"), READABLE)


@pytest.fixture(scope="session")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The files as networks are trained on them, by their names."""
    folder = in_classes(tmp_path_factory.mktemp("classes"), READABLE)
    splits = dataset("image_folder", Source(folder, side=SIDE)).load()
    names = [*sorted(file.name for file in READABLE), "plain"]
    return dict(zip(names, splits.training.images, strict=True))


@each_readable
def test_classifiers_are_trained_on_upright_pictures_on_white_scaled_to_8_bits(
    file: Readable, trained_on: dict[str, Tensor]
) -> None:
    found = trained_on[file.name].permute(1, 2, 0).numpy()
    assert differ(found, resized(file.composed)) <= file.off + (file.alpha is not None)


@each_readable
def test_super_resolution_reads_the_same_colors_and_drops_transparency(file: Readable, odd: Path) -> None:
    assert differ(read_picture(odd / file.name), file.colors) <= file.off


@each_readable
def test_upscale_reads_the_same_colors_and_keeps_transparency(file: Readable, odd: Path) -> None:
    source = upscaling.read_source(odd / file.name)
    assert differ(np.asarray(source.colors), file.colors) <= file.off
    assert (source.alpha is None) == (file.alpha is None)
    if source.alpha is not None and file.alpha is not None:
        assert differ(np.asarray(source.alpha), file.alpha) <= file.off


def test_ordinary_pictures_are_resized_as_torchvision_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    change = v2.Compose([v2.RGB(), v2.Resize((SIDE, SIDE)), v2.PILToTensor()])
    for shape in ((40, 31, 3), (9, 13, 3), (40, 31), (SIDE, SIDE, 3)):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "a.png")
        found = pixels.classifiable(tmp_path / "a.png", "RGB", (SIDE, SIDE))
        with Image.open(tmp_path / "a.png") as picture:
            assert np.array_equal(found.transpose(2, 0, 1), change(picture).numpy())


def test_sixteen_bits_of_grey_are_rounded(tmp_path: Path) -> None:
    values = np.arange(2**16).reshape(256, 256).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = np.asarray(pixels.decode(tmp_path / "deep.png").colors)
    assert np.abs(found - values * (255 / 65535)).max() <= 0.5


def test_wide_values_of_16_bits_are_never_white_or_black_alone(tmp_path: Path) -> None:
    """As they were when they were clipped to 8 bits."""
    for name, shape in (("grey", (64, 64)), ("color", (64, 64, 3))):
        values = np.random.default_rng(0).integers(0, 2**16, shape)
        content = images._png(np.atleast_3d(values))
        (tmp_path / f"{name}.png").write_bytes(content)
        found = np.asarray(pixels.decode(tmp_path / f"{name}.png").colors)
        assert abs(found.mean() - values.mean() / 257) < 1
        assert len(np.unique(found)) > 250


# The exported script

_RUN = """
import importlib.util, json, sys
import numpy as np
import onnxruntime
folder, out, *names = sys.argv[1:]
spec = importlib.util.spec_from_file_location("predict", f"{folder}/predict.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
inputs, logits, errors = [], [], {}
for name in names:
    try:
        inputs.append(script.read(name))
    except Exception as error:
        errors[name] = [type(error).__name__, str(error)]
        continue
    logits.append(session.run(["logits"], {"images": inputs[-1]})[0])
np.savez(out, inputs=np.concatenate(inputs), logits=np.concatenate(logits))
print(json.dumps(errors))
"""


def alone(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program in a process that does not find the platform."""
    words = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def script_for(channels: int, scale: int | None = None, most: int | None = None) -> str:
    """The script for a network that takes squares, or upscales."""
    if scale is not None:
        how = Preprocessing(channels=channels, height=None, width=None, mean=(0.0,) * 3, std=(255.0,) * 3)
    else:
        how = Preprocessing(channels=channels, height=SIDE, width=SIDE, mean=MEAN, std=STD, classes=CLASSES)
    script = predict_script(replace(how, most_pixels=most), scale)
    assert script is not None
    return script


def loaded(script: str) -> dict[str, Any]:
    """What the script defines."""
    names: dict[str, Any] = {"__name__": "predict"}
    exec(compile(script, "predict.py", "exec"), names)
    return names


MEAN, STD = (120.70513, 99.1, 0.1), (71.30001, 0.0021, 255.0)
CLASSES = tuple(f"class {number}" for number in range(5))


@pytest.mark.slow
@pytest.mark.exports
def test_the_script_the_onnx_file_and_torch_agree(odd: Path, trained_on: dict[str, Tensor], tmp_path: Path) -> None:
    with seeded(0):
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
        ).eval()
    script = script_for(3)
    assert "nasplat" not in script
    (tmp_path / "predict.py").write_text(script)
    write_onnx(network, (3, SIDE, SIDE), tmp_path / "model.onnx")
    refused = write(tmp_path / "refused", REFUSED)
    paths = [*(odd / file.name for file in READABLE), *(refused / file.name for file in REFUSED)]
    done = alone(_RUN, tmp_path, tmp_path / "out.npz", *paths)
    assert done.returncode == 0, done.stderr
    # What the platform reads, trains on and exports
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    inputs = (torch.stack([trained_on[file.name] for file in READABLE]) - mean) / std
    with torch.no_grad():
        expected = network(inputs).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (by_onnx,) = session.run(["logits"], {"images": inputs.numpy()})
    with np.load(tmp_path / "out.npz") as found:
        assert np.array_equal(found["inputs"], inputs.numpy())
        assert np.abs(found["logits"] - expected).max() <= 1e-6
        assert np.abs(found["logits"] - by_onnx).max() <= 1e-6
    # Both refuse the same, for the same reasons
    errors = json.loads(done.stdout)
    assert set(errors) == {str(refused / file.name) for file in REFUSED}
    for file in REFUSED:
        kind, said = errors[str(refused / file.name)]
        assert kind in ("PictureError", "TooLarge")
        with pytest.raises(pixels.PictureError) as caught, pixels.quietly():
            pixels.decode(refused / file.name)
        assert said == str(caught.value)


@each_readable
def test_the_script_makes_pictures_grey_for_a_network_for_grey(file: Readable, odd: Path, grey_script: Any) -> None:
    (found,) = grey_script["read"](str(odd / file.name))
    if file.colors.ndim == 2:
        expected = resized(file.composed[..., 0])
    else:
        expected = resized(np.asarray(Image.fromarray(file.composed).convert("L")))
    levels = found[0] * np.float32(STD[0]) + np.float32(MEAN[0])
    assert np.abs(levels - expected).max() <= 0.001 + file.off + (file.alpha is not None)


@pytest.fixture(scope="session")
def grey_script() -> dict[str, Any]:
    return loaded(script_for(1))


@pytest.mark.slow
@pytest.mark.exports
def test_the_script_upscales_as_the_command_does(odd: Path) -> None:
    space = SEARCH_SPACES.get("esrn/tiny")()
    model = IO.upscaled(8, 8, 2)
    architecture = space.parse("C_1_8_16")
    with seeded(0):
        network = space.build(architecture, model).eval()

    class Session:
        """The network in torch, in place of an ONNX file."""

        def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
            with torch.no_grad():
                return [network(torch.from_numpy(inputs["images"])).numpy()]

    script = loaded(script_for(3, 2))
    exported = opening.Exported(network, architecture, model)
    for file in READABLE:
        with script["quietly"]():
            found = script["upscale"](Session(), script["decode"](odd / file.name))
        expected = upscaling.upscaled(exported, upscaling.read_source(odd / file.name, 2), memory=2**26)
        assert (found.mode, found.size) == (expected.mode, expected.size), file.name
        # Values are rounded; where they are halfway, the last digit decides.
        assert differ(np.asarray(found), np.asarray(expected)) <= 1, file.name
        assert np.mean(np.asarray(found) != np.asarray(expected)) < 0.01, file.name


def test_the_script_for_grey_upscales_no_color(odd: Path) -> None:
    script = loaded(script_for(1, 2))
    with pytest.raises(ValueError, match="it is in color, but the network upscales grey images"):
        script["upscale"](None, script["decode"](odd / "alpha.png"))


# What is refused


@each_refused
def test_what_is_refused_is_refused_by_name_everywhere(file: Refused, tmp_path: Path) -> None:
    path = write(tmp_path, [file]) / file.name
    for read in (read_picture, upscaling.read_source):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).startswith(f"the image {path} ")
        assert file.says in str(caught.value)
        assert "\n" not in str(caught.value)


@each_refused
def test_headers_show_what_they_can(file: Refused, tmp_path: Path) -> None:
    path = write(tmp_path, [file]) / file.name
    if not file.by_header:
        assert pixels.header(path)[0] == (4 * images.WIDTH, 4 * images.HEIGHT)
        return
    with pytest.raises(pixels.PictureError) as caught:
        pixels.header(path)
    assert file.says in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(pixels.PictureError, match="it is not a file"):
        pixels.decode(tmp_path / "pipe.png")


def test_the_number_of_pixels_is_limited(tmp_path: Path) -> None:
    plain(tmp_path)
    assert pixels.decode(tmp_path / "plain 0.png", most=256).colors.size == (16, 16)
    with pytest.raises(pixels.TooLarge, match="it has 16 x 16 pixels, more than 255"):
        pixels.decode(tmp_path / "plain 0.png", most=255)


def test_runs_without_the_option_read_what_they_read_before() -> None:
    """A folder of classes may have photos of 61 million pixels; images of sets for super-resolution are used whole."""
    assert pixels.MOST_PIXELS == picture_files.MOST_PIXELS == 100_000_000
    given = {"data": {"folder": "/pictures"}}
    for benchmark in (Classification, ZeroCost):
        assert complete("benchmark", benchmark, given)["data"]["most_pixels"] == 100_000_000
    assert complete("benchmark", SuperResolution, given)["data"]["most_pixels"] == 50_000_000


@pytest.mark.parametrize(("most", "status"), [(255, 1), (256, 0), (None, 0)])
def test_a_script_reads_images_as_large_as_the_benchmark_did(
    most: int | None, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path)
    classifying, upscaling = loaded(script_for(3, None, most)), loaded(script_for(3, 2, most))
    with pytest.raises(ValueError, match="16 x 16 pixels, more than 255") if status else nullcontext():
        classifying["read"](tmp_path / "plain 0.png")
    session = SimpleNamespace(InferenceSession=lambda path: None)
    upscaling |= {"__file__": "predict.py", "onnxruntime": session, "upscale": lambda session, source: source.colors}
    monkeypatch.setattr("sys.argv", ["predict.py", str(tmp_path / "plain 0.png"), str(tmp_path / "new.png")])
    assert upscaling["main"]() == status
    assert ("16 x 16 pixels, more than 255" in capsys.readouterr().err) == bool(status)


def told(found: Dataset) -> InputError:
    with pytest.raises(InputError) as caught:
        found.check()
    return caught.value


def test_bad_headers_are_told_at_the_start_all_in_one(tmp_path: Path) -> None:
    bad = [file for file in REFUSED if file.by_header]
    folder = in_classes(tmp_path, bad)
    found = dataset("image_folder", Source(folder, side=SIDE))
    said = str(told(found))
    assert said.startswith(f"{len(bad)} images cannot be read: {folder / 'train' / 'odd'}")
    for file in bad:
        assert f"{folder / 'train' / 'odd' / file.name}: " in said
    assert said.endswith("; repair or remove them")
    (folder / "test" / "odd" / "more.png").write_bytes(b"")
    assert f"{folder / 'test' / 'odd' / 'more.png'}: " in str(told(dataset("image_folder", Source(folder, side=SIDE))))


def test_truncated_pictures_are_told_all_in_one_when_they_are_read(tmp_path: Path) -> None:
    cut = [file for file in REFUSED if not file.by_header]
    folder = in_classes(tmp_path, cut)
    write(folder / "val" / "odd", [Refused("other.png", cut[0].content[:-1], "")])
    found = dataset("image_folder", Source(folder, side=SIDE))
    found.check()
    with pytest.raises(UnreadablePictures) as caught:
        found.load()
    names = [Path(path).name for path, _ in caught.value.failures]
    assert names == [*sorted(file.name for file in cut), "other.png"]
    assert str(caught.value).startswith(f"{len(cut) + 1} images cannot be read: ")


def test_an_error_names_ten_files_and_counts_the_rest() -> None:
    error = UnreadablePictures([(f"{number}.png", "broken") for number in range(1_234)])
    assert str(error).startswith("1,234 images cannot be read: 0.png: broken; 1.png: broken; ")
    assert str(error).endswith("9.png: broken; and 1,224 more; repair or remove them")
    assert "10.png" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # workers of Ray hand it on
    assert str(UnreadablePictures([("a.png", "broken")])) == (
        "the image a.png cannot be read: broken; repair or remove it"
    )


# What is left out


def test_left_out_files_are_counted_and_told(tmp_path: Path) -> None:
    deep = [file for file in READABLE if file.name in ("deep.png", "deep color.png", "film.png", "grey.png")]
    folder = in_classes(tmp_path, deep)
    for name in ("notes.txt", "more.TXT", ".DS_Store", "._a.png", "photo.heic", "README"):
        (folder / "train" / "odd" / name).write_bytes(b"")
    (folder / "val" / "plain" / ".cache").mkdir()
    (folder / "val" / "plain" / ".cache" / "a.png").write_bytes(b"")
    (folder / "test" / "list.csv").write_bytes(b"")
    found = dataset("image_folder", Source(folder, side=SIDE))
    found.check()
    left_out, sixteen, several = found.survey().notes()
    assert left_out.startswith("8 files are left out (3 hidden, 2 .txt, 1 .csv, 1 .heic, 1 without an ending): ")
    assert left_out.endswith("names of images end in .jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, .webp")
    odd_ones = folder / "train" / "odd"
    assert sixteen == f"{odd_ones / 'deep color.png'} and 1 more: more than 8 bits a channel, they are scaled to 8"
    assert several == f"{odd_ones / 'film.png'}: several images in one file, the first is used"
    assert found.survey().left_out == {"hidden": 3, ".txt": 2, ".csv": 1, ".heic": 1, "without an ending": 1}
    images_read = found.load().training.images
    assert len(images_read) == len(deep) + 1


def test_nothing_is_told_of_what_is_as_expected(tmp_path: Path) -> None:
    found = dataset("image_folder", Source(in_classes(tmp_path, READABLE[:1]), side=SIDE))
    found.check()
    assert found.survey().notes() == ()
    assert dataset("digits", Source()).survey().notes() == ()
    assert Survey().notes() == ()


def test_left_out_files_of_a_set_for_super_resolution_are_counted(tmp_path: Path) -> None:
    plain(tmp_path, 5)
    for name in ("notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    assert picture_set("picture_folder", tmp_path).survey().left_out == {".txt": 1, "hidden": 1}
    (tmp_path / "validation").mkdir()
    (tmp_path / "training").mkdir()
    for name in ("validation", "training"):
        plain(tmp_path / name, 5)
    assert picture_set("picture_folder", tmp_path).survey().left_out == {}
    (tmp_path / "training" / "a.raw").write_bytes(b"")
    (tmp_path / "training" / "b.png").write_bytes(b"")
    with pytest.raises(UnreadablePictures, match=r"the image .*b\.png cannot be read"):
        picture_set("picture_folder", tmp_path).survey()


@pytest.mark.slow
def test_a_search_tells_once_what_is_left_out(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    plain(folder, 5, side=40)
    (folder / "notes.txt").write_text("")
    words = ["search", "--space", "esrn/tiny", "--benchmark", "super_resolution", "--strategy", "random_search"]
    words += ["--objective", "psnr_db:max", "--evaluations", "2", "--out", "run"]
    settings = {"dataset": "picture_folder", "data.folder": folder, "epochs": 1, "recipe.steps": 1}
    settings |= {"recipe.patch": 8, "recipe.batch_size": 1, "width": 32, "height": 32}
    done = command(*words, *(word for key, value in settings.items() for word in ("--set", f"benchmark.{key}={value}")))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: 1 file is left out (1 .txt): names of images end in .jpg, ") == 1
    half = images.refused()[-1].content
    for name in ("plain 1.bmp", "plain 2.bmp"):
        (folder / name).write_bytes(half)
    done = command(*[*words[:-1], "other"], *(w for k, v in settings.items() for w in ("--set", f"benchmark.{k}={v}")))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: 2 images cannot be read: ")
