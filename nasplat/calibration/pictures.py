"""Operation pictures, and what a network gives for them: each content once, with all names of its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nasplat.calibration.answers import Names
from nasplat.calibration.outputs import Integers, Outputs
from nasplat.data.pool import Images, Pool
from nasplat.data.pool_pass import IS_UNREADABLE, UNREADABLE, Column, PoolPass, Told, content
from nasplat.errors import InputError, printable

LOGITS, FEATURES, CONTENTS = "logits.f4", "features.f4", "contents.u1"


class Network(Protocol):
    """A classifier that also gives its features."""

    classes: tuple[str, ...]
    features: int
    shape: tuple[int, ...]
    most_pixels: int
    identity: Mapping[str, Any]
    """What tells it from others, as JSON."""

    def __call__(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logits `[n, classes]` and the features `[n, features]` of uint8 images `[n, *shape]`."""
        ...


@dataclass(frozen=True)
class Pictures:
    """The operation pictures, each once.

    Args:
        outputs: What the network gives for them.
        contents: Their digests.
        files: The row in the pool of a file of each.
        names: All names.
        shown: The printable name of each.
        about: What was read of the folder.
        unreadable: A note on files that cannot be read, or nothing.
    """

    outputs: Outputs
    contents: Sequence[str]
    files: Integers
    names: Names
    shown: Mapping[str, str]
    about: dict[str, Any]
    unreadable: str

    @classmethod
    def of(cls, pool: Pool, found: PoolPass) -> "Pictures":
        usable = found.usable
        digests = [each.tobytes().hex() for each in found.column(CONTENTS)[usable]]
        _, places = np.unique(np.array(digests), return_index=True)
        places = np.sort(places)
        files = usable[places]
        absolute, relative = pool.names()
        every = [""] * len(pool)
        for row, digest in zip(usable.tolist(), digests, strict=True):
            every[row] = digest
        contents = [digests[place] for place in places.tolist()]
        called = absolute if len(pool.sources) > 1 else relative
        shown = {each: printable(called[row]) for each, row in zip(contents, files.tolist(), strict=True)}
        unreadable = found.count(IS_UNREADABLE)
        about = {
            "sources": list(pool.sources),
            "files": len(pool),
            "images": len(contents),
            "unreadable": unreadable,
            "left out": dict(pool.left_out),
        }
        note = f"{unreadable:,} pictures left out, since they cannot be read{found.example()}" if unreadable else ""
        outputs = Outputs(found.column(LOGITS)[files], found.column(FEATURES)[files])
        return cls(outputs, contents, files, Names(absolute, relative, every), shown, about, note)


def seen(work: Path, pool: Pool, network: Network, told: Told) -> PoolPass:
    """What the network gives for all files, on disk.

    Raises:
        InputError: No picture can be read.
    """

    def compute(images: Images) -> dict[str, NDArray[Any]]:
        logits, features = network(images)
        digests = [np.frombuffer(content(image), np.uint8) for image in images]
        return {LOGITS: logits, FEATURES: features, CONTENTS: np.stack(digests)}

    columns = {LOGITS: len(network.classes), FEATURES: network.features}
    found = PoolPass.of(
        work, pool, {name: Column("f4", width) for name, width in columns.items()} | {CONTENTS: Column("u1", 16)},
        compute, told,
    )  # fmt: skip
    if not len(found.usable):
        example = found.example()
        found.delete()
        (work / UNREADABLE).unlink(missing_ok=True)
        raise InputError(f"none of the {len(pool):,} operation pictures can be read{example}; give others")
    return found
