"""Data sets of published files: Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nasplat.architecture import IO
from nasplat.data import pictures
from nasplat.data.dataset import Dataset, Source
from nasplat.data.digests import described, is_large
from nasplat.data.examples import Splits
from nasplat.data.manifest import Changes, Manifest
from nasplat.data.pictures import Pictures
from nasplat.data.splitting import Parts, shares
from nasplat.errors import InputError

GET = (
    "with an internet connection add --set benchmark.data.download=true (options={'benchmark.data.download': True}), "
    "or "
    "--trust-run (trust=True) to resume a run that has it, "
    "or name their folder in benchmark.data.folder"
)


@dataclass(frozen=True, slots=True)
class Published:
    """A data set of published files.

    Args:
        name: Its name for users.
        io: Image shape and number of classes.
        files: The required files.
        folders: The folders to search, below the data folder. Downloads go to the first.
        read: Takes the found files by name; gives the training images and a function that reads the test images.
        held_out: One of this many training images is for validation.
        training: The number of training images before this split.
        endings: The possible suffixes of the names of the files.
        classes: The names of the classes.
        archives: MD5 sums by address; empty if it cannot be downloaded.
        named: Whether the archives contain the first of the folders.
        refuse: Checks found files before they are read.
        hint: The text of the message about other files that were found instead.
    """

    name: str
    io: IO
    files: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[dict[str, Path]], tuple[Pictures, Callable[[], Pictures]]]
    held_out: int
    training: int
    endings: tuple[str, ...] = ("",)
    archives: Callable[[], dict[str, str]] | None = None
    named: bool = True
    refuse: Callable[[dict[str, Path]], None] = lambda found: None
    hint: Callable[[Path], str] = lambda folder: ""
    classes: tuple[str, ...] = ()

    def open(self, source: Source) -> Dataset:
        """The data set, not loaded. Its files are searched when it is checked."""

        def find() -> dict[str, Path]:
            places = [source.place / folder for folder in self.folders]
            # The given folder itself, such as an unpacked archive; the default data folder has other files too.
            return pictures.find(
                self.name, [*places, *([source.place] if source.folder else [])], self.files, self.endings
            )

        def check() -> None:
            if source.subset is not None:
                shares(
                    source.subset,
                    self.training - self.training // self.held_out,
                    self.training // self.held_out,
                    self.io.outputs,
                )
            try:
                self.refuse(find())
            except FileNotFoundError as error:
                if self.archives is None:
                    raise InputError(f"{error}; set NASPLAT_DATA or benchmark.data.folder to their folder") from None
                if not source.download:
                    hint = self.hint(source.place)
                    raise InputError(f"{error}; {hint}{GET}") from None

        def check_recorded() -> None:
            check()
            if recorded is not None:
                recorded.check(source.place, changes())

        def available() -> dict[str, Path]:
            check()
            try:
                return find()
            except FileNotFoundError:
                assert self.archives is not None
                pictures.download(self.archives(), source.place, self.folders[0], named=self.named)
                check()
                return find()

        def names() -> list[str]:
            return [path.relative_to(source.place).as_posix() for path in available().values()]

        def changes() -> Changes:
            assert recorded is not None
            return recorded.differences(source.place, names())

        def parts() -> Parts:
            training, test = self.read(available())
            return Parts.of(training, test=test, held_out=self.held_out, subset=source.subset)

        def load() -> Splits:
            if recorded is not None:
                recorded.check(source.place, changes())
                return parts().read(recorded.scaling(None, source.subset))
            if not read:
                read.append(parts().read())
            return read[0]

        def record() -> Manifest:
            if recorded is not None and recorded.scaling(None, source.subset):
                return recorded.refreshed(source.place)
            sampled = is_large(source.place, names())
            files = {"files": tuple(described(source.place, names(), sampled=sampled))}
            new = recorded or Manifest(self.name, files, self.classes, sampled=sampled)
            training = load().training
            return new.scaled(training.scaling, len(training), source.subset)

        def accept() -> Manifest:
            if recorded is None:
                return record()
            files = described(source.place, names(), sampled=recorded.sampled)
            return recorded.going_on(changes(), parts={"files": tuple(files)})

        recorded = source.recorded
        read: list[Splits] = []
        return Dataset(
            self.name,
            self.io,
            load,
            mirrored=True,
            check=check_recorded,
            classes=self.classes,
            record=record,
            accept=accept,
        )


CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
OBJECTS = "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"


def fashion_mnist(source: Source) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 28 x 28 grey images of 10 classes, from IDX files."""
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

    def read(found: dict[str, Path]) -> tuple[Pictures, Callable[[], Pictures]]:
        training, test = (
            partial(pictures.read_idx, found[images], found[labels], shape=(28, 28), classes=10, most=most)
            for (images, labels), most in ((names[:2], 60_000), (names[2:], 10_000))
        )
        return training(), test

    def archives() -> dict[str, str]:
        from torchvision.datasets import FashionMNIST

        return {FashionMNIST.mirrors[0] + file: md5 for file, md5 in FashionMNIST.resources}

    return Published(
        name="fashion_mnist",
        io=IO.image(channels=1, side=28, outputs=10),
        files=tuple(names),
        folders=("FashionMNIST/raw", "images/fashion_mnist", "fashion_mnist"),
        read=read,
        held_out=6,
        training=60_000,
        endings=("", ".gz"),
        classes=CLOTHES,
        archives=archives,
        named=False,
    ).open(source)


CIFAR_ROWS = {"cifar10": 10_000, "cifar100": 50_000}
"""The number of images in each training file; a test file has 10,000."""
CIFAR_TEST_ROWS = 10_000
CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz"


def cifar(source: Source, *, classes: int) -> Dataset:
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009): 32 x 32 color images, from the binary version."""
    name = f"cifar{classes}"
    if classes == 10:
        folder, pickled, md5 = "cifar-10-batches-bin", "cifar-10-batches-py", "c32a1d4ab5d03f1284b67883e8d87530"
        files, test, labels = [f"data_batch_{number}.bin" for number in range(1, 6)], "test_batch.bin", 1
    else:
        folder, pickled, md5 = "cifar-100-binary", "cifar-100-python", "03b5dce01913d631647c71ecec9e9cb8"
        files, test, labels = ["train.bin"], "test.bin", 2  # a coarse label, then the fine one
    shape = (3, 32, 32)

    def refuse(found: dict[str, Path]) -> None:
        for names, rows in ((files, CIFAR_ROWS[name]), ([test], CIFAR_TEST_ROWS)):
            pictures.check_binary([found[file] for file in names], labels=labels, pixels=3_072, rows=rows)

    def read(found: dict[str, Path]) -> tuple[Pictures, Callable[[], Pictures]]:
        training, testing = (
            partial(pictures.read_binary, [found[file] for file in names], labels=labels, shape=shape, classes=classes)
            for names in (files, [test])
        )
        return training(), testing

    def hint(place: Path) -> str:
        for found in (place / pickled, place / "images" / pickled):
            if found.is_dir():
                return (
                    f"{found} was not opened, since its files are pickles, which can run any code; get the binary "
                    f"version, {CIFAR_ADDRESS}/cifar-{classes}-binary.tar.gz: "
                )
        return ""

    return Published(
        name=name,
        io=IO.image(channels=3, side=32, outputs=classes),
        files=(*files, test),
        folders=(folder, f"images/{folder}"),
        read=read,
        held_out=5,
        training=50_000,
        archives=lambda: {f"{CIFAR_ADDRESS}/cifar-{classes}-binary.tar.gz": md5},
        refuse=refuse,
        hint=hint,
        classes=OBJECTS if classes == 10 else (),
    ).open(source)


def cifar10_jpeg(source: Source) -> Dataset:
    """CIFAR-10 after JPEG compression, from one file. Its metrics are not comparable with those of CIFAR-10."""

    file = "cifar10_jpeg.npz"

    def read(found: dict[str, Path]) -> tuple[Pictures, Callable[[], Pictures]]:
        training, test = (
            partial(pictures.read_jpegs, found[file], part, shape=(3, 32, 32), classes=10, most=most)
            for part, most in (("train", 50_000), ("test", 10_000))
        )
        return training(), test

    return Published(
        name="cifar10_jpeg",
        io=IO.image(channels=3, side=32, outputs=10),
        files=(file,),
        folders=("images", "."),
        classes=OBJECTS,
        read=read,
        held_out=5,
        training=50_000,
    ).open(source)
