"""Metrics of the code: two codes of one canonical key compute one function, and need not be equally fast."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, ClassVar

import pytest

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.benchmarks.classification import Classification
from nasplat.benchmarks.zero_cost import ZeroCost
from nasplat.data.options import DataOptions
from nasplat.driver.budget import Budget
from nasplat.driver.loop import Search
from nasplat.executors.inline import InlineExecutor
from nasplat.latency.measuring import Latency
from nasplat.latency.options import LatencyOptions
from nasplat.objective import Constraint, Goal, Objective
from nasplat.options import construct
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import ENVIRONMENT, LOG
from nasplat.search_space import Gene
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.storage.event_log import EventLog
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Measurement, Outcome, Task
from nasplat.testing.benchmarks import measures_what_it_declares
from nasplat.testing.toy import WIDTHS, ToyBenchmark, ToySpace, toy_accuracy

CommandLine = Callable[..., CompletedProcess[str]]
SPACE = NASBench201(channels=4, cells=1)
DEAD_EDGE, NO_DEAD_EDGE = "300300", "000300"
"""Two codes of one canonical key: the first has a convolution that leads nowhere."""


class Twins(ToySpace):
    """Two layers, whose order is said to make no difference to the function: 16 codes of 10 keys."""

    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"width {layer}", WIDTHS) for layer in (1, 2))

    def canonical_key(self, architecture: Architecture) -> str:
        return "".join(sorted(architecture.code))


class Timed(ToyBenchmark):
    """The accuracy of the function, and a latency of the code: rising orders are faster."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "latency_ms")
    code_metrics = frozenset({"latency_ms"})

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        function = Architecture("toy", self.space.canonical_key(task.architecture))
        return Measurement(task=task, metrics={"accuracy": toy_accuracy(function), "latency_ms": self.ms(task)})

    def ms(self, task: Evaluate) -> float:
        return 1.0 + int(task.architecture.code)


class Script(Strategy):
    """Asks for the given codes, one at a time."""

    def __init__(self, problem: Problem, codes: list[str]) -> None:
        super().__init__(problem)
        self.codes = list(codes)
        self.told: list[Outcome] = []

    def ask(self, n: int) -> list[Task]:
        space = self.problem.space
        return [self.problem.evaluate(space.parse(self.codes.pop(0)))] if self.codes else []

    def tell(self, outcome: Outcome) -> None:
        self.told.append(outcome)

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


def problem_of(benchmark: Benchmark, *wanted: str, seed: int = 0) -> Problem:
    objectives = tuple(Objective.parse(text) for text in wanted if ":" in text)
    constraints = tuple(Constraint.parse(text) for text in wanted if ":" not in text)
    return Problem(
        benchmark.space,
        Goal(objectives, constraints),
        io=benchmark.io,
        fidelity=benchmark.fidelity,
        code_metrics=benchmark.code_metrics,
        seed=seed,
    )


def run(strategy: Strategy, benchmark: Benchmark, folder: Path, evaluations: int = 100) -> list[Measurement]:
    """The measurements of a search, in the order told."""
    with InlineExecutor(benchmark, MemoryArtifacts()) as executor:
        log = EventLog.create(folder / LOG)
        search = Search(strategy.problem, strategy, executor, log, Budget(evaluations=evaluations))
        told: list[Outcome] = []
        tell = strategy.tell
        strategy.tell = lambda outcome: (told.append(outcome), tell(outcome))[1]  # type: ignore[method-assign, func-returns-value]
        search.run()
        log.close()
    return [outcome for outcome in told if isinstance(outcome, Measurement)]


def answers(wanted: tuple[str, ...], codes: list[str], folder: Path) -> list[tuple[int | None, float | None]]:
    """For each code the task whose measurement is the answer, and the latency that is told."""
    benchmark = Timed(Twins())
    told = run(Script(problem_of(benchmark, *wanted), codes), benchmark, folder)
    return [(m.cached_from, m.metrics.get("latency_ms")) for m in told]


@pytest.mark.parametrize(
    "wanted",
    [("latency_ms:min",), ("accuracy:max", "latency_ms:min"), ("accuracy:max", "latency_ms<=9")],
    ids=["objective", "second objective", "constraint"],
)
def test_each_code_is_measured_where_a_metric_of_the_code_is_wanted(wanted: tuple[str, ...], tmp_path: Path) -> None:
    assert answers(wanted, ["30", "03", "30"], tmp_path) == [(None, 31.0), (None, 4.0), (0, 31.0)]


def test_another_code_is_told_the_metrics_of_the_function_alone(tmp_path: Path) -> None:
    assert answers(("accuracy:max",), ["30", "03", "30"], tmp_path) == [(None, 31.0), (0, None), (0, 31.0)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random_search", {}),
        ("regularized_evolution", {"population": 4, "sample": 2, "duplicates": "redraw"}),
        ("local_search", {"duplicates": "redraw"}),
        ("predictor_guided", {"initial": 3, "batch": 4, "predictor": "random_forest"}),
    ],
)
@pytest.mark.parametrize(("wanted", "found"), [("accuracy:max", 10), ("latency_ms:min", 16)])
def test_strategies_ask_for_each_code_or_each_function(
    name: str, options: dict[str, Any], wanted: str, found: int, tmp_path: Path
) -> None:
    benchmark = Timed(Twins())
    strategy = construct("strategy", STRATEGIES.get(name), problem_of(benchmark, wanted), **options)
    told = run(strategy, benchmark, tmp_path, evaluations=16)
    assert len({m.architecture.code for m in told if m.cached_from is None}) == found
    assert {m.metrics["latency_ms"] for m in told if m.cached_from is None} == {
        1.0 + int(m.architecture.code) for m in told if m.cached_from is None
    }


def test_a_nested_strategy_tells_codes_apart_too() -> None:
    problem = problem_of(Timed(Twins()), "latency_ms:min")
    one, other = (Architecture("toy", code) for code in ("03", "30"))
    assert problem.key(one) == problem.key(other)
    for each in (problem, problem.nested(fidelity=1)):
        assert each.deduplication_key(one) != each.deduplication_key(other)
    wants_accuracy = problem_of(Timed(Twins()), "accuracy:max")
    assert wants_accuracy.deduplication_key(one) == wants_accuracy.deduplication_key(other)


def test_a_metric_of_the_code_that_is_no_metric_is_noticed() -> None:
    class Misspelt(Timed):
        code_metrics = frozenset({"latency"})

    measures_what_it_declares(lambda: Timed(Twins()))
    with pytest.raises(AssertionError, match="'latency'"):
        measures_what_it_declares(lambda: Misspelt(Twins()))


@pytest.mark.slow
def test_measured_latency_is_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(model: Any, io: IO, **how: Any) -> Latency:
        slow = len(list(model.parameters())) > light  # the dead convolution
        return Latency(216.0 if slow else 64.0, 1.0, 60.0, 5, 1, 1, "cpu")

    light = len(list(SPACE.build(SPACE.parse(NO_DEAD_EDGE), Classification(SPACE).io).parameters()))

    monkeypatch.setattr("nasplat.latency.measuring.measure_latency", measure)
    codes = [DEAD_EDGE, NO_DEAD_EDGE]
    for wanted, expected in (("latency_ms:min", [216.0, 64.0]), ("loss:min", [216.0, None])):
        benchmark = Classification(SPACE, epochs=1, data=DataOptions(subset=60), latency=LatencyOptions(batch=1))
        folder = tmp_path / wanted[:4]
        folder.mkdir()
        told = run(Script(problem_of(benchmark, "accuracy:max", wanted), codes), benchmark, folder)
        assert [m.metrics.get("latency_ms") for m in told] == expected
        assert all("accuracy" in m.metrics for m in told)


@pytest.mark.slow
def test_of_zero_cost_proxies_nwot_alone_sees_dead_edges() -> None:
    from nasplat.surrogates.zero_cost import Proxies

    io = IO.image(channels=3, side=8, outputs=10)
    means = []
    for code in (NO_DEAD_EDGE, DEAD_EDGE):
        values = Proxies(SPACE, io, names=("synflow", "nwot"), batch=8, initializations=8)(SPACE.parse(code))
        means.append(values)
    assert SPACE.canonical_key(SPACE.parse(NO_DEAD_EDGE)) == SPACE.canonical_key(SPACE.parse(DEAD_EDGE))
    assert means[1]["nwot"] - means[0]["nwot"] > 1  # more ReLUs; initializations differ by a tenth
    assert abs(means[1]["synflow"] - means[0]["synflow"]) < 0.2
    assert ZeroCost(SPACE).code_metrics == {"nwot"}
    assert ZeroCost(SPACE, proxies=("synflow",)).code_metrics == frozenset()


@pytest.mark.slow
def test_an_older_run_goes_on_as_it_would_have_and_says_so(
    tmp_path: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["space.channels=1", "space.cells=1", "benchmark.proxies=[nwot]", "benchmark.batch=2"]
    sets = [word for option in (*options, "benchmark.data.side=4") for word in ("--set", option)]
    search = ["search", "--space", "nasbench201", "--benchmark", "zero_cost", *sets, "--strategy", "random_search"]
    search += ["--objective", "nwot:max", "--seed", "14"]  # which draws two codes of one key at once
    with monkeypatch.context() as before:
        before.setattr("nasplat.benchmarks.zero_cost.CODE_PROXIES", frozenset())
        assert command(*search, "--evaluations", "10", "--out", "old").returncode == 0
    assert command(*search, "--evaluations", "10", "--out", "new").returncode == 0
    environment = json.loads(Path("old", ENVIRONMENT).read_text())
    del environment["code_metrics"]
    Path("old", ENVIRONMENT).write_text(json.dumps(environment))
    old = command("resume", "old", "--evaluations", "12")
    assert old.returncode == 0, old.stderr
    assert "nwot of one code is told for all codes" in " ".join(old.stderr.split())
    new = command("resume", "new", "--evaluations", "12")
    assert new.returncode == 0 and "one code is told" not in new.stderr
    asked = {
        name: [m.architecture.code for m in RunDirectory(Path(name)).history().measured] for name in ("old", "new")
    }
    keys = {name: {SPACE.canonical_key(SPACE.parse(code)) for code in codes} for name, codes in asked.items()}
    assert len(keys["old"]) == len(asked["old"]) == 12
    assert len(keys["new"]) < len(set(asked["new"])) == 12
