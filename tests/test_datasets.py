"""Data sets from files: what is read is what was published, split the same for everybody, and damage is named."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional
from torchvision.datasets import FashionMNIST
from torchvision.io import decode_jpeg

from nasplat.architecture import IO
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.config import SearchConfig
from nasplat.data import digits, examples, pictures, published
from nasplat.data.dataset import Source
from nasplat.data.datasets import DATASETS, dataset
from nasplat.data.distortion import Distortion
from nasplat.data.examples import Examples, Scaling, Splits
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.options import complete, construct
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate
from nasplat.training import augmentation

Bytes = NDArray[np.uint8]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("NASPLAT_DATA", str(folder))
    return folder


def real(*path: str) -> Path:
    """A file of the real data folder."""
    file = Path(os.environ.get("NASPLAT_DATA", ""), *path)
    if not file.is_file():
        pytest.skip(f"{file} is missing; set NASPLAT_DATA to the folder above {path[0]}/")
    return file


def opened(name: str, **source: Any) -> Splits:
    """A data set, checked and loaded."""
    found = dataset(name, Source(**source))
    found.check()
    return found.load()


def refusal(name: str, **source: Any) -> str:
    """Why a data set is refused before it is loaded, in one line."""
    with pytest.raises(InputError) as caught:
        dataset(name, Source(**source)).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def damage(name: str, **source: Any) -> str:
    """Why a data set is refused at the latest when its test part is read, in one line."""
    with pytest.raises(InputError) as caught:
        opened(name, **source).test  # noqa: B018  reads it
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(count: int, *shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def known_by_its_pixels(examples: Examples) -> dict[bytes, int]:
    """Labels by the bytes of the pictures."""
    assert examples.images.dtype == torch.uint8
    assert examples.labels.dtype == torch.int64
    found = {
        image.numpy().tobytes(): label for image, label in zip(examples.images, examples.labels.tolist(), strict=True)
    }
    assert len(found) == len(examples)
    return found


# What there is


def test_every_data_set_is_listed_without_its_files(data: Path) -> None:
    assert list(DATASETS) == [
        *("digits", "hard_digits", "fashion_mnist", "cifar10", "cifar100", "cifar10_jpeg", "image_folder")
    ]
    assert all(entry.summary for entry in DATASETS.values())


def test_all_but_a_folder_of_ones_own_are_known_without_their_files(data: Path) -> None:
    known = {name: dataset(name) for name in DATASETS if name != "image_folder"}
    assert {name: found.io for name, found in known.items()} == {
        "digits": IO.image(1, 8, 10),
        "hard_digits": IO.image(1, 16, 10),
        "fashion_mnist": IO.image(1, 28, 10),
        "cifar10": IO.image(3, 32, 10),
        "cifar100": IO.image(3, 32, 100),
        "cifar10_jpeg": IO.image(3, 32, 10),
    }
    assert {name for name, found in known.items() if not found.mirrored} == {"digits", "hard_digits"}


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "cifar10_jpeg"])
def test_missing_files_are_refused_before_anything_is_created(name: str, data: Path) -> None:
    tree = {
        "space": {"name": "nasbench201", "channels": 4, "cells": 1},
        "benchmark": {"name": "classification", "dataset": name},
        "strategy": "random_search",
        "objectives": ["accuracy:max"],
        "budget": {"evaluations": 1},
    }
    with pytest.raises(
        InputError, match=f"the files of {name} are missing: .* were looked for in {data}/.*data.folder"
    ):
        Assembly.of(SearchConfig.read(tree))
    assert not list(data.iterdir())


def test_a_side_is_for_folders_of_ones_own() -> None:
    assert "the images of digits have a fixed side" in refusal("digits", side=16)


# Hard digits

HARD_SUMS = {
    "training": "9de247da923fe2f0a83f062b3b8a558ad07ae3537e803134380b7943fbfbecc1",
    "validation": "907e7ee0a6cb9b55c4dc4c7240a61a7269683088983ab662a37b942c09c51554",
    "test": "37d4fcbd2434dd104f1c508fb217a44c8743da9ef1b8a7296b12b4ca6fa7f244",
}


@pytest.mark.slow
def test_hard_digits_are_the_same_for_everybody_always() -> None:
    splits = opened("hard_digits")
    for name, total in HARD_SUMS.items():
        images = getattr(splits, name).images
        assert (images.dtype, images.shape[1:]) == (torch.uint8, (1, 16, 16))
        assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == total, name
    standardised, _ = splits.training.batch(slice(0, len(splits.training)))
    assert standardised.mean().item() == pytest.approx(0, abs=1e-5)
    assert standardised.std().item() == pytest.approx(1, abs=1e-3)


def test_no_digit_is_in_two_splits_and_splits_are_those_of_the_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any distortion the pictures of one digit are alike, and can be told by their pixels."""
    monkeypatch.setattr(digits, "HARD", Distortion(side=8, turn=0, shift=0, scale=0, noise=0))
    hard, easy = opened("hard_digits"), opened("digits")
    bunch = load_digits()
    known = {image.tobytes(): row for row, image in enumerate(bunch.images)}
    assert len(known) == len(bunch.images)
    seen: set[int] = set()
    for part, originals, variants in (
        (hard.training, easy.training, 4),
        (hard.validation, easy.validation, 2),
        (hard.test, easy.test, 2),
    ):
        back = (part.images[:, 0].numpy().astype(np.float64) / 255 * 16).round()
        rows = [known[image.tobytes()] for image in back]
        assert set(Counter(rows).values()) == {variants}
        assert not seen & set(rows)
        seen |= set(rows)
        assert part.labels.tolist() == bunch.target[rows].tolist()
        easy_ones, of_rows = originals.images[:, 0].double(), torch.from_numpy(bunch.images[rows[::variants]])
        assert torch.corrcoef(torch.stack([easy_ones.flatten(), of_rows.flatten()]))[0, 1].item() > 1 - 1e-9
    assert len(seen) == 1_797


@pytest.mark.parametrize(
    "distortion",
    [
        Distortion(side=16, turn=30, shift=2, scale=0.2, noise=0),
        Distortion(side=8, turn=0, shift=3, scale=0, noise=0),
        Distortion(side=11, turn=180, shift=0, scale=0.5, noise=0),
    ],
)
def test_pictures_are_distorted_as_torchs_grids_distort_them(distortion: Distortion) -> None:
    pictures_ = load_digits().images[:50] / 16
    found = distortion(pictures_, np.random.RandomState(3))
    spread = torch.from_numpy(np.random.RandomState(3).random_sample((4, 50)) * 2 - 1)
    angle = torch.deg2rad(distortion.turn * spread[0])
    cosine, sine = (f(angle) / (1 + distortion.scale * spread[1]) for f in (torch.cos, torch.sin))
    # Grids are of (column, row) from -1 to 1: half a side of the new picture is 1.
    down, right = (2 / distortion.side * distortion.shift * spread[row] for row in (2, 3))
    change = torch.stack(
        [
            torch.stack([cosine, sine, -(cosine * right + sine * down)], 1),
            torch.stack([-sine, cosine, sine * right - cosine * down], 1),
        ],
        1,
    )
    grid = functional.affine_grid(change, [50, 1, distortion.side, distortion.side], align_corners=False)
    expected = functional.grid_sample(torch.from_numpy(pictures_)[:, None], grid, align_corners=False)
    assert found.shape == (50, distortion.side, distortion.side)
    assert np.abs(found - 255 * expected[:, 0].numpy()).max() <= 0.5 + 1e-9


def test_noise_is_as_strong_as_it_is_said_to_be() -> None:
    grey = np.full((20, 40, 40), 0.5)
    noisy = Distortion(side=40, turn=0, shift=0, scale=0, noise=20)(grey, np.random.RandomState(0))
    assert noisy.mean() == pytest.approx(127.5, abs=0.5)
    assert noisy.std() == pytest.approx(20, rel=0.02)


@pytest.mark.slow
def test_hard_digits_are_harder_than_digits() -> None:
    """By nearest neighbours, which read the digits as they are almost without a mistake."""

    def read(name: str) -> float:
        splits = opened(name)
        (images, labels), (others, wanted) = (part.batch(slice(0, None)) for part in (splits.training, splits.test))
        return KNeighborsClassifier(5).fit(images.flatten(1), labels).score(others.flatten(1), wanted)  # type: ignore[no-any-return]

    assert read("digits") > 0.97
    assert 0.4 < read("hard_digits") < 0.8


@pytest.mark.slow
def test_a_subset_of_the_hard_digits_is_of_its_splits() -> None:
    part, whole = opened("hard_digits", subset=1_000), opened("hard_digits")
    assert [len(each) for each in (part.training, part.validation, part.test)] == [857, 143, 720]
    assert known_by_its_pixels(part.training).items() <= known_by_its_pixels(whole.training).items()
    assert known_by_its_pixels(part.validation).items() <= known_by_its_pixels(whole.validation).items()
    assert max(Counter(part.training.labels.tolist()).values()) <= 90
    assert "and 5,030 (all 4,312 + 718)" in refusal("hard_digits", subset=6_000)


@pytest.mark.slow
def test_hard_digits_are_augmented_but_not_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "RandomHorizontalFlipEach", lambda: pytest.fail("mirrored"))
    space = NASBench201(channels=2, cells=1)
    benchmark = construct("benchmark", Classification, space, dataset="hard_digits", subset=200, epochs=1, augment=True)
    task = Evaluate(id=0, seed=0, architecture=space.parse("333333"), fidelity=1)
    assert 0 <= benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts()).metrics["accuracy"] <= 1


# Fashion-MNIST


def idx(values: Bytes) -> bytes:
    """The idx format: two zeros, 8 for bytes, the number of axes, each axis as a big-endian integer, the bytes."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def small_fashion() -> dict[str, bytes]:
    """120 training and 30 test pictures of noise, as files."""
    files = {}
    for part, count, seed in (("train", 120, 0), ("t10k", 30, 1)):
        files[f"{part}-images-idx3-ubyte"] = idx(noise(count, 28, 28, seed=seed))
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


def put(folder: Path, files: dict[str, bytes], *, gzipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.slow
def test_fashion_mnist_is_what_zalando_published() -> None:
    folder = real("images", "fashion_mnist", "train-images-idx3-ubyte.gz").parent
    splits = opened("fashion_mnist")

    def published(part: str) -> tuple[Bytes, Bytes]:
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as images:
            pixels = np.frombuffer(images.read()[16:], dtype=np.uint8).reshape(-1, 1, 28, 28)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as labels:
            return pixels, np.frombuffer(labels.read()[8:], dtype=np.uint8)

    pixels, labels = published("t10k")
    assert np.array_equal(splits.test.images.numpy(), pixels)
    assert splits.test.labels.tolist() == labels.tolist()
    assert [len(part) for part in (splits.training, splits.validation)] == [50_000, 10_000]
    assert set(Counter(splits.training.labels.tolist()).values()) == {5_000}
    assert set(Counter(splits.validation.labels.tolist()).values()) == {1_000}
    pixels, labels = published("train")
    parts = (splits.training, splits.validation)
    given = sorted(zip(map(hash, map(bytes, pixels)), labels.tolist(), strict=True))
    assert given == sorted(
        (hash(bytes(image.numpy())), label)
        for part in parts
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    )
    training = splits.training.images.numpy().astype(np.float64)
    assert splits.training.scaling is not None
    assert splits.training.scaling.mean.item() == pytest.approx(training.mean(), rel=1e-6)
    assert splits.training.scaling.std.item() == pytest.approx(training.std(), rel=1e-6)


@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("place", ["images/fashion_mnist", "fashion_mnist", "FashionMNIST/raw", "given"])
def test_fashion_mnist_is_found_where_it_may_lie(place: str, gzipped: bool, data: Path, tmp_path: Path) -> None:
    given = tmp_path / "usr" / "share" / "fashion"
    put(given if place == "given" else data / place, small_fashion(), gzipped=gzipped)
    splits = opened("fashion_mnist", folder=given if place == "given" else None)
    assert [len(part) for part in (splits.training, splits.validation, splits.test)] == [100, 20, 30]
    expected = {image.tobytes(): row % 10 for row, image in enumerate(noise(120, 28, 28))}
    assert known_by_its_pixels(splits.training) | known_by_its_pixels(splits.validation) == expected
    assert set(Counter(splits.validation.labels.tolist()).values()) == {2}


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train-images-idx3-ubyte", cut, "train-images-idx3-ubyte is damaged"),
        ("t10k-labels-idx1-ubyte", cut, "t10k-labels-idx1-ubyte is damaged"),
        ("train-images-idx3-ubyte", lambda content: b"", "train-images-idx3-ubyte is damaged"),
        ("train-images-idx3-ubyte", lambda content: b"<html>not found</html>", "is damaged or not an idx file"),
        ("t10k-images-idx3-ubyte", lambda _: idx(noise(30, 8, 8)), "does not fit t10k-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", lambda _: idx(noise(29, 28, 28)), "does not fit t10k-labels-idx1-ubyte"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.full(120, 10, dtype=np.uint8)), "its labels must be 0 to 9"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.zeros(0, dtype=np.uint8)), "is damaged"),
    ],
    ids=["half the images", "half the labels", "empty", "html", "small images", "too few", "label 10", "no labels"],
)
def test_a_damaged_idx_file_is_named(file: str, change: Callable[[bytes], bytes], message: str, data: Path) -> None:
    files = small_fashion()
    files[file] = change(files[file])
    put(data / "fashion_mnist", files)
    said = damage("fashion_mnist")
    assert message in said
    assert said.endswith("replace it with a complete copy")


def test_a_damaged_gzip_file_is_named(data: Path) -> None:
    put(data / "fashion_mnist", small_fashion(), gzipped=True)
    path = data / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (cut(whole), whole[:2_000] + bytes(100) + whole[2_100:], b"plain"):
        path.write_bytes(content)
        assert f"{path} is damaged" in damage("fashion_mnist")


def test_what_a_folder_lacks_is_said(data: Path) -> None:
    files = small_fashion()
    del files["t10k-labels-idx1-ubyte"]
    put(data / "fashion_mnist", files)
    said = refusal("fashion_mnist")
    assert f"({data / 'fashion_mnist'} has no t10k-labels-idx1-ubyte)" in said
    assert "benchmark.data.download=true" in said


# CIFAR


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR with 20 (of 10,000), 500 (of 50,000) and 200 test pictures to a file."""
    monkeypatch.setattr(published, "CIFAR_ROWS", {"cifar10": 20, "cifar100": 500})
    monkeypatch.setattr(published, "CIFAR_TEST_ROWS", 200)


def cifar(classes: int) -> tuple[dict[str, bytes], dict[str, dict[bytes, int]]]:
    """Files of the binary version, and the labels of what is in them by its pixels."""
    layout = (
        {f"data_batch_{number}.bin": 20 for number in range(1, 6)} | {"test_batch.bin": 200}
        if classes == 10
        else {"train.bin": 500, "test.bin": 200}
    )
    files, known = {}, {"train": {}, "test": {}}  # type: ignore[var-annotated]
    for seed, (name, count) in enumerate(layout.items()):
        pixels = noise(count, 3, 32, 32, seed=seed)
        rows = b""
        for row, image in enumerate(pixels):
            # Red, then green, then blue, each row by row; for 100 classes one of 20 coarse labels comes first.
            coarse = bytes([row % 20]) if classes == 100 else b""
            rows += coarse + bytes([row % classes]) + b"".join(image[channel].tobytes() for channel in range(3))
            known["test" if "test" in name else "train"][image.tobytes()] = row % classes
        files[name] = rows
    return files, known


CIFAR = {10: "cifar-10-batches-bin", 100: "cifar-100-binary"}


@pytest.mark.parametrize("place", ["", "images", "given"])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.usefixtures("few")
def test_cifar_is_read_from_the_binary_version(classes: int, place: str, data: Path, tmp_path: Path) -> None:
    files, known = cifar(classes)
    given = tmp_path / "elsewhere"
    put(given if place == "given" else data / place / CIFAR[classes], files)
    splits = opened(f"cifar{classes}", folder=given if place == "given" else None)
    train = known_by_its_pixels(splits.training) | known_by_its_pixels(splits.validation)
    assert train == known["train"]
    assert known_by_its_pixels(splits.test) == known["test"]
    assert len(splits.validation) * 5 == len(known["train"])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("change", [cut, lambda content: content[:-3_073], lambda content: content + b"\n"])
def test_a_cifar_file_of_another_size_is_refused_before_it_is_read(
    change: Callable[[bytes], bytes], data: Path
) -> None:
    files, _ = cifar(10)
    files["data_batch_4.bin"] = change(files["data_batch_4.bin"])
    put(data / CIFAR[10], files)
    said = refusal("cifar10")
    assert "data_batch_4.bin is damaged: it has" in said
    assert "but 61,460 are expected" in said


@pytest.mark.usefixtures("few")
def test_labels_that_there_are_not_are_refused(data: Path) -> None:
    files, _ = cifar(10)
    files["test_batch.bin"] = b"\x0a" + files["test_batch.bin"][1:]
    put(data / CIFAR[10], files)
    assert "the label 10, but there are only 10 classes" in damage("cifar10")


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_pickles_are_not_opened_and_the_message_says_what_to_do(name: str, folder: str, data: Path) -> None:
    (data / folder).mkdir()
    said = refusal(name)
    assert f"{data / folder} was not opened, since its files are pickles" in said
    assert "-binary.tar.gz" in said
    assert "benchmark.data.download=true" in said


# Downloads


def archive(folder: str, files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files can be fetched."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        """Serves the folder without a word."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision unpacks without a filter
def test_what_is_missing_is_downloaded_once(site: tuple[Path, str], tmp_path: Path) -> None:
    packed = archive("inner", {"one.bin": b"1", "two.bin": b"2"})
    (site[0] / "inner.tar.gz").write_bytes(packed)
    wanted = {f"{site[1]}/inner.tar.gz": hashlib.md5(packed).hexdigest()}
    folder = tmp_path / "data"
    for _ in range(2):
        pictures.download(wanted, folder, "inner", named=True)
        assert {path.name for path in (folder / "inner").iterdir()} == {"one.bin", "two.bin"}
        (site[0] / "inner.tar.gz").unlink(missing_ok=True)  # the second time there is nothing to fetch
    assert not list(folder.glob(".download-*"))


def test_fashion_mnist_is_downloaded_by_torchvisions_list(
    site: tuple[Path, str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(address.startswith("http") for address in FashionMNIST.mirrors)
    assert {name for name, _ in FashionMNIST.resources} == {f"{name}.gz" for name in small_fashion()}
    put(site[0], small_fashion(), gzipped=True)
    sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in site[0].iterdir()]
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{site[1]}/"])
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    splits = opened("fashion_mnist", download=True)
    assert len(splits.test) == 30
    assert (data / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file()
    assert len(opened("fashion_mnist").test) == 30


@pytest.mark.parametrize("there", [True, False], ids=["another file", "no file"])
def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(
    there: bool, site: tuple[Path, str], tmp_path: Path
) -> None:
    if there:
        (site[0] / "inner.tar.gz").write_bytes(b"another file")
    with pytest.raises(InputError, match=r"inner\.tar\.gz cannot be downloaded into .*put the files into"):
        pictures.download({f"{site[1]}/inner.tar.gz": "0" * 32}, tmp_path / "data", "inner", named=True)
    assert all(path.name.endswith(".lock") for path in (tmp_path / "data").iterdir())


def test_checking_does_not_download(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "download", lambda *_, **__: pytest.fail("downloaded"))
    for name in ("fashion_mnist", "cifar10", "cifar100"):
        dataset(name, Source(download=True)).check()


# CIFAR-10 (JPEG)


def jpeg(image: Bytes) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(packed, "JPEG", quality=75)
    return packed.getvalue()


HUGE = 1 << 25
"""Bytes of a file that unpacks to more than it says; far above what may be kept of it."""


def peak(read: Callable[[], object]) -> tuple[str, int]:
    """The message of a reader that refuses, and the most bytes that Python and numpy had allocated in it."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as refused:
            read()
        return str(refused.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [
        ((2**32 - 1, 28, 28), 3, "4,294,967,295 rows, more than the 10"),
        ((3, 2**32 - 1, 2**32 - 1), 3, "but (3, 28, 28) is expected"),
        ((3, 28, 28), 3, "it has more bytes after its head, but 2,352 are expected"),
        ((2**32 - 1,), 1, "4,294,967,295 rows, more than the 10"),
        ((3,), 1, "it has more bytes after its head, but 3 are expected"),
    ],
)
def test_an_idx_file_is_unpacked_no_further_than_it_may_go(
    shape: tuple[int, ...], count: int, message: str, tmp_path: Path
) -> None:
    labels, images = tmp_path / "labels.gz", tmp_path / "images.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(3, dtype=np.uint8))))
    bomb = gzip.compress(bytes((0, 0, 8, count)) + np.array(shape, ">u4").tobytes() + bytes(HUGE), compresslevel=1)
    (images if count == 3 else labels).write_bytes(bomb)
    said, most = peak(lambda: pictures.read_idx(images, labels, shape=(28, 28), classes=10, most=10))
    assert message in said
    assert most < 4 * len(bomb) + (1 << 20)


@pytest.mark.parametrize("name", ["jpeg", "offset", "label"])
@pytest.mark.parametrize("length", [HUGE, 2**60, 2**70])
def test_an_array_is_unpacked_no_further_than_it_may_go(name: str, length: int, tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, **{f"train_{key}": value for key, value in jpegs(10, 1).items() if key != name})
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({length},)}}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(HUGE)
        archive.writestr(f"train_{name}.npy", content)
    del content
    said, most = peak(lambda: pictures.read_jpegs(path, "train", shape=(3, 32, 32), classes=10, most=10))
    assert f"train_{name} has the shape ({length},) of uint8, but must have one axis of at most" in said
    assert most < 1 << 20


def test_a_jpeg_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    arrays = jpegs(10, 1)
    start = arrays["jpeg"].tobytes().index(b"\xff\xc0") + 5  # the height, before the width
    arrays["jpeg"] = arrays["jpeg"].copy()
    arrays["jpeg"][start : start + 4] = 255
    np.savez(tmp_path / "some.npz", **{f"train_{key}": value for key, value in arrays.items()})
    images = pictures.read_jpegs(tmp_path / "some.npz", "train", shape=(3, 32, 32), classes=10, most=10)
    said, most = peak(images.images)
    assert "image 0 of train" in said
    assert most < 1 << 20


def jpegs(count: int, seed: int) -> dict[str, Any]:
    packed = [jpeg(image) for image in noise(count, 3, 32, 32, seed=seed)]
    return {
        "jpeg": np.frombuffer(b"".join(packed), dtype=np.uint8),
        "offset": np.cumsum([0, *map(len, packed)]),
        "label": (np.arange(count) % 10).astype(np.uint8),
    }


def save_jpegs(data: Path, **changes: Any) -> Path:
    arrays = {f"{part}_{name}": value for part in ("train", "test") for name, value in jpegs(100, len(part)).items()}
    (data / "images").mkdir(exist_ok=True)
    path = data / "images" / "cifar10_jpeg.npz"
    np.savez(path, **(arrays | changes))
    return path


@pytest.mark.slow
def test_real_jpegs_are_what_another_decoder_makes_of_them() -> None:
    path = real("images", "cifar10_jpeg.npz")
    splits = opened("cifar10_jpeg", subset=600)
    assert [len(part) for part in (splits.training, splits.validation, splits.test)] == [480, 120, 10_000]
    with np.load(path, allow_pickle=False) as arrays:
        packed, offsets, labels = (arrays[f"test_{name}"] for name in ("jpeg", "offset", "label"))
    assert splits.test.labels.tolist() == labels.tolist()
    for row in (0, 1, 255, 256, 4_999, 9_999):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            picture = decode_jpeg(torch.from_numpy(packed[offsets[row] : offsets[row + 1]]))
        assert torch.equal(splits.test.images[row], picture)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_offset": np.arange(101) * 3}, "the arrays of train do not fit each other"),
        ({"test_label": np.zeros(99, dtype=np.uint8)}, "the arrays of test do not fit each other"),
        ({"test_label": np.full(100, 10, dtype=np.uint8)}, "the arrays of test do not fit each other"),
        ({"train_label": np.array([object()] * 100)}, "Object arrays cannot be loaded"),
    ],
)
def test_a_damaged_npz_is_named(changes: dict[str, Any], message: str, data: Path) -> None:
    path = save_jpegs(data, **changes)
    said = damage("cifar10_jpeg")
    assert message in said
    assert str(path) in said


def test_a_damaged_picture_in_an_npz_is_named(data: Path) -> None:
    spoilt = jpegs(100, 4)
    start = int(spoilt["offset"][7])
    spoilt["jpeg"] = spoilt["jpeg"].copy()
    spoilt["jpeg"][start : start + 2] = 0
    save_jpegs(data, test_jpeg=spoilt["jpeg"], test_offset=spoilt["offset"])
    assert "image 7 of test" in damage("cifar10_jpeg")


def test_a_truncated_npz_is_named(data: Path) -> None:
    path = save_jpegs(data)
    path.write_bytes(cut(path.read_bytes()))
    assert f"{path} is damaged" in damage("cifar10_jpeg")


# Folders of one's own


def draw(folder: Path, counts: dict[str, int], *, side: int = 12, seed: int = 0) -> dict[bytes, str]:
    """Folders of pictures by class; gives the classes by pixels."""
    known = {}
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(noise(count, side, side, 3, seed=seed + number)):
            Image.fromarray(image).save(folder / name / f"{row}.png")
            known[image.transpose(2, 0, 1).tobytes()] = name
    return known


def classes_of(examples: Examples, names: list[str]) -> dict[bytes, str]:
    return {pixels: names[label] for pixels, label in known_by_its_pixels(examples).items()}


def test_class_folders_alone_are_split_by_60_20_20(tmp_path: Path) -> None:
    known = draw(tmp_path, {"cat": 30, "ant": 20, "bee": 10})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    found = dataset("image_folder", Source(tmp_path))
    assert found.io == IO.image(3, 12, 3)
    splits = found.load()
    counts = [Counter(part.labels.tolist()) for part in (splits.training, splits.validation, splits.test)]
    assert counts == [{0: 12, 1: 6, 2: 18}, {0: 4, 1: 2, 2: 6}, {0: 4, 1: 2, 2: 6}]
    parts = [classes_of(part, ["ant", "bee", "cat"]) for part in (splits.training, splits.validation, splits.test)]
    assert parts[0] | parts[1] | parts[2] == known
    again = opened("image_folder", folder=tmp_path)
    assert torch.equal(again.test.images, splits.test.images)


@pytest.mark.parametrize("given", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_parts_that_are_given_stay_as_they_are(given: tuple[str, ...], tmp_path: Path) -> None:
    known = {part: draw(tmp_path / part, {"ant": 20, "bee": 20}, seed=10 * number) for number, part in enumerate(given)}
    splits = opened("image_folder", folder=tmp_path)
    parts = {"train": splits.training, "val": splits.validation, "test": splits.test}
    found = {part: classes_of(examples, ["ant", "bee"]) for part, examples in parts.items()}
    for part in given[1:]:
        assert found[part] == known[part]
    taken = {pixels: name for part in parts if part not in given[1:] for pixels, name in found[part].items()}
    assert taken == known["train"]


def test_pictures_of_any_kind_become_squares_of_three_channels(tmp_path: Path) -> None:
    draw(tmp_path, {"ant": 10, "bee": 10}, side=8)
    picture = Image.fromarray(noise(1, 21, 33, 3)[0])
    for name, mode in (("grey.png", "L"), ("palette.gif", "P"), ("wide.jpg", "RGB"), ("clear.png", "RGBA")):
        picture.convert(mode).save(tmp_path / "ant" / name)
    (tmp_path / "ant" / "palette.gif").rename(tmp_path / "ant" / "palette.webp")  # a picture is known by its content
    splits = opened("image_folder", folder=tmp_path, side=16)
    found = [image.numpy() for part in (splits.training, splits.validation, splits.test) for image in part.images]
    assert {image.shape for image in found} == {(3, 16, 16)}
    for name in ("grey.png", "palette.webp", "wide.jpg", "clear.png"):
        with Image.open(tmp_path / "ant" / name) as opened_:
            resized = opened_.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        assert any(np.array_equal(image.transpose(1, 2, 0), np.asarray(resized)) for image in found), name


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    draw(tmp_path, {"ant": 10, "bee": 10})
    for name, content in (("5.png", cut((tmp_path / "bee" / "5.png").read_bytes())), ("7.png", b"no picture")):
        whole = (tmp_path / "bee" / name).read_bytes()
        (tmp_path / "bee" / name).write_bytes(content)
        assert f"the image {tmp_path / 'bee' / name} cannot be read" in damage("image_folder", folder=tmp_path)
        (tmp_path / "bee" / name).write_bytes(whole)


def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert "set benchmark.data.folder" in refusal("image_folder")
    assert "cannot be read: No such file or directory" in refusal("image_folder", folder=tmp_path / "absent")
    assert "at least two classes, but has none" in refusal("image_folder", folder=tmp_path)
    draw(tmp_path / "one", {"ant": 10})
    assert "at least two classes, but has only ant" in refusal("image_folder", folder=tmp_path / "one")
    draw(tmp_path / "two" / "train", {"ant": 10, "bee": 10})
    draw(tmp_path / "two" / "val", {"ant": 10, "fly": 10})
    assert "has the folder fly, which is not one of the classes; the classes: ant, bee" in refusal(
        "image_folder", folder=tmp_path / "two"
    )
    draw(tmp_path / "empty", {"ant": 10, "bee": 0})
    assert "bee" in refusal("image_folder", folder=tmp_path / "empty")
    draw(tmp_path / "few", {"ant": 10, "bee": 1})
    assert "cannot be drawn with every class" in refusal("image_folder", folder=tmp_path / "few")
    draw(tmp_path / "wide", {"ant": 10, "bee": 10})
    Image.new("RGB", (12, 9)).save(tmp_path / "wide" / "ant" / "0.png")
    assert "12 x 9 pixels, but networks take square images" in refusal("image_folder", folder=tmp_path / "wide")


@pytest.mark.slow
def test_a_folder_of_ones_own_is_searched_on(tmp_path: Path) -> None:
    for number, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for row, image in enumerate(noise(40, 8, 8, 3, seed=number) // 2 + 128 * number):
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / name / f"{row}.png")
    space = NASBench201(channels=4, cells=1)
    benchmark = construct(
        "benchmark", Classification, space, dataset="image_folder", data_folder=str(tmp_path), epochs=6, batch_size=8
    )
    benchmark.check()
    task = Evaluate(id=0, seed=0, architecture=space.parse("233223"), fidelity=6)
    measurement = benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())
    assert measurement.metrics["accuracy"] >= 0.9
    assert measurement.spent.images == 6 * 48


def test_a_folder_is_the_same_for_workers_in_other_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"data_folder": "mine", "subset": "600", "side": "16", "augment": "true", "download": "false"}
    options = complete("benchmark", Classification, given)
    assert options["data"] == {
        "folder": str(tmp_path / "mine"), "most_pixels": 100_000_000, "download": False, "subset": 600, "side": 16
    }  # fmt: skip
    assert options["recipe"]["augment"] is True
    assert complete("benchmark", Classification, {})["data"]["folder"] is None


# Subsets


@pytest.mark.slow
def test_subsets_are_the_same_for_everybody_and_of_the_splits() -> None:
    real("images", "fashion_mnist", "train-images-idx3-ubyte.gz")
    part = opened("fashion_mnist", subset=1_201)
    again = opened("fashion_mnist", subset=1_201)
    assert [len(each) for each in (part.training, part.validation, part.test)] == [1_001, 200, 10_000]
    for each, other in zip((part.training, part.validation), (again.training, again.validation), strict=True):
        assert torch.equal(each.images, other.images)
        assert max(Counter(each.labels.tolist()).values()) - min(Counter(each.labels.tolist()).values()) <= 1
    assert not known_by_its_pixels(part.training).keys() & known_by_its_pixels(part.validation).keys()
    assert part.training.scaling is not None
    pixels = part.training.images.numpy().astype(np.float64)
    assert part.training.scaling.mean.item() == pytest.approx(pixels.mean(), rel=1e-6)


@pytest.mark.parametrize("subset", [1, 20, 1_438, 60_000])
def test_a_subset_that_there_is_not_is_refused(subset: int) -> None:
    assert "subset must be between about 41 (every class in training and validation) and 1,437" in refusal(
        "digits", subset=subset
    )


def test_a_subset_of_the_digits_is_standardised_by_itself() -> None:
    part = opened("digits", subset=200)
    assert [len(each) for each in (part.training, part.validation, part.test)] == [150, 50, 360]
    assert part.training.images.mean().item() == pytest.approx(0, abs=1e-5)
    whole = opened("digits", subset=1_437)
    assert torch.equal(whole.training.images, opened("digits").training.images)


# Batches


@pytest.fixture
def coloured() -> Iterator[Examples]:
    images = torch.from_numpy(noise(50, 3, 6, 6)) // torch.tensor([1, 2, 5], dtype=torch.uint8)[:, None, None]
    images[:, 2] = 7  # a channel without any contrast
    yield Examples(images, torch.arange(50), Scaling.of(images))


def test_batches_are_standardised_channel_by_channel(coloured: Examples) -> None:
    images, labels = coloured.batch(slice(0, 50))
    assert images.dtype == torch.float32
    assert labels.tolist() == list(range(50))
    pixels = coloured.images.numpy().astype(np.float64)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    std[2] = 1
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.abs(images.numpy() - expected).max() < 1e-5
    rows = torch.tensor([3, 1, 4])
    some, which = coloured.batch(rows)
    assert which.tolist() == [3, 1, 4]
    assert torch.equal(some, images[rows])


def test_standardising_by_parts_is_the_same_as_by_the_whole() -> None:
    images = torch.from_numpy(noise(9_000, 1, 3, 3))
    scaling = Scaling.of(images)
    assert scaling.mean.item() == pytest.approx(images.numpy().astype(np.float64).mean(), rel=1e-6)
    assert scaling.std.item() == pytest.approx(images.numpy().astype(np.float64).std(), rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_large_sets_stay_on_the_host_and_give_the_same_batches(
    coloured: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = coloured.to("cuda")
    monkeypatch.setattr(examples, "RESIDENT_BYTES", 0)
    travelling = coloured.to("cuda")
    assert (resident.images.device.type, travelling.images.device.type) == ("cuda", "cpu")
    for rows in (slice(10, 30), torch.tensor([3, 1, 4])):
        for a, b in zip(resident.batch(rows), travelling.batch(rows), strict=True):
            assert a.device.type == b.device.type == "cuda"
            assert torch.equal(a, b)
