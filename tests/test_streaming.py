"""A network that is run strip by strip gives what it gives for the whole picture, and holds no more than planned."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.errors import InputError
from nasplat.nn.residual_dense.network import ResidualDenseNetwork
from nasplat.nn.residual_dense.shapes import KINDS, SCALES, DenseBlock, Kind, ResidualDenseShape
from nasplat.nn.residual_dense.streaming import Strips
from nasplat.nn.streaming import MIB, ROWS, Plan, Ring, Stage, Stages
from nasplat.training.seeding import seeded


def network(
    blocks: tuple[DenseBlock, ...], scale: int, *, channels: int = 3, features: int = 8
) -> ResidualDenseNetwork:
    """A network of which every part counts, with float64 weights."""
    with seeded(0), torch.no_grad():
        made = ResidualDenseNetwork(ResidualDenseShape(features, blocks), IO.upscaled(8, 8, scale, channels)).double()
        for weight in made.parameters():
            weight.copy_(torch.randn_like(weight) * (2 / weight[0].numel()) ** 0.5)
    return made.eval()


def whole(made: ResidualDenseNetwork, picture: Tensor) -> Tensor:
    with torch.no_grad():
        upscaled: Tensor = made(picture[None])[0]
    return upscaled


def in_strips(strips: Strips, picture: Tensor) -> Tensor:
    """All strips put together; every pixel is to be given once."""
    (_, height, width), scale = picture.shape, strips.network.scale
    found = picture.new_zeros(len(picture), scale * height, scale * width)
    times = torch.zeros(found.shape[1:])
    for (left, top, right, bottom), pixels in strips.run(lambda box: picture[:, box[1] : box[3], box[0] : box[2]]):
        found[:, top:bottom, left:right] = pixels
        times[top:bottom, left:right] += 1
    assert (times == 1).all()
    return found


def random_picture(height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * height + width)
    return torch.rand(channels, height, width, generator=generator, dtype=torch.float64)


def limited(made: ResidualDenseNetwork, height: int, width: int, rows: int) -> Strips:
    """With so many rows of the picture at once."""
    strips = Strips.of(made, height, width, 1 << 40)
    return Strips(made, Plan.of(strips.plan.stages, rows), strips.mirrored)


BLOCKS = st.builds(
    lambda kind, depth, growth, more: DenseBlock(kind, depth, growth, growth + more),
    st.sampled_from(KINDS), st.integers(1, 4), st.sampled_from((4, 8)), st.sampled_from((0, 4)),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(BLOCKS, min_size=1, max_size=3),
    scale=st.sampled_from(SCALES),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    rows=st.sampled_from((1, 2, 3, 4, 7, 16, 100)),
)
def test_strips_give_what_the_whole_gives(
    blocks: list[DenseBlock], scale: int, height: int, width: int, rows: int
) -> None:
    made, picture = network(tuple(blocks), scale), random_picture(height, width)
    expected = whole(made, picture)
    given = in_strips(limited(made, height, width, rows), picture)
    assert (given - expected).abs().max() <= 1e-10 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(45, 37), (38, 61), (3, 90)])
def test_it_does_so_in_float32(kind: Kind, height: int, width: int) -> None:
    """The reach is above the picture's shorter side, for contextual blocks above both."""
    blocks = DenseBlock(kind, 4, 8, 16), DenseBlock("C", 3, 8, 8), DenseBlock(kind, 4, 16, 16)
    made, picture = network(blocks, 2), random_picture(height, width)
    expected = whole(made, picture)
    made.float()
    scale = expected.abs().max()
    assert (in_strips(limited(made, height, width, 4), picture.float()) - expected).abs().max() <= 1e-5 * scale
    assert (whole(made, picture.float()) - expected).abs().max() <= 1e-5 * scale


def test_grey_pictures_go_through_as_well() -> None:
    made, picture = network((DenseBlock("C", 2, 8, 12),), 3, channels=1), random_picture(31, 20, channels=1)
    assert (in_strips(limited(made, 31, 20, 4), picture) - whole(made, picture)).abs().max() <= 1e-10


@pytest.mark.slow
def test_the_work_is_that_of_the_whole_picture() -> None:
    """All that is done twice are the first features; a contextual block alone reaches farther than a strip is high."""
    blocks = tuple(DenseBlock(kind, 4, 8, 8) for kind in ("C", "S", "G", "C"))
    made, picture = network(blocks, 2, features=16).float(), random_picture(96, 64).float()
    with FlopCounterMode(display=False) as once:
        whole(made, picture)
    with FlopCounterMode(display=False) as strips:
        in_strips(limited(made, 96, 64, 8), picture)
    first = 2 * 9 * 3 * 16 * 96 * 64
    assert made.shape.reach > 50
    assert strips.get_total_flops() == once.get_total_flops() + first


def test_memory_does_not_grow_with_the_height() -> None:
    made = network((DenseBlock("C", 4, 8, 8), DenseBlock("G", 3, 8, 8)), 2)
    values = [limited(made, height, 64, 8).plan.values for height in (200, 400, 6400)]
    assert values[0] == values[1] == values[2]
    assert limited(made, 6400, 128, 8).plan.values == 2 * values[0]
    assert limited(made, 64, 6400, 8).plan.values == values[0]  # columns go through where they are short


def test_a_limit_decides_how_many_rows_go_through_and_is_kept() -> None:
    made = network((DenseBlock("C", 2, 8, 8),), 2).float()
    plans = {rows: limited(made, 500, 60, rows).plan for rows in ROWS}
    needed = {rows: 4 * plan.values for rows, plan in plans.items()}
    assert [*needed.values()] == sorted(needed.values(), reverse=True)
    for rows in ROWS:
        chosen = Strips.of(made, 500, 60, needed[rows]).plan
        assert np.array_equal(chosen.ends, plans[rows].ends)
        assert np.diff(chosen.ends[:, 0]).max() <= rows
    with pytest.raises(InputError, match=r"30,000 pixels the network needs at least 1 MiB .* limit is 0.*--memory 1\)"):
        Strips.of(made, 500, 60, needed[ROWS[-1]] - 1)


def test_no_more_rows_are_held_than_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the plan allows is what tensors there are: rings of that size, of which every row is needed again."""
    made = network((DenseBlock("C", 3, 8, 8), DenseBlock("S", 2, 8, 12)), 2)
    strips = limited(made, 120, 40, 4)
    made_rings: list[tuple[int, ...]] = []
    original = Ring.__init__

    def note(self: Ring, stage: Stage, capacity: int, like: Tensor) -> None:
        original(self, stage, capacity, like)
        made_rings.append(tuple(self._rows.shape))

    monkeypatch.setattr(Ring, "__init__", note)
    in_strips(strips, random_picture(120, 40))
    plan = strips.plan
    assert made_rings == [
        (stage.channels, rows, stage.width)
        for stage, rows in zip(plan.stages[1:-1], plan.capacities[1:-1], strict=True)
    ]
    # By hand: of every stage the most rows between the oldest that a later step needs and the newest.
    for number, stage in [*enumerate(plan.stages)][1:-1]:
        most = 0
        for step in range(len(plan.ends) - 1):
            needed = [
                max(0, begin // each.up * each.down - each.halo)
                for each, begin in zip(plan.stages, plan.ends[step].tolist(), strict=True)
                if number in each.sources and begin < each.height
            ]
            most = max(most, int(plan.ends[step + 1, number]) - min(needed, default=10**9))
        assert plan.capacities[number] == most < stage.height


def test_a_ring_gives_what_it_holds_alone() -> None:
    ring = Ring(Stage(torch.relu, (0,), 2, 100, 3), 5, torch.empty(0))
    rows = torch.arange(2 * 8 * 3.0).reshape(2, 8, 3)
    ring.put(rows[:, :4])
    ring.put(rows[:, 4:8])
    assert torch.equal(ring.get(3, 8), rows[:, 3:8])
    for first, last in ((2, 5), (6, 9), (5, 4)):
        with pytest.raises(IndexError, match="are not held"):
            ring.get(first, last)


def test_stages_wait_for_what_they_look_down_to() -> None:
    """Two layers that look one row down each: after two rows of the result four have come in."""
    stages = Stages(1, 9, 4)
    one = stages.add(torch.relu, [0], 1, halo=1)
    stages.add(torch.relu, [one], 1, halo=1)
    assert Plan.of(stages.all, 2).ends.tolist() == [
        [0, 0, 0], [2, 1, 0], [4, 3, 2], [6, 5, 4], [8, 7, 6], [9, 9, 8], [9, 9, 9]
    ]  # fmt: skip


LARGE = """
import resource, sys
import torch
from pathlib import Path
from nasplat.architecture import IO
from nasplat.nn.residual_dense.network import ResidualDenseNetwork
from nasplat.nn.residual_dense.shapes import DenseBlock, ResidualDenseShape
from nasplat.nn.residual_dense.streaming import Strips

height, width, memory = map(int, sys.argv[1:])
made = ResidualDenseNetwork(ResidualDenseShape(8, (DenseBlock("C", 2, 8, 8),)), IO.upscaled(8, 8, 2))
for _ in Strips.of(made, 64, width, memory).run(lambda box: torch.rand(3, box[3] - box[1], box[2] - box[0])):
    pass
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in Strips.of(made, height, width, memory).run(lambda box: torch.rand(3, box[3] - box[1], box[2] - box[0])):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded)
"""


@pytest.mark.slow
def test_a_process_keeps_to_its_limit() -> None:
    """A map of all features alone would take 48 MB, and there are several; what comes in and out is not kept."""
    limit = 8 * MIB
    done = subprocess.run(
        [sys.executable, "-c", LARGE, "6000", "250", str(limit)],
        check=True, capture_output=True, text=True
    )  # fmt: skip
    assert int(done.stdout) * 1024 <= limit
