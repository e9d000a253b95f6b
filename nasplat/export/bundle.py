"""An exported network: a folder with the architecture, its weights, and verified formats of it."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplat.architecture import IO, Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import PluginConfig, recorded_strategy
from nasplat.data.manifest import DataChanged
from nasplat.errors import ArtifactError, InputError, NasplatError, RunError, TrialFailed
from nasplat.export.card import card
from nasplat.export.formats import Format, verified, write_source
from nasplat.export.generating import draw_script
from nasplat.export.opening import ARCHITECTURE, FORMAT, WEIGHTS
from nasplat.export.opening import load as load  # model cards of exported networks name it here
from nasplat.export.predicting import predict_script
from nasplat.export.timing import conditions_of, described, described_table, measured
from nasplat.export.verification import (
    REAL,
    Verification,
    compared,
    onnx_runner,
    random_inputs,
)  # fmt: skip
from nasplat.latency.conditions import Engine
from nasplat.latency.table import METRIC
from nasplat.nn.onnx import NAMES, outputs_besides, write_onnx
from nasplat.nn.program import write_program
from nasplat.nn.rewritten import spares
from nasplat.objective import Objective
from nasplat.options import complete, grouped
from nasplat.registry import BENCHMARKS, SEARCH_SPACES
from nasplat.retraining import RETRAINING
from nasplat.run.directory import RunDirectory
from nasplat.storage.files import is_taken, new_folder, write_atomically
from nasplat.task import Measurement
from nasplat.units import figure

if TYPE_CHECKING:
    from torch import Tensor, nn

ONNX = Format.ONNX.value
CARD, VERIFY, PREDICT = "README.md", "verify.json", "predict.py"


def export(
    run: RunDirectory,
    measurement: Measurement,
    folder: Path,
    *,
    untrained: bool = False,
    test: bool = False,
    formats: Collection[Format] = (Format.ONNX,),
    features: bool = False,
    latency: bool = False,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Write the network of a measurement into a new folder, complete or not at all.

    Args:
        run: The run of the measurement.
        measurement: The measurement of the network. The exported weights are the measured ones; those of rewritten
            layers are packed.
        folder: The new folder; it must not exist.
        untrained: Whether new weights are accepted if the measurement left none.
        test: Whether to measure on the test split, which was not used before.
        formats: The formats that are written besides the weights.
        features: Whether the ONNX model also outputs the input of the last linear layer.
        latency: Whether to measure the latency of the network on this machine, under the conditions of the run.
        engine: The engine that measures it, if not the run's.

    Returns:
        The contents of ``architecture.json``.

    Raises:
        InputError: The folder exists, there are no weights, or there are no features.
        RunError: The outputs of an exported format differ from torch's by more than the tolerance, or the source
            cannot be written; or the network has other parameters or multiply-accumulates than its space computes.
    """
    if is_taken(folder):
        raise InputError(f"{folder} exists; choose another --out (out=…)")
    if untrained and test:
        raise InputError(
            "--test (test=True) measures the weights of the search, not fresh ones; leave out --untrained "
            "(untrained=True) or --test"
        )
    if features and Format.ONNX not in formats:
        raise InputError(
            "--features (features=True) is an output of the ONNX model; add --format onnx or all (format='onnx'), or "
            "leave it out"
        )
    benchmark = run.benchmark()
    architecture, io = run.member(measurement, benchmark), benchmark.io
    recorded = run.history().tested.get(measurement.id)
    weights = trained_weights(run, measurement, benchmark, untrained=untrained)
    network = _network(benchmark, architecture, weights)
    description = _description(run, measurement, benchmark, architecture, untrained=untrained)
    final = run.final(measurement, benchmark) if test else recorded
    if final is not None and not untrained:
        tested = {name: value for name, value in final.metrics.items() if name not in description["analytic_metrics"]}
        description["final"] = {"split": final.split, **tested}
    found = _found(run, measurement)
    shipped, weights = _shipped(network, weights)
    more: dict[str, Any] = {"features": features}
    if spares(network) and io.purpose == "classification":
        more["used_of"] = description["cost"]["macs"]
    besides = outputs_besides(network, io.input_shape, **more)
    with new_folder(folder) as draft:
        (draft / WEIGHTS).write_bytes(weights)
        _write(draft, shipped, io, formats, more, heading=_heading(description, found))
        real, why = _real_inputs(benchmark)
        checks = {
            form.name.lower(): verified(form, network, io, draft / form.value, real, besides)
            for form in Format
            if form in formats
        }
        verify_document = {"real": None if real is None else len(real), "why": why, "formats": checks}
        write_atomically(draft / VERIFY, json.dumps(verify_document, indent=2) + "\n")
        description["verification"] = max((check["random"] for check in checks.values()), key=_share)
        if besides and Format.ONNX in formats:
            description["onnx_outputs"] = [NAMES[io.purpose][1], *besides]
        if why:
            description["unverified"] = why
        _explain(draft, benchmark, description, formats)
        if latency:
            onnx = draft / ONNX if Format.ONNX in formats else None
            predicted = description["analytic_metrics"].get(METRIC)
            description["latency"] = measured_latency(benchmark, network, onnx, predicted, engine=engine)
        files = [path.name for path in draft.iterdir()]
        description["files"] = sorted([*files, ARCHITECTURE, CARD])
        write_atomically(draft / CARD, card({**description, "verify": verify_document}, found))
        write_atomically(draft / ARCHITECTURE, json.dumps(description, indent=2) + "\n")
    return description


def _description(
    run: RunDirectory, measurement: Measurement, benchmark: Benchmark, architecture: Architecture, *, untrained: bool
) -> dict[str, Any]:
    """The description of the network, its metrics, and its origin."""
    config, io = run.config, benchmark.io
    cost = benchmark.space.cost(architecture, io).metrics()
    analytic = {
        name: value
        for name, value in measurement.metrics.items()
        if name not in cost and not benchmark.can_measure(name)
    }
    description: dict[str, Any] = {
        "format": FORMAT,
        "space": {"name": config.space.name, **config.space.options},
        "architecture": architecture.code,
        **io.to_json(),
        "cost": cost,
        "analytic_metrics": analytic,  # without measuring, such as the prediction of a latency table
        **({"latency_table": described_table(benchmark)} if METRIC in analytic else {}),
        "trained": not untrained,
        "run": {"trial": measurement.id, "seed": measurement.task.seed, "fidelity": measurement.task.fidelity},
        "versions": run.environment["versions"],
        "revision": run.environment["git"]["code"],
    }
    tuning, epochs = measurement.task.tuning, measurement.task.fidelity
    whole = benchmark.fidelity if tuning is None else tuning.end
    if measurement.task.weights is None and epochs < whole:
        description["run"]["unfinished"] = {"epochs": epochs, "of": whole}
    if not untrained:
        measured = {name: value for name, value in measurement.metrics.items() if name not in analytic}
        description["measured"] = {"split": measurement.split, **measured}
        if run.protocol:
            description["protocol"] = run.protocol
    return description


def _write(
    draft: Path,
    network: "nn.Module",
    io: IO,
    formats: Collection[Format],
    more: Mapping[str, Any],
    *,
    heading: list[str],
) -> None:
    """Write the network in all requested formats."""
    if Format.ONNX in formats:
        write_onnx(network, io.input_shape, draft / ONNX, purpose=io.purpose, **more)
    if Format.PT2 in formats:
        write_program(network, io.input_shape, draft / Format.PT2.value, upscales=io.scale is not None)
    if Format.SOURCE in formats:
        write_source(network, io, draft / Format.SOURCE.value, heading)


def _share(check: Mapping[str, Any]) -> float:
    """The difference as a fraction of the tolerance."""
    share: float = check["largest_difference"] / check["allowed"]
    return share


def _real_inputs(benchmark: Benchmark) -> "tuple[Tensor | None, str]":
    """Inputs from the benchmark's data, or the reason why there are none."""
    try:
        inputs = benchmark.inputs(REAL)
    except DataChanged as error:
        return None, error.what
    except (InputError, OSError) as error:
        return None, " ".join(str(error).split())
    return inputs, "" if inputs is not None else f"the benchmark {type(benchmark).__name__} has no inputs"


def _explain(draft: Path, benchmark: Benchmark, description: dict[str, Any], formats: Collection[Format]) -> None:
    """Describe the preprocessing of images, if it is known, and write the script for it; of a generator, to draw."""
    try:
        preprocessing = benchmark.preprocessing()
    except (InputError, OSError):  # already reported for the inputs
        return
    if benchmark.io.purpose == "generation":
        if Format.ONNX in formats:
            write_atomically(draft / PREDICT, draw_script(benchmark.io, preprocessing))
        return
    if preprocessing is None:
        return
    description["preprocessing"] = asdict(preprocessing)
    script = predict_script(preprocessing, benchmark.io.scale)
    if script is not None and Format.ONNX in formats:
        write_atomically(draft / PREDICT, script)


def measured_latency(
    benchmark: Benchmark, network: "nn.Module", onnx: Path | None, predicted_ms: float | None, *, engine: Engine | None
) -> dict[str, Any]:
    """The latency of a network on this machine, and its difference to the prediction of the run's table, if any."""
    latency = measured(network, benchmark.io, conditions_of(benchmark, engine=engine), onnx)
    return described(latency, benchmark, predicted_ms)


def _found(run: RunDirectory, measurement: Measurement) -> dict[str, Any]:
    """The settings of the search: only the chosen options."""
    config = run.config
    found: dict[str, Any] = {
        "space": _chosen(SEARCH_SPACES.get, config.space),
        "benchmark": _chosen(BENCHMARKS.get, config.benchmark),
        "strategy": _chosen(lambda _: config.strategy_class, config.strategy),
        "objectives": ", ".join([*config.objectives, *config.constraints]),
        "budget": {name: value for name, value in config.budget.model_dump().items() if value is not None},
        "search seed": config.seed,
    }
    if (teacher := measurement.task.teacher) is not None:
        found["learned from"] = f"{teacher.architecture.code}, the largest of the members that were trained together"
    if (tuning := measurement.task.tuning) is not None:
        found["fine-tuned from"] = f"the weights of a supernet that was trained for {tuning.begun} epochs"
    if (source := run.source) is not None and (origin := source.members.get(measurement.architecture.code)):
        objective = Objective.parse(source.objectives[0]).metric
        value = figure(objective, origin.metrics[objective]) if objective in origin.metrics else "unknown"
        found |= {
            "search strategy": _chosen(recorded_strategy, source.strategy),
            "search benchmark": _chosen(BENCHMARKS.get, source.benchmark),
            "search objectives": ", ".join(source.objectives),
            "found as": f"trial {origin.trial} of {source.evaluations}, with {objective} {value}; seed {source.seed}",
        }
    return {name: value for name, value in found.items() if value not in ({}, "")}


def _origin(found: Mapping[str, Any]) -> str:
    search = found.get("search strategy")
    return f"Found by {found['strategy']['name']}" if search is None else f"Found by {search['name']}, then retrained"


def _chosen(find: Callable[[str], type[Any]], plugin: PluginConfig) -> dict[str, Any]:
    """A plug-in's name and its non-default options; for files only their names. `find` gives the class of a name."""
    given, found = plugin.options, None
    try:
        found = find(plugin.name)
        given, usual = complete("", found, given), complete("", found, {})
    except InputError:  # the plug-in is missing, or has options without defaults
        given, usual = grouped(found, given) if found else given, {}
    return {"name": plugin.name, **_changed(given, usual)}


def _changed(given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from the defaults, with groups expanded; for files only their names."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and isinstance(usual.get(name), Mapping):
            if changed := _changed(value, usual[name]):
                found[name] = changed
        elif name not in usual or usual[name] != value:
            found[name] = Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
    return found


def _heading(description: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The docstring of the source."""
    cost, name = description["cost"], description["space"]["name"]
    shape = " x ".join(map(str, description["input_shape"]))
    if "scale" in description:
        use = f"Takes images of any size and upscales them {description['scale']} times."
    elif "sample_shape" in description:
        made = " x ".join(map(str, description["sample_shape"]))
        use = f"Takes batches of latent vectors of {shape} standard normal numbers and returns samples of {made}."
    else:
        use = f"Takes batches of inputs of {shape} and returns {description['outputs']} numbers for each input."
    return [
        f"A network of the search space {name}.",
        f"Its code is {description['architecture']}. It has {cost['params']:,} parameters and {cost['macs']:,} "
        f"multiply-accumulates. {use}",
        f"{_origin(found)} with {found['benchmark']['name']}, {found['objectives']}, trial "
        f"{description['run']['trial']}.",
        f"`load()` returns the network with the weights from {WEIGHTS} beside this file.",
    ]


def verify(network: "nn.Module", io: IO, path: Path) -> Verification:
    """Run an ONNX file with onnxruntime and torch on the same random inputs."""
    from nasplat.nn.rewritten import jumping

    return compared(network, onnx_runner(path), random_inputs(io), jumping=jumping(network))


def trained_weights(run: RunDirectory, measurement: Measurement, benchmark: Benchmark, *, untrained: bool) -> bytes:
    """The measured network's weights as safetensors, or new ones if these are accepted."""
    if untrained:
        return _safetensors(_built(benchmark, measurement.architecture, measurement.task.seed).state_dict())
    try:
        return _safetensors(benchmark.state_dict(measurement, artifacts=run.artifacts))
    except InputError as error:
        raise InputError(
            f"{error}; add --untrained (untrained=True) to export the network with fresh weights"
        ) from error
    except ArtifactError as error:
        if (whole := _continued(run, measurement)) is not None:
            raise InputError(
                f"the weights of trial {measurement.id}, after epoch {measurement.task.fidelity} of a training, were "
                f"deleted when the training continued; take --pick {whole.id}, after epoch {whole.task.fidelity} "
                f"(pick={whole.id}), or add --untrained (untrained=True) to export the network with fresh weights"
            ) from error
        if not _superseded(run, measurement):
            raise run.lost(measurement, error) from error
        raise InputError(
            f"the shared weights of trial {measurement.id}, after {measurement.task.fidelity} epochs, were replaced by "
            "later ones; pick a trial of the front, which has the last weights, or add --untrained (untrained=True) "
            "to export the "
            "network with fresh weights"
        ) from error
    except NasplatError:
        raise
    except Exception as error:
        raise RunError(
            f"the weights of trial {measurement.id} cannot be assembled: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error


def _continued(run: RunDirectory, measurement: Measurement) -> Measurement | None:
    """The last measurement of the same training, if the search has deleted the weights of the given measurement."""
    if run.config.kind != RETRAINING:
        return None
    if run.artifacts.path(measurement.artifacts["weights"]).exists():
        return None
    later = [
        m
        for m in run.history().measured
        if (m.architecture, m.task.replicate) == (measurement.architecture, measurement.task.replicate)
        and m.task.continues is not None
        and m.task.fidelity > measurement.task.fidelity
    ]
    return max(later, key=lambda m: m.task.fidelity, default=None)


def _superseded(run: RunDirectory, measurement: Measurement) -> bool:
    """Whether a measurement was made with shared weights that the search has since deleted, which is allowed."""
    weights = measurement.task.weights
    if weights is None or run.artifacts.path(weights).exists():
        return False
    return measurement.task.fidelity < max(
        m.task.fidelity for m in run.history().measured if m.task.weights is not None
    )


def _safetensors(weights: "Mapping[str, Tensor]") -> bytes:
    artifacts = MemoryArtifacts()
    return artifacts.get(artifacts.put_tensors(weights))  # the very bytes that a benchmark would leave of them


def _network(benchmark: Benchmark, architecture: Architecture, weights: bytes) -> "nn.Module":
    """The network with its weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    network = _built(benchmark, architecture, seed=0)
    try:
        network.load_state_dict(read(weights))
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:  # torch refuses other shapes so
        raise RunError(f"the weights do not fit {architecture}: {' '.join(str(error).split())}") from error
    return network.eval()


def _shipped(network: "nn.Module", weights: bytes) -> "tuple[nn.Module, bytes]":
    """The network with its rewritten layers in their packed form, and its weights as safetensors.

    Args:
        network: The network as it was trained.
        weights: Its weights. They stay the very bytes that were measured if no layer is rewritten.
    """
    from nasplat.nn.packing import packed
    from nasplat.nn.rewritten import rewritten

    shipped = packed(network)
    return shipped, _safetensors(shipped.state_dict()) if any(rewritten(network)) else weights


def _built(benchmark: Benchmark, architecture: Architecture, seed: int) -> "nn.Module":
    """A new network, whose parameters and multiply-accumulates are those that its space computes.

    Raises:
        RunError: They are others, or the network does not fit into memory.
    """
    from nasplat.nn.counting import built, check_macs
    from nasplat.training.seeding import seeded

    try:
        with seeded(seed):
            network = built(benchmark.space, architecture, benchmark.io)
        check_macs(network, benchmark.space, architecture, benchmark.io)
    except TrialFailed as error:
        raise RunError(f"{error}; nothing was exported") from error
    return network
