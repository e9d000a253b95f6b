"""`nasplat benchmark import`, `info` and `build`: the tables of tabular benchmarks and of latencies."""

import re
import shlex
import sys
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from nasplat.benchmark import TableBenchmark, TableFile
from nasplat.cli.console import err, out, print_json, print_table
from nasplat.cli.predicting import assigned
from nasplat.cli.settings import EngineName
from nasplat.errors import InputError
from nasplat.interface.bars import LineColumn
from nasplat.interface.interruption import Interruption
from nasplat.latency.building import Accuracy, Built, Plan, build_table
from nasplat.registry import BENCHMARKS
from nasplat.surrogates.predictor_store import make_space
from nasplat.units import duration, figure

INTERRUPTED = 130
USUAL = Plan()

app = typer.Typer(
    help="Show the tables of benchmarks, import them from official files, or measure them.",
    no_args_is_help=True,
    add_completion=False,
)
build = typer.Typer(help="Measure tables on this machine.", no_args_is_help=True, add_completion=False)
app.add_typer(build, name="build")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


class Device(StrEnum):
    """Where networks may be timed."""

    CPU = "cpu"
    CUDA = "cuda"


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
        typer.Option("--out", help="The table to write. Default: in the data folder.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Convert the official file of a benchmark to a compact table. Nothing in the file is executed.

    A single file of NAS-Bench-201 takes about six times its size in memory; the unpacked archive takes little.
    """
    benchmark = _table_benchmark(name)
    target = benchmark.folder() / benchmark.imported if out_file is None else out_file
    with Progress(
        LineColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(),
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
        str | None, typer.Argument(metavar="[NAME]", help="The benchmark. Default: all.", show_default=False)
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


@build.command("latency")
def build_latency(
    space: Annotated[str, typer.Option(help="The search space; its networks must have blocks.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", help="The table to write, a CSV file.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the space, as in space.dropout=0; repeatable.", show_default=False),
    ] = None,
    device: Annotated[Device, typer.Option(help="The device to measure.")] = Device.CPU,
    engine: Annotated[
        EngineName, typer.Option(help="The inference engine; onnxruntime takes a second more for each block.")
    ] = EngineName.TORCH,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine on the CPU.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="The batch size.")] = 1,
    side: Annotated[
        str | None,
        typer.Option(
            help="Side of the images in pixels, or HEIGHTxWIDTH. Default: the usual size of the space.",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Image channels. Default: those of the space.", show_default=False)
    ] = None,
    outputs: Annotated[
        int | None, typer.Option(min=1, help="Number of outputs. Default: that of the space.", show_default=False)
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(min=1, help="The scale of super-resolution. Default: that of the space.", show_default=False),
    ] = None,
    points: Annotated[
        int, typer.Option(min=1, help="Maximum number of widths to measure for each kind of block.")
    ] = USUAL.points,
    rounds: Annotated[
        int, typer.Option(min=2, help="Number of rounds; each round measures everything once.")
    ] = USUAL.rounds,
    calibration: Annotated[
        int, typer.Option(min=2, help="Random networks measured as a whole, to fit the latency outside the blocks.")
    ] = USUAL.calibration,
    checked: Annotated[
        int, typer.Option(min=2, help="Other random networks, to report the error of the predictions.")
    ] = USUAL.checked,
    seed: Annotated[int, typer.Option(min=0, help="The random seed.")] = 0,
    json: Json = False,
) -> None:
    """Measure the latency of the blocks of a space on this machine, for searches with benchmark.latency.table=FILE.

    Nothing else should use the device meanwhile. The same command continues an interrupted build.
    """
    made = make_space(space, assigned(set_, ("space",))["space"])
    usual = made.reference_io
    io = replace(
        usual,
        input_shape=(channels or usual.input_shape[0], *(_sides(side) if side else usual.input_shape[1:])),
        outputs=outputs or usual.outputs,
        scale=scale or usual.scale,
    )
    made.check_io(io)
    plan = Plan(
        device=device.value,
        engine=engine.value,
        threads=threads,
        batch=batch,
        points=points,
        rounds=rounds,
        calibration=calibration,
        checked=checked,
        seed=seed,
    )
    with Progress(
        LineColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    ) as bar:  # fmt: skip
        shown = bar.add_task(f"looking at {escape(space)}", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(shown, description="measuring", completed=done, total=total)

        try:
            with Interruption() as interruption:
                interruption.arm()
                built = build_table(made, io, plan, out_file, progress=progress)
        except KeyboardInterrupt:
            bar.stop()
            command = shlex.join(["nasplat", *sys.argv[1:]])
            err.print(f"interrupted; what was measured is kept; go on with: {escape(command)}")
            raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json({**asdict(built), "path": str(built.path), "plan": asdict(plan)})
        return
    _print_built(built, plan)


def _sides(text: str) -> tuple[int, int]:
    """Height and width, from ``32`` or ``240x426``."""
    match = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", text)
    if match is None:
        raise InputError(f"--side must be a number of pixels, or HEIGHTxWIDTH such as 240x426, but got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _print_built(built: Built, plan: Plan) -> None:
    threads = f"{plan.threads} thread{'s' if plan.threads > 1 else ''}"
    kinds = f"{built.kinds} kind{'s' if built.kinds > 1 else ''}"
    out.print(f"table: {escape(str(built.path))}")
    out.print(
        f"{built.blocks} blocks of {kinds} on {plan.device} with {plan.engine}, batch {plan.batch}, "
        f"{threads}, in {duration(built.seconds)}\n"
    )
    print_table(
        f"{built.networks} networks that were not used for the table, against their measured latency",
        ["", "Spearman", "median relative error"],
        [_agreement("predicted", built.predicted), _agreement("measured again", built.repeated)],
    )


def _agreement(name: str, accuracy: Accuracy) -> list[str]:
    spearman = "-" if accuracy.spearman is None else f"{accuracy.spearman:.3f}"
    return [name, spearman, f"{100 * accuracy.median_relative_error:.1f} %"]


def _table_benchmark(name: str) -> type[TableBenchmark]:
    benchmark = BENCHMARKS.get(name)
    if not issubclass(benchmark, TableBenchmark):
        known = ", ".join(_table_benchmarks())
        why = "keeps its table by itself" if benchmark.looks_up else "has no tables"
        raise InputError(
            f"the benchmark {name} {why}; benchmarks with tables in the data folder, a TableBenchmark each: "
            f"{known or 'none'}"
        )
    return benchmark


def _table_benchmarks() -> dict[str, type[TableBenchmark]]:
    """The benchmarks with tables. A broken third-party plug-in does not hide them."""
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
        if file.metrics:
            out.print(
                f"{escape(file.path.name)}: {file.rows} architectures with {', '.join(map(escape, file.metrics))}"
            )
        if file.problem:
            out.print(f"[yellow]{escape(file.path.name)}:[/] {escape(file.problem)}")
    if absent := _absent(benchmark, files):
        out.print(
            f"absent: {', '.join(absent)}; nasplat benchmark import {escape(name)} FILE "
            "converts the official file to a table"
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
    """A table as JSON values."""
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
        "metrics": list(file.metrics),
        "problem": file.problem,
    }
