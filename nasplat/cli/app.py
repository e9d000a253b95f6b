"""The command line's entry: commands, exit codes, and the one place where errors become messages."""

import io
import sys
from typing import Any

import typer
from rich.markup import escape

import nasplat
from nasplat.cli import (
    benchmarking,
    enlarging,
    exporting,
    inspecting,
    listing,
    predicting,
    recovering,
    retraining,
    searching,
    serving,
    testing,
)
from nasplat.cli.output import err, printable
from nasplat.errors import InputError, NasplatError

# The root of what typer says about the words of a command; where it lives has changed from version to version.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="nasplat",
    help="Search neural-network architectures, look at what was found, and export it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("search")(searching.search)
app.command("resume")(searching.resume)
app.command("runs")(inspecting.runs)
app.command("retrain")(retraining.retrain)
app.command("test")(testing.test)
app.command("show")(inspecting.show)
app.command("report")(inspecting.report)
app.command("export")(exporting.export)
app.command("upscale")(enlarging.upscale)
app.command("recover")(recovering.recover)
app.command("list")(listing.list_plugins)
app.command("serve")(serving.serve)
app.add_typer(predicting.app, name="predictor")
app.add_typer(benchmarking.app, name="benchmark")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(nasplat.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Search neural-network architectures, look at what was found, and export it."""


def main() -> None:
    """Run a command and exit: 0 done, 1 failed while running, 2 wrong input, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that is no text, or a terminal that knows few letters, is no reason to break off.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except ClickException as error:
        code = _usage(error)
    except InputError as error:
        code = _report(error, WRONG_INPUT)
    except NasplatError as error:
        code = _report(error, FAILED)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        code = FAILED
    sys.exit(code if isinstance(code, int) else DONE)


def _usage(error: Any) -> int:
    error.show()
    code: int = error.exit_code
    return code


def _report(error: NasplatError, code: int) -> int:
    err.print(f"[bold red]error:[/] {escape(printable(' '.join(str(error).split())))}")
    return code
