"""`nasplat predictor evaluate`: compare how well predictors rank unseen architectures, and how honest intervals are."""

import itertools
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

import nasplat
from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.cli.console import err, out, print_json, print_table
from nasplat.cli.evaluation_coverage import print_coverage, summarized_coverage
from nasplat.cli.evaluation_record import FIGURES, Record
from nasplat.config import yaml_value
from nasplat.errors import InputError, RunError, TrialFailed
from nasplat.interface.bars import LineColumn
from nasplat.interface.interruption import Interruption
from nasplat.metric import Metric, parse_metric, spelt
from nasplat.options import complete, shortly
from nasplat.predictor import options_of
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES
from nasplat.search_space import GeneSpace
from nasplat.surrogates.predictor_store import make_space
from nasplat.surrogates.ranking_metrics import Interval, Make, Trial, splits
from nasplat.surrogates.ranking_metrics import evaluate as evaluated
from nasplat.surrogates.training_set import TrainingSet, read_training_set
from nasplat.task import Evaluate

USUAL_SIZES = (20, 50, 100, 200, 500, 1000)
MOST = 1_000_000
"""Maximum number of members of a space that is enumerated completely."""


def evaluate(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SOURCE]...", help="Run directories, CSV or JSON files with scores.", show_default=False
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="Instead of sources: all architectures in the table of a benchmark.", show_default=False),
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="The search space, if the sources do not name it.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--score",
            help="The column or metric; NAME:max or NAME:min if its name does not say which is better.",
            show_default=False,
        ),
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="A predictor to compare; repeatable. Default: all.", show_default=False)
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Sizes of the training sets, such as 78,156. Default: 20, 50, 100 … up to half of all.",
            show_default=False,
        ),
    ] = None,
    number: Annotated[int, typer.Option("--splits", help="Number of training sets of each size.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Random seed of the training sets.", min=0)] = 0,
    test: Annotated[
        int | None,
        typer.Option(help="Number of other architectures to rank. Default: all.", min=2, show_default=False),
    ] = None,
    top: Annotated[
        int, typer.Option(help="The k of precision@k and regret@k: the size of the short list.", min=1)
    ] = 10,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="An option, as in benchmark.search_column=test or lightgbm.trees=800.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="A folder for all results and a plot; the same command continues there.", show_default=False
        ),
    ] = None,
    correct: Annotated[
        bool,
        typer.Option(
            "--correct-intervals",
            help="Also report coverage with deviations multiplied by a factor, fitted to other held-out architectures.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Compare predictors: fit them to some architectures and rank all others, for several sizes and many splits."""
    given = _assigned(set_ or [])
    names = list(dict.fromkeys(predictor or PREDICTORS.names()))
    for section in given:
        if section not in ("space", "benchmark", *names):
            raise InputError(
                f"--set {section}.…: no section is named {section!r}; the sections are space, benchmark and "
                f"the compared predictors: {', '.join(names)}"
            )
    scores = _scores(sources or [], benchmark, space, metric, given)
    options = {name: complete(name, PREDICTORS.get(name), given.get(name, {})) for name in names}
    makes: dict[str, Make] = {name: partial(PREDICTORS.get(name), scores.space, **options[name]) for name in names}
    wanted = _sizes(sizes, len(scores))
    settings = {
        "nasplat": nasplat.__version__,
        "scores": {**scores.description, "architectures": len(scores), "digest": scores.digest},
        "space": {"name": scores.space.name, "options": options_of(scores.space)},
        "predictors": options,
        "sizes": wanted,
        "splits": number,
        "seed": seed,
        "test": test,
        "top": top,
    }
    drawn = splits(scores.space, scores.architectures, sizes=wanted, number=number, seed=seed, test=test)
    drawn = itertools.chain([next(drawn)], drawn)  # an invalid split raises here, before files exist
    record = Record.open(folder, settings)
    whole = len(names) * len(wanted) * number
    interrupted = False
    with Progress(
        BarColumn(bar_width=24), MofNCompleteColumn(), LineColumn("{task.description}"), TimeRemainingColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    ) as bar:  # fmt: skip
        shown = bar.add_task("fitting and ranking", total=whole, completed=len(record.done))
        try:
            with Interruption() as interruption:
                interruption.arm()
                for trial in evaluated(makes, scores.architectures, scores.scores, drawn, top=top, done=record.done):
                    record.add(trial)
                    bar.update(shown, advance=1, description=f"{trial.predictor} on {trial.size}")
        except KeyboardInterrupt:
            interrupted = True
    trials = record.trials
    summary = summarized(trials, correct=correct)
    title = f"{scores.space.name}: {_named(scores)}"
    measured = scores.metric or Metric.of("score")
    record.finish(summary, title=title, metric=measured.labelled, top=top)
    if json:
        print_json({"settings": settings, "finished": not interrupted, "results": summary})
    else:
        _print(summary, trials, title, top, measured)
        print_coverage(summary, correct)
        if folder is not None:
            out.print(f"results: {escape(str(folder))}")
    if interrupted:
        remedy = (
            f"go on with the same command: {escape(shlex.join(['nasplat', *sys.argv[1:]]))}"
            if folder is not None
            else "nothing is kept without --out"
        )
        err.print(f"interrupted after {len(trials)} of {whole} trials; {remedy}")
        raise typer.Exit(130)
    if all(trial.problem for trial in trials):
        raise RunError("no predictor could be fitted to any training set; see the problems above")


def summarized(trials: Sequence[Trial], *, correct: bool = False) -> list[dict[str, Any]]:
    """Mean of every metric over splits, and half its 95 % interval, for each size and predictor; best tau first.

    Args:
        trials: The completed trials.
        correct: Whether coverage with corrected deviations is reported too.
    """
    groups: dict[tuple[int, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.size, trial.predictor), []).append(trial)
    rows = []
    for (size, name), group in groups.items():
        sound = [trial for trial in group if trial.all is not None]
        row: dict[str, Any] = {"predictor": name, "size": size, "splits": len(sound)}
        for key in ("all", "fresh"):
            rankings = [ranking for trial in sound if (ranking := getattr(trial, key)) is not None]
            row[key] = {f: asdict(Interval.of([getattr(r, f) for r in rankings])) for f in FIGURES if rankings}
        if sound:
            row["duplicates"] = float(np.mean([trial.duplicates / trial.ranked for trial in sound]))
            row["fit_seconds"] = float(np.mean([trial.fit_seconds for trial in sound]))
            row["predict_seconds"] = float(np.mean([trial.predict_seconds for trial in sound]))
        row["intervals"] = summarized_coverage(sound, correct)
        row["problems"] = sorted({trial.problem for trial in group if trial.problem})
        rows.append(row)
    return sorted(rows, key=lambda row: (row["size"], -row["all"].get("tau", {"mean": -2.0})["mean"]))


def _print(summary: Sequence[Mapping[str, Any]], trials: Sequence[Trial], title: str, top: int, metric: Metric) -> None:
    """Print one table for all ranked architectures, and one without duplicates if there are any."""
    out.print(f"[bold]{escape(title)}[/]\n")
    regret = f"regret@{top}" + f" ({metric.unit})" * bool(metric.unit)
    columns = ["trained on", "predictor", "splits", "tau", "spearman", f"precision@{top}", regret]
    titles = {"all": "All others, mean ± half the 95 % interval over splits"}
    if any(trial.duplicates for trial in trials):
        share = np.mean([trial.duplicates / trial.ranked for trial in trials])
        titles["fresh"] = (
            f"Without duplicates, which compute the function of one in the training set ({100 * share:.1f} % of all)"
        )
    for key, said in titles.items():
        print_table(
            said,
            [*columns, "fit", "predict"],
            (
                [
                    str(row["size"]),
                    row["predictor"],
                    str(row["splits"]),
                    *(_spelt(row[key][figure]) for figure in FIGURES),
                    f"{row['fit_seconds']:.2g} s",
                    f"{row['predict_seconds']:.2g} s",
                ]
                for row in summary
                if row[key]
            ),
        )
        out.print()
    for row in summary:
        for problem in row["problems"]:
            err.print(f"[yellow]{row['predictor']} on {row['size']}:[/] {escape(problem)}")


def _spelt(interval: Mapping[str, float]) -> str:
    mean, half = interval["mean"], interval["half"]
    return f"{mean:.4f}" + (f" ± {half:.4f}" if half == half else "")


def _scores(
    sources: Sequence[Path], benchmark: str | None, space: str | None, metric: str | None, given: Mapping[str, Any]
) -> TrainingSet:
    """The architectures with scores for training and ranking."""
    if (benchmark is None) == (not sources):
        raise InputError("scores come either from sources or from a --benchmark; give one of the two")
    if benchmark is None:
        if "benchmark" in given:
            raise InputError("--set benchmark.… needs --benchmark, but sources are given; leave it out")
        made = None if space is None else make_space(space, given.get("space"))
        return read_training_set(sources, space=made, metric=metric, floor=4)
    if space is None and benchmark not in SEARCH_SPACES.names():
        raise InputError(f"the benchmark {benchmark} measures several spaces; name one with --space")
    kind = BENCHMARKS.get(benchmark)
    measuring = kind(
        make_space(space or benchmark, given.get("space")), **complete("benchmark", kind, given.get("benchmark", {}))
    )
    measuring.check()
    if metric is None and not measuring.metrics:
        raise InputError(f"{benchmark} does not say what it measures; name a metric of it with --score")
    name, maximize = parse_metric(metric or measuring.metrics[0])
    if not measuring.can_measure(name):
        raise InputError(f"{benchmark} measures {', '.join(measuring.metrics)}, but --score is {shortly(metric)}")
    wanted = Metric.of(name, maximize)
    measuring.prepare()
    members, values, split, nowhere = [], [], "validation", MemoryArtifacts()
    for number, architecture in enumerate(_enumerable_members(measuring)):
        task = Evaluate(id=number, seed=0, architecture=architecture, fidelity=measuring.fidelity)
        try:
            measurement = measuring.measure(task, device="cpu", artifacts=nowhere)
        except TrialFailed:  # the table has no value for this architecture
            continue
        members.append(architecture)
        values.append(measurement.metrics[name])
        wanted.check(values[-1])
        split = measurement.split
    described: dict[str, Any] = {
        "sources": [{"kind": "benchmark", "name": benchmark}],
        "metric": wanted.as_json(),
        "split": split,
    }
    described["options"] = options_of_benchmark(measuring)
    return TrainingSet(measuring.space, tuple(members), wanted.sign * np.array(values), wanted, described)


def _enumerable_members(benchmark: Benchmark) -> Iterable[Architecture]:
    """The enumerable members of a benchmark's table.

    They are the benchmark's own list, or the feasible members of a space that is small enough to enumerate.

    Raises:
        InputError: The benchmark has no table, or its members cannot be enumerated.
    """
    if not benchmark.looks_up:
        raise InputError(
            "--benchmark must name a benchmark that looks figures up in a table, and says so by looks_up; give sources "
            "instead, such as a run"
        )
    if benchmark.enumerable_members is not None:
        return benchmark.enumerable_members
    space = benchmark.space
    if not isinstance(space, GeneSpace) or math.prod(len(gene.choices) for gene in space.genes) > MOST:
        raise InputError(f"the benchmark cannot list its architectures of {space.name}; give sources, such as a run")
    every = itertools.product(*(range(len(gene.choices)) for gene in space.genes))
    return filter(benchmark.feasible, (space.member(choices) for choices in every))


def options_of_benchmark(benchmark: Any) -> dict[str, Any]:
    """The options that a benchmark was given, as JSON values by name."""
    from nasplat.options import options_model

    names = options_model(type(benchmark)).model_fields
    return complete("benchmark", type(benchmark), {name: getattr(benchmark, name) for name in names})


def _named(scores: TrainingSet) -> str:
    """A short description of the source of the scores."""
    described = scores.description
    options = described.get("options") or {}
    parts = [", ".join(source["name"] for source in described.get("sources", [])), spelt(described.get("metric"))]
    parts += [str(options["dataset"])] if "dataset" in options else []
    parts += [f"{described['split']} split"] if "split" in described else []
    return f"{', '.join(parts)}, {len(scores):,} architectures"


def _sizes(text: str | None, n: int) -> list[int]:
    """The sizes of training sets."""
    if text is None:
        return [size for size in USUAL_SIZES if size <= n // 2] or [n // 2]
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--sizes takes whole numbers, such as 78,156,469, but got {shortly(text)}") from None


def _assigned(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options by section and name."""
    given: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        section, dot, option = path.partition(".")
        if not (equals and dot and section and option):
            raise InputError(
                f"--set takes SECTION.OPTION=VALUE, such as lightgbm.trees=800, but got {shortly(assignment)}"
            )
        try:
            value = yaml_value(text)
        except ValueError:
            value = text
        given.setdefault(section, {})[option] = value
    return given
