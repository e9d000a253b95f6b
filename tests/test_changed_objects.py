"""A run goes on with the objects that it was searched with, and notices other ones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import nasplat
import nasplat.interface.sections
from nasplat.authoring.function import function_benchmark
from nasplat.interface.fingerprints import fingerprint
from nasplat.registry import STRATEGIES
from nasplat.run.directory import RunDirectory
from nasplat.run.trust import resuming
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.strategies.nsga2 import NSGA2
from nasplat.strategies.random_search import RandomSearch

Command = Callable[..., subprocess.CompletedProcess[str]]
Evaluate = Callable[..., dict[str, float]]


def perceptron(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 2))


def space_of(*widths: int) -> nasplat.GeneSpace:
    return nasplat.space({"width": widths}, perceptron, input_shape=(3, 2, 2), outputs=2)


SPACE = space_of(*range(2, 40))


def constant(value: float) -> Evaluate:
    def evaluate(network: nn.Module) -> dict[str, float]:
        return {"accuracy": value}

    return evaluate


def searched(folder: Path, evaluate: Evaluate, space: Any = SPACE, evaluations: int = 3) -> nasplat.Run:
    return nasplat.search(
        space=space, benchmark=evaluate, strategy="random_search", objectives="accuracy:max", evaluations=evaluations,
        out=folder, progress=False,
    )  # fmt: skip


def accuracies(run: nasplat.Run) -> list[float]:
    return [outcome.metrics["accuracy"] for outcome in run.trials() if isinstance(outcome, nasplat.Measurement)]


@pytest.mark.slow
def test_runs_with_functions_of_one_name_keep_each_its_own(tmp_path: Path) -> None:
    runs = [searched(tmp_path / f"{number}", constant(number / 10)) for number in range(3)]
    for number, run in enumerate(runs):
        assert accuracies(run.resume(evaluations=5, progress=False)) == [number / 10] * 5
    assert len({run.config.benchmark.name for run in runs}) == 3
    again = searched(tmp_path / "again", constant(0.1))  # the same code as of the second
    assert again.config.benchmark.name == runs[1].config.benchmark.name
    opened = nasplat.open_run(tmp_path / "1")
    assert accuracies(opened.resume(evaluations=6, progress=False)) == [0.1] * 6


@pytest.mark.slow
def test_a_run_is_opened_with_its_own_objects_only(tmp_path: Path) -> None:
    searched(tmp_path / "run", constant(0.1))
    with pytest.raises(nasplat.InputError, match=r"code of the benchmark .* has changed.*accept_changed_code"):
        nasplat.open_run(tmp_path / "run", benchmark=constant(0.9))
    run = nasplat.open_run(tmp_path / "run", benchmark=constant(0.1), space=space_of(*range(2, 40)))
    assert accuracies(run.resume(evaluations=4, progress=False)) == [0.1] * 4
    for accept in (False, True):  # codes of other genes mean other networks
        with pytest.raises(nasplat.InputError, match="genes of the search space"):
            nasplat.open_run(tmp_path / "run", space=space_of(*range(3, 41)), accept_changed_code=accept)
    run = nasplat.open_run(tmp_path / "run", space=SPACE, benchmark=constant(0.9), accept_changed_code=True)
    assert accuracies(run.resume(evaluations=6, progress=False)) == [*[0.1] * 4, 0.9, 0.9]
    assert len(run.directory.environment["former_objects"]) == 1


@pytest.mark.slow
def test_what_opens_one_run_changes_no_other(tmp_path: Path) -> None:
    """Runs of other processes may have the same names."""
    first = searched(tmp_path / "first", constant(0.1))
    with pytest.raises(nasplat.InputError, match="has changed"):
        nasplat.open_run(tmp_path / "first", benchmark=constant(0.9))
    assert accuracies(first.resume(evaluations=4, progress=False)) == [0.1] * 4
    nasplat.open_run(tmp_path / "first", benchmark=constant(0.9), accept_changed_code=True)
    assert accuracies(first.resume(evaluations=5, progress=False)) == [0.1] * 5
    registry, name = nasplat.interface.sections.REGISTRIES["benchmark"], first.config.benchmark.name
    registry.restore(name, None)  # as in a new process
    bare = nasplat.open_run(tmp_path / "first")
    registry.adopt(name, function_benchmark(constant(0.8)))  # as a search of that process may
    with pytest.raises(nasplat.InputError, match="has changed"):
        bare.resume(evaluations=6, progress=False)


def test_installed_plug_ins_are_not_replaced(tmp_path: Path) -> None:
    run = nasplat.search(
        space=NASBench201(channels=2, cells=1), benchmark="zero_cost", strategy="random_search", evaluations=1,
        objectives="synflow:max", out=tmp_path / "run", progress=False,
    )  # fmt: skip

    class Own(RandomSearch):
        pass

    for given in ({"strategy": Own}, {"strategy": NSGA2}, {"benchmark": constant(0.1)}, {"space": SPACE}):
        with pytest.raises(nasplat.InputError, match=r"was searched with the \w+ .*leave it out"):
            nasplat.open_run(run.folder, **given)
    with pytest.raises(nasplat.InputError, match="with channels=2"):
        nasplat.open_run(run.folder, space=NASBench201(channels=4, cells=1))
    assert STRATEGIES.get("random_search") is RandomSearch
    assert nasplat.open_run(run.folder, space=NASBench201(channels=2, cells=1), strategy="random_search").trials()


MODULE = """
FACTOR = {factor}

def helper(x):
    return {helper}

def evaluate(network, *, rate: float = {rate}):
    {comment}
    return {{"accuracy": FACTOR * helper(rate)}}
"""
SAME = {"factor": "0.5", "helper": "x / 2", "rate": "0.1", "comment": "# nothing"}


@pytest.mark.parametrize(
    ("change", "noticed"),
    [({}, False), ({"comment": "# another comment"}, False), ({"factor": "0.6"}, True), ({"helper": "x / 3"}, True),
     ({"rate": "0.2"}, True), ({"comment": "pass"}, True)],
    ids=["none", "comment", "constant", "helper", "default", "statement"],
)  # fmt: skip
def test_what_a_function_refers_to_is_noticed(change: dict[str, str], noticed: bool, tmp_path: Path) -> None:
    prints = []
    for number, values in enumerate((SAME, SAME | change)):
        path = tmp_path / f"{number}" / "module_of_mine.py"
        path.parent.mkdir()
        path.write_text(MODULE.format(**values))
        made: dict[str, Any] = {"__name__": "module_of_mine"}
        exec(compile(path.read_text(), str(path), "exec"), made)
        prints.append(fingerprint(function_benchmark(made["evaluate"])))
    assert (prints[0] != prints[1]) == noticed


@pytest.mark.slow
def test_a_script_is_the_same_code_as_the_module_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import nasplat\nfrom torch import nn\n\n"
        "def build(width):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 2))\n\n"
        "space = nasplat.space({'width': (4, 8)}, build, input_shape=(3, 2, 2), outputs=2)\n\n"
        "def evaluate(network, *, fail: bool = False, rate=0.5):\n    if fail:\n        network.missing\n"
        "    return {'accuracy': rate}\n\n"
        "if __name__ == '__main__':\n"
        "    for out in ('run', 'again'):\n"
        "        nasplat.search(space=space, benchmark=evaluate, objectives='accuracy:max', evaluations=1, out=out)\n"
        "    try:\n        nasplat.search(space=space, benchmark=evaluate, objectives='accuracy:max', evaluations=1,\n"
        "                       options={'benchmark.fail': True, 'benchmark.rate': 0.25}, out='failed')\n"
        "    except nasplat.NasplatError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "has no attribute 'missing' (mine.py:11)" in done.stdout  # where it was raised
    assert "trial 0 failed (AttributeError)" in done.stderr
    runs = {name: RunDirectory(tmp_path / name) for name in ("run", "again", "failed")}
    assert {run.config.benchmark.name for run in runs.values()} == {"__main__:evaluate"}
    assert "open_run(" in resuming(runs["run"]) and ", space=…, benchmark=…).resume()" in resuming(runs["run"])
    program = (
        "import mine, nasplat\n"
        "run = nasplat.open_run('run', space=mine.space, benchmark=mine.evaluate)\n"
        "print(len(run.resume(evaluations=2, progress=False).trials()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


@pytest.mark.slow
def test_the_command_line_notices_a_changed_module(tmp_path: Path, command: Command) -> None:
    (tmp_path / "changing.py").write_text(MODULE.format(**SAME))
    words = ["--space", "nasbench201", "--benchmark", "changing:evaluate", "--objective", "accuracy:max"]
    words += ["--strategy", "random_search", "--set", "space.channels=1", "--set", "space.cells=1"]
    program = "import sys; from nasplat.cli import main; main()"

    def nasplat_in_a_process(*given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *given], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert nasplat_in_a_process("search", *words, "--evaluations", "2", "--out", "run").returncode == 0
    more = ("resume", "run", "--evaluations", "3", "--trust-run")
    (tmp_path / "changing.py").write_text(MODULE.format(**SAME | {"comment": "# a comment"}))
    assert nasplat_in_a_process(*more).returncode == 0
    (tmp_path / "changing.py").write_text(MODULE.format(**SAME | {"helper": "x / 3"}))
    refused = nasplat_in_a_process("resume", "run", "--evaluations", "4", "--trust-run")
    assert refused.returncode == 2 and "--accept-changed-code" in refused.stderr
    accepted = nasplat_in_a_process("resume", "run", "--evaluations", "4", "--trust-run", "--accept-changed-code")
    assert accepted.returncode == 0, accepted.stderr


@pytest.mark.slow
def test_a_predictor_of_a_space_of_ones_own_is_opened_with_it(tmp_path: Path) -> None:
    run = searched(tmp_path / "run", lambda network: {"accuracy": 1 / sum(p.numel() for p in network.parameters())},
                   evaluations=12)  # fmt: skip
    saved = nasplat.fit_predictor(run, "random_forest", out=tmp_path / "saved", folds=0)
    codes = [member.architecture.code for member in run.pick("all")]
    values = [each.value for each in saved.estimate(codes)]
    program = (
        "import sys, nasplat; from torch import nn\n"
        "def perceptron(width): return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.Linear(width, 2))\n"
        "space = nasplat.space({'width': range(2, 40)}, perceptron, input_shape=(3, 2, 2), outputs=2)\n"
        "try: nasplat.load('network')\n"
        "except nasplat.InputError as error: print(error)\n"
        "saved = nasplat.open_predictor('saved', space=space)\n"
        "print([each.value for each in saved.estimate(sys.argv[1:])])\n"
        "print(sum(each.numel() for each in nasplat.load('network', space=space).parameters()))\n"
    )
    run.export(out=tmp_path / "network", latency=False)
    done = subprocess.run(
        [sys.executable, "-c", program, *codes], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    refused, printed, params = done.stdout.splitlines()
    assert printed == str(values)
    assert "nasplat.load(folder, space=…)" in refused and float(params) == run.best.metrics["params"]


def test_an_interruption_says_what_another_process_needs(tmp_path: Path) -> None:
    from nasplat.interface.running import reopening

    run = searched(tmp_path / "run", constant(0.5), evaluations=1)
    assert "in another process, give its objects again" in reopening(run.folder)
    assert ", space=…, benchmark=…).resume()" in reopening(run.folder)
