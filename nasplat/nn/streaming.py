"""Running networks of convolutions strip by strip, so that memory does not grow with the height of a picture.

Tiles with margins do much of the work several times where a network reaches far: a margin is to be as wide as the
whole network reaches. Here rows stream through instead, as lines do through the filters of a scanner. Every layer is
a stage that makes each of its rows once, from a few rows of the stages before it, which are forgotten when no stage
needs them any more. The work is that of the whole picture, and so is the result.
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
"""How many rows of the picture go through at once: as many as there is memory for. A processor is as fast with 8, but
fewer and larger steps are what other devices are good at."""
WORKING = 4
"""So many times what a stage takes and gives is counted for its run: joined inputs, and what convolutions rearrange."""
MIB = 2**20

Rows = TypeVar("Rows", int, NDArray[np.int64])
Read = Callable[[int, int], Tensor]
"""Rows of the picture, from the first to before the last, as `[channels, rows, width]`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer that makes rows from rows.

    To make the rows from `a` to before `b` it takes of all its sources the rows from `a // up * down - halo` to before
    `ceil(b / up) * down + halo`; rows above and below the picture are zeros.

    Args:
        run: Takes these rows of each source, `[1, channels, rows, width]`, and gives its own; rows and columns too
            many at the end are cut off.
        sources: The numbers of the stages that it takes rows of.
        channels: Of its rows.
        height: How many rows there are in all.
        width: Their length.
        halo: How many rows it looks up and down.
        up: How many rows it makes of one.
        down: How many rows it takes for one.
        early: Whether it makes rows as soon as its sources, which are pixels for its own, have them, so that these
            can be forgotten; else it waits until they are needed.
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
        """The first row of its sources that it needs for a row; below zero above the picture."""
        return row // self.up * self.down - self.halo

    def last(self, row: Rows) -> Rows:
        """The row of its sources before which those end that it needs for the rows before this one."""
        return -(-row // self.up) * self.down + self.halo


class Stages:
    """The stages of a network, each after those that it takes rows of. The first is the picture.

    Args:
        channels: Of the picture.
        height: Of the picture, in pixels.
        width: Likewise.
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
        """Add a stage; its height and width follow from its first source's, or are those of the stage `like`.

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
    """The latest rows of a stage, in a ring.

    Args:
        stage: Whose rows.
        capacity: How many there is room for.
        like: A tensor of the data type and device that rows are kept in.
    """

    def __init__(self, stage: Stage, capacity: int, like: Tensor) -> None:
        self._rows = like.new_empty(stage.channels, capacity, stage.width)
        self._end = 0

    def put(self, rows: Tensor) -> None:
        """Take in the next rows `[channels, rows, width]`, in the place of the oldest."""
        end = self._end + rows.shape[1]
        self._rows[:, self._places(self._end, end)] = rows
        self._end = end

    def get(self, first: int, last: int) -> Tensor:
        """A copy of the rows from the first to before the last.

        Raises:
            IndexError: They are not there yet, or not any more.
        """
        if not self._end - self._rows.shape[1] <= first <= last <= self._end:
            raise IndexError(f"rows {first} to {last} of {self._rows.shape[1]} before {self._end} are not held")
        return self._rows.index_select(1, self._places(first, last))

    def _places(self, first: int, last: int) -> Tensor:
        return torch.arange(first, last, device=self._rows.device) % self._rows.shape[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """When which rows are made, and how many are held meanwhile.

    Args:
        stages: In order; the last one's rows are the result.
        ends: `[steps + 1, stages]`: how many rows each stage has made before each step, and in the end.
    """

    stages: tuple[Stage, ...]
    ends: NDArray[np.int64]
    capacities: tuple[int, ...] = field(init=False)
    """How many rows of each stage are held at most; of the picture and of the result none."""

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
        """The plan by which so many rows of the picture go through at once, and few are made before they must."""
        picture, result = stages[0], stages[-1]
        rate = result.height // picture.height
        # So far the picture is read ahead of the result; that far above it begin the steps, or the first would be huge.
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
        """The plan by which as many rows go through at once as there is memory for.

        Args:
            stages: As they are.
            memory: The limit, in bytes, of all that grows with the picture's width.
            like: A tensor of the data type that is computed with.

        Raises:
            InputError: A few rows take more.
        """
        needed = 0
        for rows in ROWS:
            plan = cls.of(stages, rows)
            needed = plan.values * like.element_size()
            if needed <= memory:
                return plan
        picture, least = stages[0], -(-needed // MIB)
        raise InputError(
            f"for a picture of {picture.width * picture.height:,} pixels the network needs {least} MiB of memory at "
            f"least, but {memory // MIB} are allowed; allow more (--memory {least}), or cut the picture into parts"
        )

    @property
    def values(self) -> int:
        """How many numbers are in memory at once, at most; the picture and the result are not among them."""
        held = [stage.channels * rows * stage.width for stage, rows in zip(self.stages, self.capacities, strict=True)]
        made = np.diff(self.ends, axis=0).max(axis=0).tolist()
        return sum(held) + WORKING * max(map(self._touched, self.stages, made))

    def _touched(self, stage: Stage, rows: int) -> int:
        """How many numbers a stage takes and gives to make so many rows."""
        taken = stage.last(rows) - stage.first(0)
        sources = (self.stages[source] for source in stage.sources)
        return taken * sum(each.channels * each.width for each in sources) + rows * stage.channels * stage.width

    def run(self, read: Read, like: Tensor) -> Iterator[Tensor]:
        """The result in strips, from the top on.

        Args:
            read: Gives the picture's rows; some are asked for several times.
            like: A tensor of the data type and device that is computed with.

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
    """Before which row the rows end, `[bottoms, stages]`, that each stage is to have made for some of the result.

    Args:
        stages: In order.
        bottoms: Before which row those of the result end; these may lie above or below the picture, as may what is
            returned.
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
    """What a stage takes of a source to make some rows: `[1, channels, rows, width]`, with zeros for what is not."""
    first, last = stage.first(begin), stage.last(end)
    rows = read(max(first, 0), min(last, source.height))[None]
    above, below = (max(0, -first), max(0, last - source.height)) if stage.halo else (0, 0)
    return functional.pad(rows, (0, 0, above, below)) if above or below else rows
