"""Convolutional networks applied strip by strip, so that memory does not grow with the height of an image.

Tiles with margins repeat much work if the receptive field of a network is large: the margin must be as wide as the
receptive field of the whole network. Here rows stream through the network instead. Every layer is a stage that
computes each of its rows once, from a few rows of its source stages. Rows are freed when no stage needs them any more.
The work and the result are those of the whole image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nasplat.errors import InputError

ROWS = 32, 16, 8, 4, 2
"""The possible numbers of rows of the image in a step: the largest that fits into memory is used. A CPU is as fast
with 8, but other devices are faster with fewer and larger steps."""
WORKING = 4
"""Factor on the inputs and outputs of a stage for working memory: concatenated inputs and buffers of convolutions."""
MIB = 2**20

Rows = TypeVar("Rows", int, NDArray[np.int64])
Read = Callable[[int, int], Tensor]
"""Gives rows of the image, from the first to the last (exclusive), as `[channels, rows, width]`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer that computes rows from rows.

    For the rows from `a` to `b` (exclusive) it needs from all its sources the rows from `a // up * down - halo` to
    `ceil(b / up) * down + halo` (exclusive). Rows above and below the image are zeros.

    Args:
        run: Computes its rows from these rows of each source, `[1, channels, rows, width]`. Surplus rows and columns
            at the end are cropped.
        sources: The numbers of the source stages.
        channels: The channels of its rows.
        height: The total number of rows.
        width: The length of rows.
        halo: The number of additional source rows above and below.
        up: The number of rows it makes from one.
        down: The number of source rows for one row.
        early: Whether it computes rows as soon as its sources have them, so that these can be freed; else it waits
            until its rows are needed. Its sources must correspond to it pixel by pixel.
    """

    run: Callable[..., Tensor]
    sources: tuple[int, ...]
    channels: int
    height: int
    width: int
    halo: int = 0
    up: int = 1
    down: int = 1
    early: bool = False

    def first(self, row: Rows) -> Rows:
        """The first row of its sources that it needs for a row; negative above the image."""
        return row // self.up * self.down - self.halo

    def last(self, row: Rows) -> Rows:
        """The end (exclusive) of the source rows that it needs for the rows before this one."""
        return -(-row // self.up) * self.down + self.halo


class Stages:
    """The stages of a network, each after its sources. The first stage is the image.

    Args:
        channels: The channels of the image.
        height: The height of the image, in pixels.
        width: The width of the image, in pixels.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.all = [Stage(lambda: torch.empty(0), (), channels, height, width)]

    def add(
        self,
        run: Callable[..., Tensor],
        sources: Sequence[int],
        channels: int,
        *,
        halo: int = 0,
        up: int = 1,
        down: int = 1,
        early: bool = False,
        like: int | None = None,
    ) -> int:
        """Add a stage. Its height and width follow from its first source, or are those of the stage `like`.

        Returns:
            The number of the stage.
        """
        source = self.all[sources[0]]
        height, width = (-(-side // down) * up for side in (source.height, source.width))
        if like is not None:
            height, width = self.all[like].height, self.all[like].width
        self.all.append(Stage(run, tuple(sources), channels, height, width, halo, up, down, early))
        return len(self.all) - 1


class Ring:
    """The latest rows of a stage, in a ring buffer.

    Args:
        stage: The stage of the rows.
        capacity: The number of rows that fit.
        like: A tensor with the data type and device of the rows.
    """

    def __init__(self, stage: Stage, capacity: int, like: Tensor) -> None:
        self._rows = like.new_empty(stage.channels, capacity, stage.width)
        self._end = 0

    def put(self, rows: Tensor) -> None:
        """Store the next rows `[channels, rows, width]` in place of the oldest."""
        end = self._end + rows.shape[1]
        self._rows[:, self._places(self._end, end)] = rows
        self._end = end

    def get(self, first: int, last: int) -> Tensor:
        """A copy of the rows from the first to the last (exclusive).

        Raises:
            IndexError: The rows are not stored yet, or not any more.
        """
        if not self._end - self._rows.shape[1] <= first <= last <= self._end:
            raise IndexError(f"rows {first} to {last} of {self._rows.shape[1]} before {self._end} are not held")
        return self._rows.index_select(1, self._places(first, last))

    def _places(self, first: int, last: int) -> Tensor:
        return torch.arange(first, last, device=self._rows.device) % self._rows.shape[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedule for computing rows, and the number of rows held.

    Args:
        stages: The stages in order. The rows of the last one are the result.
        ends: `[steps + 1, stages]`: the number of rows that each stage has computed before each step, and at the end.
    """

    stages: tuple[Stage, ...]
    ends: NDArray[np.int64]
    capacities: tuple[int, ...] = field(init=False)
    """The largest number of rows held for each stage; 0 for the image and for the result."""

    def __post_init__(self) -> None:
        oldest = self.ends[1:].copy()
        for number, stage in enumerate(self.stages):
            begin = self.ends[:-1, number]
            for source in stage.sources:
                needed = np.where(begin < stage.height, stage.first(begin).clip(0), oldest[:, source])
                np.minimum(oldest[:, source], needed, out=oldest[:, source])
        held = (self.ends[1:] - oldest).max(axis=0)
        held[[0, -1]] = 0
        object.__setattr__(self, "capacities", tuple(held.tolist()))

    @classmethod
    def of(cls, stages: Sequence[Stage], rows: int) -> Self:
        """The plan with `rows` rows of the image in each step. Few rows are computed before they are needed."""
        picture, result = stages[0], stages[-1]
        rate = result.height // picture.height
        # The image is read this far ahead of the result. Steps begin this far above it; otherwise the first step would
        # be huge.
        ahead = int(_ends(stages, np.array([rows * rate]))[0, 0])
        bottoms = np.arange(rows - (ahead - 1) // rows * rows, picture.height + rows, rows) * rate
        heights = [stage.height for stage in stages]
        ends = np.vstack([np.zeros_like(heights), _ends(stages, bottoms).clip(0, heights)])
        for number, stage in enumerate(stages):
            if stage.early:
                ends[:, number] = ends[:, stage.sources].min(axis=1)
        return cls(tuple(stages), ends)

    @classmethod
    def within(cls, stages: Sequence[Stage], memory: int, like: Tensor) -> Self:
        """The plan with as many rows in each step as fit into memory.

        Args:
            stages: The stages of the network.
            memory: The limit, in bytes, for all memory that grows with the image's width.
            like: A tensor with the data type of the computation.

        Raises:
            InputError: A few rows need more memory.
        """
        needed = 0
        for rows in ROWS:
            plan = cls.of(stages, rows)
            needed = plan.values * like.element_size()
            if needed <= memory:
                return plan
        picture, least = stages[0], -(-needed // MIB)
        raise InputError(
            f"for an image of {picture.width * picture.height:,} pixels the network needs at least {least} MiB of "
            f"memory, but the limit is {memory // MIB}; raise the limit (--memory {least}), or cut the image into parts"
        )

    @property
    def values(self) -> int:
        """The largest count of numbers in memory at once, without the image and the result."""
        held = [stage.channels * rows * stage.width for stage, rows in zip(self.stages, self.capacities, strict=True)]
        made = np.diff(self.ends, axis=0).max(axis=0).tolist()
        return sum(held) + WORKING * max(map(self._touched, self.stages, made))

    def _touched(self, stage: Stage, rows: int) -> int:
        """The count of input and output numbers of a stage for the given number of rows."""
        taken = stage.last(rows) - stage.first(0)
        sources = (self.stages[source] for source in stage.sources)
        return taken * sum(each.channels * each.width for each in sources) + rows * stage.channels * stage.width

    def run(self, read: Read, like: Tensor) -> Iterator[Tensor]:
        """The result in strips, from the top down.

        Args:
            read: Gives the image's rows. Some rows are requested several times.
            like: A tensor with the data type and device of the computation.

        Yields:
            `[channels, rows, width]`.
        """
        rings = {
            number: Ring(self.stages[number], capacity, like)
            for number, capacity in enumerate(self.capacities)
            if capacity
        }
        reads = [read, *(rings[number].get for number in range(1, len(self.stages) - 1))]
        for begins, ends in pairwise(self.ends.tolist()):
            for number, (stage, begin, end) in enumerate(zip(self.stages, begins, ends, strict=True)):
                if not number or begin == end:
                    continue
                taken = [_rows(stage, begin, end, reads[source], self.stages[source]) for source in stage.sources]
                made = stage.run(*taken)[0, :, : end - begin, : stage.width]
                if number in rings:
                    rings[number].put(made)
                else:
                    yield made


def _ends(stages: Sequence[Stage], bottoms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ends (exclusive), `[bottoms, stages]`, of the rows of each stage that parts of the result need.

    Args:
        stages: The stages in order.
        bottoms: The ends (exclusive) of the rows of the result. They may be above or below the image, as may the
            returned values.
    """
    ends = np.full((len(bottoms), len(stages)), np.iinfo(np.int64).min // 4)
    ends[:, -1] = bottoms
    for number, stage in reversed([*enumerate(stages)]):
        end = ends[:, number]
        end[:] = -(-end // stage.up) * stage.up
        for source in stage.sources:
            np.maximum(ends[:, source], stage.last(end), out=ends[:, source])
    return ends


def _rows(stage: Stage, begin: int, end: int, read: Read, source: Stage) -> Tensor:
    """The source rows of a stage for some of its rows: `[1, channels, rows, width]`, zeros outside of the source."""
    first, last = stage.first(begin), stage.last(end)
    rows = read(max(first, 0), min(last, source.height))[None]
    above, below = (max(0, -first), max(0, last - source.height)) if stage.halo else (0, 0)
    return functional.pad(rows, (0, 0, above, below)) if above or below else rows
