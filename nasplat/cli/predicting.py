"""`nasplat predictor fit`, `predict` and `rank`: predictors that are fitted to measured architectures."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.random import default_rng
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nasplat.architecture import Architecture
from nasplat.cli import evaluating
from nasplat.cli.console import err, out, print_json, print_table
from nasplat.config import yaml_value
from nasplat.errors import InputError, printable
from nasplat.interface import predicting as fitting
from nasplat.metric import Metric
from nasplat.search_space import SearchSpace
from nasplat.surrogates.predictor_store import (
    Predicted,
    StoredPredictor,
    best_first,
    make_space,
    open_predictor,
    scored,
)
from nasplat.surrogates.training_set import member, read_names, read_training_set
from nasplat.units import duration, figure

WRONG_INPUT = 2
DRAWS = 50
"""Maximum number of draws per requested sample, since a draw may be a duplicate."""

app = typer.Typer(
    help="Fit predictors to measured architectures, and predict the scores of others.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("evaluate")(evaluating.evaluate)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder that the predictor was saved in.", show_default=False)
]
Named = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARCHITECTURE", help="Codes, or other texts that the space reads; - for lines of standard input."
    ),
]
File = Annotated[
    list[Path] | None,
    typer.Option(
        help="A file of architectures: one per line, or a column of .csv, .csv.gz or .json; - for standard input.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
SetOptions = Annotated[
    list[str] | None,
    typer.Option("--set", help="An option, as in predictor.seed=1 or space.channels=8; repeatable.",
                 show_default=False),
]  # fmt: skip
SpaceName = Annotated[
    str | None,
    typer.Option("--space", help="The search space of the codes in files; runs name their own.", show_default=False),
]
Score = Annotated[
    str | None,
    typer.Option(
        "--score",
        help="The column or objective to predict, such as accuracy or loss; COLUMN:max or COLUMN:min if its name does "
        "not say which is better. Default: a run's first objective, a file's only number or accuracy.",
        show_default=False,
    ),
]


@app.command("fit")
def fit(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE",
            help="Measured architectures: run directories, .csv, .csv.gz or .json.",
            show_default=False,
        ),
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="The folder to create.", show_default=False)],
    predictor: Annotated[str, typer.Option(help="The predictor; see `nasplat list predictors`.")] = "auto",
    set_: SetOptions = None,
    space: SpaceName = None,
    score: Score = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Folds of the cross-validation; 0 for none. The predictor auto does its own.")
    ] = 5,
    json: Json = False,
) -> None:
    """Fit a predictor to measured architectures, cross-validate it, and save it."""
    options = assigned(set_, ("predictor", "space"))
    bar = Progress(
        TextColumn("cross-validating"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    )  # fmt: skip
    shown = bar.add_task("", total=folds, start=False)
    with bar:
        saved = fitting.fit(
            sources,
            predictor,
            out=out_folder,
            space=chosen_space(space, options["space"]),
            score=score,
            options=options["predictor"],
            folds=folds,
            advance=lambda: bar.advance(shown),
        )
    about = saved.about
    if json:
        print_json({"saved": str(out_folder), "predictor": predictor, "options": saved.predictor.options(), **about})
        return
    metric = saved.metric or Metric.of("score")
    repeats = f" ({about['merged']} repeated, with the mean of their scores)" if about["merged"] else ""
    out.print(f"{escape(predictor)} of {escape(saved.space.name)}")
    out.print(f"  trained on   {about['count']} architectures{repeats} in {duration(about['seconds'])}")
    out.print(f"  metric       {escape(str(metric))}, at best {figure(metric.name, about['best'])}")
    if saved.space.has_default_graph:
        out.print("  graph        the default chain of genes or features; a graph of layers may rank better")
    if about["tau"] is not None:
        out.print(f"  Kendall tau  {_spelt(about['tau'])}")
    out.print(f"  saved        {escape(str(out_folder))}")


@app.command("predict")
def predict(folder: Folder, architectures: Named = None, file: File = None, json: Json = False) -> None:
    """Estimate the metric of architectures, in its unit, with deviations if the predictor has them."""
    saved = open_predictor(folder)
    named = _named(architectures, file)
    if not named:
        raise InputError("nothing to predict: name architectures, or give --file")
    read = _read(saved.space, named)
    items = _predicted(saved, read)
    if json:
        print_json(
            {
                "metric": saved.metric and saved.metric.as_json(),
                "predictions": [
                    {
                        "architecture": item.code if isinstance(item, Architecture) else printable(text),
                        "value": estimate and estimate.value,
                        "deviation": estimate and estimate.deviation,
                        "error": None if isinstance(item, Architecture) else str(item),
                    }
                    for (_, text), item, estimate in zip(named, read, items, strict=True)
                ],
            }
        )
    elif any(items):
        rows = [(item, found) for item, found in zip(read, items, strict=True) if found is not None]
        cells = ([str(a.code), *_cells(saved, p)] for a, p in _sound(rows))
        print_table(f"Estimates of {printable(saved.unit)}", ["architecture", *_columns(saved, rows)], cells)
    _finish(named, read)


@app.command("rank")
def rank(
    folder: Folder,
    architectures: Named = None,
    file: File = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Rank the architectures that a run measured at its highest fidelity.", show_default=False),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Number of different architectures to draw from the space and rank.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of --sample.")] = 0,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Number of best architectures to show. Default: all.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Rank architectures by predicted score, the best first. Each is listed once."""
    saved = open_predictor(folder)
    named = _named(architectures, file)
    read = _read(saved.space, named)
    candidates = [item for item in read if isinstance(item, Architecture)]
    if run is not None:
        candidates += read_training_set([run], space=saved.space).architectures
    candidates = list(dict.fromkeys(candidates + _sampled(saved.space, sample, seed)))
    if not candidates and not named:
        raise InputError("nothing to rank: name architectures, or give --file, --run or --sample")
    estimates = scored(saved.predictor, candidates, saved.metric)
    ranked = [(candidates[i], estimates[i]) for i in best_first(estimates, saved.metric)[:top]]
    if json:
        print_json(
            {
                "metric": saved.metric and saved.metric.as_json(),
                "ranking": [
                    {"rank": place, "architecture": a.code, "value": p.value, "deviation": p.deviation}
                    for place, (a, p) in enumerate(ranked, 1)
                ],
                "errors": [
                    {"architecture": printable(text), "error": str(item)}
                    for (_, text), item in zip(named, read, strict=True)
                    if isinstance(item, InputError)
                ],
            }
        )
    elif ranked:
        cells = ([str(place), a.code, *_cells(saved, p)] for place, (a, p) in enumerate(ranked, 1))
        title = f"Best {len(ranked)} of {len(candidates)} by {printable(saved.unit)}"
        print_table(title, ["rank", "architecture", *_columns(saved, ranked)], cells)
    _finish(named, read)


def assigned(assignments: Iterable[str] | None, sections: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options from several ``--set SECTION.OPTION=VALUE``, by section.

    Raises:
        InputError: An assignment has another form, or names another section.
    """
    found: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for assignment in assignments or ():
        path, equals, text = assignment.partition("=")
        section, dot, option = path.partition(".")
        if not (equals and dot and option and section in found):
            raise InputError(
                f"--set takes SECTION.OPTION=VALUE with {' or '.join(sections)} as the section, such as "
                f"{sections[0]}.seed=1, but got {assignment!r}"
            )
        try:
            found[section][option] = yaml_value(text)
        except ValueError:
            found[section][option] = text
    return found


def chosen_space(name: str | None, options: dict[str, Any]) -> SearchSpace | None:
    """The space named on the command line, or None.

    Raises:
        InputError: There is no such space, or there are options without a space.
    """
    if name is None and options:
        raise InputError(f"--set space.{next(iter(options))}=… needs --space NAME; runs have their own options")
    return None if name is None else make_space(name, options)


def _spelt(tau: dict[str, Any]) -> str:
    deviation = f" ± {tau['deviation']:.3f}" if "deviation" in tau else ""
    return f"{tau['mean']:.3f}{deviation}, {tau['how']}"


def _named(architectures: Sequence[str] | None, files: Sequence[Path] | None) -> list[tuple[str, str]]:
    """All architectures from the arguments and files, each with its place for messages."""
    named: list[tuple[str, str]] = []
    for text in architectures or ():
        named += _standard_input() if text == "-" else [("", text)]
    for file in files or ():
        named += _standard_input() if str(file) == "-" else read_names(file)
    return named


def _standard_input() -> list[tuple[str, str]]:
    try:
        lines = list(enumerate(sys.stdin, 1))
    except (OSError, ValueError) as error:
        raise InputError(f"standard input cannot be read: {error}") from error
    return [(f"standard input, line {number}", line.strip()) for number, line in lines if line.strip()]


def _read(space: SearchSpace, named: Sequence[tuple[str, str]]) -> list[Architecture | InputError]:
    """The architecture of each code, or the error if the code is invalid."""
    read: list[Architecture | InputError] = []
    for _, text in named:
        try:
            read.append(member(space, text))
        except InputError as error:
            read.append(error)
    return read


def _predicted(saved: StoredPredictor, read: Sequence[Architecture | InputError]) -> list[Predicted | None]:
    """Estimates in the order of what was read."""
    found = iter(scored(saved.predictor, [item for item in read if isinstance(item, Architecture)], saved.metric))
    return [next(found) if isinstance(item, Architecture) else None for item in read]


def _sampled(space: SearchSpace, number: int, seed: int) -> list[Architecture]:
    """`number` different members of a space, or fewer if the draws give no more."""
    rng = default_rng(seed)
    found: dict[Architecture, None] = {}
    for _ in range(DRAWS * number):
        if len(found) == number:
            break
        found[space.sample(rng)] = None
    if len(found) < number:
        err.print(f"[yellow]only {len(found)} different architectures were found in {DRAWS * number} draws[/]")
    return list(found)


def _sound(rows: Iterable[tuple[Architecture | InputError, Predicted]]) -> Iterable[tuple[Architecture, Predicted]]:
    return ((item, predicted) for item, predicted in rows if isinstance(item, Architecture))


def _columns(saved: StoredPredictor, rows: Sequence[tuple[Any, Predicted]]) -> list[str]:
    name = "score" if saved.metric is None else saved.metric.name
    return [name, *["deviation"] * (rows[0][1].deviation is not None)]


def _cells(saved: StoredPredictor, predicted: Predicted) -> list[str]:
    values = [predicted.value] + ([] if predicted.deviation is None else [predicted.deviation])
    return [f"{value:.6g}" if saved.metric is None else figure(saved.metric.name, value) for value in values]


def _finish(named: Sequence[tuple[str, str]], read: Sequence[Architecture | InputError]) -> None:
    """Report the codes that could not be read. Results of the others are already printed."""
    wrong = [(place, item) for (place, _), item in zip(named, read, strict=True) if isinstance(item, InputError)]
    for place, error in wrong:
        err.print(f"[bold red]error:[/] {escape(f'{place}: {error}' if place else str(error))}")
    if wrong:
        raise typer.Exit(WRONG_INPUT)
