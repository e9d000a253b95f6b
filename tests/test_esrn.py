"""Residual dense networks and the search spaces of them: sizes, functions, genes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.config import SearchConfig
from nasplat.errors import InputError
from nasplat.nn.onnx import write_onnx
from nasplat.nn.residual_dense.network import Projected, ResidualDenseNetwork
from nasplat.nn.residual_dense.shapes import DenseBlock, ResidualDenseShape, network_costs
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.search_spaces.esrn import ESRN1M, ESRNLight, ESRNSmall, ESRNTiny, ResidualDenseSpace
from nasplat.task import Evaluate
from nasplat.training.seeding import seeded

SPACES: list[ResidualDenseSpace] = [ESRNLight(), ESRN1M(), ESRNSmall(), ESRNTiny()]
EXAMPLE = (
    "G_8_16_24,C_8_16_16,G_4_16_24,G_8_16_16,S_4_24_32,C_8_16_48,S_4_16_24,G_6_16_24,G_8_16_16,C_8_16_24,S_8_16_16,"
    "S_8_16_24,S_8_16_32,S_6_16_16,G_6_16_64,G_8_16_16,S_8_16_32"
)
"""The example of the public documentation, which has blocks of other widths than the released search."""


def closed_form(shape: ResidualDenseShape, scale: int, height: int, width: int) -> tuple[int, int]:
    """Parameters and MACs as the public code's cost model has them, projections and tails put right."""
    params, macs, inputs = 0, 0, shape.features
    for block in shape.blocks:
        c, g, out = block.depth, block.growth, block.outputs
        shrinks = (c + 2) * (c - 1) // 2 * g * g
        grouped = [1.0, 1.0, 1.5, *((i + 1) / 4 for i in range(3, c))][:c]
        projected = (inputs * g if inputs != g else 0) + (inputs * out if out not in (inputs, g) else 0)
        body, done, last = {
            "S": (9 * c * g * g + shrinks, (9 * c * g * g + shrinks) * height * width, (c + 1) * g * out),
            "G": (int(9 * g * g * sum(grouped)), int(9 * g * g * sum(grouped)) * height * width, (c + 1) * g * out),
            "C": (
                9 * c * g * g + shrinks,
                (27 * c * g * g + shrinks) * ((height + 1) // 2) * ((width + 1) // 2),
                (c + 1) * g * out // 4,
            ),
        }[block.kind]
        params += projected + body + last
        macs += done + (projected + last) * height * width
        inputs = out
    f = shape.features
    fused = sum(block.outputs for block in shape.blocks) * f
    before = 27 * f + 9 * f * f + fused + 9 * f * f
    if scale == 4:
        tail, tail_macs = 36 * f * f * 2 + 27 * f, (36 * f * f * (1 + 4) + 16 * 27 * f) * height * width
    else:
        w = 3 * f // 4
        tail = 9 * f * scale**2 * w + 27 * w
        tail_macs = (9 * f * scale**2 * w + scale**2 * 27 * w) * height * width
    return params + before + tail, macs + before * height * width + tail_macs


def counted(network: nn.Module, io: IO) -> tuple[int, float]:
    """What torch counts."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, *io.input_shape, device="meta"))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_prices_are_closed_forms_and_what_torch_counts(scale: int, part: Callable[..., Any]) -> None:
    for number in part(range(67), 16):
        space = SPACES[number % len(SPACES)]
        height, width = 5 + number % 7, 6 + number % 5
        io, architecture = IO.upscaled(height, width, scale), space.sample(default_rng([scale, number]))
        cost = space.cost(architecture, io)
        assert (cost.params, cost.macs) == closed_form(space.shape(architecture), scale, height, width)
        with torch.device("meta"), seeded(0):
            network = space.build(architecture, io)
        assert (cost.params, cost.macs) == counted(network, io), architecture


def test_published_formulas_of_blocks_and_of_the_rest() -> None:
    light = ResidualDenseShape(32, (DenseBlock.parse("S_8_16_32"), DenseBlock.parse("C_8_16_32")))
    io = IO.upscaled(2, 2, 2)
    parts = network_costs(light, io, ["S", "C"])
    projections = 32 * 16
    assert parts["S"].params == 32_000 + projections and parts["C"].params == 28_544 + projections
    assert parts["S"].macs / 4 == 32_000 + projections and parts["C"].macs / 4 == 17_216 + projections
    rest = sum(parts[name].params for name in ("shallow", "fusion", "tail"))
    assert rest == 27 * 32 + 9 * 32**2 * 5 + 648 + light.fused * 32


def test_the_documentations_example_has_half_a_million_parameters() -> None:
    blocks = tuple(map(DenseBlock.parse, EXAMPLE.split(",")))
    io = IO.upscaled(360, 640, 2)
    parts = network_costs(ResidualDenseShape(32, blocks), io, [str(i) for i in range(17)])
    assert sum(part.params for part in parts.values()) == 516_488
    assert round(sum(part.macs for part in parts.values()) / 1e9, 1) == 111.6


def test_contextual_blocks_do_less_with_as_many_parameters() -> None:
    shrink, contextual = (DenseBlock.parse(f"{kind}_8_16_32").cost(16, 64, 64) for kind in "SC")
    assert contextual.params / shrink.params == pytest.approx(0.89, abs=0.01)
    assert contextual.macs < 0.55 * shrink.macs


def reference(block: Projected, x: Tensor) -> Tensor:
    """The block by loops over channels and pixels' neighborhoods, from its weights alone."""
    weights = {name: weight.double() for name, weight in block.state_dict().items()}
    shape, inputs = block.shape, block.inputs

    def one(x: Tensor, name: str) -> Tensor:
        return torch.einsum("oi,bihw->bohw", weights[name][:, :, 0, 0], x)

    def three(x: Tensor, weight: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1))
        height, width = x.shape[-2:]
        return sum(
            torch.einsum("oi,bihw->bohw", weight[:, :, dy, dx], padded[..., dy : dy + height, dx : dx + width])
            for dy in range(3)
            for dx in range(3)
        )  # type: ignore[return-value]

    start = x if inputs == shape.growth else one(x, "project.weight")
    now = start
    if shape.kind == "C":
        height, width = x.shape[-2:]
        now = torch.stack(
            [
                torch.stack([start[..., y : y + 2, x_ : x_ + 2].mean((-2, -1)) for x_ in range(0, width, 2)], -1)
                for y in range(0, height, 2)
            ],
            -2,
        )
    dense = [now]
    for layer in range(shape.depth):
        weight = weights[f"body.convolutions.{layer}.weight"]
        if shape.kind == "G":
            groups, share = shape.groups(layer), (layer + 1) * shape.growth
            stacked = torch.cat(dense, 1)
            order = [
                first + part * (share // (layer + 1))
                for first in range(share // (layer + 1))
                for part in range(layer + 1)
            ]
            stacked = stacked[:, order]
            wide, narrow = share // groups, shape.growth // groups
            now = torch.cat(
                [
                    three(stacked[:, g * wide : (g + 1) * wide], weight[g * narrow : (g + 1) * narrow])
                    for g in range(groups)
                ],
                1,
            ).clamp(min=0)
        else:
            if layer:
                now = one(torch.cat(dense, 1), f"body.shrinks.{layer - 1}.weight")
            for _ in range(3 if shape.kind == "C" else 1):
                now = three(now, weight).clamp(min=0)
        dense.append(now)
    gathered = torch.cat(dense, 1)
    if shape.kind == "C":
        b, c, h, w = gathered.shape
        gathered = gathered.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)
        gathered = gathered[..., : x.shape[-2], : x.shape[-1]]
    body = one(gathered, "body.last.weight")
    if shape.outputs == inputs:
        return x + body
    if shape.outputs == shape.growth:
        return start + body
    return one(x, "shortcut.weight") + body


@pytest.mark.parametrize("inputs", [8, 16, 12])
@pytest.mark.parametrize("name", ["S_4_8_16", "S_1_8_8", "G_6_8_12", "G_4_16_16", "C_3_8_12", "C_2_16_16"])
def test_blocks_compute_what_an_independent_reading_does(name: str, inputs: int) -> None:
    with seeded(3):
        block = Projected(DenseBlock.parse(name), inputs).double()
        x = torch.randn(2, inputs, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(block(x), reference(block, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_new_network_interpolates(scale: int) -> None:
    space, io = ESRNSmall(), IO.upscaled(9, 7, scale)
    with seeded(1):
        network = space.build(space.sample(default_rng(1)), io)
    assert isinstance(network, ResidualDenseNetwork)
    for parameter in network.tail.parameters():  # the tenth of chance would hide a wrong filter
        if parameter.shape[0] > 3:
            parameter.data[3 * (2 if scale == 4 else scale) ** 2 :] = 0
    ramp = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")).sum(0) / 20
    with torch.no_grad():
        upscaled = network(ramp.expand(1, 3, 9, 7).contiguous())
        wanted = functional.interpolate(ramp.expand(1, 3, 9, 7), scale_factor=scale, mode="bilinear")
    inner = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    assert torch.allclose(upscaled[inner], wanted[inner], atol=1e-5)


@pytest.mark.exports
@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pictures_of_any_sides_are_upscaled_and_exported(scale: int, tmp_path: Path) -> None:
    space, io = ESRNTiny(), IO.upscaled(8, 8, scale)
    with seeded(0):
        network = space.build(space.of(["C_1_8_16", "G_4_8_16", "S_4_8_16"]), io).eval()
    for parameter in network.parameters():  # or the blocks, whose fusion begins at 0, would not be seen
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "model.onnx"
    write_onnx(network, io.input_shape, path, purpose=io.purpose)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 2, 3), (1, 8, 8), (3, 7, 12), (2, 31, 5), (1, 64, 33)):
        pictures = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
        with torch.no_grad():
            wanted = network(pictures)
        assert wanted.shape == (batch, 3, scale * height, scale * width)
        (given,) = session.run(None, {"images": pictures.numpy()})
        assert np.abs(given - wanted.numpy()).max() < 1e-5


def test_networks_have_no_other_scales() -> None:
    shape = ResidualDenseShape(8, (DenseBlock.parse("S_1_8_8"),))
    for io in (IO.upscaled(8, 8, 5), IO.image(3, 8, 10)):
        with pytest.raises(ValueError, match="2, 3 or 4 times"):
            ResidualDenseNetwork(shape, io)
        with pytest.raises(ValueError, match="2, 3 or 4 times"):
            network_costs(shape, io, ["only"])


def test_the_alphabets_are_the_released_ones() -> None:
    assert len(ESRNLight.preset.blocks) == 90 == 3 * 3 * 10
    assert len(ESRNLight.genes) == 40 and len(ESRNTiny.preset.blocks) == 5


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_no_member_has_too_few_blocks(space: ResidualDenseSpace) -> None:
    rng, least = default_rng(5), space.preset.least
    member = space.sample(rng)
    for _ in range(300):
        child = space.crossover(space.mutate(member, rng), space.sample(rng), rng)
        assert len(space.shape(child).blocks) >= least
        member = space.parse(child.code)
    fewest = space.member([1, 0] * least + [0, 0] * (space.preset.slots - least))
    assert all(len(space.shape(near).blocks) >= least for near in space.neighbors(fewest))
    with pytest.raises(InputError, match=f"has {least - 1} active slots, but at least {least} of {space.preset.slots}"):
        space.parse(space._with(fewest, 0, 0).code)


@pytest.mark.slow
def test_samples_are_uniform_over_members() -> None:
    space, rng = ESRNTiny(), default_rng(0)
    slots = Counter(len(space.shape(space.sample(rng)).blocks) for _ in range(7000))
    assert all(abs(slots[number] - 7000 * ways / 7) < 150 for number, ways in {1: 3, 2: 3, 3: 1}.items())


def test_dormant_blocks_decide_nothing_and_wait() -> None:
    space = ESRNTiny()
    asleep = space.member([1, 2, 0, 4, 1, 1])
    other = space.member([1, 2, 0, 3, 1, 1])
    assert space.canonical_key(asleep) == space.canonical_key(other) == "G_4_8_16,S_4_8_16"
    assert (space.features(asleep) == space.features(other)).all()
    assert 3 not in space.active_genes(asleep) and all(near.code[3] == "4" for near in space.neighbors(asleep))
    assert "G_4_8_16,C_4_8_16,S_4_8_16" in {space.canonical_key(near) for near in space.neighbors(asleep)}


def test_a_crossover_swaps_a_segment() -> None:
    space, rng = ESRNLight(), default_rng(2)
    a, b = (space.member([1, block] * 20) for block in (3, 50))
    for _ in range(100):
        took = [block == 50 for block in space.choices(space.crossover(a, b, rng))[1::2]]
        first, length = took.index(True), sum(took)
        assert 4 <= length <= 9 and all(took[first : first + length])


def test_names_of_blocks_are_read_in_place_of_a_code() -> None:
    space = ESRNSmall()
    architecture = space.parse("G_4_16_24,C_2_8_16")
    assert space.parse(architecture.code) == architecture
    assert space.canonical_key(architecture) == "G_4_16_24,C_2_8_16"
    for text, reason in {
        "G_4_16_24,C_2_8_12": "has no block 'C_2_8_12' of 'G_4_16_24,C_2_8_12'; its depths are",
        "G_4_16_24,X_2_8_16": "such as G_8_16_24, where the kind is S, G or C .* but got 'X_2_8_16'",
        "G_4_16": "but got 'G_4_16'",
        ",".join(["S_2_8_8"] * 7): "has 6 slots, but .* has 7 blocks",
        "S_2_8_8": "has 1 active slots, but at least 2 of 6",
    }.items():
        with pytest.raises(InputError, match=reason):
            space.parse(text)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], ["params>=315e3", "params<=325e3"]),
        (["params<=5e5"], ["params<=5e5", "params>=315e3"]),
        (["params>=0", "params<=5e5", "macs<=6e10"], ["params>=0", "params<=5e5", "macs<=6e10"]),
    ],
)
def test_light_searches_keep_their_window_unless_they_have_their_own(given: list[str], kept: list[str]) -> None:
    tree = {"space": "esrn/light", "benchmark": "super_resolution", "strategy": "random_search"}
    config = SearchConfig.read({**tree, "objectives": ["psnr_db:max"], "constraints": given})
    assert config.resolved().constraints == kept


@pytest.mark.slow
@pytest.mark.parametrize("limits", [["macs<=5.4e10"], ["params>=320000", "params<=320020"]], ids=str)
def test_windows_that_no_random_member_hits_are_reached(limits: list[str]) -> None:
    space = ESRNLight()
    constraints = (*space.limits, *limits)
    goal = Goal((Objective.parse("psnr_db:max"),), tuple(map(Constraint.parse, constraints)))
    problem = Problem(space, goal, io=IO.upscaled(360, 640, 2), seed=3)
    metrics = problem.cost(problem.sample()).metrics()
    assert not any(Constraint.parse(text).excess(metrics) for text in constraints)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local_search", "nsga2", "random_search", "credit_evolution"])
def test_every_strategy_begins_in_a_window_that_no_random_member_hits(name: str) -> None:
    goal = Goal(
        (Objective.parse("psnr_db:max"),), (Constraint.parse("macs<=5.2e10"), Constraint.parse("params>=315e3"))
    )
    problem = Problem(ESRNLight(), goal, io=IO.upscaled(360, 640, 2), seed=0)
    few: dict[str, Any] = {"nsga2": {"population": 2}, "credit_evolution": {"population": 2, "elites": 2}}
    (task,) = STRATEGIES.get(name)(problem, **few.get(name, {})).ask(1)
    assert isinstance(task, Evaluate) and problem.feasible(task.architecture)


def test_scales_and_channels_that_no_network_has_are_refused() -> None:
    for io in (IO.upscaled(8, 8, 5), IO((3, 8, 8), 5, 2)):
        with pytest.raises(InputError, match=r"esrn/tiny upscale images 2, 3 or 4 times .* but got scale="):
            ESRNTiny().check_io(io)


def test_one_random_member_in_a_hundred_is_light() -> None:
    space, rng = ESRNLight(), default_rng(0)
    io = IO.upscaled(360, 640, 2)
    hits = sum(315e3 <= space.cost(space.sample(rng), io).params <= 325e3 for _ in range(2000))
    assert 8 <= hits <= 40


def test_the_graph_is_a_chain_with_all_blocks_fused() -> None:
    space = ESRNTiny()
    architecture = space.member([1, 2, 0, 4, 1, 1])
    graph = space.graphs([architecture])
    names = [graph.operations[kind].name if kind >= 0 else "" for kind in graph.types[0]]
    assert names == ["input", "shallow", "G_4_8_16", "", "S_4_8_16", "fusion", "tail", "output"]
    edges = {tuple(edge) for edge in np.argwhere(graph.adjacency[0]).tolist()}
    assert edges == {(0, 1), (1, 2), (2, 4), (2, 5), (4, 5), (5, 6), (1, 6), (6, 7)}
    assert graph.params[0].sum() == space.cost(architecture, space.reference_io).params
