"""`nasplat check`: the contract of a plug-in, and plug-ins that are files of the working directory."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from nasplat_demo.predictor import Ridge
from nasplat_demo.space import Perceptron
from nasplat_demo.supernet import SharedFormula

import nasplat
from nasplat.errors import InputError
from nasplat.interface.adoption import as_module
from nasplat.strategies.random_search import RandomSearch
from nasplat.testing import (
    BENCHMARK_CHECKS,
    PREDICTOR_CHECKS,
    SEARCH_SPACE_CHECKS,
    STRATEGY_CHECKS,
    SUPERNET_CHECKS,
)

CommandLine = Callable[..., subprocess.CompletedProcess[str]]

SPACE = '''
"""Spaces of a user."""

from torch import nn

from nasplat import Gene, GeneSpace


class MySpace(GeneSpace):
    """Perceptrons of one hidden layer."""

    name = "mine"
    genes = (Gene("width", ("8", "16", "32")), Gene("bias", ("yes", "no")))

    def build(self, architecture, io):
        chosen = self.chosen(architecture)
        width, inputs = int(chosen["width"]), 1
        for side in io.input_shape:
            inputs *= side
        last = nn.Linear(width, io.outputs, bias=chosen["bias"] == "yes")
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), last)


class Broken(MySpace):
    """Forgets to mutate."""

    def mutate(self, architecture, rng, prior=None):
        return architecture
'''


@pytest.fixture(name="spaces")
def file_of_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in the working directory, with a module name of its own."""
    monkeypatch.chdir(tmp_path)
    name = f"spaces_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SPACE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_sound_space_in_a_file_passes(spaces: str, command: CommandLine) -> None:
    done = command("check", f"{spaces}.py:MySpace")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "passed   cost is what is built" in lines
    assert "skipped  supernet extracts copies  mine has no supernet" in lines
    assert lines[-1] == f"{len(SEARCH_SPACE_CHECKS) - 6} passed, 0 failed, 6 skipped"


def test_a_broken_one_fails_with_the_rule_and_what_is_wrong(spaces: str, command: CommandLine) -> None:
    done = command("check", f"{spaces}.py:Broken", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["failed"] > 0
    (mutants,) = [each for each in said["results"] if each["rule"] == "mutants are other members"]
    assert mutants["result"] == "failed" and mutants["message"]


def test_a_file_of_the_working_directory_is_searched(spaces: str, command: CommandLine) -> None:
    done = command(
        "search", "--space", f"{spaces}.py:MySpace", "--benchmark", "zero_cost", "--objective", "synflow:max",
        "--strategy", "random_search", "--evaluations", "2", "--out", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert nasplat.open_run("run", trust=True).config.space.name == f"{spaces}:MySpace"


@pytest.mark.parametrize(
    ("plugin", "options", "checks"),
    [
        (RandomSearch, {"options": {"strategy.duplicates": "cache"}}, STRATEGY_CHECKS),
        ("random_search", {}, STRATEGY_CHECKS),
        (Ridge, {}, PREDICTOR_CHECKS),
        (Perceptron(), {}, SEARCH_SPACE_CHECKS),
        (SharedFormula, {"space": Perceptron}, (*BENCHMARK_CHECKS, *SUPERNET_CHECKS)),
        ("zero_cost", {"space": "nasbench201", "options": {"space.channels": 2}}, BENCHMARK_CHECKS),
    ],
    ids=["class", "name", "predictor", "object", "supernet", "options"],
)
def test_every_kind_has_its_checks(
    plugin: Any, options: dict[str, Any], checks: Sequence[Callable[..., None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasplat.testing.strategies.TRIALS", 20)
    # It measures with shared weights alone.
    alone = {check.__name__.replace("_", " ") for check in BENCHMARK_CHECKS} if plugin is SharedFormula else set()
    found = nasplat.check(plugin, **options)
    assert [each.rule for each in found] == [check.__name__.replace("_", " ") for check in checks]
    failed = {each.rule for each in found if each.result == "failed"}
    assert failed <= alone and "passed" in {each.result for each in found}


def test_whatever_a_plugin_raises_is_said_of_its_rule() -> None:
    class Raising(RandomSearch):
        """Raises where it is told."""

        def tell(self, outcome: Any) -> None:
            raise KeyError("what")

    said = {each.rule: each for each in nasplat.check(Raising)}
    assert said["state goes on exactly"].result == "failed"
    assert said["state goes on exactly"].message == "KeyError: 'what'"
    assert said["proposes at all"].result == "passed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nasbench201"], "names a space and a benchmark; say which, by --kind"),
        (["nope"], "no plug-in is named 'nope'"),
        (
            ["nasbench201", "--kind", "layer"],
            "must be space, strategy, benchmark, predictor, transform, but got 'layer'",
        ),
        (["zero_cost"], "a benchmark is checked on a search space, but got none"),
        (["random_search", "--space", "nasbench201"], "only a benchmark is checked on a space"),
        (["random_search", "--set", "space.channels=2"], "options must be named strategy.OPTION"),
        (["random_search", "--set", "strategy.nope=2"], "no option of strategy is named 'nope'"),
        (["nowhere.py:Thing"], "cannot be imported: ModuleNotFoundError"),
        (["/elsewhere/spaces.py:Thing"], "named by its path from the working directory"),
        (["my-space.py:Thing"], "of names that Python can import"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_wrong_use_is_refused(arguments: list[str], message: str, command: CommandLine) -> None:
    done = command("check", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr


def test_a_file_that_another_module_hides_is_refused(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text(SPACE)
    done = command("check", "random.py:MySpace")
    assert done.returncode == 2 and "random.py has the name of another module" in done.stderr


def test_without_assertions_nothing_is_said_to_pass() -> None:
    program = "import nasplat; print(nasplat.check('random_search'))"
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True)
    assert "checks are assertions" in done.stderr and not done.stdout


def test_a_file_below_is_a_module() -> None:
    assert as_module("spaces/my_space.py:MySpace") == "spaces.my_space:MySpace"
    assert as_module("./my_space.py:MySpace") == "my_space:MySpace"
    assert as_module("my_space:MySpace") == "my_space:MySpace"
    with pytest.raises(InputError, match="working directory"):
        as_module("../my_space.py:MySpace")
