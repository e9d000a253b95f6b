"""NAS-Bench-201: the search space against the published table and other people's counters, and the table benchmark."""

import csv
import gzip
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from nas_201_api import NASBench201API
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasplat.architecture import IO
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.nasbench201 import NASBench201Table
from nasplat.config import SearchConfig
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, TrialFailed
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.run.directory import RunDirectory
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, Measurement
from nasplat.testing.runs import searched

DIGITS = {"none": "0", "skip_connect": "1", "nor_conv_1x1": "2", "nor_conv_3x3": "3", "avg_pool_3x3": "4"}
CODES = ["".join(digits) for digits in itertools.product("01234", repeat=6)]
CIFAR = IO.image(3, 32, 10)
Row = dict[str, str]


@pytest.fixture(scope="module")
def rows(table: Path) -> list[Row]:
    """All rows of the real table."""
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def task_for(code: str, fidelity: int = 200, number: int = 0) -> Evaluate:
    return Evaluate(id=number, seed=number, architecture=NASBench201().parse(code), fidelity=fidelity)


def measured(benchmark: NASBench201Table, code: str) -> Measurement:
    return benchmark.measure(task_for(code, benchmark.fidelity), device="cpu", artifacts=MemoryArtifacts())


# The real table


@pytest.mark.slow
def test_official_strings_of_the_whole_table_come_back_unchanged(rows: list[Row]) -> None:
    space = NASBench201()
    codes = [space.parse(row["arch_str"]).code for row in rows]
    assert [space.official(space.parse(code)) for code in codes] == [row["arch_str"] for row in rows]
    assert sorted(codes) == CODES


@pytest.mark.slow
def test_canonical_keys_are_exactly_the_published_classes(rows: list[Row]) -> None:
    space = NASBench201()
    ours, theirs = defaultdict(set), defaultdict(set)
    for row in rows:
        architecture = space.parse(row["arch_str"])
        ours[space.canonical_key(architecture)].add(architecture.code)
        theirs[row["iso_index"]].add(architecture.code)
    assert len(ours) == 6_466
    assert set(map(frozenset, ours.values())) == set(map(frozenset, theirs.values()))


@pytest.mark.slow
def test_costs_are_the_published_ones_on_every_row(rows: list[Row]) -> None:
    space = NASBench201()
    for row in rows:
        cost = space.cost(space.parse(row["arch_str"]), CIFAR)
        assert cost.params == round(float(row["c10_params_M"]) * 1e6), row["index"]
        assert cost.published["table_macs"] == round(float(row["c10_macs_M"]) * 1e6), row["index"]


@pytest.mark.slow
@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("column", "epochs", "single_seed", "published"),
    [
        ("validation", 200, False, "c10_valid_200"),
        ("validation", 200, True, "c10_valid_200_1seed"),
        ("validation", 12, False, "c10_valid_12"),
        ("test", 200, False, "c10_test_200"),
        ("test", 200, True, "c10_test_200_1seed"),
        ("test", 12, False, "c10_test_12"),
    ],
)
def test_measurements_are_the_published_figures_on_every_row(
    rows: list[Row],
    column: Literal["validation", "test"],
    epochs: Literal[12, 200],
    single_seed: bool,
    published: str,
) -> None:
    space = NASBench201()
    benchmark = NASBench201Table(space, epochs=epochs, search_column=column, single_seed=single_seed)
    benchmark.check()
    benchmark.prepare()
    for number, row in enumerate(rows):
        task = Evaluate(id=number, seed=0, architecture=space.parse(row["arch_str"]), fidelity=epochs)
        assert benchmark.feasible(task.architecture)
        searched = benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts())
        assert (searched.task, searched.split) == (task, column)
        assert searched.metrics["accuracy"] == float(row[published]) / 100
        assert searched.metrics["train_seconds"] == pytest.approx(
            float(row["c10_train_time_12ep_s"]) * {12: 1, 200: 16.667}[epochs], rel=1e-4
        )
        final = benchmark.final(searched, device="cpu", artifacts=MemoryArtifacts())
        assert (final.task, final.split) == (task, "test")
        assert final.metrics["accuracy"] == float(row[f"c10_test_{epochs}"]) / 100


@pytest.mark.slow
def test_the_best_cells_are_the_known_ones(rows: list[Row]) -> None:
    space = NASBench201()
    by_test, by_validation = NASBench201Table(space, search_column="test"), NASBench201Table(space)
    for benchmark, best, winners in ((by_test, 94.373, ["6111", "13714"]), (by_validation, 91.607, ["6111"])):
        benchmark.prepare()
        accuracies = {
            row["index"]: measured(benchmark, space.parse(row["arch_str"]).code).metrics["accuracy"] for row in rows
        }
        assert max(accuracies.values()) == best / 100
        assert [index for index, accuracy in accuracies.items() if accuracy == best / 100] == winners


def test_the_short_schedule_has_no_single_seed_column(table: Path) -> None:
    with pytest.raises(InputError, match="c10_valid_12_1seed"):
        NASBench201Table(NASBench201(), epochs=12, single_seed=True).check()


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [12, 200])
def test_both_schedules_are_fidelities_whichever_is_the_full_one(rows: list[Row], epochs: Literal[12, 200]) -> None:
    space = NASBench201()
    benchmark = NASBench201Table(space, epochs=epochs)
    benchmark.prepare()
    assert benchmark.fidelity == epochs
    for row in rows[::100]:
        code = space.parse(row["arch_str"]).code
        for fidelity, times in ((12, 1), (200, 16.667)):
            searched = benchmark.measure(task_for(code, fidelity), device="cpu", artifacts=MemoryArtifacts())
            assert searched.metrics["accuracy"] == float(row[f"c10_valid_{fidelity}"]) / 100
            assert searched.metrics["train_seconds"] == pytest.approx(
                float(row["c10_train_time_12ep_s"]) * times, rel=1e-4
            )
            final = benchmark.final(searched, device="cpu", artifacts=MemoryArtifacts())
            assert final.metrics["accuracy"] == float(row[f"c10_test_{fidelity}"]) / 100


@pytest.mark.slow
def test_a_fidelity_that_no_schedule_has_is_refused(table: Path) -> None:
    benchmark = NASBench201Table(NASBench201())
    benchmark.prepare()
    with pytest.raises(TrialFailed, match="after 12 or 200 epochs, but 50 were") as refused:
        benchmark.measure(task_for("333333", 50), device="cpu", artifacts=MemoryArtifacts())
    assert refused.value.kind == "no such fidelity"


# The space by itself


@pytest.mark.slow
def test_every_official_string_reads_with_the_benchmarks_own_parser() -> None:
    space = NASBench201()
    for code in CODES:
        lists = NASBench201API.str2lists(space.official(space.parse(code)))
        assert [[source for _, source in node] for node in lists] == [[0], [0, 1], [0, 1, 2]]
        assert "".join(DIGITS[operation] for node in lists for operation, _ in node) == code


def test_there_are_as_many_classes_as_published() -> None:
    space = NASBench201()
    assert len({space.canonical_key(space.parse(code)) for code in CODES}) == 6_466


SHAPES = [
    (16, 5, IO.image(3, 32, 10)),
    (4, 1, IO.image(1, 8, 10)),
    (3, 2, IO.image(2, 7, 5)),
    (5, 1, IO((1, 9, 14), 3)),
    (2, 3, IO((4, 5, 11), 2)),
    (1, 1, IO((3, 13, 6), 1)),
    (6, 1, IO((1, 1, 1), 4)),
    (2, 1, IO((1, 3, 2), 100)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "cells", "io"), SHAPES)
def test_costs_are_those_of_the_built_network(channels: int, cells: int, io: IO) -> None:
    space = NASBench201(channels=channels, cells=cells)
    codes = ["222222", "333333", "000000", *random.Random(channels).sample(CODES, 3 if channels == 16 else 25)]
    for code in codes:
        architecture = space.parse(code)
        network = space.build(architecture, io).eval()
        cost = space.cost(architecture, io)
        assert cost.params == sum(parameter.numel() for parameter in network.parameters())
        assert 2 * cost.macs == counted_flops(network, io)
        statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
        assert cost.memory_bits == 32 * (cost.params + statistics)


def counted_flops(network: nn.Module, io: IO) -> int:
    """Torch's own count, which takes a multiply-accumulate for two operations."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *io.input_shape))
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("channels", "cells", "io"), SHAPES)
def test_parts_sum_to_the_whole_and_are_those_of_the_network(channels: int, cells: int, io: IO) -> None:
    space = NASBench201(channels=channels, cells=cells)
    names = ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"]
    for code in random.Random(cells).sample(CODES, 5):
        architecture = space.parse(code)
        cost = space.cost(architecture, io)
        assert set(cost.parts) == {"stem", "reduction 1", "reduction 2", "head", *names}
        assert cost.metrics() == {
            name: sum(part.metrics().get(name, 0) for part in cost.parts.values()) for name in cost.metrics()
        }
        modules: dict[str, list[nn.Module]] = defaultdict(list)
        for path, module in space.build(architecture, io).named_modules():
            match path.split("."):
                case ["stem" | "head" as name]:
                    modules[name].append(module)
                case ["stages", position] if int(position) % (cells + 1) == cells:
                    modules[f"reduction {(int(position) + 1) // (cells + 1)}"].append(module)
                case ["stages", _, "nodes", node, source]:
                    modules[f"{int(node) + 1}<-{source}"].append(module)
        assert {name: part.params for name, part in cost.parts.items()} == {
            name: sum(parameter.numel() for module in found for parameter in module.parameters())
            for name, found in modules.items()
        }


def test_an_unusable_shape_is_refused() -> None:
    for shape in ({"channels": 0}, {"cells": 0}):
        with pytest.raises(InputError, match="at least 1"):
            NASBench201(**shape)


# What the networks compute


def fill(module: nn.Module, seed: int, *, centred: bool = False) -> None:
    """Give all weights and statistics of a module fixed random values; `centred` leaves batch norm without shifts."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
        elif centred and name.endswith(("bias", "running_mean")):
            tensor.zero_()
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) / 2)


def network_of_kinds(space: NASBench201, code: str, io: IO, *, centred: bool) -> nn.Module:
    """A network in which the weights of an edge depend on its operation and its stage, not on its place."""
    network = space.build(space.parse(code), io).double()
    for path, module in network.named_modules():
        match path.split("."):
            case ["stem" | "head"]:
                fill(module, len(path) + ord(path[0]))
            case ["stages", position] if int(position) % (space.cells + 1) == space.cells:
                fill(module, int(position))
            case ["stages", position, "nodes", node, source]:
                operation = code[[0, 1, 3][int(node)] + int(source)]
                stage = int(position) // (space.cells + 1)
                fill(module, 1000 + 10 * stage + int(operation), centred=centred)
    return network


def outputs_of_kinds(code: str, *, training: bool, centred: bool) -> Tensor:
    space, io = NASBench201(channels=2, cells=1), IO((2, 6, 5), 3)
    images = torch.randn(3, *io.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        outputs: Tensor = network_of_kinds(space, code, io, centred=centred).train(training)(images)
    return outputs


def classes() -> list[list[str]]:
    """The codes that share a canonical key, where there are several."""
    space, found = NASBench201(), defaultdict(list)
    for code in CODES:
        found[space.canonical_key(space.parse(code))].append(code)
    return [codes for codes in found.values() if len(codes) > 1]


def convolves_nothing(code: str) -> bool:
    """Whether a convolution starts at a node that carries nothing, which the published rule takes for zero.

    What its batch norm has learnt to shift by comes out all the same.
    """
    return code[0] == "0" and bool({"2", "3"} & {code[2], code[4]})


def check_twins(groups: Iterable[Sequence[str]], *, training: bool, centred: bool) -> None:
    chance = random.Random(1)
    differing = []
    for group in groups:
        first, *others = chance.sample(group, min(4, len(group)))
        expected = outputs_of_kinds(first, training=training, centred=centred)
        for other in others:
            outputs = outputs_of_kinds(other, training=training, centred=centred)
            if (outputs - expected).abs().max().item() > 1e-9:
                differing.append((first, other))
    assert not differing


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_twins_compute_the_same_function_while_batch_norm_does_not_shift(
    training: bool, part: Callable[..., Any]
) -> None:
    check_twins(part(random.Random(0).sample(classes(), 120), 40), training=training, centred=True)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_twins_compute_the_same_function_unless_one_convolves_nothing(training: bool, part: Callable[..., Any]) -> None:
    groups = [[code for code in group if not convolves_nothing(code)] for group in classes()]
    groups = [group for group in groups if len(group) > 1]
    assert len(groups) > 1_200
    check_twins(part(random.Random(0).sample(groups, 120), 40), training=training, centred=False)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
def test_a_convolution_of_nothing_adds_what_its_batch_norm_has_learnt(training: bool) -> None:
    space = NASBench201()
    for code, twin in (("000120", "000100"), ("000130", "000100"), ("012301", "010301"), ("012111", "011111")):
        assert space.canonical_key(space.parse(code)) == space.canonical_key(space.parse(twin))
        for centred in (True, False):
            outputs, of_twin = (outputs_of_kinds(c, training=training, centred=centred) for c in (code, twin))
            assert ((outputs - of_twin).abs().max().item() < 1e-9) is centred


@pytest.mark.slow
def test_different_functions_are_told_apart_by_the_same_comparison() -> None:
    by_hand = [
        ("000000", "000100"),
        ("000100", "000200"),
        ("000200", "000300"),
        ("000300", "000400"),
        ("000100", "100110"),  # the input once and twice
        ("000400", "400040"),  # pooled once and twice
        ("300040", "400030"),  # convolved before and after pooling
    ]
    space, chance = NASBench201(), random.Random(2)
    keys = {code: space.canonical_key(space.parse(code)) for code in chance.sample(CODES, 80)}
    codes = [code for code, key in keys.items() if key.count("@")]
    drawn = [(a, b) for a, b in zip(codes[::2], codes[1::2], strict=False) if keys[a] != keys[b]]
    assert len(drawn) > 30
    for a, b in by_hand + drawn:
        difference = outputs_of_kinds(a, training=False, centred=False) - outputs_of_kinds(
            b, training=False, centred=False
        )
        assert difference.abs().max().item() > 1e-6, (a, b)


class Reference:
    """The network as the paper describes it, written with functions alone, in float64.

    Args:
        weights: The state dict of the network under test.
        code: Its cell.
        cells: Cells in each stage.
        training: Whether batch norm takes the batch's statistics.
    """

    def __init__(self, weights: Mapping[str, Tensor], code: str, cells: int, *, training: bool) -> None:
        self.weights = weights
        self.code = code
        self.cells = cells
        self.training = training

    def __call__(self, images: Tensor) -> Tensor:
        x = self.batch_norm(functional.conv2d(images, self.weights["stem.0.weight"], padding=1), "stem.1")
        position = 0
        for stage in range(3):
            if stage:
                x = self.reduction(x, f"stages.{position}")
                position += 1
            for _ in range(self.cells):
                x = self.cell(x, f"stages.{position}.nodes")
                position += 1
        x = functional.relu(self.batch_norm(x, "head.0")).mean(dim=(2, 3))
        return x @ self.weights["head.4.weight"].T + self.weights["head.4.bias"]

    def cell(self, x: Tensor, name: str) -> Tensor:
        n1 = self.edge(0, x, f"{name}.0.0")
        n2 = self.edge(1, x, f"{name}.1.0") + self.edge(2, n1, f"{name}.1.1")
        return self.edge(3, x, f"{name}.2.0") + self.edge(4, n1, f"{name}.2.1") + self.edge(5, n2, f"{name}.2.2")

    def edge(self, number: int, x: Tensor, name: str) -> Tensor:
        match self.code[number]:
            case "0":
                return 0 * x
            case "1":
                return x
            case "2" | "3":
                return self.relu_conv_bn(x, name)
        return box_sum(x) / box_sum(torch.ones_like(x))

    def reduction(self, x: Tensor, name: str) -> Tensor:
        body = self.relu_conv_bn(self.relu_conv_bn(x, f"{name}.body.0", stride=2), f"{name}.body.1")
        # 2 x 2 pixels, where the image has them: a last odd row or column is averaged by itself.
        height, width = x.shape[2:]
        pooled = torch.stack(
            [
                torch.stack([x[:, :, i : i + 2, j : j + 2].mean(dim=(2, 3)) for j in range(0, width, 2)], -1)
                for i in range(0, height, 2)
            ],
            -2,
        )
        return body + functional.conv2d(pooled, self.weights[f"{name}.shortcut.1.weight"])

    def relu_conv_bn(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.1.weight"]
        x = functional.conv2d(functional.relu(x), weight, stride=stride, padding=weight.shape[-1] // 2)
        return self.batch_norm(x, f"{name}.2")

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance = self.weights[f"{name}.running_mean"], self.weights[f"{name}.running_var"]
        if self.training:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        scale = self.weights[f"{name}.weight"] / torch.sqrt(variance + 1e-5)
        shift = self.weights[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def box_sum(x: Tensor) -> Tensor:
    """The sum over every pixel's 3 x 3 surroundings inside the image."""
    height, width = x.shape[2:]
    padded = functional.pad(x, (1, 1, 1, 1))
    shifts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifts).sum(0)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "training"])
@pytest.mark.parametrize(
    ("channels", "cells", "io"), [(4, 2, IO.image(3, 8, 10)), (3, 1, IO((1, 7, 9), 4)), (2, 3, IO((2, 5, 6), 3))]
)
def test_networks_compute_what_the_paper_describes(channels: int, cells: int, io: IO, training: bool) -> None:
    space = NASBench201(channels=channels, cells=cells)
    for number, code in enumerate(["234104", "432341", *random.Random(4).sample(CODES, 12)]):
        network = space.build(space.parse(code), io).double().train(training)
        fill(network, number)
        images = torch.randn(4, *io.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        expected = Reference(weights, code, cells, training=training)(images)
        with torch.no_grad():
            outputs: Tensor = network(images)
        assert outputs.shape == (4, io.outputs)
        assert (outputs - expected).abs().max().item() < 1e-10 * max(1.0, expected.abs().max().item()), code


# Tables that are not the real one

TableWriter = Callable[..., Path]
SECONDS = "train_time_12ep_s"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableWriter:
    """Writes a table of the given columns into an otherwise empty data folder."""
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path))
    folder = tmp_path / "nasbench201"
    folder.mkdir()

    def write_table(columns: Mapping[str, Sequence[Any]], name: str = "table.csv.gz") -> Path:
        with gzip.open(folder / name, "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return folder / name

    return write_table


def figures(codes: Sequence[str], prefix: str = "c10") -> dict[str, Sequence[Any]]:
    """Columns of a complete table: validation accuracies of 50, 51 … %, ten more on test."""
    space = NASBench201()
    numbers = range(len(codes))
    return {
        "arch_str": [space.official(space.parse(code)) for code in codes],
        f"{prefix}_valid_200": [50 + number for number in numbers],
        f"{prefix}_test_200": [60 + number for number in numbers],
        f"{prefix}_{SECONDS}": [12 for _ in numbers],
    }


def test_a_table_of_another_data_set_is_used_for_that_and_named_for_the_rest(write: TableWriter) -> None:
    write(figures(["333333"], "c100"))
    for absent in ("cifar10", "imagenet16-120"):
        with pytest.raises(InputError) as refused:
            NASBench201Table(NASBench201(), dataset=absent).check()
        assert f"has {absent} " in str(refused.value)
        assert str(refused.value).endswith("the data sets there: cifar100")
    benchmark = NASBench201Table(NASBench201(), dataset="cifar100")
    benchmark.check()
    benchmark.prepare()
    assert benchmark.io == IO.image(3, 32, 100)
    assert measured(benchmark, "333333").metrics == {"accuracy": 0.5, "train_seconds": 200}


def test_tables_of_several_data_sets_lie_side_by_side(write: TableWriter) -> None:
    write({"index": [0], "raspberry_pi_ms": [1.5]}, "aaa.csv.gz")
    write(figures(["333333"], "in16"), "bbb.csv.gz")
    write(figures(["333333", "000000"], "c10"), "ccc.csv.gz")
    benchmark = NASBench201Table(NASBench201())
    benchmark.check()
    assert measured(benchmark, "000000").metrics["accuracy"] == 0.51
    small = NASBench201Table(NASBench201(), dataset="imagenet16-120")
    small.check()
    assert small.io == IO.image(3, 16, 120)
    with pytest.raises(InputError, match="the data sets there: cifar10, imagenet16-120"):
        NASBench201Table(NASBench201(), dataset="cifar100").check()


def test_a_partial_table_is_feasible_only_for_what_it_holds(write: TableWriter) -> None:
    held = [code for code in CODES if code.startswith("3") and code.endswith("3")]
    write({name: [11] * len(held) if name != "arch_str" else column for name, column in figures(held).items()})
    benchmark = NASBench201Table(NASBench201())
    benchmark.check()
    space = NASBench201()
    assert [code for code in CODES if benchmark.feasible(space.parse(code))] == held
    problem = Problem(
        space, Goal((Objective("accuracy", True),)), io=benchmark.io, is_measurable=benchmark.feasible, fidelity=200
    )
    assert [member.code for member in benchmark.enumerable_members or ()] == sorted(held)
    problem.check_feasible()
    sampled = {problem.sample().code for _ in range(60)}
    assert len(sampled) > 40
    assert sampled <= set(held)
    with pytest.raises(TrialFailed) as refused:
        measured(benchmark, "000000")
    assert refused.value.kind == "not in table"


@pytest.mark.parametrize("wrong", [0.9, 0.91607, 9358.97, -1.0, 100.5])
def test_accuracies_that_are_no_percentages_are_refused_with_their_rows(write: TableWriter, wrong: float) -> None:
    """Formerly such a table was searched, and its best was 9358.97 %, or one of its cells had 0.90 %."""
    columns = figures(["333333", "000000", "111111"])
    columns["c10_valid_200"] = [91.0, wrong, 92.0]
    path = write(columns)
    row = str(columns["arch_str"][1])
    with pytest.raises(
        InputError, match=rf"an accuracy must be in percent.*c10_valid_200 of {re.escape(row)} is {wrong}"
    ):
        NASBench201Table(NASBench201()).check()
    (described,) = NASBench201Table.tables()
    assert described.path == path and row in described.problem


def test_many_wrong_accuracies_are_counted(write: TableWriter) -> None:
    columns = figures(CODES[:9])
    columns["c10_valid_200"] = [0.5] * 9
    write(columns)
    with pytest.raises(InputError, match="and so on in 6 more places; replace it"):
        NASBench201Table(NASBench201()).check()


def test_a_table_of_one_schedule_fails_trials_of_the_other(write: TableWriter) -> None:
    write(figures(["333333"]))
    benchmark = NASBench201Table(NASBench201())
    benchmark.check()
    with pytest.raises(TrialFailed, match="after 200 epochs, but 12 were") as refused:
        benchmark.measure(task_for("333333", 12), device="cpu", artifacts=MemoryArtifacts())
    assert refused.value.kind == "no such fidelity"


def test_the_table_with_all_columns_is_preferred(write: TableWriter) -> None:
    write(figures(["333333"]), "aaa.csv.gz")
    write(figures(["333333", "000000"]) | {"c10_valid_200_1seed": [40, 41]}, "bbb.csv.gz")
    for single_seed, accuracy in ((False, 0.5), (True, 0.4)):
        benchmark = NASBench201Table(NASBench201(), single_seed=single_seed)
        benchmark.check()
        assert measured(benchmark, "333333").metrics["accuracy"] == accuracy
        assert benchmark.feasible(NASBench201().parse("000000")) is single_seed


def test_a_table_without_training_times_is_used_and_that_is_told(write: TableWriter) -> None:
    write({name: values for name, values in figures(["333333"]).items() if name != f"c10_{SECONDS}"})
    benchmark = NASBench201Table(NASBench201())
    benchmark.check()
    assert benchmark.metrics == ("accuracy",) and measured(benchmark, "333333").metrics.keys() == {"accuracy"}
    (note,) = benchmark.data_notes()
    assert f"no training times of cifar10 (column c10_{SECONDS})" in note


@pytest.mark.parametrize("column", ["c10_valid_200", "c10_test_200"])
def test_a_missing_column_is_named(write: TableWriter, column: str) -> None:
    path = write({name: values for name, values in figures(["333333"]).items() if name != column})
    with pytest.raises(InputError) as refused:
        NASBench201Table(NASBench201()).check()
    assert str(path) in str(refused.value)
    assert f"no column {column};" in str(refused.value)


def test_an_empty_value_is_not_measured_and_harms_no_other(write: TableWriter) -> None:
    columns = figures(["333333", "222222", "111111", "000000"])
    for row, name in enumerate(("c10_valid_200", "c10_test_200", f"c10_{SECONDS}")):
        columns[name] = ["" if i == row else value for i, value in enumerate(columns[name])]
    write(columns)
    benchmark = NASBench201Table(NASBench201())
    benchmark.check()
    space = NASBench201()
    assert [benchmark.feasible(space.parse(code)) for code in ("333333", "222222", "111111", "000000")] == [
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(TrialFailed, match="nasbench201:333333"):
        measured(benchmark, "333333")
    without_test = measured(benchmark, "222222")
    assert without_test.metrics["accuracy"] == 0.51
    with pytest.raises(InputError, match="nasbench201:222222"):
        benchmark.final(without_test, device="cpu", artifacts=MemoryArtifacts())
    without_seconds = measured(benchmark, "111111")
    assert without_seconds.metrics["accuracy"] == 0.52
    assert np.isnan(without_seconds.metrics["train_seconds"])
    assert measured(benchmark, "000000").metrics == {"accuracy": 0.53, "train_seconds": 200}


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-20] + bytes(255 - byte for byte in data[-20:-12]) + data[-12:]


def not_compressed(data: bytes) -> bytes:
    return gzip.decompress(data)


def unknown_operation(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).replace(b"nor_conv_3x3", b"nor_conv_5x5", 1))


def not_a_number(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).replace(b",50,", b",fifty,"))


def short_row(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).rsplit(b",", 1)[0])


def latin(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).replace(b"nor_conv_3x3", "nör_conv_3x3".encode("latin-1"), 1))


@pytest.mark.parametrize(
    "damage", [truncated, flipped, not_compressed, unknown_operation, not_a_number, short_row, latin]
)
def test_a_damaged_table_is_refused_by_name(write: TableWriter, damage: Callable[[bytes], bytes]) -> None:
    path = write(figures([*random.Random(0).sample(CODES, 200), "333333"]))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as refused:
        NASBench201Table(NASBench201()).check()
    assert f"{path} is damaged" in str(refused.value)
    assert "replace it" in str(refused.value)


def test_a_damaged_file_beside_a_complete_table_harms_nobody(tmp_path: Path, write: TableWriter) -> None:
    write(figures(["333333"]))
    for name in ("aaa.csv.gz", "zzz.csv.gz"):
        (tmp_path / "nasbench201" / name).write_bytes(b"no gzip")
    benchmark = NASBench201Table(NASBench201())
    benchmark.check()
    assert measured(benchmark, "333333").metrics["accuracy"] == 0.5
    with pytest.raises(InputError, match=r"aaa\.csv\.gz is damaged"):
        NASBench201Table(NASBench201(), dataset="cifar100").check()


@pytest.mark.parametrize(
    "content", [b"", b"architecture,c10_valid_200\n", b"index;arch_str;c10_valid_200\n"], ids=["none", "other", "semi"]
)
def test_a_file_without_the_header_is_no_table(tmp_path: Path, write: TableWriter, content: bytes) -> None:
    (tmp_path / "nasbench201" / "table.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError) as refused:
        NASBench201Table(NASBench201()).check()
    assert "arch_str" in str(refused.value)
    assert "NASPLAT_DATA" in str(refused.value)


def test_a_table_without_rows_is_refused(write: TableWriter) -> None:
    write(figures([]))
    with pytest.raises(InputError, match="no rows"):
        NASBench201Table(NASBench201()).check()


def test_a_folder_without_tables_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError) as refused:
        NASBench201Table(NASBench201()).check()
    assert str(tmp_path / "nowhere" / "nasbench201") in str(refused.value)
    assert "NASPLAT_DATA" in str(refused.value)


# Latencies on devices

DEVICES = ("raspi4", "pixel3", "gold_6226", "2080ti_1", "eyeriss")


@pytest.fixture(scope="module")
def latencies(table: Path) -> dict[str, dict[str, str]]:
    """The rows of the real table of latencies, by the official index."""
    path = table.with_name("latency.csv.gz")
    if not path.is_file():
        pytest.skip(f"the table {path} is missing; set NASPLAT_DATA to the folder above nasbench201/")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return {row["index"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_latencies_are_the_published_figures_on_every_row(
    rows: list[Row], latencies: dict[str, dict[str, str]]
) -> None:
    space = NASBench201()
    benchmark = NASBench201Table(space)
    for row in rows:
        published = latencies[row["index"]]
        expected = {f"latency_{device}_ms": float(published[f"{device}_ms"]) for device in DEVICES}
        assert benchmark.analytic_metrics(space.parse(row["arch_str"])) == expected


@pytest.mark.slow
def test_a_search_for_a_device_keeps_its_bound(latencies: dict[str, dict[str, str]], tmp_path: Path) -> None:
    tree = {
        "space": "nasbench201",
        "benchmark": "nasbench201",
        "strategy": "regularized_evolution",
        "objectives": ["accuracy:max", "latency_pixel3_ms:min"],
        "constraints": ["latency_raspi4_ms<=20"],
        "budget": {"evaluations": 60},
    }
    searched(tmp_path / "run", SearchConfig.read(tree))
    history = RunDirectory(tmp_path / "run").history()
    assert len(history.measurements) == 60
    assert all(m.metrics["latency_raspi4_ms"] <= 20 for m in history.measured)
    published = {float(row["pixel3_ms"]) for row in latencies.values()}
    assert {m.metrics["latency_pixel3_ms"] for m in history.measured} <= published
    assert len(history.front) > 1


CELLS = ("000000", "123412", "333333")


def partial(write: TableWriter, **columns: Sequence[Any]) -> NASBench201Table:
    """The benchmark on a table of some cells, which have the indices 7, 8 and 9."""
    write({"index": [7, 8, 9], **figures(CELLS), **columns})
    return NASBench201Table(NASBench201())


def test_latencies_are_found_by_index_in_any_order(write: TableWriter) -> None:
    write({"index": [9, 3, 7, 8], "phone_ms": [1.5, 2, 3, 4], "remark": ["a", "b", "c", "d"]}, "latency.csv.gz")
    benchmark = partial(write)
    found = [benchmark.analytic_metrics(benchmark.space.parse(code)) for code in CELLS]
    assert found == [{"latency_phone_ms": 3.0}, {"latency_phone_ms": 4.0}, {"latency_phone_ms": 1.5}]
    other = benchmark.space.parse("444444")
    assert not benchmark.feasible(other)
    assert benchmark.analytic_metrics(other).keys() == {"latency_phone_ms"}  # by which a problem learns what there is


def test_without_their_file_there_are_no_latencies(write: TableWriter) -> None:
    benchmark = partial(write)
    assert benchmark.analytic_metrics(benchmark.space.parse(CELLS[0])) == {}
    tree = {
        "space": "nasbench201",
        "benchmark": "nasbench201",
        "strategy": "random_search",
        "objectives": ["latency_pixel3_ms:min"],
        "budget": {"evaluations": 1},
    }
    with pytest.raises(InputError, match="no metric is named 'latency_pixel3_ms'"):
        Assembly.of(SearchConfig.read(tree))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"index": [7, 9], "phone_ms": [1, 2]}, "has no row with the index 8"),
        ({"index": [7, 8, 9], "phone_ms": [1, 0, 2]}, "a latency must be a number above 0, but got 0 for the index 8"),
        (
            {"index": [7, 8, 9], "phone_ms": [1, "inf", 2]},
            "a latency must be a number above 0, but got inf for the index 8",
        ),
        ({"index": [7, 8, 9], "phone_ms": [1, "fast", 2]}, "could not convert"),
        ({"index": [7, 8, 9], "phone": [1, 2, 3]}, "latencies must have the columns index and DEVICE_ms"),
        ({"number": [7, 8, 9], "phone_ms": [1, 2, 3]}, "latencies must have the columns index and DEVICE_ms"),
        ({"index": [7, 8, 9], "a-b_ms": [1, 2, 3]}, "latencies must have the columns index and DEVICE_ms"),
    ],
)
def test_damaged_latencies_are_refused(write: TableWriter, columns: dict[str, Sequence[Any]], said: str) -> None:
    path = write(columns, "latency.csv.gz")
    benchmark = partial(write)
    with pytest.raises(InputError, match=said) as refused:
        benchmark.analytic_metrics(benchmark.space.parse(CELLS[0]))
    assert str(path) in str(refused.value)


def test_latencies_are_listed_beside_accuracies(write: TableWriter) -> None:
    write({"index": [9, 7, 8], "phone_ms": [1, 2, 3], "pad_ms": [1, 2, 3]}, "latency.csv.gz")
    partial(write)
    latency, accuracy = NASBench201Table.tables()
    assert (latency.rows, latency.metrics, latency.problem) == (3, ("latency_phone_ms", "latency_pad_ms"), "")
    assert accuracy.metrics == () and accuracy.rows == 3
