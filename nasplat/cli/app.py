"""The entry point of the command line: commands, exit codes, and the conversion of errors to messages.

A command is imported only when it is called. Most commands need torch or other packages that take seconds to load.
`nasplat --help` and an unknown command import no command.
"""

import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

import nasplat
from nasplat.cli.console import err
from nasplat.errors import DamageWarning, InfeasibleWarning, InputError, NasplatError, RunError, StorageError, printable
from nasplat.storage.files import is_full

# The base class of typer's errors about command-line arguments. Its module differs between versions of typer.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]

DONE, FAILED, WRONG_INPUT, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141
"""Exit codes. The last two are 128 and a signal's number, SIGINT and SIGPIPE, as shells tell that a program ended
so: a script with `pipefail` meets the same as of `git log | head`. Not all was written, so the code is not 0."""


class LazyCommand(NamedTuple):
    """A command that is imported when it is called.

    Args:
        target: ``module:attribute``, below `nasplat.cli`: the command's function, or a `typer.Typer` with commands.
        summary: The text in `nasplat --help`, which is the first sentence of the command's own help.
    """

    target: str
    summary: str


COMMANDS = {
    "search": LazyCommand("searching:search", "Search, from a configuration file, from flags, or from both."),
    "resume": LazyCommand(
        "searching:resume", "Continue a run that was interrupted or killed, or one with a larger budget."
    ),
    "runs": LazyCommand("inspecting:runs", "List the runs below a folder."),
    "retrain": LazyCommand(
        "retraining:retrain",
        "Fully train networks that a search found, in a new run, and compare the results with the search.",
    ),
    "compress": LazyCommand(
        "compressing:compress",
        "Make trained networks smaller: transform them, fit the new layers to their weights, and fine-tune.",
    ),
    "distill": LazyCommand(
        "distilling:distill",
        "Train a smaller network from a trained one, a few labelled images, and a folder of images from anywhere.",
    ),
    "test": LazyCommand(
        "testing:test",
        "Measure networks on test data. Each network is measured only once; later calls show the recorded result.",
    ),
    "show": LazyCommand("inspecting:show", "Show what a run found: its best trials, its front, or one architecture."),
    "report": LazyCommand("inspecting:report", "Write a report: one HTML file with curves, front and configuration."),
    "table": LazyCommand(
        "results:table",
        "Write the trials of a run as a table: genes, metrics, seconds, and what is on the front.",
    ),
    "export-study": LazyCommand(
        "results:export_study",
        "Write a copy of a run as a study of Optuna, for optuna-dashboard; needs the extra optuna.",
    ),
    "export": LazyCommand(
        "exporting:export",
        "Export a network: its weights, a model card, and formats such as ONNX, each verified against torch.",
    ),
    "calibrate": LazyCommand(
        "calibrating:calibrate",
        "Correct the confidence of an exported network by labels of a few images of where it is used.",
    ),
    "upscale": LazyCommand(
        "upscaling:upscale",
        "Upscale an image with an exported network, strip by strip; the result equals the untiled one up to rounding.",
    ),
    "recover": LazyCommand(
        "recovering:recover",
        "Recover a damaged run: save its readable parts as a new run, which can be resumed.",
    ),
    "list": LazyCommand(
        "listing:list_plugins",
        "List search spaces, strategies, predictors, benchmarks, transforms, data sets; or the options of one of them.",
    ),
    "check": LazyCommand(
        "checking:check",
        "Check a plug-in against the contract of its kind, rule by rule; exit code 1 if one is broken.",
    ),
    "serve": LazyCommand("serving:serve", "Serve a saved predictor over HTTP, until Ctrl-C."),
    "predictor": LazyCommand(
        "predicting:app", "Fit predictors to measured architectures, and predict the scores of others."
    ),
    "benchmark": LazyCommand(
        "benchmarking:app", "Show the tables of benchmarks, import them from official files, or measure them."
    ),
}
"""All commands by name, in the order of the help."""


class LazyGroup(TyperGroup):
    """The commands of `COMMANDS`: their names and summaries, and the command itself only once it is called."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name, help=known.summary) for name, known in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The imported command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


def load(name: str) -> Any:
    """Import the command with this name. It is a click object."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    found = getattr(importlib.import_module(f"nasplat.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        found = alone
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    name="nasplat",
    help="Search neural-network architectures, look at what was found, and export it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    """Run a command and exit: 0 done, 1 failed while running, 2 wrong input, 130 interrupted, 141 output not read."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot encode must not stop the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        Path.cwd()  # libraries end the process without a message where it is gone
    except FileNotFoundError:
        sys.exit(_report(InputError("the working directory has been deleted; change to one that exists"), WRONG_INPUT))
    try:
        with _warnings_printed():
            code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what is left in its buffer meets a closed pipe here, not when Python ends
    except ClickException as error:
        code = _usage(error)
    except InputError as error:
        code = _report(error, WRONG_INPUT)
    except NasplatError as error:
        code = _report(error, FAILED)
    except MemoryError:
        code = _report(RunError("there is not enough memory; free some, or raise its limit (ulimit -v)"), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        code = _end_unread()
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # typer and rich end the process when they meet one
            raise
        code = _end_unread()
    except OSError as error:
        if error.filename is not None or not is_full(error):
            raise
        code = _report(StorageError(f"the output cannot be written: {error.strerror}; free disk space"), FAILED)
        sys.stdout = None  # what is left in its buffer cannot be written either
    sys.exit(code if isinstance(code, int) else DONE)


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print each warning of the platform once, as messages are printed; others as Python does, in a printable form."""
    said: set[str] = set()
    own = DamageWarning, InfeasibleWarning
    with warnings.catch_warnings():
        for each in own:
            warnings.simplefilter("always", each)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text = " ".join(str(message).split())
            if not issubclass(category, own):
                others(printable(text), category, filename, lineno, file, line)
            elif text not in said:
                said.add(text)
                err.print(f"[yellow]warning:[/] {escape(text)}")

        warnings.showwarning = show
        yield


def _end_unread() -> int:
    """The exit code after the reader has closed the pipe; what is left in buffers is discarded."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  as long as the process
    return UNREAD


def _usage(error: Any) -> int:
    lines = str(error.message).expandtabs(4).split("\n")
    error.message = "\n".join(map(printable, lines))  # arguments may be names of files, which others have chosen
    error.show()
    code: int = error.exit_code
    return code


def _report(error: NasplatError, code: int) -> int:
    err.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}")
    return code
