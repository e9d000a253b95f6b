"""`nasplat calibrate`: pictures that are asked for, labels that are given, and what ships."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import nn

import nasplat
from nasplat.architecture import IO
from nasplat.calibration import asking, job
from nasplat.calibration.answers import Names, Said, by_content, check_classes, read_answers
from nasplat.calibration.calibrators import NAMES, fit
from nasplat.calibration.clusters import k_medoids
from nasplat.calibration.operational import Operational
from nasplat.calibration.outputs import Outputs
from nasplat.calibration.rivals import Isotonic
from nasplat.calibration.rounds import Plan, medoids_of, next_round
from nasplat.calibration.served import confidence_of
from nasplat.calibration.stored import stored
from nasplat.data.pool import Pool
from nasplat.errors import DamageError, InputError, RunError
from nasplat.export.calibrated import ship
from nasplat.export.formats import write_source
from nasplat.interface.calibrating import Calibrated, ExportedClassifier
from nasplat.nn.onnx import write_onnx
from nasplat.training.seeding import seeded

CommandLine = Callable[..., subprocess.CompletedProcess[str]]
CLASSES = tuple(f"digit {n}" for n in range(10))
TURNED = (2, 3, 5, 7)
COUNT = 240


class Network(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.hidden(images))
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export, operation pictures, and all their labels."""
    folder = tmp_path_factory.mktemp("calibrating")
    digits, labels = load_digits(return_X_y=True)
    images = (digits.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    _export(folder / "exported", _trained(images[:900], labels[:900]))
    rng = np.random.default_rng(0)
    (folder / "operation" / "night").mkdir(parents=True)
    lines = ["picture,label"]
    for number in range(900, 900 + COUNT):
        image, label = images[number], labels[number]
        if label in TURNED:
            image = rotate(image, rng.uniform(30, 50), reshape=False, order=1)
        name = f"night/{number}.png" if number % 2 else f"{number}, day.png"
        Image.fromarray(image).save(folder / "operation" / name)
        lines.append(f'"{name}",{CLASSES[label]}')
    shutil.copy(folder / "operation" / "900, day.png", folder / "operation" / "again.png")
    (folder / "operation" / "broken.png").write_bytes(b"\x89PNG")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def _trained(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> nn.Module:
    inputs, wanted = (torch.from_numpy(images).float()[:, None] - 78) / 96, torch.from_numpy(labels)
    with seeded(0):
        network = Network()
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(150):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(network(inputs), wanted))
            optimizer.step()
    return network.eval()


def _export(folder: Path, network: nn.Module) -> None:
    """Write what `nasplat export --features --format all` writes, but for what a calibration does not read."""
    io = IO.image(channels=1, side=8, outputs=10)
    folder.mkdir()
    write_onnx(network, io.input_shape, folder / "model.onnx", features=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    write_source(network, io, folder / "network.py", ["A network."])
    (folder / "README.md").write_text("# A network\n")
    preprocessing = {
        "channels": 1, "height": 8, "width": 8, "mean": [78.0], "std": [96.0], "classes": CLASSES, "white": 255.0,
    }  # fmt: skip
    files = ["README.md", "architecture.json", "model.onnx", "network.py", "weights.safetensors"]
    (folder / "architecture.json").write_text(json.dumps({"preprocessing": preprocessing, "files": files}))


def calibrated(place: Path, out: Path, **given: Any) -> Calibrated:
    options: dict[str, Any] = {"labels": place / "labels.csv", "budget": 50, "out": out, "progress": False}
    return nasplat.calibrate(place / "exported", place / "operation", **(options | given))


@pytest.fixture(scope="module")
def found(place: Path) -> Calibrated:
    return calibrated(place, place / "found")


@pytest.fixture
def without_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ships all but the ONNX graph, which takes a second to write."""
    monkeypatch.setattr("nasplat.export.calibrated.write_graph", lambda folder: None)
    monkeypatch.setattr("nasplat.export.calibrated._of_graph", lambda *given: 0.0)
    monkeypatch.setattr("nasplat.export.calibrated._of_images", lambda *given: 0.0)


def truth(place: Path) -> dict[str, str]:
    with (place / "labels.csv").open(newline="") as file:
        return {row["picture"]: row["label"] for row in csv.DictReader(file)}


def answer(path: Path, place: Path, count: int | None = None) -> list[str]:
    """Fill a file of questions, or the first lines of it, and give the pictures."""
    known = truth(place)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:count]:
        row["label"] = known.get(row["picture"], CLASSES[0])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [row["picture"] for row in rows]


# With labels that are known ---------------------------------------------------------------------------------------


def test_figures_are_of_pictures_that_no_calibrator_has_seen(found: Calibrated) -> None:
    compared = found.compared
    assert compared is not None and compared.recommendation is not None
    labelled = compared.found
    assert len(labelled.rows) == 50 == len(set(labelled.rows.tolist()))
    assert labelled.pool["files"] == COUNT + 2 and labelled.pool["images"] == COUNT
    assert labelled.pool["unreadable"] == 1 and any("broken.png" in note for note in compared.notes)
    rest = np.setdiff1d(np.arange(COUNT), labelled.rows)
    assert labelled.held_out.tolist() == rest.tolist() and len(rest) == COUNT - 50
    logits = labelled.outputs.logits
    assert not {tuple(row) for row in logits[labelled.rows]} & {tuple(row) for row in logits[labelled.held_out]}
    for name in NAMES:
        own = fit(name, labelled.outputs.take(labelled.rows), labelled.labels)(labelled.outputs.take(labelled.held_out))
        right = logits[labelled.held_out].argmax(1) == labelled.held_out_labels
        figure = compared.figures[name]
        assert figure["brier"].value == pytest.approx(float(np.mean((own - right) ** 2)))
        assert figure["high_confidence_errors"].value == int(((own >= 0.9) & ~right).sum())
        assert compared.acted(name) >= figure["high_confidence_errors"].value


def test_local_errors_are_found_and_what_was_found_is_told(found: Calibrated, place: Path) -> None:
    document = json.loads((found.folder / "calibration.json").read_text())
    before, after = document["figures"]["none"], document["figures"][document["shipped"]]
    assert document["shipped"] == document["recommended"]["calibrator"] == "operational"
    assert after["brier"]["value"] < 0.6 * before["brier"]["value"]
    assert after["high_confidence_errors"]["value"] < 0.3 * before["high_confidence_errors"]["value"]
    assert document == json.loads(json.dumps(found.document()))
    page = found.page.read_text()
    assert "held-out images" in page and page.count("<svg") == 1 and "operational (ships)" in page
    shown = f"{after['decision_cost']['value']:.4f}"
    assert shown in page and "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert (found.folder / "labels.csv").read_text().count("\n") == COUNT + 1


@pytest.mark.usefixtures("without_graph")
def test_the_same_call_gives_the_same_and_another_seed_asks_for_others(
    found: Calibrated, place: Path, tmp_path: Path
) -> None:
    again = calibrated(place, tmp_path / "again")
    assert found.compared is not None and again.compared is not None
    assert again.compared.found.rows.tolist() == found.compared.found.rows.tolist()
    ours, theirs = (json.loads((each.network / "calibrator.json").read_text()) for each in (found, again))
    assert ours == theirs
    other = calibrated(place, tmp_path / "other", seed=1)
    assert other.compared is not None
    assert set(other.compared.found.rows.tolist()) != set(found.compared.found.rows.tolist())


@pytest.mark.usefixtures("without_graph")
def test_labels_may_be_a_mapping_and_of_a_part_of_the_pictures(place: Path, tmp_path: Path) -> None:
    some = dict(list(truth(place).items())[:80])
    part = calibrated(place, tmp_path / "part", labels=some, budget=40, held_out=20)
    assert part.compared is not None
    names = sorted(some)
    with (tmp_path / "part" / "labels.csv").open(newline="") as file:
        assert {row["picture"] for row in csv.DictReader(file)} <= set(names)
    assert len(part.compared.found.held_out) == 20
    assert any(f"80 of {COUNT} different pictures have a label" in note for note in part.compared.notes)
    assert any("only 20 pictures" in note for note in part.compared.notes)


@pytest.mark.usefixtures("without_graph")
def test_another_calibrator_and_a_larger_budget_replace_what_shipped(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = calibrated(place, out, budget=20, calibrator="platt")
    assert json.loads((first.network / "calibrator.json").read_text())["calibrator"] == "platt"
    asked = set((out / "labels.csv").read_text().splitlines())
    second = calibrated(place, out, budget=40)
    assert second.compared is not None and len(second.compared.found.rows) == 40
    assert asked <= set((out / "labels.csv").read_text().splitlines())
    assert json.loads((second.network / "calibrator.json").read_text())["calibrator"] == second.compared.shipped
    assert not (out / "network.new").exists()
    with pytest.raises(InputError, match="asked for already"):
        calibrated(place, out, budget=30)


@pytest.mark.usefixtures("without_graph")
def test_the_papers_settings_choose_fit_and_are_scored(place: Path, tmp_path: Path) -> None:
    found = calibrated(place, tmp_path / "paper", paper=True, calibrator="operational")
    assert found.compared is not None and not found.compared.found.drawn.any()
    said = json.loads((found.network / "calibrator.json").read_text())
    assert len(said["numbers"]["processes"]) == 10 and said["numbers"]["sigmoid"] is None
    medoids = k_medoids(found.compared.found.outputs.features, 10, 0)
    asked = json.loads((found.folder / "rounds.json").read_text())
    assert [len(each["contents"]) for each in asked["rounds"]] == [10] * 5
    assert set(asked["rounds"][0]["contents"]) == set(asked["medoids"]) and len(asked["medoids"]) == 10
    assert set(medoids.tolist()) <= set(found.compared.found.rows.tolist())


# What ships -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(found: Calibrated) -> Outputs:
    assert found.compared is not None
    return found.compared.found.outputs


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", [*NAMES, "paper"])
def test_every_format_agrees_with_the_calibrator(name: str, place: Path, found: Calibrated, tmp_path: Path) -> None:
    assert found.compared is not None
    labelled, paper = found.compared.found, name == "paper"
    outputs, kind = labelled.outputs, "operational" if paper else name
    medoids = outputs.features[k_medoids(outputs.features, 10, 0)]
    calibrator = fit(kind, outputs.take(labelled.rows), labelled.labels, paper=paper, medoids=medoids)
    network = ExportedClassifier(place / "exported")
    with Pool(place / "found" / "work" / "pool.sqlite", (1, 8, 8)) as pool:
        images, _ = pool.read(range(COUNT))
    inputs = network.inputs(images)
    differences = ship(
        place / "exported", tmp_path / "out", kind, calibrator, outputs, inputs[:64],
        preprocessing=network.preprocessing, about={"labels": 80},
    )  # fmt: skip
    assert set(differences) == {"calibrator.py", "calibrated.onnx"} and max(differences.values()) <= 1e-6
    session = onnxruntime.InferenceSession(tmp_path / "out" / "calibrated.onnx")
    logits, features, confidence = session.run(["logits", "features", "confidence"], {"images": inputs})
    for given, same in zip((logits, features), network(images), strict=True):
        np.testing.assert_array_equal(given, same)
    wanted = calibrator(Outputs(logits, features))
    np.testing.assert_allclose(confidence, wanted, atol=1e-6)
    assert len(set(wanted.round(6))) > 10
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import numpy, torch, calibrator\n"
            "images = torch.from_numpy(numpy.load('inputs.npy'))\n"
            "network, seen = calibrator.load(), []\n"
            "network.network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))\n"
            "logits, found = network(images)\n"
            "again = calibrator.load_confidence()(*map(torch.from_numpy, map(numpy.load, ('l.npy', 'f.npy'))))\n"
            "own = {'logits': logits, 'features': seen[0], 'found': found, 'again': again}\n"
            "numpy.savez('out.npz', **{name: each.detach().numpy() for name, each in own.items()})",
        ],
        cwd=_with(tmp_path / "out", inputs=inputs, l=logits, f=features),
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    assert shown.returncode == 0, shown.stderr
    with np.load(tmp_path / "out" / "out.npz") as arrays:
        np.testing.assert_allclose(arrays["again"], wanted, atol=1e-6)
        np.testing.assert_allclose(arrays["logits"], logits, atol=1e-4)  # of another runtime
        own = calibrator(Outputs(arrays["logits"], arrays["features"]))
        np.testing.assert_allclose(arrays["found"], own, atol=1e-6)


def _with(folder: Path, **arrays: NDArray[Any]) -> Path:
    for name, each in arrays.items():
        np.save(folder / f"{name}.npy", each)
    return folder


def test_the_folder_says_what_it_has_and_predict_prints_calibrated_confidence(found: Calibrated, place: Path) -> None:
    said = json.loads((found.network / "architecture.json").read_text())
    assert set(said["files"]) == {path.name for path in found.network.iterdir()}
    assert said["calibration"]["calibrator"] == "operational"
    assert "## Calibrated confidence" in (found.network / "README.md").read_text()
    picture = place / "operation" / "900, day.png"
    printed = subprocess.run(
        [sys.executable, found.network / "predict.py", picture, place / "operation" / "broken.png"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert printed.returncode == 1 and "broken.png cannot be read" in printed.stderr
    assert found.compared is not None
    labelled, compared = found.compared.found, found.compared
    with Pool(found.folder / "work" / "pool.sqlite", (1, 8, 8)) as pool:
        row = pool.names()[1].index("900, day.png")
    own, corrected = labelled.outputs.confidence[row], compared.confidence["operational"][row]
    name = CLASSES[labelled.outputs.predicted[row]]
    wanted = f"{picture}: {name} {100 * corrected:.1f} %, calibrated ({100 * own:.1f} % by the network itself)\n"
    assert printed.stdout == wanted


def test_a_format_with_another_confidence_does_not_ship(
    place: Path, outputs: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrator = fit("temperature", outputs.take(np.arange(60)), outputs.predicted[:60])
    off = stored("temperature", calibrator)
    off[0]["numbers"]["temperature"] *= 1.001
    monkeypatch.setattr("nasplat.export.calibrated.stored", lambda name, each: off)
    network = ExportedClassifier(place / "exported")
    with pytest.raises(RunError, match="nothing was shipped"):
        ship(
            place / "exported", tmp_path / "out", "temperature", calibrator, outputs,
            np.zeros((4, 1, 8, 8), np.float32), preprocessing=network.preprocessing, about={"labels": 60},
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_no_input_makes_what_ships_give_no_number() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (60, 3)) * 1e3
    logits = rng.normal(0, 1, (60, 4)) * np.array([1e-3, 1, 1e2, 1e4])[rng.integers(4, size=60), None]
    outputs = Outputs(logits.astype(np.float32), features.astype(np.float32))
    for labels in (outputs.predicted, (outputs.predicted + 1) % 4, rng.integers(4, size=60)):
        for name in NAMES:
            calibrator = fit(name, outputs.take(np.arange(30)), labels[:30])
            document, tensors = stored(name, calibrator)
            module = confidence_of(document, {key: torch.from_numpy(each) for key, each in tensors.items()})
            given = module(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.features)).numpy()
            assert ((given >= 0) & (given <= 1)).all()
            np.testing.assert_allclose(given, calibrator(outputs), atol=1e-6)


def test_steps_of_isotonic_regression_are_those_of_interpolation() -> None:
    rng = np.random.default_rng(0)
    calibrator = Isotonic(np.array([0.3, 0.5, 0.500001, 0.9]), np.array([0.1, 0.1, 0.7, 0.8]))
    document, tensors = stored("isotonic", calibrator)
    module = confidence_of(document, {key: torch.from_numpy(each) for key, each in tensors.items()})
    sure = np.concatenate([rng.uniform(0.5, 1, 500), [0.5, 0.500001, 0.9]])
    logits = np.stack([np.log(sure), np.log1p(-sure)], 1)
    outputs = Outputs(logits, np.zeros((len(sure), 1)))
    found = module(torch.from_numpy(logits), torch.zeros(len(sure), 1)).numpy()
    np.testing.assert_allclose(found, calibrator(outputs), atol=1e-9)


def test_another_version_of_a_calibrator_is_refused() -> None:
    with pytest.raises(ValueError, match="format"):
        confidence_of({"format": 99, "calibrator": "none", "numbers": {}}, {})
    with pytest.raises(ValueError, match="no calibrator is named"):
        confidence_of({"format": 1, "calibrator": "magic", "numbers": {}}, {})


# Rounds of questions ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_graph")
def test_rounds_ask_nothing_twice_and_come_to_the_same(found: Calibrated, place: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "rounds", list[str]()
    for number in range(1, 6):
        waiting = calibrated(place, out, labels=None, held_out=30)
        assert waiting.asking is not None and waiting.asking.name == f"round-{number}"
        assert waiting.asking.labelled == 10 * (number - 1) and waiting.asking.answered == 0
        with Image.open(waiting.asking.sheet) as sheet:
            assert len(sheet.convert("L").getcolors() or []) > 20
        answer(waiting.asking.questions, place, 4)
        part = calibrated(place, out, labels=None, held_out=30)
        assert part.asking is not None and part.asking.answered == 4 and part.asking.name == f"round-{number}"
        asked += answer(waiting.asking.questions, place)
    assert len(asked) == 50 == len(set(asked))
    waiting = calibrated(place, out, labels=None, held_out=30)
    assert waiting.asking is not None and waiting.asking.name == "held-out-1" and waiting.compared is None
    held = answer(waiting.asking.questions, place)
    assert len(held) == 30 and not set(held) & set(asked)
    (out / "round-1.csv").unlink()  # its answers are kept
    ended = calibrated(place, out, labels=None, held_out=30)
    assert ended.compared is not None and found.compared is not None
    assert ended.compared.found.rows.tolist() == found.compared.found.rows.tolist()
    assert len(ended.compared.found.held_out) == 30
    ours, theirs = (json.loads((each.network / "calibrator.json").read_text()) for each in (ended, found))
    assert ours == theirs
    more = calibrated(place, out, labels=None, held_out=30, budget=60)
    assert more.asking is not None and more.asking.name == "round-6"
    assert not set(answer(more.asking.questions, place)) & {*asked, *held}
    last = calibrated(place, out, labels=None, held_out=30, budget=60)
    assert last.compared is not None and len(last.compared.found.rows) == 60
    assert last.compared.found.held_out.tolist() == ended.compared.found.held_out.tolist()


@pytest.mark.usefixtures("without_graph")
def test_pictures_that_nobody_can_label_are_left_out_and_not_asked_for_again(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    waiting = calibrated(place, out, labels=None, budget=20)
    for _ in range(2):
        assert waiting.asking is not None
        pictures = answer(waiting.asking.questions, place)
        lines = list(csv.reader(waiting.asking.questions.read_text().splitlines()))
        lines[1][2] = "?"
        with waiting.asking.questions.open("w", newline="") as file:
            csv.writer(file).writerows(lines)
        assert pictures[0] == lines[1][1]
        waiting = calibrated(place, out, labels=None, budget=20)
    assert waiting.compared is not None and len(waiting.compared.found.rows) == 18
    assert any("2 of the pictures that were asked for could not be labelled" in n for n in waiting.compared.notes)
    assert any("there are no figures" in note for note in waiting.compared.notes)
    assert waiting.document()["figures"] == {} and "Reliability" not in waiting.page.read_text()


@pytest.mark.usefixtures("without_graph")
def test_a_call_that_is_interrupted_goes_on(
    found: Calibrated, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = Pool.read, list[int]()
    monkeypatch.setattr("nasplat.data.pool_pass.CHUNK", 32)

    def counted(self: Pool, rows: Any) -> Any:
        seen.extend(rows)
        if stops and len(seen) == 4 * 32:
            raise KeyboardInterrupt
        return read(self, rows)

    monkeypatch.setattr(Pool, "read", counted)
    stops = True
    with pytest.raises(KeyboardInterrupt):
        calibrated(place, tmp_path / "out")
    stops = False
    seen.clear()
    again = calibrated(place, tmp_path / "out")
    assert seen[0] == 3 * 32 and again.compared is not None and found.compared is not None
    np.testing.assert_array_equal(again.compared.found.outputs.logits, found.compared.found.outputs.logits)
    assert again.compared.found.rows.tolist() == found.compared.found.rows.tolist()


def test_the_command_asks_goes_on_and_prints(place: Path, command: CommandLine, tmp_path: Path) -> None:
    words = ["calibrate", place / "exported", "--operation", place / "operation", "--budget", "20", "--out", "out"]
    asked = command(*words)
    assert asked.returncode == 0 and "round-1: label 10 of 10 images" in asked.stdout
    waiting = json.loads(command(*words, "--json").stdout)["waiting"]
    assert waiting["pictures"] == 10 and Path(waiting["questions"]).is_file()
    ended = command(*words, "--labels", place / "labels.csv")
    assert ended.returncode == 0 and "recommended: " in ended.stdout and "broken.png" in ended.stderr
    assert f"On {COUNT - 20} held-out images" in ended.stdout and "shipped: " in ended.stdout
    document = json.loads(command(*words, "--labels", place / "labels.csv", "--json").stdout)
    assert document["held out"] == COUNT - 20
    refused = command(*words, "--threshold", "1.5")
    assert refused.returncode == 2 and "--threshold" in refused.stderr


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": 1}, "at least two labelled"),
        ({"budget": 5}, "at least 10 labelled"),
        ({"held_out": -1}, "at least 0"),
        ({"seed": -1}, "at least 0"),
        ({"threshold": 1.0}, "above 0 and below 1"),
        ({"threshold": math.nan}, "above 0 and below 1"),
        ({"batch": 0}, "at least one picture"),
        ({"calibrator": "tempreature"}, "did you mean 'temperature'"),
        ({"paper": True, "budget": 5, "calibrator": "platt"}, "raise --budget"),
        ({"labels": {}}, "has no label"),
        ({"labels": {"900, day.png": "cat"}}, "none of the classes, such as 'cat'"),
        ({"labels": "nowhere.csv"}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    given: dict[str, Any], message: str, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        calibrated(place, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": COUNT + 1}, f"only {COUNT} different pictures with a label"),
        ({"budget": COUNT + 1, "labels": None}, f"only {COUNT} different operation pictures"),
        ({"budget": COUNT, "held_out": 1}, "lower --budget"),
        ({"labels": {"zebra.png": "digit 1"}}, "not in the operation folder, such as zebra.png"),
        ({"labels": {"a\0b": "digit 1"}}, "not in the operation folder"),
        ({"labels": {"900, day.png": "digit 1", "again.png": "digit 2"}}, "labelled twice and differently"),
        ({"labels": {"900, day.png": "digit 1"}, "budget": 10}, "only 1 different pictures with a label"),
    ],
)
def test_what_does_not_fit_the_pictures_is_refused_and_loses_no_pass(
    given: dict[str, Any], message: str, found: Calibrated, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    shutil.copy(found.folder / "job.json", out)
    for path in (found.folder / "work").iterdir():
        shutil.copy(path, out / "work")
    before = {path.name: path.read_bytes() for path in (out / "work").iterdir()}
    with pytest.raises(InputError, match=message):
        calibrated(place, out, **given)
    assert {path.name: path.read_bytes() for path in (out / "work").iterdir()} == before


def test_other_folders_are_refused(place: Path, tmp_path: Path) -> None:
    def refused(message: str, exported: Path, operation: Path, out: Path = tmp_path / "out") -> None:
        with pytest.raises(InputError, match=message):
            nasplat.calibrate(exported, operation, out=out, progress=False)

    exported, operation = place / "exported", place / "operation"
    refused("is none", exported, tmp_path / "nowhere")
    refused("is of an exported folder", operation, operation)
    (tmp_path / "empty").mkdir()
    refused("has no images", exported, tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    shutil.copy(operation / "broken.png", tmp_path / "bad")
    refused("none of the 1 operation pictures can be read", exported, tmp_path / "bad")
    refused("is not the folder of a calibration", exported, operation, place / "exported")
    assert not (tmp_path / "out").exists()
    plain = tmp_path / "plain"
    shutil.copytree(exported, plain)
    write_onnx(Network().eval(), (1, 8, 8), plain / "model.onnx")
    refused("gives no features, .* --features", plain, operation)
    (plain / "model.onnx").unlink()
    refused("has no model.onnx", plain, operation)
    (plain / "model.onnx").write_bytes(b"none")
    refused("cannot be opened", plain, operation)


def test_a_folder_goes_on_only_with_what_it_was_begun_with(found: Calibrated, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(found.folder, out)
    with pytest.raises(InputError, match="begun with another --seed"):
        calibrated(place, out, seed=5)
    other = tmp_path / "other"
    shutil.copytree(place / "exported", other)
    write_onnx(Network().eval(), (1, 8, 8), other / "model.onnx", features=True)
    with pytest.raises(InputError, match="begun with another network"):
        nasplat.calibrate(other, place / "operation", out=out, labels=place / "labels.csv", budget=50, progress=False)
    for name in (asking.ROUNDS, job.JOB):
        (out / name).write_text("[3]")
        with pytest.raises(DamageError, match="is damaged"):
            calibrated(place, out)


def test_answers_are_corrected_and_withdrawn_where_they_stand_and_none_is_lost(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    waiting = calibrated(place, out, labels=None, budget=20).asking
    assert waiting is not None
    first = answer(waiting.questions, place)
    known = truth(place)
    assert calibrated(place, out, labels=None, budget=20).asking is not None
    lines = list(csv.reader(waiting.questions.read_text().splitlines()))
    lines[1][2] = CLASSES[(CLASSES.index(lines[1][2]) + 1) % 10]
    write(waiting.questions, lines)
    calibrated(place, out, labels=None, budget=20)
    with (out / "labels.csv").open(newline="") as file:
        kept = {row["picture"]: row["label"] for row in csv.DictReader(file)}
    assert kept == {name: known[name] for name in first} | {lines[1][1]: lines[1][2]}
    with pytest.raises(InputError, match=r"labelled twice and differently: .*round-1.csv, line 2\) and .*labels"):
        calibrated(place, out, budget=20)
    lines[1][2] = ""
    write(waiting.questions, lines)
    again = calibrated(place, out, labels=None, budget=20).asking
    assert again is not None and (again.name, again.answered) == ("round-1", 9)
    lines[1][2], lines[1][3] = CLASSES[0], "00" * 16
    write(waiting.questions, lines)
    with pytest.raises(InputError, match="is not the picture that was asked for"):
        calibrated(place, out, labels=None, budget=20)


def write(path: Path, lines: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


@pytest.mark.usefixtures("without_graph")
def test_what_was_asked_for_by_mistake_is_dropped_and_lost_lines_come_back(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def call(**given: Any) -> Calibrated:
        return calibrated(place, out, labels=None, **given)

    waiting = call(budget=10, batch=10).asking
    assert waiting is not None
    text = waiting.questions.read_text()
    waiting.questions.write_text("\n".join(text.splitlines()[:4] + text.splitlines()[5:]) + "\n")
    again = call(budget=10, batch=10).asking
    assert again is not None and again.questions.read_text() == text
    answer(waiting.questions, place)
    assert call(budget=30, batch=10, held_out=5).asking is not None
    assert (out / "round-2.csv").exists()
    held = call(budget=10, held_out=5).asking
    assert held is not None and held.name == "held-out-1" and not (out / "round-2.csv").exists()
    answer(held.questions, place, 3)
    assert call(budget=10, held_out=20).asking is not None
    ended = call(budget=10)
    assert ended.asking is not None and ended.asking.name == "held-out-1" and ended.asking.answered == 3
    answer(held.questions, place)
    last = call(budget=10)
    assert last.compared is not None and len(last.compared.found.held_out) == 5


@pytest.mark.usefixtures("without_graph")
def test_labels_that_were_given_once_are_kept(found: Calibrated, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(found.folder, out)
    again = calibrated(place, out, labels=None)
    assert again.compared is not None and found.compared is not None
    assert again.compared.found.held_out.tolist() == found.compared.found.held_out.tolist()
    assert again.compared.figures.keys() == found.compared.figures.keys()


@pytest.mark.usefixtures("without_graph")
def test_pictures_that_go_change_or_come_later_shift_no_answer(place: Path, tmp_path: Path) -> None:
    """What was asked is known by content, not by its place in the folder."""
    operation, out = tmp_path / "operation", tmp_path / "out"
    shutil.copytree(place / "operation", operation)
    given = {"labels": None, "budget": 30, "held_out": 20}

    def call(**more: Any) -> Calibrated:
        return nasplat.calibrate(place / "exported", operation, out=out, progress=False, **(given | more))

    waiting = call()
    assert waiting.asking is not None
    asked = answer(waiting.asking.questions, place)
    others = [path for path in sorted(operation.rglob("*.png")) if str(path.relative_to(operation)) not in asked]
    others[0].unlink()
    shutil.rmtree(out / "work")  # all is read again, so that places shift
    waiting = call()
    assert waiting.asking is not None and waiting.asking.name == "round-2" and waiting.asking.labelled == 10
    lines = list(csv.reader(waiting.asking.questions.read_text().splitlines()))
    shutil.move(operation / lines[1][1], tmp_path / "aside.png")
    shutil.rmtree(out / "work")
    waiting.asking.questions.unlink()
    assert list(csv.reader(call().asking.questions.read_text().splitlines())) == [lines[0], *lines[2:]]  # type: ignore[union-attr]
    shutil.move(tmp_path / "aside.png", operation / lines[1][1])
    shutil.rmtree(out / "work")
    waiting = call()
    assert waiting.asking is not None
    assert list(csv.reader(waiting.asking.questions.read_text().splitlines())) == lines
    (operation / asked[0]).unlink()
    shutil.rmtree(out / "work")
    for _ in range(3):
        assert waiting.asking is not None
        answer(waiting.asking.questions, place)
        waiting = call()
    assert waiting.compared is not None and len(waiting.compared.found.rows) == 29
    assert any("1 pictures that were asked for are no longer there" in note for note in waiting.compared.notes)
    labelled = waiting.compared.found
    known = truth(place)
    with Pool(out / "work" / "pool.sqlite", (1, 8, 8)) as pool:
        names = pool.names()[1]
        rows = json.loads((out / "rounds.json").read_text())["rounds"]
    wanted = {each for part in rows for each in part["contents"]}
    with (out / "labels.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert {row["content"] for row in kept} == wanted and len(kept) == 50
    assert all(known[row["picture"]] == row["label"] for row in kept if row["picture"]) and asked[0] not in names
    assert not set(labelled.rows.tolist()) & set(labelled.held_out.tolist())


@pytest.mark.usefixtures("without_graph")
def test_labels_go_on_between_questions_and_files(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = calibrated(place, out, labels=None, budget=20).asking
    assert first is not None
    asked = {row[1] for row in csv.reader(first.questions.read_text().splitlines())}
    some = {name: label for n, (name, label) in enumerate(truth(place).items()) if n < 200 or name in asked}
    whole = calibrated(place, out, labels=some, budget=20)
    assert whole.compared is not None and len(whole.compared.found.held_out) >= 180
    kept = sorted((out / "labels.csv").read_text().splitlines())
    again = calibrated(place, out, labels=None, budget=20)  # what was blank in round-1.csv is filled in by now
    assert again.compared is not None and sorted((out / "labels.csv").read_text().splitlines()) == kept
    assert again.compared.found.rows.tolist() == whole.compared.found.rows.tolist()
    more = calibrated(place, out, labels=None, budget=20, held_out=195)
    assert more.asking is not None and more.asking.pictures == 195 - len(whole.compared.found.held_out)
    assert more.asking.answered == 0
    answer(more.asking.questions, place)
    ended = calibrated(place, out, labels=None, budget=20, held_out=195)
    assert ended.compared is not None and len(ended.compared.found.held_out) == 195
    lines = list(csv.reader((out / "labels.csv").read_text().splitlines()))
    write(out / "labels.csv", [[name, label, "" if n else digest] for n, (name, label, digest) in enumerate(lines)])
    calibrated(place, out, labels=None, budget=20, held_out=195)
    assert len((out / "labels.csv").read_text().splitlines()) == len(lines), "names alone do too"
    write(out / "labels.csv", [lines[0], [lines[1][0], "cat", ""]])
    with pytest.raises(InputError, match="none of the classes, such as 'cat'"):
        calibrated(place, out, labels=None, budget=20)


@pytest.mark.usefixtures("without_graph")
def test_a_picture_that_is_gone_leaves_the_same_call_possible(found: Calibrated, place: Path, tmp_path: Path) -> None:
    operation, out = tmp_path / "operation", tmp_path / "out"
    shutil.copytree(place / "operation", operation)
    known = truth(place)

    def call(**given: Any) -> Calibrated:
        return nasplat.calibrate(
            place / "exported", operation, out=out, budget=COUNT - 1, progress=False, calibrator="temperature", **given
        )

    assert call(labels=known).compared is not None
    (operation / "night" / "901.png").unlink()
    (operation / "902, day.png").unlink()
    shutil.rmtree(out / "work")
    again = call()
    assert again.compared is not None and len(again.compared.found.rows) in (COUNT - 3, COUNT - 2)
    assert "night/901.png" in (out / "labels.csv").read_text()
    other = nasplat.calibrate(
        place / "exported", operation, out=tmp_path / "other", labels=out / "labels.csv", budget=50, progress=False
    )
    assert other.compared is not None
    assert any("2 labels are of pictures that cannot be read or are gone" in note for note in other.compared.notes)


def test_what_others_have_in_the_folder_stays(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    (out / "work" / "thesis.txt").touch()
    (out / ".git").mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not the folder of a calibration"):
        nasplat.calibrate(place / "exported", tmp_path / "empty", out=out, progress=False)
    assert (out / "work" / "thesis.txt").exists() and (out / ".git").exists()
    with pytest.raises(InputError, match="is inside of"):
        nasplat.calibrate(place / "exported", place / "operation", out=place / "operation" / "out", progress=False)


@pytest.mark.usefixtures("without_graph")
def test_a_picture_that_changed_after_it_was_read_has_no_label(found: Calibrated, place: Path, tmp_path: Path) -> None:
    operation, out = tmp_path / "operation", tmp_path / "out"
    shutil.copytree(place / "operation", operation)
    words: dict[str, Any] = {"out": out, "budget": 50, "progress": False, "labels": truth(place)}
    nasplat.calibrate(place / "exported", operation, **words)
    path = operation / "902, day.png"
    shutil.copy(operation / "night" / "901.png", path)
    os.utime(path, (2e9, 2e9))
    with pytest.raises(InputError, match=r"not as the network saw them, such as .*902, day.png"):
        nasplat.calibrate(place / "exported", operation, **words)


def test_pictures_that_changed_since_they_were_read_are_not_asked_for(place: Path, tmp_path: Path) -> None:
    operation, out = tmp_path / "operation", tmp_path / "out"
    shutil.copytree(place / "operation", operation)

    def call() -> Calibrated:
        return nasplat.calibrate(place / "exported", operation, out=out, budget=20, progress=False)

    waiting = call().asking
    assert waiting is not None
    answer(waiting.questions, place)
    for path in operation.rglob("*.png"):
        if path.name != "broken.png":
            with Image.open(path) as image:
                flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            flipped.save(path)
    with pytest.raises(InputError, match=r"are not as the network saw them, such as .*png; restore them, or delete"):
        call()


def test_a_cluster_without_a_label_ships_what_the_calibrator_gives(outputs: Outputs) -> None:
    medoids = outputs.features[k_medoids(outputs.features, 10, 0)]
    near = np.linalg.norm(outputs.features[:, None] - medoids, axis=2).argmin(1)
    rows = np.flatnonzero(near < 4)[:40]
    calibrator = fit("operational", outputs.take(rows), outputs.predicted[rows], paper=True, medoids=medoids)
    document, tensors = stored("operational", calibrator)
    assert all(each.size for each in tensors.values()), "runtimes differ in products of empty matrices"
    module = confidence_of(document, {key: torch.from_numpy(each) for key, each in tensors.items()})
    found = module(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.features)).numpy()
    np.testing.assert_allclose(found, calibrator(outputs), atol=1e-6)


@pytest.mark.usefixtures("without_graph")
def test_labels_of_one_class_and_of_right_predictions_alone_are_handled_and_told(place: Path, tmp_path: Path) -> None:
    same = {name: label for name, label in truth(place).items() if label == CLASSES[4]}
    ended = calibrated(place, tmp_path / "same", labels=same, budget=12, calibrator="operational")
    assert ended.compared is not None
    assert any("all labelled pictures are of one class" in note for note in ended.compared.notes)
    assert all(math.isfinite(each["brier"].value) for each in ended.compared.figures.values())


# Answers ------------------------------------------------------------------------------------------------------------

PICTURES = Names(
    ("/a/1.png", "/a/b/1.png", "/a/b/2.png", "/a/ 3.png", "/a/3.png", "/a/4.png"),
    ("1.png", "b/1.png", "b/2.png", " 3.png", "3.png", "4.png"),
    ("x", "y", "x", "u", "v", ""),
)


def said(*pairs: tuple[str, str]) -> list[Said]:
    return [Said(f"line {n}", *pair) for n, pair in enumerate(pairs)]


def test_pictures_are_known_by_their_path_or_by_a_name_that_no_other_has() -> None:
    names = ("/a/1.png", "b/1.png", "1.png", "2.png", "b/2.png", "c.png", " 3.png", "3.png", " b/2.png ", "4.png")
    assert [PICTURES.content(name) for name in names] == ["x", "y", "x", "x", "x", None, "u", "v", "x", ""]
    answers = said(("/a/1.png", "cat"), ("b/1.png", "?"), ("2.png", "cat"), ("3.png", ""), ("4.png", "cat"))
    assert by_content(answers, PICTURES) == ({"x": "cat", "y": "?"}, 1)
    with pytest.raises(InputError, match="twice and differently"):
        by_content(said(("/a/1.png", "cat"), ("2.png", "dog")), PICTURES)
    assert by_content([Said("line", "any name", "dog", "u")], PICTURES) == ({"u": "dog"}, 0)
    with pytest.raises(InputError, match="its content is another"):
        by_content([Said("line", "3.png", "dog", "w")], PICTURES)
    with pytest.raises(InputError, match="1 labels are none of the classes, such as 'bird'"):
        check_classes(said(("1.png", "bird"), ("2.png", "?"), ("3.png", "")), ("cat", "dog"))


def test_files_of_spreadsheets_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes('\ufeffLabel;Picture\r\nKatze;"1;2.png"\r\n;3.png\r\nÄffin;4.png\r\n'.encode())
    assert [(each.picture, each.label) for each in read_answers(path)] == [
        ("1;2.png", "Katze"),
        ("3.png", ""),
        ("4.png", "Äffin"),
    ]
    path.write_text("picture\tlabel\n1.png\tcat\n")
    assert [each.label for each in read_answers(path)] == ["cat"]
    for text, message in (
        (b"name,label\n", "has the columns picture and label"), (b"\xff\xfe", "no CSV file"),
        (b"", "begins with nothing"), (b'picture,label\n"a,b\n', "no CSV file"),
    ):  # fmt: skip
        path.write_bytes(text)
        with pytest.raises(InputError, match=message):
            list(read_answers(path))


# Which pictures -----------------------------------------------------------------------------------------------------


def test_a_round_is_the_same_for_the_same_labels_and_asks_for_no_closed_picture() -> None:
    rng = np.random.default_rng(0)
    outputs = Outputs(rng.normal(0, 2, (90, 3)), rng.normal(0, 1, (90, 4)))
    plan, none = Plan(40), np.empty(0, np.int64)
    first, drawn = next_round(plan, outputs, none, none)
    assert len(first) == plan.step == 10 and drawn.all()
    labels = rng.integers(3, size=10)
    closed = np.arange(0, 90, 2)
    second, fair = next_round(plan, outputs, first, labels, closed=closed)
    assert fair.sum() == 7 and not set(second.tolist()) & {*first.tolist(), *closed.tolist()}
    again, _ = next_round(plan, outputs, first, labels, closed=closed)
    assert again.tolist() == second.tolist()
    last, _ = next_round(plan, outputs, first, labels, asked=36)
    assert len(last) == 4


def test_the_papers_rounds_begin_with_medoids_and_follow_doubt_alone() -> None:
    rng = np.random.default_rng(0)
    outputs = Outputs(rng.normal(0, 2, (90, 3)), rng.normal(0, 1, (90, 4)))
    plan, none = Plan(40, paper=True), np.empty(0, np.int64)
    medoids = medoids_of(plan, outputs.features)
    assert medoids is not None
    first, drawn = next_round(plan, outputs, none, none, medoids=medoids)
    assert first.tolist() == medoids.tolist() and not drawn.any()
    labels = rng.integers(3, size=10)
    second, drawn = next_round(plan, outputs, first, labels, medoids=medoids)
    calibrator = Operational.fit(outputs.take(first), labels, recipe=plan.recipe, medoids=outputs.features[medoids])
    mean, deviation = calibrator.posterior(outputs)
    order = np.argsort(np.abs(0.9 - mean) / deviation)
    assert set(second.tolist()) == set([row for row in order.tolist() if row not in first.tolist()][:10])
    assert not drawn.any()
    other, _ = next_round(plan, outputs, none, none, medoids=medoids, closed=medoids[:4])
    assert other.tolist() == medoids[4:].tolist()


def test_tensors_that_ship_are_plain_numbers(found: Calibrated) -> None:
    tensors = load_file(found.network / "calibrator.safetensors")
    assert all(each.dtype == torch.float64 and each.isfinite().all() for each in tensors.values())
    assert not list(found.network.rglob("*.pkl")) and b"pickle" not in (found.network / "calibrator.py").read_bytes()
