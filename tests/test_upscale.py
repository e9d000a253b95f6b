"""`nasplat upscale` upscales any picture file by an exported network, or says clearly why it does not."""

import io
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.data.pixels import Source
from nasplat.data.resolution import as_tensor, luma, upscaled
from nasplat.errors import InputError
from nasplat.export import opening, side_by_side, upscaling
from nasplat.registry import SEARCH_SPACES
from nasplat.testing.exports import write_export
from nasplat.training.seeding import seeded

PATIENCE = 300.0
"""Seconds after which a test stops waiting for a process."""

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
SMALL = IO.upscaled(8, 8, 2)


def export(folder: Path, code: str = "S_4_8_16,C_1_8_16", *, space: str = "esrn/tiny", model: IO = SMALL) -> Path:
    """A network of which every part counts."""
    searched = SEARCH_SPACES.get(space)()
    architecture = searched.parse(code)
    with seeded(0), torch.no_grad():
        network = searched.build(architecture, model)
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0)
    write_export(folder, architecture, model, network)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("models") / "network")


@pytest.fixture(scope="session")
def grey_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("models") / "grey", model=IO.upscaled(8, 8, 3, channels=1))


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Waves, and noise on top."""
    y, x = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(x / 5)[..., None] * np.cos(y[..., None] / np.array([4, 6, 9, 7])[: len(mode)])
    pixels = (waves + np.random.default_rng(0).normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if len(mode) == 1 else pixels, mode)


def by_hand(model: Path, picture: Image.Image) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the network makes of a whole picture in color, before it is rounded, `[height, width, 3]`."""
    network = opening.load(model).double()
    with torch.no_grad():
        values = network(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].double() / 255)[0]
    return np.asarray((values.permute(1, 2, 0).clamp(0, 1) * 255).numpy())


def read(path: Path | str) -> Image.Image:
    """A picture as Pillow reads it."""
    with Image.open(path) as picture:
        picture.load()
        return picture


def close(picture: Image.Image, expected: "np.ndarray[Any, Any]") -> None:
    """Rounded as is expected, and the other way alone where that is a matter of the last digit."""
    assert np.abs(np.asarray(picture).astype(float) - expected).max() <= 0.501


def shown(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture.load()
        return picture


# What comes out


@pytest.mark.parametrize("size", [(41, 30), (30, 41), (2, 1)])
def test_the_result_is_that_of_the_whole_picture(
    command: CommandLine, model: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    scene(*size).save("in.png")
    done = command("upscale", model, "in.png", "--memory", 1)
    assert done.returncode == 0, done.stderr
    assert f"upscaled   {size[0]} x {size[1]} to {2 * size[0]} x {2 * size[1]} pixels" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "in-x2.png"}
    result = shown(tmp_path / "in-x2.png")
    assert (result.mode, result.size) == ("RGB", (2 * size[0], 2 * size[1]))
    close(result, by_hand(model, scene(*size)))


def test_json_says_what_was_done(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(20, 14).save("in.png")
    (tmp_path / "there").mkdir()
    document = json.loads(
        command("upscale", model, "in.png", "--out", "new/deep/a.png", "--json", "--threads", 1).stdout
    )
    assert document.pop("seconds") > 0
    assert document == {
        "model": str(model), "architecture": str(opening.opened(model).architecture), "picture": "in.png",
        "size": [20, 14], "scale": 2, "out": "new/deep/a.png", "upscaled": [40, 28], "compare": None, "device": "cpu",
        "figures": None,
        "protocol": None,
    }  # fmt: skip
    assert shown(tmp_path / "new/deep/a.png").size == (40, 28)


def test_threads_are_as_before_afterwards(command: CommandLine, model: Path) -> None:
    scene(8, 8).save("in.png")
    before = torch.get_num_threads()
    assert command("upscale", model, "in.png", "--threads", before + 1).returncode == 0
    assert torch.get_num_threads() == before


def grey_by_hand(model: Path, picture: Image.Image) -> "np.ndarray[Any, Any]":
    grey: np.ndarray[Any, Any] = by_hand(model, picture.convert("RGB")) @ np.array([0.299, 0.587, 0.114])
    return grey


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_pictures_stay_grey(command: CommandLine, model: Path, tmp_path: Path, mode: str) -> None:
    picture = scene(21, 34, "L").convert(mode)
    if mode == "LA":
        picture.putalpha(scene(21, 34, "L").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    picture.save("in.png")
    done = command("upscale", model, "in.png")
    assert (done.returncode, done.stderr) == (0, "")
    result = shown(tmp_path / "in-x2.png")
    assert result.mode == ("LA" if mode == "LA" else "L")
    close(result.getchannel(0), grey_by_hand(model, picture.convert("L")))


def test_networks_for_grey_take_grey_alone(command: CommandLine, grey_model: Path, tmp_path: Path) -> None:
    scene(20, 20, "L").save("grey.png")
    scene(20, 20).save("color.png")
    assert command("upscale", grey_model, "grey.png").returncode == 0
    result = shown(tmp_path / "grey-x3.png")
    assert (result.mode, result.size) == ("L", (60, 60))
    with torch.no_grad():
        values = opening.load(grey_model)(torch.from_numpy(np.array(scene(20, 20, "L")))[None, None] / 255)[0, 0]
    close(result, (values.clamp(0, 1) * 255).numpy())
    refused(command, tmp_path, grey_model, "color.png", says="upscales grey images, but color.png is in color")


def test_transparency_is_upscaled_by_bicubic(command: CommandLine, model: Path, tmp_path: Path) -> None:
    picture = scene(30, 22, "RGBA")
    picture.save("in.png")
    assert command("upscale", model, "in.png").returncode == 0
    result = shown(tmp_path / "in-x2.png")
    assert result.mode == "RGBA"
    assert (
        result.getchannel("A").tobytes() == picture.getchannel("A").resize((60, 44), Image.Resampling.BICUBIC).tobytes()
    )
    close(result.convert("RGB"), by_hand(model, picture.convert("RGB")))


def test_transparent_colors_of_palettes_and_of_plain_pictures_are_transparency(
    command: CommandLine, model: Path, tmp_path: Path
) -> None:
    palette = scene(30, 22).quantize(16)
    palette.save("palette.png", transparency=3)
    scene(30, 22).save("plain.png", transparency=(0, 0, 0))
    scene(30, 22, "L").save("grey.png", transparency=127)
    for name, mode in (("palette", "RGBA"), ("plain", "RGBA"), ("grey", "LA")):
        assert command("upscale", model, f"{name}.png").returncode == 0
        result = shown(tmp_path / f"{name}-x2.png")
        assert result.mode == mode
        given = read(f"{name}.png").convert(mode)
        alpha = given.getchannel("A").resize((60, 44), Image.Resampling.BICUBIC)
        assert result.getchannel("A").tobytes() == alpha.tobytes()
        if mode == "RGBA":
            close(result.convert("RGB"), by_hand(model, given.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("palette.png", lambda: scene(30, 22).quantize(16)),
        ("print.tif", lambda: scene(30, 22).convert("CMYK")),
        ("film.jpg", lambda: scene(30, 22).convert("YCbCr")),
        ("page.webp", lambda: scene(30, 22)),
        ("plain.bmp", lambda: scene(30, 22)),
        ("plain.ppm", lambda: scene(30, 22)),
    ],
)
def test_colors_of_any_kind_become_red_green_and_blue(
    command: CommandLine, model: Path, tmp_path: Path, name: str, make: Callable[[], Image.Image]
) -> None:
    make().save(name)
    done = command("upscale", model, name, "--out", "out.png")
    assert (done.returncode, done.stderr) == (0, "")
    result = shown(tmp_path / "out.png")
    assert result.mode == "RGB"
    close(result, by_hand(model, read(name).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_cameras_say(
    command: CommandLine, model: Path, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(30, 22).save("in.png", exif=exif)
    assert command("upscale", model, "in.png").returncode == 0
    turns = {
        1: (), 2: ("FLIP_LEFT_RIGHT",), 3: ("ROTATE_180",), 4: ("FLIP_TOP_BOTTOM",), 5: ("TRANSPOSE",),
        6: ("ROTATE_270",), 7: ("TRANSVERSE",), 8: ("ROTATE_90",),
    }  # fmt: skip
    upright = scene(30, 22)
    for turn in turns[orientation]:
        upright = upright.transpose(Image.Transpose[turn])
    result = shown(tmp_path / "in-x2.png")
    assert result.getexif().get(0x0112, 1) == 1
    close(result, by_hand(model, upright))


def test_the_first_of_several_pictures_is_upscaled_and_that_is_said(
    command: CommandLine, model: Path, tmp_path: Path
) -> None:
    frames = [scene(20, 20), scene(20, 20).transpose(Image.Transpose.ROTATE_90)]
    for name in ("film.gif", "pages.tif", "film.png"):
        frames[0].save(name, save_all=True, append_images=frames[1:])
        done = command("upscale", model, name, "--out", f"{name}.png")
        assert done.returncode == 0
        assert done.stderr == f"{name} holds several pictures; the first is upscaled\n"
        close(shown(tmp_path / f"{name}.png").convert("RGB"), by_hand(model, read(name).convert("RGB")))


def test_the_profile_of_the_colors_goes_along(command: CommandLine, model: Path, tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    scene(20, 20).save("in.jpg", icc_profile=profile)
    assert command("upscale", model, "in.jpg").returncode == 0
    assert shown(tmp_path / "in-x2.png").info["icc_profile"] == profile


def test_a_network_that_knows_no_strips_is_given_small_pictures(tmp_path: Path) -> None:
    """As one of somebody else's space may be."""
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)).eval()
    exported = opening.Exported(network, Architecture("elsewhere", "1"), SMALL)
    scene(40, 30).save(tmp_path / "in.png")
    result = upscaling.upscaled(exported, upscaling.read_source(tmp_path / "in.png"), memory=1)
    with torch.no_grad():
        values = network(torch.from_numpy(np.array(scene(40, 30))).permute(2, 0, 1)[None] / 255)[0]
    close(result, (values.permute(1, 2, 0).clamp(0, 1) * 255).numpy())
    large = Source(tmp_path, Image.new("RGB", (513, 512)), None, None, False)
    with pytest.raises(
        InputError, match=r"no residual dense network.*at most 262,144 pixels, but the image has 513 x 512"
    ):
        upscaling.upscaled(exported, large, memory=1 << 30)


# What is refused


def refused(command: CommandLine, tmp_path: Path, *arguments: object, says: str, code: int = 2) -> None:
    """The command says why, and nothing is left of it."""
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = command("upscale", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int) -> bytes:
    """A PNG file that promises a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


def saved(picture: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


@pytest.mark.slow
def test_what_is_no_whole_picture_is_refused(command: CommandLine, model: Path, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    files = {"empty.png": b"", "text.png": b"not a picture", "promise.png": png_of(50, 40)}
    for format in ("png", "jpeg", "gif", "tiff", "webp", "bmp"):
        content = saved(noise, format)
        files[f"half.{format}"] = content[: len(content) // 2]
    for name, content in files.items():
        Path(name).write_bytes(content)
        refused(command, tmp_path, model, name, says=f"the image {name} cannot be read: ")
    Path("folder.png").mkdir()
    os.mkfifo("pipe.png")
    Path("circle.png").symlink_to("circle.png")
    for name in ("folder.png", "pipe.png", "circle.png", "missing.png"):
        done = command("upscale", model, name)
        assert done.returncode == 2
        assert f"the image {name} cannot be read: " in done.stderr


@pytest.mark.slow
def test_damaged_files_never_break_the_command(command: CommandLine, model: Path, tmp_path: Path) -> None:
    """What Pillow does not notice is upscaled; all else is one line, with the name of the file."""
    rng = np.random.default_rng(0)
    outcomes = set()
    for format in ("png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm"):
        original = saved(scene(24, 18), format)
        for _ in range(15):
            content = bytearray(original)
            for place in rng.integers(0, min(len(content), 300), rng.integers(1, 6)):
                content[place] = rng.integers(256)
            Path("hurt").write_bytes(content)
            done = command("upscale", model, "hurt", "--out", "out.png")
            outcomes.add(done.returncode)
            assert done.returncode in (0, 2), done.stderr
            if done.returncode == 2:
                assert len(done.stderr.splitlines()) == 1
                assert "the image hurt " in done.stderr
            assert {path.name for path in tmp_path.iterdir()} == {"hurt"} | (
                {"out.png"} if not done.returncode else set()
            )
            Path("out.png").unlink(missing_ok=True)
    assert outcomes == {0, 2}


def test_files_that_promise_huge_pictures_are_not_decoded(command: CommandLine, model: Path, tmp_path: Path) -> None:
    for size in ((10_001, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)):
        Path("bomb.png").write_bytes(png_of(*size))
        began = time.process_time()
        refused(command, tmp_path, model, "bomb.png", says="the image bomb.png")
        assert time.process_time() - began < 5
    Path("bomb.png").write_bytes(png_of(10_001, 10_000))
    refused(
        command,
        tmp_path,
        model,
        "bomb.png",
        says="too large to be upscaled 2 times: it has 10001 x 10000 pixels, more than 100,000,000; cut it into parts",
    )


def test_sixteen_bits_are_scaled_to_eight_and_that_is_said(command: CommandLine, model: Path, tmp_path: Path) -> None:
    given = scene(20, 20, "L")
    Image.fromarray(np.asarray(given).astype(np.uint16) * 257).save("deep.tif")
    done = command("upscale", model, "deep.tif")
    assert (done.returncode, done.stderr) == (0, "deep.tif has more than 8 bits a channel; they are scaled to 8\n")
    result = shown(tmp_path / "deep-x2.png")
    assert result.mode == "L"
    close(result, grey_by_hand(model, given))


@pytest.mark.parametrize(("mode", "says"), [("I", "its integers are signed or"), ("F", "its values are floating")])
def test_values_without_a_known_range_are_refused(
    command: CommandLine, model: Path, tmp_path: Path, mode: str, says: str
) -> None:
    Image.new(mode, (20, 20)).save("deep.tif")
    refused(command, tmp_path, model, "deep.tif", says=f"the image deep.tif cannot be read: {says}")


def test_nothing_is_overwritten(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(20, 20).save("in.png")
    Path("in-x2.png").write_text("mine")
    Path("dangling.png").symlink_to("nowhere")
    for words in ([], ["--out", "in.png"], ["--out", "new.png", "--compare", "in-x2.png"], ["--out", "dangling.png"]):
        done = command("upscale", model, "in.png", *words)
        assert done.returncode == 2
        assert "exists; choose another name, or remove it" in done.stderr
    assert Path("in-x2.png").read_text() == "mine"
    assert not Path("new.png").exists()


def test_places_are_refused_before_any_work(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(20, 20).save("in.png")
    Path("file").write_text("")
    for words, says in (
        (["--out", "a.jpg"], "only PNG files are written, but got a.jpg"),
        (["--compare", "a"], "only PNG files are written, but got a;"),
        (["--out", "a.png", "--compare", "./a.png"], "--out and --compare are both a.png"),
        (["--out", "file/a.png"], "file/a.png cannot be written"),
        (["--memory", "0"], "--memory"),
        (["--device", "tpu"], "--device"),
    ):
        done = command("upscale", model, "in.png", *words)
        assert done.returncode == 2
        assert says in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "file"}


def test_models_that_do_not_upscale_are_refused(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(20, 20).save("in.png")
    cells = SEARCH_SPACES.get("nasbench201")()
    code = cells.sample(np.random.default_rng(0)).code
    classifier = export(tmp_path / "classifier", code, space="nasbench201", model=IO.image(3, 8, 10))
    depths = export(tmp_path / "depths", model=IO((2, 8, 8), 2, 2))
    refused(command, tmp_path, classifier, "in.png", says="does not upscale images but returns 10 numbers for each")
    refused(command, tmp_path, depths, "in.png", says="2 input channels and 2 output channels")
    refused(command, tmp_path, "nowhere", "in.png", says="nowhere/architecture.json cannot be read")
    refused(command, tmp_path, "in.png", "in.png", says="in.png/architecture.json cannot be read")


@pytest.mark.slow
def test_too_little_memory_is_told_with_what_would_do(command: CommandLine, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (2000, 2000)).save("in.png")
    done = command("upscale", model, "in.png", "--memory", 1)
    assert done.returncode == 2
    assert "4,000,000 pixels the network needs" in done.stderr
    least = int(done.stderr.split("--memory ")[1].split(")")[0])
    exported = opening.opened(model)
    strips = upscaling._strips(exported, upscaling.read_source(Path("in.png")), least << 20)
    with torch.no_grad():
        next(strips)
    with pytest.raises(InputError, match=f"--memory {least}"):
        next(upscaling._strips(exported, upscaling.read_source(Path("in.png")), (least - 1) << 20))


def test_weights_that_are_no_numbers_are_refused(command: CommandLine, model: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    weights = load_file(broken / "weights.safetensors")
    weights["tail.0.weight"][0] = torch.nan
    save_file(weights, broken / "weights.safetensors")
    scene(20, 20).save("in.png")
    refused(command, tmp_path, broken, "in.png", says="returns values that are not finite", code=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(20, 20).save("in.png")
    refused(command, tmp_path, model, "in.png", "--device", "cuda", says="there is no CUDA device that torch can use")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cuda_device_gives_the_same(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(41, 30).save("in.png")
    assert command("upscale", model, "in.png", "--device", "cuda").returncode == 0
    assert np.abs(np.asarray(shown(tmp_path / "in-x2.png")) - by_hand(model, scene(41, 30))).max() <= 0.51


# Beside bicubic and the original


def figures_by_hand(small: Image.Image, result: Image.Image, original: Image.Image, scale: int) -> Any:
    """Of whole planes, by scikit-image."""
    grey = original.mode == "L"

    def plane(values: "torch.Tensor") -> Any:
        return luma(values, grey=grey)[scale:-scale, scale:-scale].numpy()

    larger = upscaled(as_tensor(np.asarray(small))[0], scale).round().clamp(0, 255).to(torch.uint8)
    wanted = plane(as_tensor(np.asarray(original))[0])
    found = {}
    for name, picture in (("bicubic", larger), ("network", as_tensor(np.asarray(result))[0])):
        one = plane(picture)
        found[name] = {
            "psnr_db": peak_signal_noise_ratio(wanted, one, data_range=255),  # type: ignore[no-untyped-call]
            "ssim": structural_similarity(  # type: ignore[no-untyped-call]
                wanted, one, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            ),
        }
    return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("rows", [side_by_side.ROWS, 16, 7])
def test_figures_are_those_of_the_whole_pictures(
    command: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, rows: int
) -> None:
    monkeypatch.setattr(side_by_side, "ROWS", rows)
    original = scene(66, 82, mode)
    small = original.resize((33, 41), Image.Resampling.BICUBIC)
    small.save("in.png")
    original.save("original.png")
    words = ("upscale", model, "in.png", "--original", "original.png", "--compare", "both.png", "--json")
    done = command(*words)
    assert done.returncode == 0, done.stderr
    expected = figures_by_hand(small, shown(tmp_path / "in-x2.png"), original, 2)
    for name, figures in json.loads(done.stdout)["figures"].items():
        assert figures == pytest.approx(expected[name], rel=1e-9)
    page = shown(tmp_path / "both.png")
    gap, line = side_by_side.GAP, side_by_side.LINE
    assert (page.mode, page.height) == ("RGB", line + 82 + gap)
    space = (page.width - gap) // 3 - gap
    bicubic = (
        upscaled(as_tensor(np.asarray(small))[0], 2).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    )
    for place, panel in enumerate((bicubic, shown(tmp_path / "in-x2.png").convert("RGB"), original.convert("RGB"))):
        left = gap + (space + gap) * place
        assert np.array_equal(np.asarray(page.crop((left, line, left + 66, line + 82))), np.asarray(panel))
        assert np.asarray(page.crop((left, 0, left + space, line))).min() < 128  # something is written there


def test_of_large_pictures_the_middle_is_shown(
    command: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "SHOWN", 200)
    small = scene(151, 37)
    small.save("in.png")
    done = command("upscale", model, "in.png", "--compare", "both.png")
    assert done.returncode == 0
    assert "written: both.png" in done.stdout
    page, gap, line = shown(tmp_path / "both.png"), side_by_side.GAP, side_by_side.LINE
    assert page.size == (gap + 2 * (200 + gap), line + 74 + gap)
    larger = upscaled(as_tensor(np.asarray(small))[0], 2).round().clamp(0, 255).permute(1, 2, 0).numpy()
    panels = [np.asarray(page.crop((left, line, left + 200, line + 74))) for left in (gap, 2 * gap + 200)]
    assert np.array_equal(panels[0], larger[:, 51:251])
    assert np.array_equal(panels[1], np.asarray(shown(tmp_path / "in-x2.png"))[:, 51:251])


def test_a_perfect_result_has_the_highest_figures() -> None:
    picture = scene(40, 40)
    found = side_by_side.figures(picture.resize((20, 20)), picture, picture, 2)
    assert found["network"] == {"psnr_db": 100.0, "ssim": pytest.approx(1.0)}
    assert found["bicubic"]["psnr_db"] < 60


def test_originals_of_another_size_are_refused(command: CommandLine, model: Path, tmp_path: Path) -> None:
    for name, size in (("in", (20, 20)), ("tiny", (7, 20)), ("wrong", (40, 41)), ("fits", (14, 40))):
        scene(*size).save(f"{name}.png")
    says = "the original must have the 40 x 40 pixels of the upscaled image, but has 40 x 41"
    refused(command, tmp_path, model, "in.png", "--original", "wrong.png", says=says)
    says = "at least 15 pixels a side for the metrics, but has 14 x 40"
    refused(command, tmp_path, model, "tiny.png", "--original", "fits.png", says=says)
    refused(command, tmp_path, model, "in.png", "--original", "none.png", says="the image none.png cannot be read")


# Interrupted, and on full disks


def test_ctrl_c_leaves_nothing(
    command: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(30, 30).save("in.png")

    def interrupted_after(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def strike(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)  # the signal strikes here
            return result

        monkeypatch.setattr(owner, name, strike)

    for owner, name in ((upscaling, "_image"), (side_by_side, "side_by_side"), (Image.Image, "save")):
        with monkeypatch.context():
            interrupted_after(owner, name)
            done = command("upscale", model, "in.png", "--out", "new/out.png", "--compare", "other/both.png")
            monkeypatch.undo()
            monkeypatch.chdir(tmp_path)
        assert (done.returncode, done.stderr) == (130, "interrupted; nothing was written\n")
        assert {path.name for path in tmp_path.iterdir()} == {"in.png"}


def test_ctrl_c_between_two_names_is_too_late(
    command: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one file would be there without the other."""
    scene(30, 30).save("in.png")
    original = os.fsync

    def strike(descriptor: int) -> None:
        original(descriptor)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "fsync", strike)
    assert command("upscale", model, "in.png", "--compare", "both.png").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "in-x2.png", "both.png"}


def test_a_place_that_is_taken_meanwhile_is_left_alone(
    command: CommandLine, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(30, 30).save("in.png")
    original = upscaling.upscaled

    def taken(*arguments: Any, **options: Any) -> Image.Image:
        Path("in-x2.png").write_text("mine")
        return original(*arguments, **options)

    monkeypatch.setattr(upscaling, "upscaled", taken)
    done = command("upscale", model, "in.png", "--compare", "both.png")
    assert done.returncode == 2
    assert "in-x2.png exists; choose another name" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "in-x2.png"}
    assert Path("in-x2.png").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("struck", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_stopped_leaves_nothing(model: Path, tmp_path: Path, struck: signal.Signals) -> None:
    Image.effect_noise((1000, 700), 90).convert("RGB").save(tmp_path / "in.png")
    words = [sys.executable, "-m", "nasplat", "upscale", str(model), "in.png", "--compare", "both.png"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE
        while len([*tmp_path.iterdir()]) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)  # until the file is being written
        process.send_signal(struck)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, "interrupted; nothing was written\n")
    assert {path.name for path in tmp_path.iterdir()} == {"in.png"}


def test_a_full_disk_leaves_nothing(command: CommandLine, model: Path, tmp_path: Path) -> None:
    scene(200, 200).save("in.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        done = command("upscale", model, "in.png", "--compare", "both.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "free disk space" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.png"}


# Memory


@pytest.mark.slow
def test_a_large_picture_takes_little_memory(model: Path, tmp_path: Path) -> None:
    """The file is 800 x 2000; at once, each of the network's maps would take 51 MB, and some four times that."""
    scene(800, 2000).save(tmp_path / "in.png", compress_level=1)
    program = """
import resource, sys
from nasplat.cli.app import app
from nasplat.export import side_by_side, upscaling
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
app(["upscale", sys.argv[1], "small.png"], standalone_mode=False)
before = peak()
app(["upscale", sys.argv[1], "in.png", "--memory", "16"], standalone_mode=False)
print(peak() - before)
"""
    scene(32, 32).save(tmp_path / "small.png")
    done = subprocess.run(
        [sys.executable, "-c", program, str(model)],
        cwd=tmp_path, check=True, capture_output=True, text=True
    )  # fmt: skip
    pictures = (
        2 * 10 + 40
    )  # what comes in, once as the file has it and once upright, and what comes out; four bytes each
    assert int(done.stdout.splitlines()[-1]) / 1024 < 16 + pictures + 10


@pytest.mark.parametrize("name", ["esrn/tiny+full_stack", "esrn/tiny+ghost"])
def test_a_transformed_network_upscales_like_any_other(name: str, command: CommandLine, tmp_path: Path) -> None:
    searched = SEARCH_SPACES.get(name)()
    architecture = searched.parse("S_4_8_16,C_1_8_16")
    with seeded(0):
        network = searched.build(architecture, SMALL).eval()
    write_export(tmp_path / "transformed", architecture, SMALL, network)
    scene(41, 30).save("in.png")
    done = command("upscale", tmp_path / "transformed", "in.png", "--memory", 1)
    assert done.returncode == 0, done.stderr
    close(shown(tmp_path / "in-x2.png"), by_hand(tmp_path / "transformed", scene(41, 30)))
