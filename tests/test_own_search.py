"""Searches of one's own spaces go on where a network cannot be built, and their networks are retrained and shipped."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from numpy.random import default_rng
from torch import nn

import nasplat
from nasplat.architecture import IO, Architecture
from nasplat.authoring.reporting import Reporter
from nasplat.cli.app import _warnings_printed
from nasplat.errors import InfeasibleWarning, InputError
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.search_space import Gene, GeneSpace
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Failure, Measurement
from nasplat.testing.strategies import answer

WIDTHS = ("2", "3", "5", "6", "7")


class Picky(GeneSpace):
    """Networks of which some cannot be built, and one cannot be run."""

    genes: ClassVar[tuple[Gene, ...]] = (Gene("width", WIDTHS), Gene("depth", WIDTHS))
    reference_io: ClassVar[IO] = IO((4,), 2)

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        width, depth = (int(value) for value in self.chosen(architecture).values())
        if width == 6:
            raise ZeroDivisionError("no network is six wide")
        inputs = 5 if (width, depth) == (7, 7) else io.input_shape[0]
        return nn.Sequential(nn.Linear(inputs, width), *[nn.ReLU()] * depth, nn.Linear(width, io.outputs))


def evaluate(choices: Mapping[str, str], *, report: Reporter, epochs: int = 1) -> dict[str, float]:
    """No training: smaller is better."""
    value = 1 / (1 + int(choices["width"]) + int(choices["depth"]))
    for epoch in range(1, epochs + 1):
        report(epoch, {"accuracy": value})
    return {"accuracy": value}


def train(network: nn.Module, *, seed: int) -> dict[str, float]:
    """No training either; the network is kept."""
    return {"accuracy": 1 / sum(parameter.numel() for parameter in network.parameters())}


def whole(code: str) -> bool:
    """Whether a network can be built and run."""
    return code[0] != "3" and code != "44"


SEARCH: dict[str, Any] = {
    "space": Picky,
    "benchmark": evaluate,
    "objectives": ["accuracy:max", "params:min"],
    "progress": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_a_strategy_leaves_out_what_has_no_cost_alike_each_time(strategy: str) -> None:
    goal = Goal((Objective("accuracy", True), Objective("params", False)))

    def proposed() -> list[str]:
        problem = Problem(Picky(), goal, io=Picky.reference_io, fidelity=9)
        made: Strategy = STRATEGIES.get(strategy)(problem)
        codes: list[str] = []
        while len(codes) < 12 and (tasks := made.ask(2)):
            for task in tasks:
                if isinstance(task, Evaluate):
                    codes.append(task.architecture.code)
                    metrics = {"accuracy": default_rng(len(codes)).random()}
                    metrics |= problem.cost(task.architecture).metrics()
                    made.tell(Measurement(task=task, metrics=metrics))
                else:
                    made.tell(answer(problem, task))
        return codes

    with pytest.warns(InfeasibleWarning, match="no network is six wide; the search leaves it out") as warned:
        first = proposed()
    assert len(warned) == 1 and first and all(map(whole, first))
    with pytest.warns(InfeasibleWarning):
        assert proposed() == first


def test_what_has_no_cost_satisfies_no_limit() -> None:
    goal = Goal((Objective("accuracy", True),), (Constraint.parse("params<=1e6"),))
    problem = Problem(Picky(), goal, io=Picky.reference_io)
    rng = default_rng(0)
    with pytest.warns(InfeasibleWarning, match=r" \(width=6, .* of Picky .* exclude them by `allowed`") as warned:
        listed = problem.listed()
        broken = problem.space.parse("30")
        assert problem.excess(broken) == math.inf and not problem.feasible(broken)
        assert problem.excess(problem.repair(broken, lambda each: problem.space.mutate(each, rng))) == 0
    assert listed is not None and sorted(each.code for each in listed) == sorted(
        code for code in (f"{a}{b}" for a in range(5) for b in range(5)) if whole(code)
    )
    assert len(warned) == 1


@pytest.mark.filterwarnings("ignore::nasplat.errors.InfeasibleWarning")
def test_a_search_goes_on_and_a_resumed_one_repeats_it(tmp_path: Path) -> None:
    alone = nasplat.search(**SEARCH, strategy="random_search", evaluations=19, out=tmp_path / "alone")
    begun = nasplat.search(**SEARCH, strategy="random_search", evaluations=9, out=tmp_path / "begun")
    begun.resume(evaluations=19, progress=False)
    codes = [each.architecture.code for each in alone.trials() if isinstance(each, Measurement)]
    assert [each.architecture.code for each in begun.trials() if isinstance(each, Measurement)] == codes
    assert all(map(whole, codes)) and len(set(codes)) == 19  # all members that have a cost


def test_where_no_cost_is_needed_a_measurement_without_one_is_a_failure(tmp_path: Path) -> None:
    found = nasplat.search(
        **{**SEARCH, "objectives": "accuracy:max"}, strategy="random_search", evaluations=25, out=tmp_path / "run"
    )
    failed = [each for each in found.trials() if isinstance(each, Failure)]
    assert len(found.trials()) == 25 and {each.kind for each in failed} == {"no cost"}
    assert all("ZeroDivisionError: no network is six wide" in each.message for each in failed[:1])
    found.resume(evaluations=25, progress=False)


def test_the_command_line_says_in_one_line_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with _warnings_printed():
        for _ in range(2):
            warnings.warn("the search leaves\nit out", InfeasibleWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: the search leaves it out\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::nasplat.errors.InfeasibleWarning")
def test_a_retraining_has_a_row_for_each_member_and_no_other(tmp_path: Path) -> None:
    found = nasplat.search(
        **{**SEARCH, "benchmark": train}, strategy="random_search", evaluations=4, out=tmp_path / "run"
    )
    new = found.retrain("all", seeds=2, checkpoints=1, out=tmp_path / "new", progress=False)
    assert new.comparison is not None and new.config.space.name != Picky.name
    members = new.comparison.members
    assert [each.architecture.code for each in members] == [each.architecture.code for each in found.pick("all")]
    assert all(each.begun == 2 and not each.missing and each.origin is not None for each in members)


@pytest.mark.slow
@pytest.mark.exports
def test_a_sequence_of_layers_is_shipped_in_all_forms(tmp_path: Path) -> None:
    def build(width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, outputs))

    space = nasplat.space({"width": (3, 5)}, build, input_shape=(1, 4, 4), outputs=3)
    found = nasplat.search(
        space=space, benchmark=train, objectives="accuracy:max", strategy="random_search", evaluations=2,
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    folder = found.export("best", format="all", latency=False, out=tmp_path / "shipped")
    assert "def build() -> nn.Sequential:" in (folder / "network.py").read_text()
    example = torch.rand(2, 1, 4, 4)
    network = nasplat.load(folder)
    assert network(example).shape == (2, 3)


class ByPosition(Picky):
    """Has an option that a worker could not know of."""

    def __init__(self, scale: int) -> None:
        self.scale = scale


class ByPositionOrNot(Picky):
    """The same with a default."""

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale


@pytest.mark.parametrize("given", [ByPosition, ByPosition(2), ByPositionOrNot(2)])
def test_options_by_position_are_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be keyword-only .* 'scale' of .*ByPosition.* write a \* before it"):
        nasplat.search(**{**SEARCH, "space": given}, strategy="random_search", evaluations=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
