"""The model card of an exported network: its description, metrics, search and usage."""

import re
from collections.abc import Mapping
from typing import Any

from nasplat.errors import printable
from nasplat.export.timing import disagreement, told, told_table
from nasplat.units import figure, milliseconds

_ACTIVE = re.compile(r"([\\`*_\[\]<>#|~&$]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""Characters with a meaning in Markdown: its markup, dollar signs, which enclose formulas, and parts of web addresses,
which become links even without markup."""


def escaped(value: object) -> str:
    """Text escaped for Markdown, in one line."""
    return _ACTIVE.sub(r"\\\1", printable(" ".join(str(value).split())))


def card(document: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The text of an export's ``README.md``.

    Args:
        document: The contents of ``architecture.json``.
        found: The settings of the search: ``strategy``, ``objectives``, ``budget``, ``benchmark``, and optionally
            ``source``.
    """
    space = document["space"]["name"]
    sections = [
        f"# {escaped(space)} {escaped(_short(document['architecture']))}",
        _what(document),
        "## Figures",
        _figures(document),
        "## How it was found",
        _search(document, found),
        "## Files",
        _files(document),
        *(["## Preprocessing", _preprocessing(document["preprocessing"])] if document.get("preprocessing") else []),
        "## Verification",
        _verification(document["verify"]),
        "## Versions",
        _table(["package", "version"], [[name, version] for name, version in document["versions"].items() if version]),
    ]
    return "\n\n".join(sections) + "\n"


def _what(document: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, document["input_shape"]))
    weights = "" if document["trained"] else " It was not trained: its weights are fresh."
    if document["trained"] and (part := document["run"].get("unfinished")):
        weights = f" Its training is unfinished: these are the weights after {part['epochs']} of {part['of']} epochs."
    if "scale" in document:
        does = f"Upscales images {document['scale']} times"
    elif "sample_shape" in document:
        made = " x ".join(map(str, document["sample_shape"]))
        does = f"Generates samples of {made} from latent vectors of {shape} standard normal numbers"
    else:
        does = f"Returns {document['outputs']} numbers, one for each class, for an input of {shape}"
    options = {name: value for name, value in document["space"].items() if name != "name"}
    space = escaped(document["space"]["name"]) + (f" ({escaped(_options(options))})" if options else "")
    return (
        f"{does}. A member of the search space {space}; its code is\n\n    {document['architecture']}\n\n"
        f"{figure('params', document['cost']['params'])} parameters, "
        f"{figure('macs', document['cost']['macs'])} multiply-accumulates.{weights}"
    )


def _figures(document: Mapping[str, Any]) -> str:
    rows: list[list[object]] = []
    run = document["run"]
    for key in ("measured", "final"):
        for name, value in document.get(key, {}).items():
            if name != "split" and name not in document["cost"]:
                rows.append([name, figure(name, value), document[key]["split"], run["seed"]])
    rows += [[name, figure(name, value), "analytic", ""] for name, value in document["analytic_metrics"].items()]
    text = _table(["metric", "value", "split", "seed"], rows) if rows else "Nothing was measured."
    if "final" not in document and document["trained"]:
        text += "\n\nThe network was not measured on test data. The search used the validation split."
    if protocol := document.get("protocol"):
        text += f"\n\n{escaped(protocol)}"
    if (table := document.get("latency_table")) and "protocol" not in document:
        text += f"\n\nLatency table: {escaped(told_table(table))}."
    if latency := document.get("latency"):
        spread = milliseconds(latency["iqr_ms"], 2)
        text += f"\n\nLatency: {escaped(told(latency))}; interquartile range {spread}, at export."
    if warning := disagreement(document):
        text += f"\n\nWarning: {escaped(warning)}."
    return text


def _search(document: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    run = document["run"]
    lines = [
        f"- {name}: {escaped(_options(value) if isinstance(value, dict) else value)}" for name, value in found.items()
    ]
    return "\n".join([*lines, f"- trial {run['trial']}, seed {run['seed']}, fidelity {run['fidelity']}"])


def _options(values: Mapping[str, Any]) -> str:
    """The name and the options of a plug-in as text, or named values as text."""
    shown = [f"{name} {_spelt(value)}" for name, value in values.items() if value is not None and name != "name"]
    return ", ".join([*([str(values["name"])] if "name" in values else []), *shown])


def _spelt(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


_USES = {
    "architecture.json": "all of this as JSON; `nasplat.load(folder)` reads it and returns the network",
    "weights.safetensors": "the weights, with the names of torch's state dict",
    "model.onnx": '`onnxruntime.InferenceSession("model.onnx").run(None, {"images": images})`; any batch size',
    "model.pt2": '`torch.export.load("model.pt2").module()(images)`; any batch size; the file contains no pickles',
    "network.py": "the network as source code that needs only torch; `network.load()` returns it with its weights",
    "predict.py": "`python predict.py --help`: runs model.onnx on images",
    "verify.json": "how much the outputs of each file differ from torch's",
}


_GENERATES = {
    "model.onnx": '`onnxruntime.InferenceSession("model.onnx").run(None, {"latents": latents})`; any batch size',
    "model.pt2": '`torch.export.load("model.pt2").module()(latents)`; any batch size; the file contains no pickles',
    "predict.py": "`python predict.py samples.png`: draws samples from model.onnx; `--help` tells more",
}
"""The uses of a generator's files that differ."""

_OUTPUTS = {
    "logits": "the logits",
    "samples": "the samples",
    "upscaled": "the upscaled images",
    "features": "`features`, the input of the last linear layer",
    "used": "`used`, the part of the multiply-accumulates that each image took",
}


def _files(document: Mapping[str, Any]) -> str:
    outputs = [_OUTPUTS[name] for name in document.get("onnx_outputs", ())]
    count = {2: "two", 3: "three"}.get(len(outputs))
    listed = f"; it returns a list of {count}: {', '.join(outputs[:-1])}, and {outputs[-1]}" if count else ""
    more = {"model.onnx": listed}
    uses = _USES | (_GENERATES if "sample_shape" in document else {})
    rows = [[f"`{name}`", uses[name] + more.get(name, "")] for name in uses if name in document["files"]]
    return "\n".join(["| file | use |", "|---|---|", *(f"| {name} | {use} |" for name, use in rows)])


def _preprocessing(how: Mapping[str, Any]) -> str:
    colors = {1: "grey", 3: "red, green and blue"}.get(how["channels"], f"{how['channels']} channels")
    size = "of any size" if how["height"] is None else f"resized to {how['height']} x {how['width']} pixels"
    values = ", ".join
    text = (
        f"Images in {colors}, {size}, with values of 0 to {how['white']:g}. Subtract the mean "
        f"{values(f'{value:.6g}' for value in how['mean'])}, then divide by the standard deviation "
        f"{values(f'{v:.6g}' for v in how['std'])}."
    )
    if how["height"] is not None:
        text += " Rotated photos are first turned upright, and transparent images put on white."
    names = ", ".join(escaped(name) for name in how["classes"])
    return f"{text}\n\nClasses: {names}." if names else text


def _verification(verify: Mapping[str, Any]) -> str:
    rows: list[list[object]] = []
    for name, kinds in verify["formats"].items():
        for inputs, check in kinds.items():
            if check is not None:
                rows.append([
                    name, inputs.replace("_", " "), check["dtype"], f"{check['largest_difference']:.2g}",
                    f"{check['allowed']:.2g}", ", ".join(map(str, check["batches"])),
                ])  # fmt: skip
    text = "Largest absolute differences to torch.\n\n" + _table(
        ["file", "inputs", "computed in", "largest difference", "allowed", "batches"], rows
    )
    checks = [check for kinds in verify["formats"].values() for check in kinds.values() if check is not None]
    if any(check.get("unsteady") for check in checks):
        text += (
            "\n\nRounding may turn signs of activations or leave out channels. More is allowed of inputs where it may, "
            f"{max(check.get('unsteady', 0) for check in checks)} at most in a line; each line is of the input that "
            "comes nearest to what is allowed of it."
        )
    return (
        text
        if verify["real"] is not None
        else f"{text}\n\nThe files were not tried on real inputs: {escaped(verify['why'])}"
    )


def _table(titles: list[str], rows: list[list[Any]]) -> str:
    lines = [titles, ["---"] * len(titles), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(code: str) -> str:
    return code if len(code) <= 40 else f"{code[:39]}…"
