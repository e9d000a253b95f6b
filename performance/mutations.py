"""Does the test suite notice when a promise is broken? Ten deliberate mutations of the source, one for each promise.

    python performance/mutations.py [--only NAME ...] [--revision REV] [--json]

Each mutation changes one line in a copy of the checkout, in which some test files must then fail; in a copy without it
the same tests must pass. Copied are the files that git tracks, as they lie in the working tree, or with `--revision` as
they were. The exit code is 0 if every mutation was caught. About three minutes.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
"""Where tests look for tables beside the checkout; beside a copy there are none."""
FAILED = 1
"""Pytest's exit code for tests that ran and failed; others stand for tests that could not run at all."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault put into the source on purpose.

    Args:
        name: What it is called.
        promise: What the project promises that no longer holds with it, a sentence.
        path: The file that is changed, from the root of the checkout.
        old: What stands there exactly once.
        new: What stands in its place.
        tests: The files or tests that must notice.
    """

    name: str
    promise: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "lost-trial",
        "A resumed search submits everything again that was asked for and never answered.",
        "nasplat/driver/loop.py",
        "for task in list(self.accounts.outstanding.values()):\n            self._route(task)",
        "for task in list(self.accounts.outstanding.values())[1:]:\n            self._route(task)",
        ("tests/test_resume.py::test_what_was_in_flight_is_submitted_again_with_its_ids_and_seeds",),
    ),
    Mutation(
        "wrong-gene",
        "The network that is built is the one that the code names.",
        "nasplat/nn/cells.py",
        "zip(edges, states, strict=True)",
        "zip(edges, states[::-1], strict=True)",
        ("tests/test_nasbench201.py",),
    ),
    Mutation(
        "peek-at-test-data",
        "A search measures on the validation split and never looks at test images.",
        "benchmarks/classification.py",
        "metrics = evaluate(network, self._splits(device).validation, stratified=by_batch)",
        "metrics = evaluate(network, self._splits(device).test, stratified=by_batch)",
        ("tests/test_classification.py",),
    ),
    Mutation(
        "unseeded-choice",
        "Every random choice of a strategy is drawn from the generator that it is given.",
        "nasplat/evolution/selection.py",
        "n_survive=number, random_state=rng, return_indices=True",
        "n_survive=number, return_indices=True",
        ("tests/test_nsga2.py",),
    ),
    Mutation(
        "dropped-gradient",
        "A step of a supernet takes the mean gradient over all of its paths, one that was drawn twice counting twice.",
        "nasplat/training/supernet.py",
        "for path in drawn[self._member :: self._members]:",
        "for path in dict.fromkeys(drawn[self._member :: self._members]):",
        ("tests/test_shared_weights.py",),
    ),
    Mutation(
        "wrong-cost",
        "MACs and parameters are those of the network that is built.",
        "nasplat/nn/costs.py",
        "macs=weights * positions",
        "macs=params * positions",
        ("tests/test_nasbench201.py",),
    ),
    Mutation(
        "another-export",
        "What is exported has the batch-norm statistics that it was measured with.",
        "benchmarks/classification.py",
        "weights | artifacts.get_tensors(left)",
        "artifacts.get_tensors(left) | weights",
        ("tests/test_shared_weights.py",),
    ),
    Mutation(
        "half-written-file",
        "A file appears complete or not at all.",
        "nasplat/storage/files.py",
        "with appearing(path) as file:\n        # Foreign",
        'with path.open("wb") as file:\n        # Foreign',
        ("tests/test_storage.py",),
    ),
    Mutation(
        "damage-believed",
        "An artifact whose content is not what its name says is refused.",
        "nasplat/storage/artifact_store.py",
        "if Handle.of(data) != handle:",
        "if not data:",
        ("tests/test_export.py::test_a_damaged_artifact_is_noticed_and_nothing_is_exported",),
    ),
    Mutation(
        "another-retry",
        "A search goes on from a snapshot with exactly what the strategy knew, each outcome told once.",
        "nasplat/driver/replay.py",
        "event.seq > snapshot[0]",
        "event.seq >= snapshot[0]",
        ("tests/test_storage.py",),
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of some tests.

    Args:
        code: Pytest's exit code.
        passed: How many passed.
        failing: The tests that failed; pytest stops at the first.
        last: What pytest said last.
    """

    code: int
    passed: int
    failing: tuple[str, ...]
    last: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutation.

    Args:
        mutation: Its name.
        promise: What it breaks.
        caught: Whether tests failed with it that pass without it.
        by: The tests that failed.
        why: If it was not caught, what happened instead.
        seconds: How long that took, the run without the mutation included where there was none before.
    """

    mutation: str
    promise: str
    caught: bool
    by: tuple[str, ...]
    why: str
    seconds: float


# Copies


def copy_checkout(folder: Path, revision: str | None) -> Path:
    """Fill a new folder with the tracked files, as they are or as they were; symbolic links stay links."""
    folder.mkdir()
    if revision is not None:
        with tarfile.open(fileobj=BytesIO(_git("archive", "--format=tar", revision))) as archive:
            archive.extractall(folder, filter="data")
        return folder
    for name in filter(None, os.fsdecode(_git("ls-files", "-z")).split("\0")):
        if os.path.lexists(ROOT / name):  # what was deleted is tracked until that is committed
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder


def mutated(folder: Path, mutation: Mutation) -> str:
    """The mutated source of a copy.

    Raises:
        SystemExit: The source has changed, so that it cannot be told what is meant.
    """
    path = folder / mutation.path
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (times := source.count(mutation.old)) != 1:
        raise SystemExit(
            f"{mutation.name}: {mutation.old!r} is to stand in {mutation.path} once, but does {times} times; "
            "bring the mutation up to date"
        )
    return source.replace(mutation.old, mutation.new)


def check_imports(folder: Path) -> None:
    """See that what runs with a copy is the copy, whatever else is installed.

    Raises:
        SystemExit: It is not.
    """
    program = "import nasplat, nasplat.strategies as linked; print(nasplat.__file__, linked.__file__, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder.parent, env=_environment(folder), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the copy cannot be imported: {done.stderr[-2000:]}")
    for line in done.stdout.splitlines():
        if not Path(line).resolve().is_relative_to(folder.resolve()):
            raise SystemExit(f"what is imported is {line}, not the copy in {folder}, so that tests would say nothing")


def _another(checkout: Path, name: str) -> Path:
    """A fresh copy of a copy, with nothing in it that another source was compiled to."""
    folder = checkout.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(checkout, folder, symlinks=True))


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {os.fsdecode(done.stderr).strip()}")
    return done.stdout


def _environment(folder: Path) -> dict[str, str]:
    """With the copy before all that is installed, and the tables where the checkout has them."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    data = {"NASPLAT_DATA": str(DATA)} if DATA.is_dir() else {}
    return {**data, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


# Tests


def run_tests(folder: Path, tests: Collection[str]) -> Run:
    """Run some tests in a copy, up to the first that fails."""
    check_imports(folder)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--color=no", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    summary = done.stdout.rpartition("short test summary info")[2]
    # A module that cannot be imported has no `::`: it fails without any test having noticed anything.
    failing = re.findall(r"^(?:FAILED|ERROR) (.+?::.+?)(?: - .*)?$", summary, re.MULTILINE)
    last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    passed = re.search(r"(\d+) passed", last)
    return Run(done.returncode, int(passed[1]) if passed else 0, tuple(failing), last)


def judge(mutation: Mutation, checkout: Path, sound: dict[tuple[str, ...], Run]) -> Verdict:
    """Whether a mutation is caught.

    Args:
        mutation: Which.
        checkout: A copy without it, in which nothing is run; further ones are made beside it.
        sound: What became of tests without any mutation; those that were not run yet are added.
    """
    began = time.monotonic()
    if mutation.tests not in sound:
        sound[mutation.tests] = run_tests(_another(checkout, "unmutated"), mutation.tests)
    before = sound[mutation.tests]
    by: tuple[str, ...] = ()
    why = ""
    if before.code:
        why = f"tests fail without the mutation: {', '.join(before.failing) or before.last}"
    elif not before.passed:
        why = f"tests do not run here: {before.last}"
    else:
        copy = _another(checkout, "mutated")
        (copy / mutation.path).write_text(mutated(copy, mutation), encoding="utf-8")
        after = run_tests(copy, mutation.tests)
        if after.code == FAILED and after.failing:
            by = after.failing
        else:
            why = "tests pass" if not after.code else f"pytest ended with {after.code}: {after.last}"
    return Verdict(mutation.name, mutation.promise, not why, by, why, time.monotonic() - began)


def campaign(names: Collection[str], revision: str | None) -> list[Verdict]:
    """Try mutations one after another, saying how each went; those of the given names, or all."""
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout", revision)
        for mutation in chosen:  # before anything takes time
            mutated(checkout, mutation)
        sound: dict[tuple[str, ...], Run] = {}
        for mutation in chosen:
            verdict = judge(mutation, checkout, sound)
            verdicts.append(verdict)
            said = f"caught by {', '.join(verdict.by)}" if verdict.caught else f"NOT CAUGHT, {verdict.why}"
            print(f"{mutation.name}: {said} ({verdict.seconds:.0f} s)", file=sys.stderr, flush=True)
    return verdicts


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [mutation.name for mutation in MUTATIONS]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, default=[], help=", ".join(names))
    parser.add_argument("--revision", metavar="REV", help="mutate this revision instead of the working tree")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    verdicts = campaign(given.only, given.revision)
    if given.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        print("| mutation | promise | caught | by |\n| --- | --- | --- | --- |")
        for verdict in verdicts:
            by = ", ".join(f"`{name.removeprefix('tests/')}`" for name in verdict.by) or verdict.why
            print(f"| {verdict.mutation} | {verdict.promise} | {'caught' if verdict.caught else 'NOT CAUGHT'} | {by} |")
        caught = sum(verdict.caught for verdict in verdicts)
        print(f"\n{caught} of {len(verdicts)} caught in {sum(verdict.seconds for verdict in verdicts):.0f} s")
    return 0 if all(verdict.caught for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
