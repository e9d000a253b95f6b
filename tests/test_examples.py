"""The examples do what they say."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.random import default_rng

from nasplat.architecture import IO
from nasplat.config import SearchConfig, load_tree
from nasplat.driver.assembly import Assembly
from nasplat.latency.table import Row, write_table
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.testing import STRATEGY_CHECKS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_the_example_strategy_searches(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_strategy.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("best of 10: nasbench201:")


@pytest.mark.slow
@pytest.mark.parametrize("check", STRATEGY_CHECKS, ids=lambda check: check.__name__)
def test_the_example_strategy_keeps_the_contract(check: Callable[..., None]) -> None:
    spec = importlib.util.spec_from_file_location("own_strategy", EXAMPLES / "own_strategy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check(module.Greedy)


@pytest.fixture
def latencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has the table that the quick start's comment says how to make."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    space, io = GhostSmall(), IO.image(channels=1, side=16, outputs=10)
    blocks = [block for i in range(400) for block in space.blocks(space.sample(default_rng(i)), io)]
    rows = {(block.kind, block.widths): Row(block.kind, block.widths, 0.1) for block in blocks}
    write_table(tmp_path / "runs" / "latency.csv", {}, rows.values())


@pytest.mark.usefixtures("latencies")
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_configuration_is_whole(path: Path) -> None:
    assembly = Assembly.of(SearchConfig.read(load_tree(path)))
    assert assembly.budget.ends or assembly.strategy.progress == 0
