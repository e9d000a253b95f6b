"""What is imported when: commands that only look load none of what takes seconds."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer
from rich.text import Text

from nasplat.cli.app import COMMANDS, load
from nasplat.options import described_options
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, STRATEGIES

HEAVY = {"matplotlib", "onnx", "onnxruntime", "pandas", "PIL", "ray", "sklearn", "torch", "torchvision"}
"""Packages that take a large part of a second, or more, to import."""
LIGHT = {"numpy", "pydantic"}
"""Not wanted where there is nothing to check or to compute, either."""
PROGRAM = """
import json, sys
from nasplat.cli import main
sys.argv = ["nasplat", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


def imported(*arguments: str, folder: Path) -> set[str]:
    """The packages that a command has imported, as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=folder, check=True
    )
    code, packages = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(packages)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run in it."""
    folder = tmp_path_factory.mktemp("lazy")
    program = "from nasplat.cli.app import app; import sys; app(sys.argv[1:], standalone_mode=False)"
    search = [
        "search", "--space", "esrn/tiny", "--benchmark", "super_resolution_table", "--strategy", "random_search",
        "--objective", "psnr_db:max", "--objective", "macs:min", "--evaluations", "5", "--out", "runs/small",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-c", program, *search], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "list", "list strategies", "runs", "show runs/small", "search --help"]
)
def test_commands_that_look_load_nothing_heavy(arguments: str, runs: Path) -> None:
    found = imported(*arguments.split(), folder=runs)
    assert not found & HEAVY
    if arguments in ("--help", "--version"):
        assert not found & LIGHT


def test_the_help_says_of_each_command_what_the_command_says_itself() -> None:
    for name, known in COMMANDS.items():
        module, _, attribute = known.target.partition(":")
        found = getattr(import_module(f"nasplat.cli.{module}"), attribute)
        said = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
        assert " ".join((said or "").partition("\n\n")[0].split()) == known.summary, name


@pytest.mark.parametrize("name", ["predictor", "benchmark", "list"])
def test_no_command_offers_to_edit_the_shell(name: str, command: Callable[..., CompletedProcess[str]]) -> None:
    done = command(name, "--help")
    assert done.returncode == 0 and "completion" not in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_a_help_text_is_taken_for_markup(name: str) -> None:
    waiting = [load(name)]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for said in (command.help, *(getattr(parameter, "help", None) for parameter in command.params)):
            assert Text.from_markup(said or "").plain == (said or "")


def test_every_option_of_every_plug_in_is_explained() -> None:
    silent = [
        f"{plugin.name}.{option.name}"
        for registry in (SEARCH_SPACES, STRATEGIES, PREDICTORS, BENCHMARKS)
        for plugin in registry
        for option in described_options(registry.get(plugin.name))
        if not option.meaning
    ]
    assert not silent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completed"),
    [("nasplat se", ["search", "serve"]), ("nasplat search --exec", ["--executor"]), ("nasplat predictor f", ["fit"])],
    ids=str,
)
def test_shells_complete_commands_and_options(words: str, completed: list[str]) -> None:
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_NASPLAT_COMPLETE": "complete_bash"}
    program = "import sys; sys.argv = ['nasplat']; from nasplat.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.stdout.split() == completed, done.stderr
