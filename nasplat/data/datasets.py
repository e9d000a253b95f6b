"""Image data sets by name, split once and for all into training, validation and test."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import IO
from nasplat.data import pictures
from nasplat.data.distortion import Distortion
from nasplat.data.location import data_folder
from nasplat.data.pictures import Pictures, Rows
from nasplat.errors import InputError, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESIDENT_BYTES = 2 * 2**30
"""A split of up to so many bytes is kept on the device; a larger one stays on the host and follows batch by batch."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What makes uint8 images standardised float32, by the pixels of the training split.

    Args:
        mean: For each channel `[channels, 1, 1]`, in 0..255.
        std: Likewise; 1 where all pixels are alike.
    """

    mean: "Tensor"
    std: "Tensor"

    @classmethod
    def of(cls, images: "Tensor") -> "Scaling":
        """The scaling that gives these uint8 images `[n, channels, height, width]` mean 0 and deviation 1."""
        import torch

        total = torch.zeros(2, images.shape[1], dtype=torch.float64)
        for part in torch.split(images, 4096):  # a few at a time: float64 takes eight times the memory
            pixels = part.to(torch.float32)
            for row, values in zip(total, (pixels, pixels.square()), strict=True):
                row += values.sum((0, 2, 3), dtype=torch.float64)
        mean, square = total / (images.numel() / images.shape[1])
        std = (square - mean.square()).clamp(min=0).sqrt()
        std[std < 1e-3] = 1
        return cls(*(figure.to(torch.float32)[:, None, None] for figure in (mean, std)))

    def to(self, device: "torch.device | str") -> "Scaling":
        return Scaling(self.mean.to(device), self.std.to(device))

    def __call__(self, images: "Tensor") -> "Tensor":
        return (images - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and their labels, decoded, as small as they are kept.

    Args:
        images: `[n, channels, height, width]`: standardised float32, or uint8 if there is a scaling.
        labels: Class numbers `[n]`, int64. Work is done on their device; the images may still be on the host.
        scaling: Standardises a batch of images.
    """

    images: "Tensor"
    labels: "Tensor"
    scaling: Scaling | None = None

    def to(self, device: "torch.device | str") -> "Examples":
        """The same for work on a device, which keeps the images if they take no more than `RESIDENT_BYTES`."""
        images = self.images.to(device) if self.images.nbytes <= RESIDENT_BYTES else self.images
        return Examples(images, self.labels.to(device), self.scaling and self.scaling.to(device))

    def batch(
        self, rows: "Tensor | slice", augment: "Callable[[Tensor], Tensor] | None" = None
    ) -> "tuple[Tensor, Tensor]":
        """Standardised images and labels of some rows, on the device of the labels.

        Args:
            rows: Which; a tensor may be on either device.
            augment: What is done to the images before they are standardised.
        """
        device = self.labels.device
        if isinstance(rows, slice):
            images, labels = self.images[rows], self.labels[rows]
        else:
            images, labels = self.images[rows.to(self.images.device)], self.labels[rows.to(device)]
        if images.device != device:  # pinned memory lets the copy go on beside the work on the batch before
            images = images.pin_memory().to(device, non_blocking=True)
        if augment is not None:
            images = augment(images)
        return (images if self.scaling is None else self.scaling(images)), labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts: training fits weights, validation guides the search, test is measured once.

    Args:
        training: Read already.
        validation: Likewise.
        read_test: Reads the test part, which nobody asks for before the final measurement.
    """

    training: Examples
    validation: Examples
    read_test: Callable[[], Examples]

    @cached_property
    def test(self) -> Examples:
        """The test part, read when it is first asked for."""
        return self.read_test()

    def to(self, device: str) -> "Splits":
        return Splits(self.training.to(device), self.validation.to(device), lambda: self.test.to(device))


def _nothing_to_refuse() -> None:
    pass


def _not_scaled_alike() -> "Scaling | None":
    return None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that is known before it is loaded.

    Args:
        name: What users call it.
        summary: One line on what it is.
        io: Image shape and number of classes.
        load: Reads and splits it; the same split for everybody.
        mirrored: Whether a picture seen in a mirror is as good a picture of its class.
        check: Refuses cheaply what `load` would fail by, above all missing files.
        classes: The names of the classes by number; none where they have no other.
        white: The value of the brightest pixel before images are standardised.
        scaling: How images were standardised that come so; None if that cannot be said.
    """

    name: str
    summary: str
    io: IO
    load: Callable[[], Splits]
    mirrored: bool = False
    check: Callable[[], None] = _nothing_to_refuse
    classes: tuple[str, ...] = ()
    white: float = 255.0
    scaling: "Callable[[], Scaling | None]" = _not_scaled_alike


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from, and how much of it is wanted.

    Args:
        folder: Holds the files; by default the data folder.
        download: Whether missing files may be fetched into the folder.
        subset: So many training and validation images in all, drawn once for everybody; test stays whole.
        side: What the pictures of a folder of one's own are resized to.
    """

    folder: Path | None = None
    download: bool = False
    subset: int | None = None
    side: int | None = None

    @property
    def place(self) -> Path:
        """The folder, given or not."""
        return data_folder() if self.folder is None else self.folder.expanduser()


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set as it is listed; where its files lie is not known yet.

    Args:
        name: What users call it.
        summary: One line on what it is.
        open: Makes it known, without loading it.
    """

    name: str
    summary: str
    open: Callable[[Source], Dataset]


# Splitting ----------------------------------------------------------------------------------------------------


def _part(labels: Rows, count: int, what: str) -> tuple[Rows, Rows]:
    """Rows in two stratified parts, of which the second has `count`; the same for everybody."""
    from sklearn.model_selection import train_test_split

    try:
        rest, part = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=0)
    except ValueError as error:
        raise InputError(f"{what} cannot be drawn with every class in its share: {error}") from error
    return np.sort(rest), np.sort(part)


def _drawn(labels: Rows, count: int, what: str) -> Rows:
    """So many rows, stratified; all if they are as many."""
    return np.arange(len(labels)) if count == len(labels) else _part(labels, count, what)[1]


def _share(subset: int, training: int, validation: int, classes: int) -> tuple[int, int]:
    """How many images of a subset are for training, and how many for validation.

    Raises:
        InputError: There are not so many, or too few for every class to be in both parts.
    """
    whole = training + validation
    for_training = round(subset * training / whole)
    if not (subset <= whole and min(for_training, subset - for_training) >= classes):
        least = -(-classes * whole // min(training, validation))
        raise InputError(
            f"subset is to be between about {least:,} (every class in training and validation) and {whole:,} "
            f"(all {training:,} + {validation:,}), but is {subset:,}"
        )
    return for_training, subset - for_training


@dataclass(frozen=True, slots=True)
class _Parts:
    """Three disjoint parts whose pixels are not read yet; where the test part has files of its own, nor are those."""

    training: Pictures
    validation: Pictures
    test: Callable[[], Pictures]

    @classmethod
    def of(
        cls,
        training: Pictures,
        *,
        validation: Pictures | None = None,
        test: Callable[[], Pictures] | None = None,
        held_out: int,
        subset: int | None,
    ) -> "_Parts":
        """Take what is missing from training: a fifth for the test, then one in `held_out` for validation."""
        if test is None:
            rest, rows = _part(training.labels, len(training) // 5, "a test split")
            training, test = training.take(rest), partial(training.take, rows)
        if validation is None:
            rest, rows = _part(training.labels, len(training) // held_out, "a validation split")
            training, validation = training.take(rest), training.take(rows)
        if subset is not None:
            counts = _share(subset, len(training), len(validation), len(np.unique(training.labels)))
            training, validation = (
                part.take(_drawn(part.labels, count, "the subset"))
                for part, count in zip((training, validation), counts, strict=True)
            )
        return cls(training, validation, test)

    def read(self) -> Splits:
        import torch

        images = self.training.images()
        scaling = Scaling.of(images)

        def read(part: Pictures) -> Examples:
            return Examples(part.images(), torch.from_numpy(part.labels), scaling)

        training = Examples(images, torch.from_numpy(self.training.labels), scaling)
        return Splits(training, read(self.validation), lambda: read(self.test()))


# The data sets ------------------------------------------------------------------------------------------------


def _digits(source: Source) -> Dataset:
    def chosen() -> tuple[NDArray[np.float32], Rows, tuple[Rows, Rows, Rows]]:
        pixels, labels, (training, validation, test) = _split_digits()
        if source.subset is not None:
            counts = _share(source.subset, len(training), len(validation), 10)
            training, validation = (
                rows[_drawn(labels[rows], count, "the subset")]
                for rows, count in zip((training, validation), counts, strict=True)
            )
        return pixels.astype(np.float32)[:, None], labels, (training, validation, test)

    def load() -> Splits:
        import torch

        images, labels, (training, validation, test) = chosen()
        images = (images - images[training].mean()) / images[training].std()

        def part(rows: Rows) -> Examples:
            return Examples(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]))

        return Splits(part(training), part(validation), lambda: part(test))

    def check() -> None:
        if source.subset is not None:
            _share(source.subset, *DIGITS, 10)

    def scaling() -> Scaling:
        import torch

        images, _, (training, *_) = chosen()
        figures = (float(images[training].mean()), float(images[training].std()))
        return Scaling(*(torch.full((1, 1, 1), figure) for figure in figures))

    return Dataset(
        "digits",
        DATASETS["digits"].summary,
        IO.image(channels=1, side=8, outputs=10),
        load,
        check=check,
        white=16.0,
        scaling=scaling,
    )


DIGITS = 1_078, 359
"""Of scikit-learn's digits so many are for training, and so many for validation."""


def _split_digits() -> tuple[NDArray[np.float64], Rows, tuple[Rows, Rows, Rows]]:
    """Scikit-learn's digits `[1797, 8, 8]` from 0 to 16, their labels, and which are for which split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    training, rest = train_test_split(np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)
    return bunch.images, labels, (training, validation, test)


HARD = Distortion(side=16, turn=30, shift=2, scale=0.2, noise=80)
"""So hard that networks of six convolutions, 2,000 to 100,000 parameters, differ by a dozen points in 8 epochs."""
VARIANTS = 4, 2, 2
"""How many pictures are made of each digit of the training, validation and test split."""


def _hard_digits(source: Source) -> Dataset:
    training, validation = (count * variants for count, variants in zip(DIGITS, VARIANTS, strict=False))

    def load() -> Splits:
        originals, labels, splits = _split_digits()
        rng = np.random.RandomState(0)  # whose stream is frozen: see Distortion

        def part(rows: Rows, variants: int) -> Pictures:
            import torch

            chosen = np.repeat(rows, variants)
            pixels = torch.from_numpy(HARD(originals[chosen] / 16, rng))[:, None]
            return Pictures(labels[chosen], lambda wanted: pixels[wanted])

        first, second, test = (part(*each) for each in zip(splits, VARIANTS, strict=True))
        # Neither validation nor test is taken from training, hence no part of it is held out.
        return _Parts.of(first, validation=second, test=lambda: test, held_out=0, subset=source.subset).read()

    def check() -> None:
        if source.subset is not None:
            _share(source.subset, training, validation, 10)

    return Dataset(
        "hard_digits",
        DATASETS["hard_digits"].summary,
        IO.image(channels=1, side=HARD.side, outputs=10),
        load,
        check=check,
    )


GET = "add --set benchmark.download=true where there is a network, or name their folder in benchmark.data_folder"


@dataclass(frozen=True, slots=True)
class _Published:
    """A data set of published files.

    Args:
        name: What users call it.
        io: Image shape and number of classes.
        files: What must be there.
        folders: Where they are looked for, below the data folder; the first is where downloads go.
        read: Gives the training pictures of found files, by name, and what reads those of the test.
        held_out: One in so many training images is for validation.
        training: The number of training images before that.
        endings: What may follow on the names of the files.
        classes: The names of the classes.
        archives: MD5 sums by address; none if it cannot be downloaded.
        named: Whether the archives hold the first of the folders.
        refuse: Looks at found files before they are read.
        hint: What is said about files that were found instead.
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
        def find() -> dict[str, Path]:
            places = [source.place / folder for folder in self.folders]
            # The folder itself, such as a distribution's; the default data folder has many things in it.
            return pictures.find(
                self.name, [*places, *([source.place] if source.folder else [])], self.files, self.endings
            )

        def check() -> None:
            if source.subset is not None:
                _share(
                    source.subset,
                    self.training - self.training // self.held_out,
                    self.training // self.held_out,
                    self.io.outputs,
                )
            try:
                self.refuse(find())
            except FileNotFoundError as error:
                if self.archives is None:
                    raise InputError(f"{error}; set NASPLAT_DATA or benchmark.data_folder to where they are") from None
                if not source.download:
                    hint = self.hint(source.place)
                    raise InputError(f"{error}; {hint}{GET}") from None

        def load() -> Splits:
            check()
            try:
                found = find()
            except FileNotFoundError:
                assert self.archives is not None
                pictures.download(self.archives(), source.place, self.folders[0], named=self.named)
                check()
                found = find()
            training, test = self.read(found)
            return _Parts.of(training, test=test, held_out=self.held_out, subset=source.subset).read()

        summary = DATASETS[self.name].summary
        return Dataset(self.name, summary, self.io, load, mirrored=True, check=check, classes=self.classes)


CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
OBJECTS = "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"


def _fashion_mnist(source: Source) -> Dataset:
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

    def read(found: dict[str, Path]) -> tuple[Pictures, Callable[[], Pictures]]:
        training, test = (
            partial(pictures.read_idx, found[images], found[labels], shape=(28, 28), classes=10)
            for images, labels in (names[:2], names[2:])
        )
        return training(), test

    def archives() -> dict[str, str]:
        from torchvision.datasets import FashionMNIST

        return {FashionMNIST.mirrors[0] + file: md5 for file, md5 in FashionMNIST.resources}

    return _Published(
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
"""Pictures in each file of training pictures; a file of test pictures has 10,000 of them."""
CIFAR_TEST_ROWS = 10_000
CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz"


def _cifar(source: Source, *, classes: int) -> Dataset:
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
                    f"{found} is not opened, since its files are pickles, which may run any code; get the binary "
                    f"version, {CIFAR_ADDRESS}/cifar-{classes}-binary.tar.gz: "
                )
        return ""

    return _Published(
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


def _cifar10_jpeg(source: Source) -> Dataset:
    file = "cifar10_jpeg.npz"

    def read(found: dict[str, Path]) -> tuple[Pictures, Callable[[], Pictures]]:
        training, test = (
            partial(pictures.read_jpegs, found[file], part, shape=(3, 32, 32), classes=10) for part in ("train", "test")
        )
        return training(), test

    return _Published(
        name="cifar10_jpeg",
        io=IO.image(channels=3, side=32, outputs=10),
        files=(file,),
        folders=("images", "."),
        classes=OBJECTS,
        read=read,
        held_out=5,
        training=50_000,
    ).open(source)


def _image_folder(source: Source) -> Dataset:
    if source.folder is None:
        raise InputError(
            "image_folder reads pictures of your own; give benchmark.data_folder, a folder with train/CLASS/* "
            "(and val/ and test/, if you have them), or with CLASS/*"
        )
    parts = pictures.part_folders(source.place)
    classes = pictures.class_folders(parts["train"])
    side = pictures.side_of_first(parts["train"], classes) if source.side is None else source.side

    def listed() -> _Parts:
        found = {
            part: pictures.list_folder(place, classes, side=side, all_classes=part == "train")
            for part, place in parts.items()
        }
        own = found.get("test")
        test = None if own is None else lambda: own
        return _Parts.of(found["train"], validation=found.get("val"), test=test, held_out=4, subset=source.subset)

    def check() -> None:
        listed()

    io = IO.image(channels=3, side=side, outputs=len(classes))
    return Dataset(
        "image_folder",
        DATASETS["image_folder"].summary,
        io,
        lambda: listed().read(),
        mirrored=True,
        check=check,
        classes=tuple(classes),
    )


DATASETS: dict[str, Dataset | Entry] = {
    entry.name: entry
    for entry in (
        Entry("digits", "1,797 handwritten digits of 8 x 8 pixels; ships with scikit-learn", _digits),
        Entry(
            "hard_digits",
            "5,750 noisy pictures, 16 x 16, of scikit-learn's digits, turned, shifted and scaled: 4,312 for training",
            _hard_digits,
        ),
        Entry(
            "fashion_mnist",
            "70,000 articles of clothing, 28 x 28 in grey (Zalando); 10,000 of the training images are for validation",
            _fashion_mnist,
        ),
        Entry(
            "cifar10",
            "60,000 photographs of 10 classes, 32 x 32, the binary version; 10,000 of the training images are for "
            "validation",
            partial(_cifar, classes=10),
        ),
        Entry(
            "cifar100",
            "60,000 photographs of 100 classes, 32 x 32, the binary version; 10,000 of the training images are for "
            "validation",
            partial(_cifar, classes=100),
        ),
        Entry(
            "cifar10_jpeg",
            "CIFAR-10 (JPEG): CIFAR-10 after lossy compression, not comparable with CIFAR-10; split like it",
            _cifar10_jpeg,
        ),
        Entry(
            "image_folder",
            "pictures of your own: data_folder has train/CLASS/* (val/, test/ if any), or CLASS/*, then split 60/20/20",
            _image_folder,
        ),
    )
}


def dataset(name: str, source: Source | None = None) -> Dataset:
    """The data set of a name, known but not loaded.

    Args:
        name: One of `DATASETS`.
        source: Where it comes from; by default the data folder.

    Raises:
        InputError: The name is unknown (near matches are listed), or the source does not suit it.
    """
    if name not in DATASETS:
        raise InputError(unknown("data set", name, DATASETS))
    source = source or Source()
    if source.side is not None and name != "image_folder":
        raise InputError(f"side is for image_folder alone; {name} has a side of its own")
    found = DATASETS[name]
    return found.open(source) if isinstance(found, Entry) else found
