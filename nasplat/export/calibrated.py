"""An exported folder with a calibrator: everything that ships with the network gives calibrated confidence."""

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasplat.benchmark import Preprocessing
from nasplat.calibration.outputs import Calibrator, Outputs
from nasplat.calibration.stored import CALIBRATOR, SERVED, TENSORS, stored
from nasplat.errors import RunError
from nasplat.export.bundle import CARD, ONNX, PREDICT
from nasplat.export.opening import ARCHITECTURE
from nasplat.export.predicting import predict_script
from nasplat.nn.onnx import FEATURES
from nasplat.storage.files import new_folder, write_atomically

CALIBRATED = "calibrated.onnx"
"""The network with the calibrator in one graph."""
CONFIDENCE = "confidence"
"""The name of its output `[batch]`."""
COMPARED = 4096
"""The source is compared on at most so many pictures."""
TOLERANCE = 1e-6
"""The largest difference of a confidence between formats."""

Images = NDArray[np.float32]


def ship(
    exported: Path,
    folder: Path,
    name: str,
    calibrator: Calibrator,
    outputs: Outputs,
    images: Images,
    *,
    preprocessing: Preprocessing,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a copy of an exported folder with a calibrator, complete or not at all.

    Args:
        exported: The exported folder, whose ONNX model has the output `features`.
        folder: The new folder; it must not exist.
        name: The name of the calibrator.
        calibrator: The calibrator.
        outputs: What the network gives for some pictures, on which formats are compared.
        images: Some of them as the network takes them `[n, channels, height, width]`.
        preprocessing: How an image file becomes an input.
        about: What the calibrator was fitted to, which `calibrator.json` also says.

    Returns:
        The largest difference of a confidence from the calibrator's, by format.

    Raises:
        InputError: The folder exists or cannot be written.
        RunError: A format gives another confidence.
        StorageError: The disk is full.
    """
    from safetensors.numpy import save

    document, tensors = stored(name, calibrator)
    description = json.loads((exported / ARCHITECTURE).read_bytes())
    with new_folder(folder) as draft:
        for each in {*description.get("files", []), ONNX}:
            path = exported / Path(str(each)).name
            if path.is_file() and (path.name == ONNX or not path.is_symlink()):
                shutil.copyfile(path, draft / path.name)
        write_atomically(draft / TENSORS, save(dict(tensors) or {"none": np.zeros(1)}))
        write_atomically(draft / SERVED, files("nasplat.calibration").joinpath("served.py").read_bytes())
        write_atomically(draft / CALIBRATOR, json.dumps({**document, **about}, indent=2) + "\n")
        alone = write_graph(draft)
        some = outputs.take(np.random.default_rng(0).permutation(len(outputs))[:COMPARED])
        differences = {
            SERVED: _of_source(draft, calibrator, some),
            CALIBRATED: max(_of_graph(alone, calibrator, some), _of_images(draft / CALIBRATED, calibrator, images)),
        }
        for what, difference in differences.items():
            if not difference <= TOLERANCE:
                raise RunError(
                    f"{what} gives a confidence that differs by {difference:.3g} from the calibrator's, more than the "
                    f"allowed {TOLERANCE:g}; nothing was shipped; choose another --calibrator (calibrator=…)"
                )
        script = predict_script(preprocessing, None, calibrated=True)
        assert script is not None
        write_atomically(draft / PREDICT, script)
        description["calibration"] = {"calibrator": name, "verified": differences}
        description["files"] = sorted({path.name for path in draft.iterdir()} | {ARCHITECTURE, CARD})
        card = draft / CARD
        text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
        text = text.replace("runs model.onnx on", f"runs {CALIBRATED} on")
        write_atomically(card, f"{text}\n{_section(name, about)}")
        write_atomically(draft / ARCHITECTURE, json.dumps(description, indent=2) + "\n")
    return differences


def write_graph(folder: Path) -> bytes:
    """Write the network of ``model.onnx`` with the calibrator beside it as one graph, with the output `confidence`.

    Returns:
        The calibrator alone as a graph, which takes logits and features.
    """
    import onnx
    import torch
    from onnx.compose import add_prefix, merge_models

    from nasplat.calibration.served import load_confidence
    from nasplat.nn.onnx import quiet_exporter
    from nasplat.storage.files import scratch_folder

    network = onnx.load(folder / ONNX)
    widths = {
        each.name: each.type.tensor_type.shape.dim[1].dim_value
        for each in network.graph.output
        if each.name in ("logits", FEATURES)
    }
    opset = next(each.version for each in network.opset_import if each.domain == "")

    class Single(torch.nn.Module):
        """The confidence in float32, as the logits are."""

        def __init__(self) -> None:
            super().__init__()
            self.confidence = load_confidence(folder)

        def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.confidence(logits, features).float()
            return found

    with quiet_exporter(), scratch_folder() as scratch:
        batch = {0: torch.export.Dim.DYNAMIC}
        program = torch.onnx.export(
            Single().eval(),
            (torch.zeros(2, widths["logits"]), torch.zeros(2, widths[FEATURES])),
            dynamo=True,
            dynamic_shapes=(batch, batch),
            input_names=["logits", FEATURES],
            output_names=[CONFIDENCE],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.save(scratch / CALIBRATED)
        alone = (scratch / CALIBRATED).read_bytes()
        added = add_prefix(onnx.load_model_from_string(alone), "calibrator/")
    added.ir_version = network.ir_version
    added.graph.output[0].name = CONFIDENCE
    for node in added.graph.node:
        node.output[:] = [CONFIDENCE if each == f"calibrator/{CONFIDENCE}" else each for each in node.output]
    joined = merge_models(
        network,
        added,
        io_map=[(name, f"calibrator/{name}") for name in ("logits", FEATURES)],
        outputs=[*(each.name for each in network.graph.output), CONFIDENCE],
    )
    joined.graph.output[-1].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(joined, folder / CALIBRATED)
    return alone


def _of_source(folder: Path, calibrator: Calibrator, outputs: Outputs) -> float:
    """The largest difference of the source's confidence."""
    import torch

    from nasplat.calibration.served import load_confidence

    with torch.no_grad():
        found = load_confidence(folder)(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.features))
    return float(np.abs(found.numpy() - calibrator(outputs)).max())


def _of_graph(graph: bytes, calibrator: Calibrator, outputs: Outputs) -> float:
    """The largest difference of the confidence of the calibrator alone as a graph."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    single = [each.astype(np.float32) for each in (outputs.logits, outputs.features)]
    (found,) = session.run([CONFIDENCE], dict(zip(("logits", FEATURES), single, strict=True)))
    logits, features = (each.astype(np.float64) for each in single)
    return float(np.abs(found - calibrator(Outputs(logits, features))).max())


def _of_images(path: Path, calibrator: Calibrator, images: Images) -> float:
    """The largest difference of the confidence of the whole graph, for its own logits and features."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits, features, found = session.run(["logits", FEATURES, CONFIDENCE], {"images": images})
    return float(np.abs(found - calibrator(Outputs(logits, features))).max())


def _section(name: str, about: Mapping[str, Any]) -> str:
    return (
        "## Calibrated confidence\n\n"
        f"The calibrator `{name}` was fitted to {about['labels']} labelled images of where the network is used. "
        "The predicted classes are as before.\n\n"
        f"- `{CALIBRATED}`: the network with the calibrator; its output `{CONFIDENCE}` is the predicted class's.\n"
        f"- `{SERVED}`: the same for torch. `load()` joins it to `network.py`, if that was exported; "
        "`load_confidence()` takes logits and features.\n"
        f"- `{CALIBRATOR}`, `{TENSORS}`: its numbers.\n"
        f"- `{PREDICT}` prints it.\n"
    )
