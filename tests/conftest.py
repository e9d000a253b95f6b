"""What all tests share: where real tables lie, a hand on the command line, and the part of long sweeps that runs."""

import csv
import gzip
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import pytest
from forked import ForkServer
from hypothesis import settings
from numpy.random import default_rng

from nasplat.cli.app import main
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, STRATEGIES, Plugin

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "NASPLAT_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["NASPLAT_DATA"] = str(_SHARED)

# Tests run beside each other and beside Ray workers; more threads than cores would only wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

# Hundreds of processes import torch, Ray and this project. Installing compiles nothing, and where this variable is set,
# as in many containers, each of them would compile all of it again, which takes longer than most tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A Ray cluster asks for the token that starting it has made; who names its address is told so before Ray is loaded.
os.environ.setdefault("RAY_AUTH_MODE", "token")

_PLUGIN = Path(__file__).parent / "plugin"

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
T = TypeVar("T")

# Long sweeps: a part of each runs with every commit, another one with the next, and all of it with --whole


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that say how much of the long sweeps runs."""
    group = parser.getgroup("nasplat", "long sweeps")
    group.addoption("--whole", action="store_true", help="run the long sweeps whole")
    group.addoption(
        "--part", metavar="TEXT", help="which part of the long sweeps runs; without it, the hash of the commit decides"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Settle the part once, for all workers."""
    if config.option.part is None:
        config.option.part = _commit()
    settings.register_profile("nasplat", max_examples=150 if config.option.whole else 50)
    settings.load_profile("nasplat")


def pytest_report_header(config: pytest.Config) -> str:
    """Which part of the long sweeps runs, and how it is run again."""
    return "long sweeps: whole" if config.option.whole else f"long sweeps: --part {config.option.part}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """What starts Ray runs on one worker: there is one cluster for all, and two would share the cores anyway."""
    if item.get_closest_marker("ray"):
        item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take one module after another, because of what tests of a module share; Ray's are one of their own."""
    from xdist.scheduler import LoadGroupScheduling

    scheduler = LoadGroupScheduling(config, log)
    scheduler._split_scope = lambda nodeid: "ray" if nodeid.endswith("@ray") else nodeid.partition("::")[0]
    return scheduler


@pytest.hookimpl(trylast=True)  # after -k and -m, which may ask for one case by name
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What waits for Ray comes first; of the cases that a test marks `sweep(n)`, n remain, or one asked for alone."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    if config.option.whole:
        return
    sweeps: dict[tuple[str, int], list[pytest.Item]] = defaultdict(list)
    collected = Counter(item.nodeid.partition("[")[0] for item in items)
    for item in items:
        if marker := item.get_closest_marker("sweep"):
            sweeps[item.nodeid.partition("[")[0], marker.args[0]].append(item)
    left_out: set[str] = set()
    for (name, count), cases in sweeps.items():
        if collected[name] == 1:
            continue
        kept = _some(cases, count, f"{config.option.part} {name}")
        left_out |= {case.nodeid for case in cases} - {case.nodeid for case in kept}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


class Part(Protocol):
    """Chooses what of a sweep runs."""

    def __call__(self, members: Sequence[T], count: int) -> list[T]:
        """So many of the members, in their order; all of them with --whole."""


@pytest.fixture
def part(request: pytest.FixtureRequest) -> Part:
    """The part of a sweep inside a test that runs with this commit."""

    def some(members: Sequence[T], count: int) -> list[T]:
        if request.config.option.whole:
            return list(members)
        return _some(members, count, f"{request.config.option.part} {request.node.nodeid.removesuffix('@ray')}")

    return some


def _some(members: Sequence[T], count: int, seed: str) -> list[T]:
    """So many members, chosen by a text, in their order."""
    chosen = random.Random(seed).sample(range(len(members)), min(count, len(members)))
    return [members[index] for index in sorted(chosen)]


def _commit() -> str:
    """The short hash of the commit that is checked out; where there is no repository, a fixed text."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except OSError:
        return "none"
    return done.stdout.strip() or "none"


# What tests are given


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """A closed terminal ends the processes that a test starts, also where `nohup` lets those of the tests go on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing around the tests asks for colors."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def only_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """NAS-Bench-201 in an installed package is found only by the tests of that."""
    monkeypatch.setattr("nasplat.benchmarks.nasbench201_package.find", lambda prefix: None)


@pytest.fixture(autouse=True)
def brief_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies that exports report are measured for a twentieth of a second; torch is not imported for that."""
    if "nasplat.latency.measuring" in sys.modules:
        monkeypatch.setattr("nasplat.latency.measuring.SECONDS", 0.05)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `nasplat ARGUMENTS` in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = ["nasplat", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(words, ended.value.code, printed.out, printed.err)

    return run


PATIENCE = 60
"""Seconds after which a reader that waits for a pipe is interrupted."""


@pytest.fixture
def never_waiting() -> Iterator[None]:
    """Interrupts a reader that waits."""

    def interrupt(*_: Any) -> None:
        pytest.fail("it waited for a pipe")  # no `except Exception` of what is tested catches this

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def nasplat(tmp_path: Path) -> CommandLine:
    """Runs `nasplat ARGUMENTS` as a user would: a process of its own, in an empty directory."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nasplat", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def shared_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plug-ins that share weights, known by name in this process: `demo_perceptron` and twice `demo_shared`."""
    for registry, name, target in (
        (SEARCH_SPACES, "demo_perceptron", "nasplat_demo.space:Perceptron"),
        (BENCHMARKS, "demo_shared", "nasplat_demo.supernet:SharedFormula"),
        (STRATEGIES, "demo_shared", "nasplat_demo.supernet:SharedGenerations"),
    ):
        monkeypatch.setitem(registry._plugins, name, Plugin(name, target, "nasplat-demo"))


@pytest.fixture(scope="session")
def table() -> Path:
    """The real NAS-Bench-201 table of CIFAR-10."""
    path = Path(os.environ.get("NASPLAT_DATA", "")) / "nasbench201" / "cifar10.csv.gz"
    if not path.is_file():
        pytest.skip(f"the table {path} is missing; set NASPLAT_DATA to the folder above nasbench201/")
    return path


@pytest.fixture
def table101(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up table of some cells of NAS-Bench-101, alone in a data folder, with test accuracies as well."""
    space = SEARCH_SPACES.get("nasbench101")()
    rng = default_rng(0)
    members = {space.canonical_key(each): each.code for each in (space.sample(rng) for _ in range(60))}
    figures = [f"{split}_acc_{epochs}ep" for split in ("val", "test") for epochs in (4, 12, 36, 108)]
    path = tmp_path / "nasbench101" / "made_up.csv.gz"
    path.parent.mkdir()
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["hash", "num_vertices", "adj_bits", "ops", *figures, "train_time_s"])
        for key, code in members.items():
            bits, letters = code.split(":")
            accuracies = rng.random(len(figures)).round(4).tolist()
            writer.writerow([key, len(letters) + 2, int(bits, 16), f"o{letters}", *accuracies, 1080])
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path))
    return path


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the package installed, outside of the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for path in _PLUGIN.rglob("*"):
        if path.is_file() and path.suffix in (".py", ".cfg", ".toml"):
            target = copy / path.relative_to(_PLUGIN)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(copy)], check=True)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]  # a checkout may have been named by it
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


DRIVEN = ("torch.distributed", "ray.cluster_utils", "nasplat.executors.ray", "nasplat.interface.searching")
"""What scripts that use Ray import."""


class Cluster(NamedTuple):
    """Where a Ray cluster listens, in which folder it was started, and what runs scripts that use it."""

    address: str
    home: Path
    scripts: ForkServer


@pytest.fixture(scope="session")
def cluster(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray cluster that somebody else started, in a directory of its own; the demo package is installed there.

    One for all tests that do not ask how Ray is started or what happens when it is damaged: a start takes seconds.
    """
    home = tmp_path_factory.mktemp("cluster")
    environment = {**installed, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=3"]
    with (home / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*ray, "--include-dashboard=false", "--disable-usage-stats"],
            cwd=home,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        while not (address := re.search(r"--address='([^']+)'", (home / "said.txt").read_text())):
            assert process.poll() is None, (home / "said.txt").read_text()
            time.sleep(0.1)
        scripts = ForkServer(DRIVEN, environment)
        try:
            yield Cluster(address[1], home, scripts)
        finally:
            scripts.close()
    finally:
        process.terminate()  # and with it all that it started, but no other Ray of this machine
        process.wait()


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved predictor of cells of NAS-Bench-201: the number of 3 x 3 convolutions, as ridge regression learns it."""
    from nasplat_demo.predictor import Ridge
    from numpy import array
    from numpy.random import default_rng

    from nasplat.metric import Metric
    from nasplat.search_spaces.nasbench201 import NASBench201

    space, rng = NASBench201(), default_rng(0)
    architectures = [space.sample(rng) for _ in range(50)]
    predictor = Ridge(space).fit(architectures, array([a.code.count("3") / 6 for a in architectures]))
    folder = tmp_path_factory.mktemp("learnt") / "predictor"
    predictor.save(folder, {"count": 50, "metric": Metric.of("accuracy").as_json()})
    return folder


@pytest.fixture
def demo_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo package's predictor, known by name in this process."""
    plugin = Plugin("demo_ridge", "nasplat_demo.predictor:Ridge", "nasplat-demo")
    monkeypatch.setitem(PREDICTORS._plugins, "demo_ridge", plugin)
