"""Zero-cost proxies as a benchmark, and as features of predictors."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.benchmarks.zero_cost import ZeroCost
from nasplat.config import Workload
from nasplat.data.datasets import dataset
from nasplat.errors import InputError, TrialFailed
from nasplat.options import construct
from nasplat.registry import PREDICTORS, SEARCH_SPACES
from nasplat.search_spaces.esrn import ESRNTiny
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.surrogates.predictor_store import make_predictor, open_predictor
from nasplat.surrogates.zero_cost import PROXIES, Proxies, noise, reduced
from nasplat.task import Evaluate
from nasplat.testing import PREDICTOR_CHECKS

SPACE = NASBench201(channels=4, cells=1)
CELL = SPACE.parse("334312")
TABULAR = ("random_forest", "gradient_boosting", "lightgbm")


def task(architecture: Architecture, seed: int = 0, fidelity: int = 1) -> Evaluate:
    """The task of measuring it."""
    return Evaluate(id=0, seed=seed, architecture=architecture, fidelity=fidelity)


def figures(benchmark: Benchmark, architecture: Architecture, seed: int = 0) -> dict[str, float]:
    """What the benchmark says of it."""
    return dict(benchmark.measure(task(architecture, seed), device="cpu", artifacts=MemoryArtifacts()).metrics)


@pytest.mark.slow
def test_the_batch_is_of_training_pictures_and_the_same_for_every_task() -> None:
    benchmark = ZeroCost(SPACE, dataset="digits", batch=16)
    found = figures(benchmark, CELL, seed=1)
    assert found == figures(ZeroCost(SPACE, dataset="digits", batch=16), CELL, seed=2)
    images, labels = benchmark._pictures()
    splits = dataset("digits").load()
    whole = splits.training.batch(slice(None))
    training = {image.numpy().tobytes(): int(label) for image, label in zip(*whole, strict=True)}
    others = {image.numpy().tobytes() for part in (splits.validation, splits.test) for image in part.images}
    drawn = [image.numpy().tobytes() for image in images]
    assert len(set(drawn)) == 16 and not set(drawn) & (others - training.keys())
    assert [training[picture] for picture in drawn] == labels.tolist()
    direct = Proxies(SPACE, dataset("digits").io, names=list(found), images=images, labels=labels)
    assert found == direct(CELL)
    assert found != figures(ZeroCost(SPACE, dataset="digits", batch=16, seed=1), CELL)


def test_noise_needs_no_data_and_suits_spaces_that_upscale_pictures() -> None:
    space = ESRNTiny()
    benchmark = construct("benchmark", ZeroCost, space, batch=4, side=8)
    benchmark.check()
    found = figures(benchmark, space.sample(default_rng(0)))
    assert list(found) == list(ZeroCost.metrics) and all(map(math.isfinite, found.values()))
    assert benchmark.io == space.reference_io  # what costs are of
    images, _ = noise(reduced(space.reference_io, 8), 4, seed=0)
    assert images.shape == (4, 3, 8, 8) and torch.equal(benchmark._pictures()[0], images)


def test_one_proxy_alone_is_what_it_is_among_others() -> None:
    whole = figures(construct("benchmark", ZeroCost, SPACE, batch=8, side=8), CELL)
    for name in ZeroCost.metrics:
        benchmark = construct("benchmark", ZeroCost, SPACE, batch=8, side=8, proxies=(name,))
        assert benchmark.metrics == (name,) and figures(benchmark, CELL) == {name: whole[name]}
    assert set(whole) | {"params", "macs"} == set(PROXIES)


def test_pictures_of_another_kind_than_the_space_is_for_are_refused() -> None:
    with pytest.raises(InputError, match="of the search space esrn/tiny upscale images, but the data is for class"):
        Workload("esrn/tiny", "zero_cost", {}, {"dataset": "digits"}).make().prepare()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "nois"}, "no data set is named 'nois'; did you mean 'noise'"),
        ({"proxies": ()}, "must name at least one proxy, and each only once, but got none"),
        ({"proxies": ("nwot", "nwot")}, "each only once, but got nwot, nwot"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        construct("benchmark", ZeroCost, SPACE, **options).check()


def test_there_is_one_fidelity_and_no_test() -> None:
    benchmark = construct("benchmark", ZeroCost, SPACE, batch=4, side=8)
    with pytest.raises(TrialFailed, match="ask for fidelity 1"):
        benchmark.measure(task(CELL, fidelity=2), device="cpu", artifacts=MemoryArtifacts())
    measurement = benchmark.measure(task(CELL), device="cpu", artifacts=MemoryArtifacts())
    with pytest.raises(
        InputError, match="cannot be measured on test images; train the architecture with the benchmark"
    ):
        benchmark.final(measurement, device="cpu", artifacts=MemoryArtifacts())


def test_a_figure_that_is_not_finite_is_a_failed_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    build = SPACE.build

    def exploding(*arguments: Any) -> torch.nn.Module:
        network = build(*arguments)
        torch.nn.init.constant_(network.head[-1].weight, math.inf)  # type: ignore[index,union-attr]
        return network

    monkeypatch.setattr(SPACE, "build", exploding)
    with pytest.raises(TrialFailed, match="snip of the untrained network is nan"):
        figures(construct("benchmark", ZeroCost, SPACE, batch=4, side=8, proxies=("snip",)), CELL)


def test_synflow_of_signs_is_a_failed_trial() -> None:
    space = construct("space", SEARCH_SPACES.get("nasbench201+balanced_binary"), channels=4, cells=1)
    benchmark = construct("benchmark", ZeroCost, space, batch=4, side=8, proxies=("synflow",))
    with pytest.raises(TrialFailed, match="leave synflow out"):
        figures(benchmark, space.parse("333333"))


@pytest.mark.slow
def test_a_search_by_a_proxy_from_the_command_line(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    searched = command(
        "search", "--space", "nasbench201", "--set", "space.channels=4", "--set", "space.cells=1",
        "--benchmark", "zero_cost", "--set", "benchmark.dataset=digits", "--strategy", "random_search",
        "--objective", "nwot:max", "--objective", "params:min", "--evaluations", 5, "--out", "run",
    )  # fmt: skip
    assert searched.returncode == 0, searched.stderr
    shown = " ".join(command("show", "run").stdout.split())
    assert "32 training images of digits, mean of 1 initialization, seed 0" in shown
    refused = command("show", "run", "--front", "--test")
    assert refused.returncode == 2 and "has only zero-cost proxies" in refused.stderr


@pytest.mark.parametrize("check", PREDICTOR_CHECKS, ids=lambda check: check.__name__)
def test_a_predictor_with_proxies_keeps_its_contract(check: Any) -> None:
    make: Any = PREDICTORS.get("random_forest")
    check(partial(make, trees=20, proxies=("nwot", "params")))


@pytest.fixture(scope="module")
def judged() -> tuple[list[Architecture], NDArray[np.float64]]:
    """Cells, and what a proxy says of each."""
    rng = default_rng(0)
    cells = [SPACE.sample(rng) for _ in range(70)]
    proxies = Proxies(SPACE, reduced(SPACE.reference_io, 16), names=("jacov",), batch=16)
    return cells, np.array([proxies(cell)["jacov"] for cell in cells])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABULAR)
def test_what_a_proxy_says_is_learnt_better_with_it(
    name: str, judged: tuple[list[Architecture], NDArray[np.float64]]
) -> None:
    from scipy.stats import kendalltau

    if name == "lightgbm":
        pytest.importorskip("lightgbm")
    cells, scores = judged
    taus = []
    for proxies in ([], ["jacov"]):
        predictor = make_predictor(name, SPACE, {"proxies": proxies, "linear": False}).fit(cells[:40], scores[:40])
        taus.append(kendalltau(predictor.predict(cells[40:]), scores[40:]).statistic)
    assert taus[1] > taus[0] + 0.1


@pytest.mark.slow
def test_a_saved_predictor_with_proxies_says_the_same_in_another_process(tmp_path: Path) -> None:
    rng = default_rng(0)
    cells = [SPACE.sample(rng) for _ in range(20)]
    predictor = make_predictor("random_forest", SPACE, {"proxies": ["jacov", "synflow"], "trees": 10})
    predictor.fit(cells[:12], rng.random(12)).save(tmp_path / "saved")
    assert open_predictor(tmp_path / "saved").predictor.predict(cells).tolist() == predictor.predict(cells).tolist()
    # In another order, so that nothing hangs on what was asked first.
    program = (
        "import sys; from pathlib import Path; from nasplat.surrogates.predictor_store import open_predictor\n"
        "saved = open_predictor(Path(sys.argv[1]))\n"
        "print(saved.predictor.predict([saved.space.parse(code) for code in sys.argv[2:]]).tolist())"
    )
    codes = [cell.code for cell in cells[::-1]]
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "saved"), *codes], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)[::-1] == predictor.predict(cells).tolist()


def test_codes_of_one_network_have_the_features_of_their_own_whichever_came_first() -> None:
    first, second = (SPACE.parse(code) for code in ("000300", "300300"))  # dead edges
    assert SPACE.canonical_key(first) == SPACE.canonical_key(second)
    rows = []
    for order in ((first, second), (second, first)):
        space = NASBench201(channels=4, cells=1)
        predictor: Any = make_predictor("random_forest", space, {"proxies": ["params"]})
        rows.append(dict(zip(order, predictor.table(order)[:, -1].tolist(), strict=True)))
    assert rows[0] == rows[1] and rows[0][first] != rows[0][second]


def test_an_unknown_proxy_is_refused_before_anything_is_learnt() -> None:
    with pytest.raises(InputError, match="no zero-cost proxy is named 'nwott'; did you mean 'nwot'"):
        make_predictor("gradient_boosting", SPACE, {"proxies": ["nwott"]})
