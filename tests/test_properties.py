"""What holds for any input, not only for those that somebody thought of."""

import csv
import gzip
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.benchmarks.nasbench201 import NASBench201Table
from nasplat.cli import app
from nasplat.cli.app import main
from nasplat.config import SearchConfig, load_tree, yaml_value
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError
from nasplat.objective import Constraint, Objective
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import GeneSpace
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.storage.state import pack, unpack
from nasplat.task import (
    Evaluate,
    Failure,
    Measurement,
    Outcome,
    Spent,
    Task,
    Trained,
    TrainSupernet,
    decode_outcome,
    decode_task,
    encode_outcome,
    encode_task,
)

# The same examples every time, so that what passes here passes everywhere; how many, the profile says (conftest.py).
repeating = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

SPACES = SEARCH_SPACES.names()
text = st.text(st.characters(codec="utf-8"), max_size=30)
json_value: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
name = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, emptied by whoever fills it."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


# Codes


@pytest.mark.parametrize("space_name", SPACES)
@repeating
@given(seed=st.integers(0, 2**32 - 1))
def test_every_member_is_parsed_back_and_has_a_key(space_name: str, seed: int) -> None:
    space = SEARCH_SPACES.get(space_name)()
    rng = np.random.default_rng(seed)
    member = space.sample(rng)
    for each in (member, space.mutate(member, rng), space.crossover(member, space.sample(rng), rng)):
        assert space.parse(each.code) == each
        assert space.canonical_key(each) == space.canonical_key(space.parse(each.code))
        assert each.code.isascii() and each.code.isprintable() and " " not in each.code
        assert str(each) == f"{space_name}:{each.code}"


@pytest.mark.parametrize("space_name", SPACES)
@repeating
@given(data=st.data())
def test_any_text_is_a_member_or_wrong_input(space_name: str, data: st.DataObject) -> None:
    space = SEARCH_SPACES.get(space_name)()
    alphabet = st.sampled_from("0123456789abz|+~-_ \n\0é") | st.characters()
    code = data.draw(st.text(alphabet, max_size=40), label="code")
    if data.draw(st.booleans(), label="like a member"):
        base = space.sample(np.random.default_rng(len(code))).code
        at = data.draw(st.integers(0, len(base)), label="place")
        code = base[:at] + code[:2] + base[at + data.draw(st.integers(0, 2), label="fewer") :]
    try:
        member = space.parse(code)
    except InputError as error:
        assert str(error)
        return
    assert space.parse(member.code) == member
    if isinstance(space, GeneSpace):
        assert space.member(space.choices(member)) == member


@repeating
@given(seed=st.integers(0, 15624), noise=st.text("|+~ 0123nor_cvskip", max_size=3), at=st.integers(0, 90))
def test_official_strings_are_read_back_or_refused(seed: int, noise: str, at: int) -> None:
    space = NASBench201()
    member = space.parse("".join(str(seed // 5**gene % 5) for gene in range(6)))
    official = space.official(member)
    assert space.parse(official) == member
    try:
        again = space.parse(official[:at] + noise + official[at:])
    except InputError:
        return
    assert space.official(again)


# Configurations

plugin = st.builds(
    lambda name, options: {"name": name, **options},
    name,
    st.dictionaries(name.filter(lambda key: key != "name"), json_value.filter(lambda v: v == v), max_size=3),
)
limits = st.none() | st.floats(allow_nan=False, allow_infinity=False)
config = st.fixed_dictionaries(
    {
        "space": plugin,
        "benchmark": plugin,
        "strategy": plugin,
        "objectives": st.lists(text, min_size=1, max_size=3),
    },
    optional={
        "constraints": st.lists(text, max_size=2),
        "budget": st.fixed_dictionaries(
            {}, optional={"evaluations": st.none() | st.integers(), "seconds": limits, "images": st.none()}
        ),
        "seed": st.integers(0, 2**70),
        "executor": st.just("inline") | st.just({"name": "ray", "workers": 3, "gpus_per_worker": 0.5}),
    },
)


def is_plain(value: Any) -> bool:
    """Whether JSON has a word for the value, and YAML an escape for its text."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(is_plain, value.values()))
        case list():
            return all(map(is_plain, value))
    return True


@pytest.mark.slow
@repeating
@given(tree=config)
def test_a_configuration_is_read_back_from_its_file(tree: dict[str, Any], folder: Path) -> None:
    if not is_plain(tree):
        return
    before = SearchConfig.read(tree)
    (folder / "config.yaml").write_text(before.to_yaml(), encoding="utf-8")
    assert SearchConfig.read(load_tree(folder / "config.yaml")) == before


@pytest.mark.slow
@repeating
@given(tree=st.dictionaries(st.sampled_from([*SearchConfig.model_fields, "other"]) | text, json_value, max_size=8))
def test_any_tree_is_a_configuration_or_wrong_input(tree: dict[str, Any]) -> None:
    try:
        SearchConfig.read(tree).resolved()
    except InputError as error:
        assert 0 < len(str(error)) < 20_000


REAL = {
    "space": {"name": "nasbench201", "channels": 2, "cells": 1},
    "benchmark": {"name": "classification"},
    "strategy": {"name": "random_search"},
    "objectives": ["accuracy:max"],
    "budget": {"evaluations": 1},
}


@repeating
@given(
    section=st.sampled_from(["space", "benchmark", "strategy", "budget", "executor", "seed", "objectives"]),
    key=st.sampled_from(["name", "epochs", "duplicates", "population", "dataset", "evaluations", "seconds"]) | name,
    value=json_value,
)
def test_one_odd_value_makes_a_search_or_wrong_input(section: str, key: str, value: Any) -> None:
    tree: dict[str, Any] = json.loads(json.dumps(REAL))
    if isinstance(tree.get(section, {}), dict):
        tree[section] = {**tree.get(section, {}), key: value}
    else:
        tree[section] = value
    try:
        assembly = Assembly.of(SearchConfig.read(tree))
    except InputError as error:
        assert str(error)
        return
    assert SearchConfig.read(yaml.safe_load(assembly.config.to_yaml())) == assembly.config


@repeating
@given(content=st.text(st.characters() | st.sampled_from("[]{}:&*!-?|>'\"%@`#,\n <"), max_size=60))
def test_any_text_is_yaml_or_a_value_error(content: str) -> None:
    try:
        yaml_value(content)
    except ValueError as error:
        assert type(error) is ValueError


@pytest.mark.slow
def test_a_small_text_is_not_a_large_value() -> None:
    """Nine levels of nine aliases each stand for 400 million values; one that holds itself has no end."""
    lines = ["a: &a [x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghij"))]
    assert yaml_value("\n".join(lines[:4]))["c"] == [[["x"]] * 9] * 9
    with pytest.raises(ValueError, match=r"more than 10,000 values"):
        yaml_value("\n".join(lines))
    with pytest.raises(ValueError, match=r"more than 10,000 values"):
        yaml_value("a: &a [*a]")
    with pytest.raises(ValueError, match=r"nested too deeply"):
        yaml_value("[" * 3000)


# Objectives and constraints


@repeating
@given(
    text | st.builds(lambda metric, gap, rest: f"{metric}{gap}{rest}", name, st.sampled_from([":", " : ", "::"]), text)
)
def test_any_text_is_an_objective_or_wrong_input(given_text: str) -> None:
    try:
        objective = Objective.parse(given_text)
    except InputError as error:
        assert repr(given_text) in str(error)
        return
    assert Objective.parse(str(objective)) == objective


@repeating
@given(
    text | st.builds("{}{}{}".format, name, st.sampled_from(["<=", ">=", "<", " <= "]), st.floats().map(repr) | text)
)
def test_any_text_is_a_constraint_or_wrong_input(given_text: str) -> None:
    try:
        constraint = Constraint.parse(given_text)
    except InputError as error:
        assert repr(given_text) in str(error)
        return
    again = Constraint.parse(str(constraint))
    assert (again.metric, again.upper) == (constraint.metric, constraint.upper)
    assert math.isclose(again.bound, constraint.bound, rel_tol=1e-14, abs_tol=0.0)


# Tables

HEADER = ["arch_str", "c10_valid_200", "c10_test_200", "c10_train_time_12ep_s"]
cell = text | st.sampled_from(["", "nan", "inf", "1e999", "90.5", "|none~0|", "000000", '"', "\n", "\0"])


@repeating
@given(
    header=st.just(HEADER) | st.lists(st.sampled_from(HEADER) | cell, max_size=6),
    rows=st.lists(st.lists(cell, max_size=5), max_size=4),
    good=st.booleans(),
    raw=st.booleans(),
)
def test_any_table_is_read_or_wrong_input(
    header: list[str], rows: list[list[str]], good: bool, raw: bool, folder: Path
) -> None:
    space = NASBench201()
    if good:
        rows = [[space.official(space.parse("334312")), "90", "89", "100"], *rows]
    content = io.StringIO()
    if raw:
        content.write("\n".join(",".join(row) for row in [header, *rows]))
    else:
        csv.writer(content, escapechar="\\").writerows([header, *rows])
    path = folder / "nasbench201" / "cifar10.csv.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content.getvalue().encode("utf-8", "surrogatepass")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASPLAT_DATA", str(folder))
        table = NASBench201Table(space)
        try:
            table.check()
        except InputError as error:
            assert str(error)
            return
    assert all(space.parse(code).code == code for code in table._rows)
    assert all(isinstance(value, float) for row in table._rows.values() for value in row.values())


# Tasks and outcomes

count = st.integers(0, 2**53)
finite = st.floats(allow_nan=False)
architecture = st.builds(Architecture, name, text)
handle = st.binary(max_size=4).map(Handle.of)
evaluate = st.builds(
    Evaluate, id=count, seed=count, architecture=architecture, fidelity=count, weights=st.none() | handle,
    replicate=count, continues=st.none() | handle,
)  # fmt: skip
train = st.builds(
    TrainSupernet, id=count, seed=count, architectures=st.lists(architecture, max_size=3).map(tuple), epochs=count,
    weights=st.none() | handle,
)  # fmt: skip
spent = st.builds(Spent, seconds=finite, images=count, device=text, worker=text, started=finite)
measurement = st.builds(
    Measurement, task=evaluate, metrics=st.dictionaries(text, finite, max_size=3),
    split=st.sampled_from(["validation", "test"]), artifacts=st.dictionaries(text, handle, max_size=2), spent=spent,
    cached_from=st.none() | count,
)  # fmt: skip
trained = st.builds(Trained, task=train, weights=handle, spent=spent)
failure = st.builds(Failure, task=evaluate | train, kind=text, message=text, traceback=text, spent=spent)


@repeating
@given(evaluate | train)
def test_a_task_comes_back_from_json(task: Task) -> None:
    assert decode_task(json.loads(json.dumps(encode_task(task)))) == task


@repeating
@given(measurement | trained | failure, st.booleans())
def test_an_outcome_comes_back_from_json(outcome: Outcome, with_task: bool) -> None:
    body = json.loads(json.dumps(encode_outcome(outcome, with_task=with_task)))
    assert decode_outcome(body, None if with_task else outcome.task) == outcome


TASK_KEYS = ["id", "seed", "space", "evaluate", "fidelity", "weights", "replicate", "continues", "train", "epochs"]
OUTCOME_KEYS = [
    "task",
    "spent",
    "metrics",
    "split",
    "artifacts",
    "cached_from",
    "remembered",
    "trained",
    "failure",
    "message",
]


@pytest.mark.slow
@repeating
@given(
    json_value,
    measurement | trained | failure,
    st.dictionaries(st.sampled_from(TASK_KEYS + OUTCOME_KEYS), json_value, max_size=3),
    st.sets(st.sampled_from(TASK_KEYS + OUTCOME_KEYS), max_size=1),
)
def test_any_json_is_a_task_or_outcome_or_says_what_it_lacks(
    value: Any, outcome: Outcome, odd: dict[str, Any], left_out: set[str]
) -> None:
    bodies = [value, encode_task(outcome.task), encode_outcome(outcome)]
    for body in bodies[1:]:
        body.update(odd)
        for key in left_out:
            body.pop(key, None)
    for body in bodies:
        pairs: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
            (decode_task, encode_task),
            (decode_outcome, encode_outcome),
        ]
        for decode, encode in pairs:
            try:
                read = decode(body)
            except (KeyError, TypeError, ValueError):
                continue
            json.dumps(encode(read))


# States

leaf = (
    st.none() | st.booleans() | st.integers() | finite | text
    | arrays.arrays(
        st.sampled_from([np.dtype(kind) for kind in ("?", "i1", "u8", "i8", "f4", "f8")]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
)  # fmt: skip
state = st.dictionaries(
    text,
    st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
    ),
    max_size=3,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.slow
@repeating
@given(state)
def test_a_state_comes_back(before: dict[str, Any]) -> None:
    assert same(unpack(*pack(before)), before)


@repeating
@given(json_value.map(json.dumps) | text, st.binary(max_size=40), state)
def test_any_bytes_are_a_state_or_a_value_error(said: str, data: bytes, whole: dict[str, Any]) -> None:
    packed, packed_arrays = pack(whole)
    for body, beside in ((said, data), (packed, data), (said, packed_arrays), (packed, packed_arrays[:-1])):
        try:
            unpack(body, beside)
        except ValueError as error:
            assert str(error)


# The command line

COMMANDS = list(app.COMMANDS)
WORDS = [
    "--json", "--out", "new", "--front", "--test", "--top", "--top=3", "--pick", "best", "knee", "--untrained",
    "--help",
    "--architecture", "000000", "run", "file", "nowhere", ".", "", "-", "--", "--space", "nasbench201", "--benchmark",
    "classification", "--strategy", "random_search", "--objective", "accuracy:max", "--constraint", "params<=1",
    "--evaluations", "0", "-1", "1e9", "--seconds", "nan", "--seed", "--set", "strategy.duplicates=no", "a.b=c",
    "--executor", "inline", "--workers", "--config", "config.yaml", "strategies", "datasets", "--version", "-h",
]  # fmt: skip
word = st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=12)


def call(arguments: list[str]) -> tuple[object, str]:
    """Run `nasplat ARGUMENTS` in this process: its exit code and all that it printed."""
    printed = io.BytesIO()
    stream = io.TextIOWrapper(printed, encoding="utf-8", errors="backslashreplace", write_through=True)
    before, sys.argv = sys.argv, ["nasplat", *arguments]
    try:
        with redirect_stdout(stream), redirect_stderr(stream):
            main()
    except SystemExit as ended:
        return ended.code, printed.getvalue().decode()
    finally:
        sys.argv = before
    return None, ""


def names(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("command", [*sorted(COMMANDS), "", "no-command"])
@settings(repeating, max_examples=max(20, settings().max_examples * 2 // 5))
@given(words=st.lists(word, max_size=7))
def test_any_words_end_in_an_exit_code(command: str, words: list[str], folder: Path) -> None:
    # A search needs four names and a budget: words that happened to give them all would search, which is right.
    if command == "search" and {"accuracy:max", "classification", "random_search"} <= set(words):
        return
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "file").write_text("mine")
    (folder / "run").mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**REAL, "benchmark": "nasbench201"}))
    before = names(folder)
    was = Path.cwd()
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NASPLAT_DATA", str(folder))
            code, printed = call([*([command] if command else []), *words])
    finally:
        os.chdir(was)
    assert code in (0, 1, 2), printed
    assert "Traceback" not in printed
    assert printed or code == 0
    if code == 2:
        assert names(folder) == before
