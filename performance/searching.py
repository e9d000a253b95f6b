"""What comparisons of searches on tables share: tables looked up once, searches on them, and rows that are kept."""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

import nasplat
from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.config import Workload
from nasplat.errors import InputError
from nasplat.objective import Goal, Objective
from nasplat.options import complete
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.search_space import GeneSpace
from nasplat.task import Evaluate, Measurement, Outcome, Task

BOTORCH = "botorch"
"""The name of the searcher that is BoTorch's."""
OPTUNA = "optuna:"
"""What the name of a searcher begins with that is a sampler of Optuna's."""
SEARCHED = ("*.py", "benchmarks/*.py", "predictors/*.py", "search_spaces/*.py", "strategies/*.py")
"""The project's files that may change how a search goes."""
DIVERSION = 0x5EA7C4
"""Tells the generator that orders the ends of work from the strategy's."""

Metrics = Callable[[Architecture], Mapping[str, float]]
Row = dict[str, Any]


class Searcher(Protocol):
    """What proposes and learns: a strategy, or another project's sampler."""

    def ask(self, n: int) -> Sequence[Task]:
        """Up to `n` new tasks."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """Learn from an outcome."""
        ...


class Table:
    """A benchmark's table: every figure is looked up once.

    Args:
        space: The registered search space.
        benchmark: The registered benchmark.
        objectives: What is searched for, such as ``accuracy:max``.
        options: Of the benchmark.

    Attributes:
        members: All that the table has.
        values: The first objective of each, `[members]`.
        digest: Of the values.
    """

    def __init__(self, space: str, benchmark: str, objectives: Sequence[str], **options: Any) -> None:
        self.benchmark = Workload(space, benchmark, {}, options).make()
        self.benchmark.check()
        self.benchmark.prepare()
        self.space = self.benchmark.space
        self.goal = Goal(tuple(map(Objective.parse, objectives)))
        members = self.benchmark.enumerable_members or self.space.members()
        assert members is not None, f"{space} is too large to be looked up whole"
        self._problem = self.problem(seed=0)
        self._metrics: dict[str, Mapping[str, float]] = {}
        self.members = [member for member in members if self._problem.feasible(member)]
        self.values = np.array([self.metrics(member)[self.goal.objectives[0].metric] for member in self.members])
        self.digest = hashlib.sha256(self.values.tobytes()).hexdigest()[:16]

    def metrics(self, architecture: Architecture) -> Mapping[str, float]:
        """What the table has of an architecture, and the costs that are searched for."""
        found = self._metrics.get(architecture.code)
        if found is None:
            task = self._problem.evaluate(architecture)
            found = self.benchmark.measure(task, device="cpu", artifacts=MemoryArtifacts()).metrics
            if self._problem.free_metrics & set(self.goal.metrics):
                found = {**found, **self._problem.cost(architecture).metrics()}
            self._metrics[architecture.code] = found
        return found

    def problem(self, seed: int) -> Problem:
        """The problem with a seed of its own."""
        return Problem.of(self.benchmark, self.goal, seed=seed)

    def key(self, architecture: Architecture) -> str:
        """The canonical key, remembered."""
        return self._problem.key(architecture)

    def best_keys(self, values: NDArray[np.float64]) -> frozenset[str]:
        """The canonical keys of the best members by given values, `[members]`: one key, but for ties."""
        return frozenset(self.key(self.members[int(i)]) for i in np.flatnonzero(values == values.max()))


@dataclass(frozen=True)
class Arm:
    """A way of searching.

    Args:
        searcher: A registered strategy, ``botorch``, or ``optuna:`` and the name of one of Optuna's samplers.
        options: Of the strategy.
    """

    searcher: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Row:
        """What makes two searches of one seed the same: name, every option, and the state of the code."""
        if self.searcher == BOTORCH:
            return {"searcher": self.searcher, "options": {}, "code": version("botorch")}
        if self.searcher.startswith(OPTUNA):
            return {"searcher": self.searcher, "options": {}, "code": version("optuna")}
        every = complete("strategy", STRATEGIES.get(self.searcher), dict(self.options))
        return {"searcher": self.searcher, "options": every, "code": code_digest()}


def searcher(settings: Row, problem: Problem) -> Searcher:
    """A searcher as an arm's settings say."""
    name: str = settings["searcher"]
    if name == BOTORCH:
        from botorch_searcher import BoTorchSearcher

        return BoTorchSearcher(problem)
    if name.startswith(OPTUNA):
        return OptunaSearcher(problem, name.removeprefix(OPTUNA))
    make: Any = STRATEGIES.get(name)
    strategy: Searcher = make(problem, **settings["options"])
    return strategy


def code_digest() -> str:
    """Of the project's files that may change how a search goes: rows of another state are not taken for this one's."""
    folder = Path(nasplat.__file__).parent
    files = sorted(file for pattern in SEARCHED for file in folder.glob(pattern))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


class OptunaSearcher:
    """One of Optuna's samplers, with every gene as a categorical parameter.

    Args:
        problem: With one objective.
        sampler: ``TPE``, ``GP``, and other samplers that are seeded, with their defaults.
    """

    def __init__(self, problem: Problem, sampler: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (objective,) = problem.goal.objectives
        self._problem = problem
        self._metric = objective.metric
        self._study = optuna.create_study(
            direction="maximize" if objective.maximize else "minimize",
            sampler=getattr(optuna.samplers, f"{sampler}Sampler")(seed=problem.seed),
        )
        self._trials: dict[int, Any] = {}

    def ask(self, n: int) -> list[Task]:
        """Up to `n` new tasks; what was asked for may be asked for again."""
        space = self._problem.space
        assert isinstance(space, GeneSpace)
        tasks: list[Task] = []
        for _ in range(n):
            trial = self._study.ask()
            picked = (trial.suggest_categorical(gene.name, gene.choices) for gene in space.genes)
            choices = [gene.choices.index(choice) for gene, choice in zip(space.genes, picked, strict=True)]
            task = self._problem.evaluate(space.member(choices))
            self._trials[task.id] = trial
            tasks.append(task)
        return tasks

    def tell(self, outcome: Outcome) -> None:
        """Learn from a measurement."""
        assert isinstance(outcome, Measurement)
        self._study.tell(self._trials.pop(outcome.id), outcome.metrics[self._metric])


@dataclass
class Trace:
    """How a search went.

    Args:
        asked: What was asked for, in that order, repeats included.
        told: What was told, in that order.
        codes: The different codes among what was told.
        asking: Seconds of each call of `ask`.
        seconds: Of all calls of `ask` and `tell`.
    """

    asked: list[Architecture] = field(default_factory=list)
    told: list[Architecture] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    asking: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def distinct(self) -> list[str]:
        """The different codes that were asked for, in that order."""
        return list(dict.fromkeys(architecture.code for architecture in self.asked))


def search(
    searcher: Searcher,
    metrics: Metrics,
    *,
    trials: int,
    seed: int,
    done: Callable[[Trace], bool] = lambda trace: False,
    workers: int = 1,
    waits: bool = False,
) -> Trace:
    """Search until it is done, the trials are used up, or the searcher has nothing more to ask for.

    Args:
        searcher: What proposes and learns.
        metrics: What comes of measuring an architecture, always the same.
        trials: How many are asked for at most.
        seed: Draws the order in which work ends.
        done: Whether to stop, asked after every tell.
        workers: How many trials are measured at a time; which of them ends next is drawn at random.
        waits: Whether all of them end, in order, before the next are asked for: batches.
    """
    trace = Trace()
    rng: Generator = default_rng([seed, DIVERSION])
    flight: list[Evaluate] = []
    while not (trace.told and done(trace)):
        free = min(workers - len(flight), trials - len(trace.asked))
        if free and not (waits and flight):
            clock = time.perf_counter()
            tasks = searcher.ask(free)
            trace.asking.append(time.perf_counter() - clock)
            trace.seconds += trace.asking[-1]
            for task in tasks:
                assert isinstance(task, Evaluate)
                flight.append(task)
                trace.asked.append(task.architecture)
        if not flight:
            break
        task = flight.pop(0 if waits else int(rng.integers(len(flight))))
        outcome = Measurement(task=task, metrics=metrics(task.architecture))
        clock = time.perf_counter()
        searcher.tell(outcome)
        trace.seconds += time.perf_counter() - clock
        trace.told.append(task.architecture)
        trace.codes.add(task.architecture.code)
    return trace


Job = tuple[Row, int]
"""The settings of a run, which say all about it, and its seed."""


def kept(jobs: Sequence[Job], work: Callable[[Row, int], Row], file: Path, processes: int = 1) -> list[Row]:
    """The rows of all jobs, in order; those that a file lacks are worked out and added to it.

    Args:
        jobs: What is wanted.
        work: Works a row out, the same whenever it is called; a function of a module.
        file: JSON lines with settings, seed and row.
        processes: How many work at a time.
    """
    known = {(_key(line["settings"]), line["seed"]): line["row"] for line in _lines(file)}
    wanted = [(settings, seed) for settings, seed in jobs if (_key(settings), seed) not in known]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write("\n")  # what a kill cut short is no part of the next line
        for (settings, seed), row in zip(wanted, _rows(wanted, work, processes), strict=True):
            known[_key(settings), seed] = row
            out.write(json.dumps({"settings": settings, "seed": seed, "row": row}) + "\n")
            out.flush()
    return [known[_key(settings), seed] for settings, seed in jobs]


def _rows(jobs: Sequence[Job], work: Callable[[Row, int], Row], processes: int) -> Iterator[Row]:
    if processes == 1:
        yield from (work(*job) for job in jobs)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:  # tables that are loaded already are shared
        yield from pool.imap(partial(_apply, work), jobs)


def _apply(work: Callable[[Row, int], Row], job: Job) -> Row:
    return work(*job)


def _key(settings: Row) -> str:
    return json.dumps(settings, sort_keys=True)


def _lines(file: Path) -> Iterator[Row]:
    """What the file holds, but for a line that a kill cut short."""
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(text)
        except ValueError:
            continue


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which one value alone does not have."""
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


def parser(
    doc: str | None, *, seeds: int, file: str, arms: Sequence[str], chosen: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """The options that all such commands have.

    Args:
        doc: The module's docstring, whose first line is the description.
        seeds: How many by default.
        file: Where rows are kept by default, in ``runs/``.
        arms: The names of what can be compared.
        chosen: What is compared by default, if not all.
    """
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--seeds", type=int, default=seeds)
    made.add_argument("--first-seed", type=int, default=1000)
    made.add_argument("--tpe-seeds", type=int, default=50, help="no more than so many for Optuna's TPE")
    made.add_argument("--gp-seeds", type=int, default=10, help="no more than so many for Optuna's GP, which is slow")
    made.add_argument("--arms", nargs="+", choices=arms, default=chosen or arms)
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of predictor_guided in place of its arms' own, the value as in YAML",
    )
    made.add_argument("--processes", type=int, default=1)
    made.add_argument("--file", type=Path, default=Path("runs", file), help="where runs are kept, not to be run again")
    made.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return made


def with_options(arm: Arm, texts: Sequence[str]) -> Arm:
    """An arm with other options, if it is predictor_guided; others stay as they are.

    Raises:
        InputError: A text has another form than NAME=VALUE.
    """
    if arm.searcher != "predictor_guided":
        return arm
    options = dict(arm.options)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"an option is NAME=VALUE, such as initial=10, but got {text!r}")
        options[name] = yaml.safe_load(value)
    return Arm(arm.searcher, options)


def seeds_of(arm: Arm, arguments: argparse.Namespace) -> range:
    """The seeds of an arm, fewer for slow ones."""
    most = {f"{OPTUNA}TPE": arguments.tpe_seeds, f"{OPTUNA}GP": arguments.gp_seeds}.get(arm.searcher)
    number = arguments.seeds if most is None else min(most, arguments.seeds)
    return range(arguments.first_seed, arguments.first_seed + number)


def runs(
    arms: Mapping[str, Row], seeds: Mapping[str, range], work: Callable[[Row, int], Row], arguments: argparse.Namespace
) -> dict[str, list[Row]]:
    """The rows of all arms, by their names, each in the order of its seeds.

    Args:
        arms: The settings of each.
        seeds: The seeds of each.
        work: Works out a row.
        arguments: Those of `parser`.
    """
    found = {}
    for name, settings in arms.items():
        found[name] = kept([(settings, seed) for seed in seeds[name]], work, arguments.file, arguments.processes)
    return found


def machine() -> str:
    """Where the figures are from."""
    return f"Python {platform.python_version()}, {os.cpu_count()} cores"
