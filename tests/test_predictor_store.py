"""Saved predictors: the same in another process, and damage of every kind refused with its reason."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nasplat_demo.predictor import Ridge
from numpy.random import default_rng
from numpy.typing import NDArray
from safetensors.numpy import save

from nasplat import predictor as contract
from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import ARRAYS, DOCUMENT, FittedState, _digest
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.surrogates.predictor_store import make_predictor, make_space, open_predictor, scored
from nasplat.testing import ToySpace
from nasplat.testing.toy import toy_accuracy

SPACE = NASBench201()
CODES = [SPACE.sample(default_rng(seed)).code for seed in range(20)]

pytestmark = pytest.mark.usefixtures("demo_ridge")


def predictions(folder: Path) -> list[float]:
    """What a saved predictor says of some cells."""
    saved = open_predictor(folder)
    return [each.value for each in scored(saved.predictor, [saved.space.parse(code) for code in CODES])]


@pytest.fixture
def folder(learnt: Path, tmp_path: Path) -> Path:
    """A copy of the saved predictor, to be damaged."""
    return Path(shutil.copytree(learnt, tmp_path / "copy"))


@pytest.mark.slow
def test_another_process_predicts_the_same_to_the_last_bit(folder: Path, installed: dict[str, str]) -> None:
    program = (
        "import sys; from pathlib import Path; from nasplat.surrogates.predictor_store import open_predictor\n"
        "saved = open_predictor(Path(sys.argv[1]))\n"
        "print(*(each.hex() for each in saved.predictor.predict([saved.space.parse(c) for c in sys.argv[2:]])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), *CODES],
        capture_output=True, text=True, env=installed, check=True
    )  # fmt: skip
    assert [float.fromhex(each) for each in done.stdout.split()] == predictions(folder)


def test_everything_that_made_it_comes_back(tmp_path: Path) -> None:
    space = make_space("nasbench201", {"channels": 4})
    made = make_predictor("demo_ridge", space, {"alpha": "0.25"})
    architectures = [space.parse(code) for code in CODES]
    made.fit(architectures, np.arange(20.0)).save(tmp_path / "p", {"source": "a test"})
    saved = open_predictor(tmp_path / "p")
    assert (saved.predictor.name, saved.predictor.options()) == ("demo_ridge", {"alpha": 0.25})
    assert (saved.space.channels, saved.space.cells) == (4, 5)  # type: ignore[attr-defined]
    assert saved.about == {"source": "a test"}
    assert set(saved.versions) >= {"nasplat", "torch"}


def reason(folder: Path) -> str:
    """Why it is refused."""
    with pytest.raises(InputError) as refused:
        open_predictor(folder)
    said = str(refused.value)
    assert str(folder) in said
    assert len(said) < 900
    return said


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> Path:
    """Change the document, and its digest too, so that it looks whole."""
    document = json.loads((folder / DOCUMENT).read_text())
    change(document)
    if sign:
        del document["document"]
        document["document"] = _digest(document)
    (folder / DOCUMENT).write_text(json.dumps(document))
    return folder


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    assert "No such file" in reason(tmp_path / "nowhere")
    (folder / ARRAYS).unlink()
    assert f"{ARRAYS}: No such file" in reason(folder)


def test_what_is_no_file_or_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in reason(tmp_path / "file")
    (folder / ARRAYS).unlink()
    (folder / ARRAYS).mkdir()
    assert "it is not a regular file" in reason(folder)
    (folder / DOCUMENT).unlink()
    (folder / DOCUMENT).symlink_to("/dev/zero")
    assert "it is not a regular file" in reason(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_what_may_not_be_read_is_refused(folder: Path) -> None:
    (folder / DOCUMENT).chmod(0)
    assert "Permission denied" in reason(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "Expecting value"), ("{", "Expecting property name"), ("[]", "must contain a JSON object"),
     ("[" * 100_000, "recursion"), ("9" * 5000, "integer string"), ('{"format": NaN}', "numbers must be finite"),
     ('{"format": 1e999}', "numbers must be finite"), ("{}", "has the format None"),
     ('{"format": "nasplat predictor 2"}', "use the version that it was saved with")],
)  # fmt: skip
def test_what_is_no_document_is_refused(text: str, said: str, folder: Path) -> None:
    (folder / DOCUMENT).write_text(text)
    assert said in reason(folder)


@pytest.mark.parametrize("name", [DOCUMENT, ARRAYS])
def test_what_is_far_too_large_is_not_read(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contract.LARGEST, name, 10)
    assert "must have at most 10 bytes" in reason(folder)
    with pytest.raises(InputError, match="must have at most 10 bytes"):
        Ridge(SPACE).fit([SPACE.parse(code) for code in CODES], np.arange(20.0)).save(folder.parent / "new")
    assert not (folder.parent / "new").exists()


def test_an_edited_document_is_refused(folder: Path) -> None:
    edit(folder, lambda document: document["about"].update(count=51), sign=False)
    assert f"{DOCUMENT} has changed since it was saved" in reason(folder)


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d.update(predictor="demo_rigde"), "no predictor is named 'demo_rigde'; did you mean 'demo_ridge'"),
    (lambda d: d["space"].update(name="nasbench202"), "no search space is named 'nasbench202'; did you mean"),
    (lambda d: d["space"]["options"].update(channels=0), "channels and cells of nasbench201 must be at least 1"),
    (lambda d: d["space"]["options"].update(depth=3), "no option of space is named 'depth'"),
    (lambda d: d["options"].update(alpha="x"), "predictor.alpha: input should be a valid number"),
    (lambda d: d["options"].update(beta=1), "no option of predictor is named 'beta'"),
    (lambda d: d.update(options=[]), "lacks a key"),
    (lambda d: d.pop("state"), "lacks a key"),
    (lambda d: d.update(space="nasbench201"), "lacks a key"),
    (lambda d: d.update(arrays="0" * 64), "does not belong to"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[said for _, said in CHANGES])
def test_a_document_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], object], said: str, folder: Path
) -> None:
    assert said in reason(edit(folder, change))


@pytest.mark.parametrize(
    "arrays",
    [{}, {"weights": np.zeros(30)}, {"weights": np.zeros((31, 2))}, {"weights": np.full(31, np.nan)},
     {"others": np.zeros(31)}],
    ids=["none", "too short", "too many dimensions", "not finite", "other names"],
)  # fmt: skip
def test_arrays_that_were_never_learnt_are_refused(arrays: dict[str, np.ndarray], folder: Path) -> None:
    (folder / ARRAYS).write_bytes(save(arrays))
    edit(folder, lambda d: d.update(arrays=hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()))
    assert f"the predictor in {folder} cannot be read" in reason(folder)


class Other(Ridge):
    """The same by another name."""

    name = "other"


def test_another_space_or_predictor_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"for nasbench201 with .*'channels': 16.*the space has .*'channels': 4"):
        Ridge.load(folder, NASBench201(channels=4))
    with pytest.raises(InputError, match="holds a demo_ridge of nasbench201, not a demo_ridge of darts"):
        Ridge.load(folder, make_space("darts"))
    with pytest.raises(InputError, match="not a other of nasbench201"):
        Other.load(folder, SPACE)


def test_what_json_cannot_say_is_not_saved(tmp_path: Path) -> None:
    made = Ridge(SPACE).fit([SPACE.parse(code) for code in CODES], np.arange(20.0))
    for value in (float("nan"), Path("x")):
        with pytest.raises(InputError, match="cannot be saved: JSON cannot represent"):
            made.save(tmp_path / "p", {"value": value})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="not fitted"):
        Ridge(SPACE).save(tmp_path / "p")


def test_restoring_may_fail_in_any_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_state(self: Ridge, state: FittedState) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(Ridge, "set_state", set_state)
    assert "RuntimeError: size mismatch" in reason(folder)


@pytest.mark.parametrize("name", [DOCUMENT, ARRAYS])
def test_any_byte_flipped_or_cut_is_noticed_or_harmless(name: str, folder: Path) -> None:
    """Layout may change; whatever is opened predicts the same to the last bit."""
    truth, path = predictions(folder), folder / name
    data = path.read_bytes()
    refused = 0
    for place in range(0, len(data), 3):
        flipped = data[:place] + bytes([data[place] ^ 1 << place // 3 % 8]) + data[place + 1 :]
        for damaged in (flipped, data[:place]):
            path.write_bytes(damaged)
            try:
                assert predictions(folder) == truth, f"byte {place} of {name}"
            except InputError:
                refused += 1
    assert refused > len(data) // 2


class Reordered(ToySpace):
    """The toy, of which predictors see other features than before."""

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        return super().features(architecture)[::-1]


def test_a_predictor_that_would_say_something_else_is_refused(tmp_path: Path) -> None:
    space = ToySpace()
    members = (space.members() or [])[::7]
    Ridge(space).fit(members, np.array([toy_accuracy(each) for each in members])).save(tmp_path / "saved")
    assert Ridge.load(tmp_path / "saved", space).predict(members[:3]).shape == (3,)
    with pytest.raises(InputError, match=r"something else of toy than when it was saved.*fit it again"):
        Ridge.load(tmp_path / "saved", Reordered())
    edit(tmp_path / "saved", lambda document: document["trial"].append(0.5))
    with pytest.raises(InputError, match="cannot be read"):
        Ridge.load(tmp_path / "saved", space)


def test_an_earlier_version_saved_no_trial_and_saw_another_graph_of_genes(folder: Path, tmp_path: Path) -> None:
    before = predictions(folder)
    edit(folder, lambda document: document.pop("trial"))
    assert predictions(folder) == before, "cells have a graph of their own"
    space = ToySpace()
    members = (space.members() or [])[::7]
    Ridge(space).fit(members, np.array([toy_accuracy(each) for each in members])).save(tmp_path / "saved")
    edit(tmp_path / "saved", lambda document: document.pop("trial"))
    with pytest.raises(InputError, match="something else of toy than when it was saved"):
        Ridge.load(tmp_path / "saved", space)
