"""What the test suite costs and what it holds.

    python performance/suite.py times [PYTEST ARGUMENTS]     run it, and print the slowest tests by processor time
    python performance/suite.py count                        assertions and cases by the kind of promise

`times` runs pytest as `make test` does, with the arguments, records each test's processor time with that of the
processes that it waited for, and says which tests have a time limit below ten times what they took. `count` collects
tests and runs none; `--checkout FOLDER` counts another revision, checked out there, with the same rules.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORD = "NASPLAT_SUITE_RECORD"
"""The environment variable with the file that `times` has its tests recorded in, one for each worker."""
SPARE = 10
"""How many times what a test took its time limit should be."""

MODULES = ["-n", "auto", "--dist", "loadgroup", "--no-loadscope-reorder"]
"""As `make test` does it."""
KINDS = {
    "contract": r"test_contracts|test_broken_plugins|contract",
    "kill": r"kill|interrupt|ctrl_c|is_stopped|struck|dies|died|outlives|left_running|leaves_no_process|goes_on|go_on",
    "fault": r"full_disk|_fails|failed|failure|cannot_be_written|lost|ran_out|time_limit|test_faults|recover",
    "mangled input": r"mangled|damaged|truncated|flipped|refus|wrong|malformed|misspelt|is_no_|are_no_|hurt|unknown",
    "exactness": r"equal|same|exact|to_the_bit|float64|agree|brute_force|formula|published|what_.*_(does|gives)"
    r"|reference|computes|identical|alike|twins|counted|costs_are|is_what|are_what|oracle",
}
"""The kinds of promises, each with what names of its tests have in common; the first that fits counts."""


# While pytest runs


class Recorder:
    """Writes down what each test took.

    Args:
        path: One JSON document a line.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure around set-up, call and tear-down."""
        began, before = time.monotonic(), _processor_seconds()
        done = yield
        marker = item.get_closest_marker("timeout")
        limit = marker.args[0] if marker is not None else float(item.config.getini("timeout"))
        took = {"seconds": time.monotonic() - began, "processor": _processor_seconds() - before}
        self._file.write(json.dumps({"test": item.nodeid, "limit": limit, **took}) + "\n")
        self._file.flush()
        return done


def pytest_configure(config: pytest.Config) -> None:
    """Record where `times` has asked for it."""
    if RECORD in os.environ:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        config.pluginmanager.register(Recorder(Path(f"{os.environ[RECORD]}.{worker}")), "nasplat-recorder")


def _processor_seconds() -> float:
    """Of this process and of those that it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# What the commands print


def times(arguments: list[str]) -> int:
    """Run the tests and print the slowest."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        paths = os.pathsep.join([str(ROOT / "performance"), *filter(None, [os.environ.get("PYTHONPATH")])])
        began = time.monotonic()
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "suite", *MODULES, "-q", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, RECORD: str(record)},
        ).returncode
        passed = time.monotonic() - began
        took = [json.loads(line) for path in sorted(Path(folder).iterdir()) for line in path.read_text().splitlines()]
    took.sort(key=lambda each: -each["processor"])
    total = sum(each["processor"] for each in took)
    print(f"\n{len(took)} tests, {passed:.0f} s by the clock, {total:.0f} s of processor time")
    print("\n| test | processor, s | clock, s |\n| --- | ---: | ---: |")
    for each in took[:30]:
        print(f"| `{each['test'].removeprefix('tests/')}` | {each['processor']:.1f} | {each['seconds']:.1f} |")
    print("\nBy module, processor seconds:")
    modules: Counter[str] = Counter()
    for each in took:
        modules[each["test"].partition("::")[0]] += each["processor"]
    print(", ".join(f"{Path(name).name} {seconds:.0f}" for name, seconds in modules.most_common(20)))
    tight = [each for each in took if each["seconds"] * SPARE > each["limit"]]
    print(f"\n{len(tight)} tests have a limit below {SPARE} times what they took")
    for each in tight:
        print(f"  {each['test']}: {each['seconds']:.1f} s of {each['limit']:.0f} s")
    return code


def count(checkout: Path) -> int:
    """Print assertions and cases by kind."""
    assertions: Counter[str] = Counter()
    for path in [*sorted((checkout / "tests").glob("test_*.py")), *sorted((checkout / "nasplat/testing").glob("*.py"))]:
        for function, written in _assertions(path).items():
            checks = path.parent.name == "testing"
            named = function.startswith("test_")
            kind = "contract" if checks else _kind(f"{path.stem}::{function}") if named else "in helpers"
            assertions[kind] += written
    cases = {"make test": _cases(checkout, []), "whole": _cases(checkout, ["--whole"])}
    print(
        "| kind | assertions written | cases of `make test` | cases of `make test-all` |\n| --- | ---: | ---: | ---: |"
    )
    for kind in [*KINDS, "other", "in helpers"]:
        print(f"| {kind} | {assertions[kind]} | {cases['make test'][kind]} | {cases['whole'][kind]} |")
    print(f"| all | {assertions.total()} | {cases['make test'].total()} | {cases['whole'].total()} |")
    return 0


def _assertions(path: Path) -> dict[str, int]:
    """How many assertions each function of a module has, those of functions inside it and expected errors included."""
    found: dict[str, int] = defaultdict(int)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for inner in ast.walk(node):
            calls = isinstance(inner, ast.Attribute) and inner.attr in ("raises", "fail", "assert_allclose")
            fails = isinstance(inner, ast.Raise) and "AssertionError" in ast.dump(inner)
            if isinstance(inner, ast.Assert) or calls or fails:
                found[getattr(node, "name", "")] += 1
    return found


def _cases(checkout: Path, arguments: list[str]) -> Counter[str]:
    """How many tests are collected, by kind."""
    collect = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-o",
        "addopts=--import-mode=importlib --doctest-modules",
    ]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([*collect, *arguments], cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode == 4 and arguments:  # a revision that knows no part of a sweep: it always runs the whole
        return _cases(checkout, [])
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    names = [line for line in done.stdout.splitlines() if "::" in line]
    return Counter(_kind(f"{Path(name.partition('::')[0]).stem}::{name.partition('::')[2]}") for name in names)


def _kind(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name.partition("[")[0])), "other")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("times", add_help=False)
    counting = commands.add_parser("count")
    counting.add_argument("--checkout", type=Path, default=ROOT)
    given, rest = parser.parse_known_args()
    if rest and given.command != "times":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return times(rest) if given.command == "times" else count(given.checkout.resolve())


if __name__ == "__main__":
    sys.exit(main())
