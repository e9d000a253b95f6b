"""The blocks of README and documentation do what they show, and the pages are whole.

A page is one session in an empty folder: its blocks run in their order. Of a console block, every command runs, and
what it prints must be what the page shows, with other figures. What a Python block prints is shown by a block of text
directly below it. A comment above a block may say otherwise:

- `<!-- shorter in the test: WORDS -->`: the words are added to the block's first command, so that it costs less. In a
  Python block, `OLD -> NEW` is replaced, several with semicolons between.
- `<!-- long run: WHY -->`: the block is not run. Its commands must still be ones that the command line takes.
- `<!-- needs: MODULE -->`: the block is run where this optional package is installed; elsewhere as for a long run.
- `<!-- file: NAME -->`: the block is a file of this name in the session's folder, which later blocks use.

`docs/results.md` and `docs/decisions` have no part in this: they are records of their time, not promises of today.
"""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import generate
import nasplat
from nasplat.benchmarks import nasbench201_package
from nasplat.cli.app import COMMANDS, load
from nasplat.cli.listing import REGISTRIES as PLUGINS
from nasplat.interface.configuring import configured, parsed
from nasplat.interface.sections import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RECORDS = {DOCS / "results.md", DOCS / "changelog.md", DOCS / "contributing.md"}
FOLDERS = {DOCS, DOCS / "guides", DOCS / "reference", DOCS / "tutorials"}
PAGES = [ROOT / "README.md", *sorted({path for folder in FOLDERS for path in folder.glob("*.md")} - RECORDS)]

FIND = nasbench201_package.find
"""As it is outside of tests, which hide the installed package."""

CommandLine = Callable[..., CompletedProcess[str]]


class Block(NamedTuple):
    """A block of a page: language, lines, where it stands, what the comment above it says, and what Python prints."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    words: str
    printed: list[str]

    @property
    def runs(self) -> bool:
        """Whether the block is run here."""
        return self.mark != "long run" and (self.mark != "needs" or find_spec(self.words) is not None)

    @property
    def place(self) -> str:
        """The block in messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Step(NamedTuple):
    """A command of a console block, as it is written, and what it prints."""

    command: str
    printed: list[str]


BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>shorter in the test|long run|needs|file):(?P<words>[^\n]*?) ?-->\n)?"
    r"```(?P<language>console|python)\n(?P<text>.*?)^```$(?:\n+^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: Path) -> list[Block]:
    """The console and Python blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("text")),
            found["language"],
            found["text"],
            found["mark"] or "",
            (found["words"] or "").strip(),
            (found["printed"] or "").splitlines(),
        )
        for found in BLOCK.finditer(text)
    ]


def steps(block: Block) -> list[Step]:
    """The commands of a console block, lines that end in a backslash joined."""
    found: list[Step] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            found[-1].printed.append(line)
            continue
        command = line[2:]
        while command.endswith("\\"):
            command = command[:-1] + next(lines).strip()
        found.append(Step(command, []))
    return found


SESSIONS = [page for page in PAGES if any(block.runs for block in blocks(page))]
LONG = [block for page in PAGES for block in blocks(page) if block.mark in ("long run", "needs")]


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_shows(
    page: Path,
    command: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nasbench201_package, "find", FIND)
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path / "data"))  # nobody has tables yet
    exact = True  # until a block is shortened: what follows may build on it
    with python_session(tmp_path, monkeypatch) as python:
        for block in blocks(page):
            if not block.runs:
                continue
            if block.mark == "file":
                (tmp_path / block.words).write_text(block.text, encoding="utf-8")
                continue
            exact = exact and block.mark != "shorter in the test"
            if block.language == "python":
                capsys.readouterr()
                exec(compile(shortened(block), block.place, "exec"), vars(python))
                printed = capsys.readouterr()
                ran = [(block.printed, CompletedProcess("", 0, printed.out, printed.err))]
            else:
                words = [block.words if block.mark == "shorter in the test" else ""]  # of the first command alone
                ran = [
                    (step.printed, carried_out(step.command, words.pop() if words else "", command, tmp_path))
                    for step in steps(block)
                ]
            for shown, done in ran:
                fails = any(line.startswith("error: ") for line in shown)
                assert (done.returncode != 0) == fails, (block.place, done.stderr)
                if shown:
                    assert same_shape(shown, done), (block.place, done.stdout, done.stderr)
                    assert not exact or same_figures(shown, done), (block.place, done.stdout)


@pytest.mark.parametrize("block", LONG, ids=lambda block: block.place)
def test_a_long_run_is_one_that_the_command_line_takes(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert block.words, f"{block.place}: say why it is not run"
    if block.language == "python":
        check_python(block.text)
        return
    for step in steps(block):
        check_command(step.command)


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of the rows of all tables of a page, without heads."""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and "in Python" not in cells:
            yield cells


def test_commands_and_python_stand_side_by_side() -> None:
    page = DOCS / "guides" / "python_and_commands.md"
    found = list(rows(page))
    assert len(found) > 25
    for left, right in found:
        for command_line in re.findall(r"`(nasplat [^`]+)`", left):
            check_command(command_line)
        for code in re.findall(r"`([^`]+)`", right):
            check_python(code)
    text = page.read_text(encoding="utf-8")
    named = {name for name in COMMANDS if re.search(rf"`nasplat {name}\b", text)}
    assert named == set(COMMANDS)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("search", nasplat.search),
        ("resume", nasplat.Run.resume),
        ("retrain", nasplat.Run.retrain),
        ("compress", nasplat.compress),
        ("distill", nasplat.distill),
        ("calibrate", nasplat.calibrate),
        ("test", nasplat.Run.test),
        ("export", nasplat.Run.export),
        ("report", nasplat.Run.report),
        ("table", nasplat.Run.table),
        ("export-study", nasplat.Run.export_study),
        ("recover", nasplat.recover),
    ],
)
def test_what_a_command_takes_its_function_takes(name: str, function: Callable[..., Any]) -> None:
    elsewhere = {"run", "trust_run", "accept_changed_code", "json"}  # the object, what opened it, how it is printed
    renamed = {
        "set_": "options", "objective": "objectives", "constraint": "constraints", "form": "format",
        "out_file": "out", "out_folder": "out",
    }  # fmt: skip
    flags = {renamed.get(each.name, each.name) for each in load(name).params} - elsewhere
    assert flags <= set(inspect.signature(function).parameters)


def test_every_block_is_run_or_says_why_not() -> None:
    """No block has another fence, so that it is not seen, and no page of another folder is left out."""
    for page in PAGES:
        fences = re.findall(
            r"^```+(?:console|python|pycon|bash|shell|sh)\b", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        assert len(fences) == len(blocks(page)), page
    assert len(SESSIONS) > 5 and len(LONG) > 5


def test_everything_public_stands_on_the_page_about_python() -> None:
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. auto\w+:: nasplat\.(\w+)$", text, re.MULTILINE)) == set(nasplat.__all__)


def test_every_room_stands_on_the_page_of_the_parts() -> None:
    text = (DOCS / "reference" / "layout.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "nasplat").glob("*/__init__.py") if not path.parent.is_symlink()}
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) >= rooms


@pytest.mark.slow
def test_every_plugin_and_command_has_its_page() -> None:
    written = dict(generate.pages())
    for kind, registry in PLUGINS.items():
        names = [plugin.name for plugin in registry if plugin.origin == "built-in"]
        assert all(f"# {name}\n" in written[f"{kind}/{generate.file_name(name)}.md"] for name in names)
    assert "`batch` · int \\>= 1 · default `1`\n: Number of outcomes" in written["strategies/predictor_guided.md"]
    for name in COMMANDS:
        assert f"nasplat {name}" in written[f"commands/{name}.md"]
    assert "`--score" in written["commands/predictor.md"]


def test_help_texts_are_code_where_they_have_options_and_plain_elsewhere() -> None:
    assert generate.plain("in addition to --device-seconds") == "in addition to `--device-seconds`"
    assert generate.plain("see `nasplat --help`, a < b | c * d") == r"see `nasplat --help`, a \< b \| c \* d"
    assert generate.table(["a"], [["x | y"], [r"x \| y"]]).splitlines()[2:] == [r"| x \| y |"] * 2


def site(folder: Path) -> CompletedProcess[str]:
    """Check a built site as CI does."""
    return subprocess.run([sys.executable, ROOT / ".ci" / "site.py", folder], capture_output=True, text=True)


def test_a_site_that_fetches_from_elsewhere_or_leads_nowhere_is_told(tmp_path: Path) -> None:
    assert site(tmp_path).returncode == 1
    (tmp_path / "other.html").write_text('<p id="here"><a href="https://elsewhere.org">for those who follow it</a>')
    (tmp_path / "index.html").write_text('<script src="local.js"></script><a href="other.html#here">other</a>')
    (tmp_path / "local.js").touch()
    (tmp_path / "style.css").write_text("a { background: url(local.js) }")
    done = site(tmp_path)
    assert done.returncode == 0, done.stdout
    (tmp_path / "wrong.html").write_text(
        '<script src="https://a.org/x.js"></script><link href="//b.org/x.css"><img src="http://c.org/x.png">'
        '<a href="other.html#there">x</a><a href="nowhere.html">x</a>'
    )
    (tmp_path / "style.css").write_text('@import "https://d.org/fonts";')
    done = site(tmp_path)
    assert done.returncode == 1
    assert done.stdout.count(" fetches ") == 4 and done.stdout.count("which is not there") == 2


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["front", "1  97.1 %", "2 in 3 s"], ["front", "7  44.0 %", "8  43.0 %", "5 in 1:02 min"]),
        (["front", "…", "2 measured"], ["front", "a", "b", "2 measured"]),
        (["note: 8 images", "done"], ["done"]),
    ],
)  # fmt: skip
def test_other_figures_and_rows_have_the_same_shape(shown: list[str], printed: list[str]) -> None:
    assert same_shape(shown, CompletedProcess("", 0, "\n".join(printed), "note: 9 images"))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["front", "1  432"], ["front"]),
        (["front"], ["front", "1  432"]),
        (["trial  accuracy"], ["trial  loss"]),
        (["warning: 8 images", "done"], ["done"]),
        (["1 %"], ["1 k"]),
    ],
)
def test_other_words_have_another_shape(shown: list[str], printed: list[str]) -> None:
    assert not same_shape(shown, CompletedProcess("", 0, "\n".join(printed), "note: 9 images"))


# How a session is run and compared


@contextmanager
def python_session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module in which Python blocks run, as in a notebook; what they import from the folder is forgotten after."""
    python = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", python)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    try:
        yield python
    finally:
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def shortened(block: Block) -> str:
    """The text of a Python block, with what the comment above it replaces."""
    text = block.text
    for each in block.words.split(";") if block.mark == "shorter in the test" else ():
        old, arrow, new = (part.strip() for part in each.partition("->"))
        assert arrow and old in text, f"{block.place}: {each!r} replaces nothing"
        text = text.replace(old, new)
    return text


def carried_out(line: str, words: str, command: CommandLine, folder: Path) -> CompletedProcess[str]:
    """Run a line of a console: `nasplat` in this process, which has imported all already, anything else in a shell."""
    program, *arguments = shlex.split(f"{line} {words}", comments=True)
    if program == "nasplat":
        done = command(*arguments)
        done.stderr = done.stderr.replace(str(folder), "/home/me")
        return done
    shell = f"{shlex.quote(sys.executable)}{line.removeprefix('python')}" if program == "python" else line
    return subprocess.run(shell, shell=True, cwd=folder, capture_output=True, text=True)


def same_shape(shown: list[str], done: CompletedProcess[str]) -> bool:
    """Whether a page shows what a command printed: all of the output, notes and errors as far as it shows any.

    Figures and codes may differ, rows of the same form may be more or fewer, and an ellipsis is any number of lines.
    """
    notes = {shape(line) for line in done.stderr.splitlines()} | {""}
    lines = [line for line in map(shape, shown) if line not in notes]
    pattern = ""
    for line, before in zip(lines, ["", *lines], strict=False):
        if line == "…":
            pattern += r"(?:.*\n)*?"
        elif line != before:
            pattern += rf"(?:{re.escape(line).replace('…', '.*')}\n)+"
    printed = "".join(f"{line}\n" for line in map(shape, done.stdout.splitlines()) if line)
    return re.fullmatch(pattern, printed) is not None


def shape(line: str) -> str:
    """A line without figures, codes, units of time and prefixes, and without how many answers came from the cache."""
    if line.startswith("rank correlation "):  # of three members or more
        return ""
    line = re.sub(r"; (torch|onnxruntime), (.*, cpu); .*", r"; \1, \2", line)  # the processor
    line = re.sub(r"\b\w*\d\w*\b", "#", line)
    line = re.sub(r"#(?:[-.,:]#)*", "#", line)
    line = re.sub(r"# (?:[kMGT]|ms|s|min)\b", "#", line)
    line = " ".join(re.sub(r", # cached\b", "", line).split())
    name, colon, classes = line.partition(": ")
    if colon and re.fullmatch(r"\w[\w ]* # %(, \w[\w ]* # %)+", classes):  # which class is likelier is a figure, too
        return f"{name}: {', '.join(sorted(classes.split(', ')))}"
    return line


def same_figures(shown: list[str], done: CompletedProcess[str]) -> bool:
    """Whether the figures of a page that was run as it is lie within a fifth of what was printed; times may be any."""
    printed = done.stdout.splitlines()
    notes = {shape(line) for line in done.stderr.splitlines()}
    lines = [line for line in shown if shape(line) not in notes]
    if "…" in lines:
        return True

    def figures(line: str) -> list[float]:
        untimed = re.sub(r"[\d.:]+ (?:ms|s|min)\b", "", line)
        return [float(each) for each in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", untimed)]

    return all(
        figures(one) == pytest.approx(figures(other), rel=0.2) for one, other in zip(lines, printed, strict=True)
    )


def check_command(line: str) -> None:
    """Check that the command line takes a line, and that the configuration of a search has what it names."""
    program, *arguments = shlex.split(line, comments=True)
    if program != "nasplat":
        return
    command, name = load(arguments.pop(0)), "nasplat"
    while nested := getattr(command, "commands", None):
        name = arguments.pop(0)
        command = nested[name]
    given = command.make_context(name, arguments).params
    if "space" in given and "strategy" in given:
        resolve(given)


def check_python(code: str) -> None:
    """Check that `nasplat`, a run and a predictor have what a text asks of them, and take its arguments."""
    owners = {"nasplat": nasplat, "run": nasplat.Run}
    for each in ast.walk(ast.parse(code)):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id in owners:
            assert hasattr(owners[each.value.id], each.attr), code
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
            owner = owners.get(getattr(each.func.value, "id", ""))
            if owner is not None:
                first = [None] if owner is nasplat.Run else []
                keywords = {str(keyword.arg): None for keyword in each.keywords}
                inspect.signature(getattr(owner, each.func.attr)).bind_partial(*first, *each.args, **keywords)


def resolve(given: dict[str, Any]) -> None:
    """Complete the configuration that flags of `nasplat search` give, which refuses unknown plug-ins and options."""
    configured(
        ROOT / given["config"] if given["config"] else None,
        plugins={section: given[section] for section in REGISTRIES},
        objectives=given["objective"] or ["accuracy:max"],
        assignments=[parsed(each) for each in given["set_"] or ()],
    ).resolved()
