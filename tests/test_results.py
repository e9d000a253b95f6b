"""The page of measured results: every entry says how it comes about, by a command that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRIES = re.split(r"^## ", (ROOT / "docs" / "results.md").read_text(), flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.partition("\n")[0] for entry in ENTRIES])
def test_an_entry_names_its_command_machine_and_date(entry: str) -> None:
    commands = re.findall(r"`((?:python|nasplat|make) [^`]+)`", entry)
    assert commands, "no command"
    scripts = {script for command in commands for script in re.findall(r"(?:performance|tests)/\w+\.py", command)}
    assert all((ROOT / script).is_file() for script in scripts), scripts
    assert re.search(r"\b20\d\d-[01]\d-[0-3]\d\b", entry), "no date"
    assert re.search(r"\bcores\b|\bmachine\b", entry), "no machine"


def test_whatever_is_measured_has_an_entry() -> None:
    shared = {"searching", "fronts", "botorch_searcher", "static_pruning"}  # what several of them need
    scripts = {path.stem for path in (ROOT / "performance").glob("*.py")} - shared
    named = set(re.findall(r"performance/(\w+)\.py", "\n".join(ENTRIES)))
    assert scripts == named
