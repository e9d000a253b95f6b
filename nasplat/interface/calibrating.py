"""A calibration: the confidence of an exported network, corrected by labels of a few pictures of where it is used."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nasplat.benchmark import Preprocessing
from nasplat.data.picked import Layout
from nasplat.data.picture_files import MOST_PIXELS
from nasplat.data.pool import NAMES as NAMES_OF_SETS
from nasplat.data.pool import Images
from nasplat.errors import InputError
from nasplat.interface.console import console_of
from nasplat.interface.teaching import layout_of, preprocessing_of
from nasplat.storage.files import is_taken, read_file, refusal, write_atomically

if TYPE_CHECKING:
    from nasplat.calibration.asking import Asking, Labelled
    from nasplat.calibration.comparison import Compared
    from nasplat.calibration.rounds import Plan

RESULTS, PAGE, NETWORK = "calibration.json", "calibration.html", "network"
"""What was found, as JSON and as a page; and the exported folder with the calibrator."""


class ExportedClassifier:
    """An exported classifier whose ONNX model gives logits and features.

    Args:
        folder: The exported folder.

    Raises:
        InputError: It is no such folder, or its model has no features.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        from nasplat.calibration.answers import UNKNOWN
        from nasplat.calibration.job import digest_of
        from nasplat.export.bundle import ONNX
        from nasplat.export.opening import ARCHITECTURE
        from nasplat.nn.onnx import FEATURES

        again = "export the network by nasplat export RUN --features (features=True)"
        if not is_taken(folder / ARCHITECTURE):
            raise InputError(f"a calibration is of an exported folder, but {folder} is none; {again}")
        if not (folder / ONNX).is_file():
            raise InputError(f"{folder} has no {ONNX}, which gives the confidence; {again}")
        try:
            description = json.loads(read_file(folder / ARCHITECTURE))
            said = description.get("preprocessing")
            files = description.get("files", [])
            if not (isinstance(files, list) and all(isinstance(each, str) for each in files)):
                raise ValueError("its files are no list of names")
            self._session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
            self.digest = digest_of(folder / ONNX)
        except Exception as error:  # the runtime may raise any error
            raise InputError(f"{folder} cannot be opened: {' '.join(str(error).split())[:300]}; {again}") from error
        given, given_back = (
            {each.name: each.shape for each in some}
            for some in (self._session.get_inputs(), self._session.get_outputs())
        )
        if FEATURES not in given_back or "logits" not in given_back:
            raise InputError(
                f"{folder / ONNX} gives no features, the input of the network's last linear layer, in which "
                f"calibrators tell pictures apart; {again}"
            )
        if not isinstance(said, Mapping):
            raise InputError(
                f"{folder} does not say how images become inputs of its network; export a network of a data set that "
                "does, such as image_folder"
            )
        self.folder = folder
        self.preprocessing: Preprocessing = preprocessing_of(said)
        self.layout: Layout = layout_of(self.preprocessing)
        self.classes, self.shape = self.layout.classes, self.layout.io.input_shape
        self.most_pixels = self.preprocessing.most_pixels or MOST_PIXELS
        shapes = list(given), given.get("images", [])[1:], given_back["logits"][1:], given_back[FEATURES][1:]
        width = shapes[3][0] if len(shapes[3]) == 1 and isinstance(shapes[3][0], int) else 0
        if shapes[:3] != (["images"], list(self.shape), [len(self.classes)]) or width < 1:
            raise InputError(
                f"{folder / ONNX} must take images {list(self.shape)} and give {len(self.classes)} logits and a vector "
                f"of features, as {ARCHITECTURE} says, but takes {given} and gives {given_back}; {again}"
            )
        self.features = width
        if UNKNOWN in self.classes:
            raise InputError(
                f"a class is named {UNKNOWN!r}, which in answers means that the class is not known; give it another "
                f"name in {folder / ARCHITECTURE}"
            )
        self.identity: Mapping[str, Any] = {"model": self.digest, **asdict(self.layout)}

    def inputs(self, images: Images) -> NDArray[np.float32]:
        """Inputs of the network for uint8 images `[n, channels, side, side]`."""
        import torch

        found: NDArray[np.float32] = self.layout.scaling(torch.from_numpy(images)).numpy()
        return found

    def __call__(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logits and the features of uint8 images."""
        found: tuple[NDArray[np.float32], NDArray[np.float32]] = tuple(
            self._session.run(["logits", "features"], {"images": self.inputs(images)})
        )
        return found


@dataclass(frozen=True)
class Calibrated:
    """A calibration, or what it waits for.

    Args:
        folder: The folder of the calibration.
        asking: The pictures that wait for labels; None at the end.
        compared: What calibrators are worth; None while pictures wait.
        differences: The largest difference of a confidence between formats, by format.
    """

    folder: Path
    asking: "Asking | None" = None
    compared: "Compared | None" = None
    differences: Mapping[str, float] | None = None

    @property
    def network(self) -> Path:
        """The exported folder with the calibrator."""
        return self.folder / NETWORK

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / PAGE

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        if self.asking is not None:
            waiting = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(self.asking).items()}
            return {"folder": str(self.folder), "waiting": waiting}
        assert self.compared is not None
        return {
            "folder": str(self.folder),
            "network": str(self.network),
            "page": str(self.page),
            "verified": dict(self.differences or {}),
            **self.compared.document(),
        }


def calibrate(
    exported: str | Path,
    operation: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    budget: int = 100,
    threshold: float = 0.9,
    labels: str | Path | Mapping[str, str] | None = None,
    held_out: int | None = None,
    calibrator: str | None = None,
    batch: int | None = None,
    paper: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Calibrated:
    """Correct the confidence of an exported network by labels of a few images of where it is used.

    It does what ``nasplat calibrate`` does. The method is that of arXiv:1910.02352, beside temperature scaling, Platt's
    sigmoid and isotonic regression; which one is used is found by cross-validation::

        found = nasplat.calibrate("exported", "operation/", labels="labels.csv", out="calibrated")
        found.network, found.compared.shipped

    Args:
        exported: The exported folder of a classifier of images, made with ``--features``.
        operation: Images of where the network is used: folders, flat or nested, or names of data sets.
        out: The folder of the calibration. The same call goes on with one that was begun.
        budget: How many images are labelled for calibrators.
        threshold: The confidence from which predictions are acted on, above 0 and below 1.
        labels: Labels that are known: a CSV file with the columns ``picture`` and ``label``, or class names by picture.
            Without, the result says which images to label, and the same call goes on.
        held_out: How many further images, drawn at random, are labelled for figures, which no calibrator sees; by
            default all others of `labels`, else none.
        calibrator: What ships: ``none``, ``temperature``, ``platt``, ``isotonic`` or ``operational``; by default the
            recommended one.
        batch: The images of a round; by default a fifth of the budget, at least 10.
        paper: Whether the paper's settings hold.
        seed: The random seed.
        progress: Whether progress is shown.

    Returns:
        What was found; or, as its `asking`, which images wait for labels.

    Raises:
        InputError: A value does not fit, the export has no features, or answers contradict one another.
        RunError: A format of the network gives another confidence.
    """
    from nasplat.calibration.answers import Said, read_answers
    from nasplat.calibration.asking import Asking
    from nasplat.calibration.calibrators import NAMES
    from nasplat.calibration.comparison import compared
    from nasplat.calibration.job import begun, labelling
    from nasplat.calibration.recommendation import LEAST
    from nasplat.calibration.rounds import Plan
    from nasplat.errors import unknown
    from nasplat.interface.bars import progress as bar

    plan = Plan(budget, threshold, batch, paper, seed)
    if calibrator is not None and calibrator not in NAMES:
        raise InputError(f"{unknown('calibrator', calibrator, NAMES)}; correct --calibrator (calibrator=…)")
    if calibrator is None and budget < LEAST:
        raise InputError(
            f"a recommendation needs at least {LEAST} labelled pictures, but the budget is {budget}; raise --budget "
            "(budget=…), or name the calibrator by --calibrator (calibrator=…)"
        )
    if held_out is not None and held_out < 0:
        raise InputError(f"--held-out (held_out=…) must be at least 0, but got {held_out}; correct it")
    several = [operation] if isinstance(operation, str | Path) else operation
    sources, folder = list(map(str, several)), Path(out)
    if not sources:
        raise InputError("no operation pictures are given; add --operation FOLDER (operation=…)")
    for each in sources:
        if not Path(each).is_dir() and each not in NAMES_OF_SETS:
            raise InputError(
                f"operation pictures are in a folder, but {each!r} is none; correct --operation (operation=…)"
            )
        if Path(each).is_dir() and folder.resolve().is_relative_to(Path(each).resolve()):
            raise InputError(
                f"{folder} is inside of {each}, so that its contact sheets would be operation pictures; choose another "
                "--out (out=…)"
            )
    network = ExportedClassifier(Path(exported))
    given: list[Said] | None = None
    if isinstance(labels, Mapping):
        given = [Said("labels", str(picture), str(label)) for picture, label in labels.items()]
    elif labels is not None:
        given = list(read_answers(Path(labels)))
    if given is not None and not any(each.label for each in given):
        raise InputError(f"{labels or 'the mapping'} has no label; fill its column label")
    with begun(folder, network, sources, plan), bar(console_of(progress)) as told:
        found = labelling(folder, network, sources, plan, given=given, held_out=held_out, told=told)
        if isinstance(found, Asking):
            return Calibrated(folder, found)
        told("comparing calibrators", 0, 0)
        return _ended(folder, network, plan, found, compared(found, plan, calibrator))


def _ended(out: Path, network: ExportedClassifier, plan: "Plan", found: "Labelled", result: "Compared") -> Calibrated:
    """Write what was found; what an earlier call with fewer labels wrote is replaced."""
    from nasplat.export.calibrated import ship
    from nasplat.report.calibration import write_page

    about = {
        "labels": len(found.rows),
        "threshold": plan.threshold,
        "network": network.digest,
        "classes": list(network.classes),
    }
    try:
        draft = out / f"{NETWORK}.new"
        shutil.rmtree(draft, ignore_errors=True)
        differences = ship(
            network.folder, draft, result.shipped, result.calibrators[result.shipped], found.outputs,
            network.inputs(found.images), preprocessing=network.preprocessing, about=about,
        )  # fmt: skip
        old = out / f"{NETWORK}.old"
        shutil.rmtree(old, ignore_errors=True)
        if is_taken(out / NETWORK):
            (out / NETWORK).rename(old)
        draft.rename(out / NETWORK)
        shutil.rmtree(old, ignore_errors=True)
        calibrated = Calibrated(out, None, result, differences)
        write_page(result, network.folder.resolve().name, out / PAGE)
        write_atomically(out / RESULTS, json.dumps(calibrated.document(), indent=2) + "\n")
    except OSError as error:
        raise refusal(out, "written", error) from error
    return calibrated
