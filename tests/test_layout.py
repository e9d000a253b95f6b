"""The four top-level folders, the links that tools follow, and the map that builds follow say the same."""

import ast
import configparser
import importlib
import inspect
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import house
import nasplat

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "predictors", "search_spaces", "strategies")


@pytest.fixture(scope="module")
def options() -> configparser.SectionProxy:
    """The options of setup.cfg."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser["options"]


def packages_in(folder: Path, name: str) -> set[str]:
    """All packages below a folder, links not followed."""
    found = {name}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and (path / "__init__.py").is_file():
            found |= packages_in(path, f"{name}.{path.name}")
    return found


def test_every_package_is_listed_for_the_wheel(options: configparser.SectionProxy) -> None:
    on_disk = packages_in(ROOT / "nasplat", "nasplat")
    for folder in FOLDERS:
        on_disk |= packages_in(ROOT / folder, f"nasplat.{folder}")
    assert set(options["packages"].split()) == on_disk


def test_the_map_leads_to_the_four_folders(options: configparser.SectionProxy) -> None:
    mapped = dict(line.replace(" ", "").split("=") for line in options["package_dir"].strip().splitlines())
    assert mapped == {"nasplat": "nasplat"} | {f"nasplat.{folder}": folder for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_relative_link_shows_tools_what_the_map_says(folder: str) -> None:
    link = ROOT / "nasplat" / folder
    assert link.is_symlink(), f"{link} is no link; check the repository out with symbolic links"
    assert link.readlink() == Path("..") / folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_plugin_folder_is_imported_from_where_it_stands(folder: str) -> None:
    imported = importlib.import_module(f"nasplat.{folder}")
    assert imported.__file__ is not None
    assert Path(imported.__file__).resolve().parent == ROOT / folder


def test_every_contract_module_is_under_the_import_rule() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    contract = parser["importlinter:contract:one-direction"]
    ruled = set(re.findall(r"\w+", contract["layers"]))
    assert ruled == {module.name for module in pkgutil.iter_modules(nasplat.__path__)} - {"__main__"}
    assert contract["exhaustive"] == "True"
    assert contract["layers"].split().index("cli") < contract["layers"].split().index("benchmarks")


def test_the_tools_are_pinned_and_every_requirement_is_constrained(options: configparser.SectionProxy) -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = {line.split(">=")[0].strip() for line in options["install_requires"].strip().splitlines()}
    assert wanted <= pinned
    assert {"ruff", "mypy", "pytest", "import-linter"} <= pinned


def public_things() -> list[tuple[str, object]]:
    """Every public class, function and method of the package with its dotted name."""
    found: list[tuple[str, object]] = []
    for info in pkgutil.walk_packages(nasplat.__path__, "nasplat."):
        if info.name == "nasplat.__main__":
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found.append((f"{info.name}.{name}", thing))
            if inspect.isclass(thing):
                found += [
                    (f"{info.name}.{name}.{method}", body)
                    for method, body in inspect.getmembers(thing, inspect.isfunction)
                    if not method.startswith("_") and body.__module__ == info.name
                ]
    return found


# Methods whose meaning their own contract gives under the same name, or that say all by name and type.
SELF_EVIDENT = {"forward", "get_state", "set_state", "to", "of"}


def test_everything_public_says_what_it_is() -> None:
    silent = []
    for name, thing in public_things():
        owner, _, attribute = name.rpartition(".")
        if attribute in SELF_EVIDENT:
            continue
        doc = inspect.getdoc(thing)
        if not doc and inspect.isfunction(thing):
            module, _, cls = owner.rpartition(".")
            holder = getattr(importlib.import_module(module), cls, None) if module else None
            doc = inspect.getdoc(getattr(holder, attribute)) if holder is not None else None
        if not doc:
            silent.append(name)
    assert not silent


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {nasplat.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_warnings_are_errors_in_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"


def test_tests_keep_what_python_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the environment asks for no byte code, the suite took half as long again: all of torch in each process."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    assert not sys.dont_write_bytecode
    (tmp_path / "fresh.py").touch()
    program = "import os, fresh; print(os.path.isfile(fresh.__cached__))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, text=True) == "True\n"


def test_make_keeps_what_python_compiles() -> None:
    """It installs without byte code, for the first process that loads a module to write it."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    asked = ["make", "-s", "--eval", "asked:; @echo $${PYTHONDONTWRITEBYTECODE-nothing}", "asked"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.check_output(asked, cwd=ROOT, env=environment, text=True) == "nothing\n"


@pytest.mark.slow
def test_the_picture_of_the_rooms_is_of_the_imports_as_they_are() -> None:
    drawn = (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    assert house.picture(ROOT) == drawn, "draw it again: python performance/house.py --svg docs/rooms.svg"
    assert "imports upwards: 0" in list(house.table(ROOT))


def test_no_module_has_more_lines_than_one_idea_needs() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in house.modules(ROOT).items()}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


COMMANDS_ALONE = {
    "cli", "server", "testing", "export/generating.py", "export/predicting.py", "latency/building.py",
    "latency/table.py", "nn/streaming.py", "interface/configuring.py", "run/environment.py",
    "benchmarks/nasbench201_package.py", "benchmarks/tables.py",
}  # fmt: skip
"""Where messages are of commands that have no function in Python, or have options of other programs."""
IN_PYTHON = {"set": "options", "objective": "objectives", "feature": "features", "trust_run": "trust"}
"""The arguments of Python that have other names than the options of commands."""


def said_in(source: str) -> Iterator[str]:
    """The texts of a module but its docstrings; what is filled in is left out."""
    tree = ast.parse(source)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(each) for each in node.values}
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone | parts:
            yield node.value


def test_messages_name_an_option_as_commands_and_as_python_have_it() -> None:
    found, unsaid = 0, []
    for folder in (ROOT / "nasplat", *(ROOT / each for each in FOLDERS)):
        for path in sorted(folder.rglob("*.py")):
            place = path.relative_to(folder if folder.name == "nasplat" else ROOT)
            if str(place) in COMMANDS_ALONE or place.parts[0] in COMMANDS_ALONE:
                continue
            for text in said_in(path.read_text()):
                for option in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", re.sub("`.*?`", "", text) * (" " in text)):
                    name = option.replace("-", "_")
                    found += 1
                    if f"{IN_PYTHON.get(name, name)}=" not in text:
                        unsaid.append(f"{place}: {text}")
    assert found > 50 and not unsaid, "\n".join(unsaid)
