"""`nasplat benchmark import` and `nasplat benchmark info`: the tables that benchmarks look figures up in."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nasplat.benchmark import TableBenchmark, TableFile
from nasplat.cli.output import err, out, print_json, print_table
from nasplat.errors import InputError
from nasplat.registry import BENCHMARKS
from nasplat.units import figure

app = typer.Typer(help="Look at the tables of benchmarks, and make them of official files.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.command("import")
def import_table(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The benchmark.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The official file, or the folder that the official archive was unpacked to.",
            show_default=False,
        ),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The table to write.  [default: in the data folder]", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Make the compact table of a benchmark of its official file; nothing in the file is executed.

    A single file of NAS-Bench-201 takes about six times its size in memory; the unpacked archive takes little.
    """
    benchmark = _table_benchmark(name)
    target = benchmark.folder() / benchmark.imported if out_file is None else out_file
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(),
        TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal,
    ) as bar:  # fmt: skip
        shown = bar.add_task(f"opening {escape(file.name)}", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(shown, description=f"reading {escape(file.name)}", completed=done, total=total)

        written = benchmark.convert(file, target, progress)
    if json:
        print_json({"benchmark": name, **_described(written)})
        return
    out.print(f"table: {escape(str(written.path))}")
    out.print(f"{written.rows} architectures\n")
    _print_series([written])


@app.command("info")
def info(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One benchmark; all without it.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show the tables in the data folder: data sets, training schedules, seeds, and the best values."""
    benchmarks = {name: _table_benchmark(name)} if name is not None else _table_benchmarks()
    found = {each: benchmark.tables() for each, benchmark in benchmarks.items()}
    if json:
        print_json(
            {
                each: {
                    "folder": str(benchmarks[each].folder()),
                    "files": [_described(file) for file in files],
                    "absent": _absent(benchmarks[each], files),
                }
                for each, files in found.items()
            }
        )
        return
    for each, files in found.items():
        _print_tables(each, benchmarks[each], files)


def _table_benchmark(name: str) -> type[TableBenchmark]:
    benchmark = BENCHMARKS.get(name)
    if not issubclass(benchmark, TableBenchmark):
        known = ", ".join(_table_benchmarks())
        raise InputError(f"the benchmark {name} looks nothing up in tables; those that do: {known or 'none'}")
    return benchmark


def _table_benchmarks() -> dict[str, type[TableBenchmark]]:
    """The benchmarks with tables; a broken plug-in of somebody else's does not hide them."""
    found = {}
    for plugin in BENCHMARKS:
        try:
            benchmark = BENCHMARKS.get(plugin.name)
        except InputError as error:
            err.print(f"[yellow]left out:[/] {escape(' '.join(str(error).split()))}")
            continue
        if issubclass(benchmark, TableBenchmark):
            found[plugin.name] = benchmark
    return found


def _print_tables(name: str, benchmark: type[TableBenchmark], files: list[TableFile]) -> None:
    out.print(f"[bold]{escape(name)}[/] in {escape(str(benchmark.folder()))}\n")
    if any(file.series for file in files):
        _print_series(files)
        out.print()
    for file in files:
        if file.problem:
            out.print(f"[yellow]{escape(file.path.name)}:[/] {escape(file.problem)}")
    if absent := _absent(benchmark, files):
        out.print(
            f"absent: {', '.join(absent)}; nasplat benchmark import {escape(name)} FILE "
            "makes a table of the official file"
        )


def _print_series(files: list[TableFile]) -> None:
    print_table(
        "",
        ["table", "data set", "split", "epochs", "architectures", "values", "best accuracy", "architecture"],
        (
            [
                file.path.name,
                series.dataset,
                series.split,
                str(series.epochs),
                str(series.architectures),
                ", ".join(["mean", *(["one seed"] * series.single_seed), *map(str, series.seeds)]),
                figure("accuracy", series.best),
                series.best_code,
            ]
            for file in files
            for series in file.series
        ),
    )


def _absent(benchmark: type[TableBenchmark], files: list[TableFile]) -> list[str]:
    present = {series.dataset for file in files for series in file.series}
    return [dataset for dataset in benchmark.datasets if dataset not in present]


def _described(file: TableFile) -> dict[str, Any]:
    """A table as JSON for machines."""
    return {
        "table": str(file.path),
        "rows": file.rows,
        "series": [
            {
                "dataset": series.dataset,
                "split": series.split,
                "epochs": series.epochs,
                "architectures": series.architectures,
                "single_seed": series.single_seed,
                "seeds": list(series.seeds),
                "best_accuracy": series.best,
                "best_architecture": series.best_code,
            }
            for series in file.series
        ],
        "problem": file.problem,
    }
