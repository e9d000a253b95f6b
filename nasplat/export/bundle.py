"""An exported network: a folder with the architecture, its weights, and an ONNX model that was run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Parcel
from nasplat.benchmark import Benchmark
from nasplat.errors import ArtifactError, InputError, NasplatError, RunError
from nasplat.nn.onnx import write_onnx
from nasplat.options import complete, explain
from nasplat.registry import SEARCH_SPACES
from nasplat.run.directory import Run
from nasplat.run.files import is_taken, new_folder, read_file, write_atomically
from nasplat.search_space import SearchSpace
from nasplat.task import Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCHITECTURE, WEIGHTS, ONNX = "architecture.json", "weights.safetensors", "model.onnx"
FORMAT = 1
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the ONNX model, run by onnxruntime, is from torch on the same random inputs.

    Args:
        largest_difference: The largest absolute difference of any output.
        allowed: 1e-4 · max(1, largest absolute output).
        batches: The batch sizes that were tried.
    """

    largest_difference: float
    allowed: float
    batches: tuple[int, ...]


class _Space(BaseModel):
    """A search space by name; everything else is an option of its constructor."""

    model_config = ConfigDict(extra="allow")

    name: str


class _Description(BaseModel):
    """What `load` needs of ``architecture.json``."""

    format: int
    space: _Space
    architecture: str
    input_shape: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    outputs: int = Field(ge=1)
    scale: int | None = Field(default=None, ge=1)


def export(
    run: Run, measurement: Measurement, folder: Path, *, untrained: bool = False, test: bool = False
) -> dict[str, Any]:
    """Write the network of a measurement into a new folder, complete or not at all.

    Args:
        run: The run that the measurement belongs to.
        measurement: Which network; its weights are the ones that were measured.
        folder: Must not exist.
        untrained: Whether fresh weights will do, where the measurement left none.
        test: Whether to measure on the test split, which nothing before has touched.

    Returns:
        What ``architecture.json`` holds.

    Raises:
        InputError: The folder exists, or there are no weights.
        RunError: The ONNX model's outputs differ from torch's by more than is allowed.
    """
    if is_taken(folder):
        raise InputError(f"{folder} exists; choose another --out")
    if untrained and test:
        raise InputError("--test measures the weights of the search, not fresh ones; leave out --untrained or --test")
    config, benchmark = run.config, run.benchmark()
    architecture, io = run.member(measurement, benchmark), benchmark.io
    weights = _weights(run, measurement, benchmark, untrained=untrained)
    network = _network(benchmark, architecture, weights)
    cost = benchmark.space.cost(architecture, io).metrics()
    known = {name: value for name, value in measurement.metrics.items() if name not in (*cost, *benchmark.metrics)}
    description: dict[str, Any] = {
        "format": FORMAT,
        "space": {"name": config.space.name, **config.space.options},
        "architecture": architecture.code,
        "input_shape": list(io.input_shape),
        "outputs": io.outputs,
        **({} if io.scale is None else {"scale": io.scale}),
        "cost": cost,
        "known": known,  # beforehand, such as what a table of latency predicts
        "trained": not untrained,
        "run": {"trial": measurement.id, "seed": measurement.task.seed, "fidelity": measurement.task.fidelity},
        "versions": run.environment["versions"],
        "revision": run.environment["git"]["code"],
    }
    if not untrained:
        measured = {name: value for name, value in measurement.metrics.items() if name not in known}
        description["measured"] = {"split": measurement.split, **measured}
        if run.protocol:
            description["protocol"] = run.protocol
    if test:
        final = run.final(measurement, benchmark)
        tested = {name: value for name, value in final.metrics.items() if name not in known}
        description["final"] = {"split": final.split, **tested}
    with new_folder(folder) as draft:
        (draft / WEIGHTS).write_bytes(weights)
        write_onnx(network, io.input_shape, draft / ONNX, enlarges=io.scale is not None)
        verification = verify(network, io, draft / ONNX)
        if not verification.largest_difference <= verification.allowed:
            raise RunError(
                f"the ONNX model of {architecture} differs from torch by {verification.largest_difference:.3g}, "
                f"more than the allowed {verification.allowed:.3g}; nothing was exported"
            )
        description["verification"] = asdict(verification)
        write_atomically(draft / ARCHITECTURE, json.dumps(description, indent=2) + "\n")
    return description


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported network, and what it is.

    Args:
        network: With its weights, in evaluation mode, on the CPU.
        architecture: Whose network it is.
        io: What it takes and gives.
    """

    network: "nn.Module"
    architecture: Architecture
    io: IO


def load(folder: Path | str) -> "nn.Module":
    """The network of an exported folder with its weights, in evaluation mode, on the CPU.

    Raises:
        InputError: A file is missing or damaged, or belongs to another version.
    """
    return opened(folder).network


def opened(folder: Path | str) -> Exported:
    """The network of an exported folder as `load` gives it, and what the folder says of it.

    Raises:
        InputError: A file is missing or damaged, or belongs to another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    from nasplat.training.seeding import seeded

    folder = Path(folder)
    path = folder / ARCHITECTURE
    try:
        description = _Description.model_validate_json(read_file(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; is {folder} an export?") from error
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {explain(error, '', _Description)}") from None
    if description.format != FORMAT:
        raise InputError(f"{path} has format {description.format}, but this version reads format {FORMAT}")
    try:
        make = SEARCH_SPACES.get(description.space.name)
        space = make(**complete("space", make, description.space.model_extra or {}))
        architecture = space.parse(description.architecture)
        io = IO(tuple(description.input_shape), description.outputs, description.scale)
        space.check_io(io)
    except InputError as error:
        raise InputError(f"{path} does not fit this version: {error}") from error
    path = folder / WEIGHTS
    try:
        weights = read(read_file(path))
        _check_size(_parameters(space, architecture, io), sum(tensor.numel() for tensor in weights.values()))
        with seeded(0):
            network = space.build(architecture, io)
        network.load_state_dict(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is missing or damaged: {error}") from error
    # torch refuses weights of another shape, and sizes beyond its own, in one of these ways
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not fit {ARCHITECTURE}: {' '.join(str(error).split())}") from error
    return Exported(network.eval(), architecture, io)


def _parameters(space: SearchSpace, architecture: Architecture, io: IO) -> int:
    try:
        return space.cost(architecture, io).params
    except ValueError as error:
        raise ValueError(f"size mismatch, the space takes no input of the shape {io.input_shape}: {error}") from error


def _check_size(needed: int, given: int) -> None:
    """Refuse, before it is built, a network that no memory may hold."""
    if needed > given:
        raise ValueError(f"size mismatch, the network has {needed:,} parameters, but the file {given:,} numbers")


def verify(
    network: "nn.Module", io: IO, path: Path, *, batches: tuple[int, ...] = (1, 5), seed: int = 0
) -> Verification:
    """Run an ONNX file with onnxruntime and torch on the same random inputs."""
    import onnxruntime
    import torch

    generator = torch.Generator().manual_seed(seed)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest, scale = 0.0, 1.0
    for batch in batches:
        # Pictures may have any sides, so that odd ones and others than the exporter saw are tried.
        shape = io.input_shape if io.scale is None else (io.input_shape[0], 8 + 5 * batch, 23 - batch)
        images = torch.randn(batch, *shape, generator=generator)
        with torch.no_grad():
            expected = network(images)
        (given,) = session.run(None, {"images": images.numpy()})
        difference = (torch.from_numpy(given) - expected).abs().max().item()
        largest = max(largest, difference) if difference == difference else difference  # a NaN is the largest
        scale = max(scale, expected.abs().max().item())
    return Verification(largest, TOLERANCE * scale, batches)


def _weights(run: Run, measurement: Measurement, benchmark: Benchmark, *, untrained: bool) -> bytes:
    """The measured network's weights as safetensors, or fresh ones if those will do."""
    if untrained:
        from nasplat.training.seeding import seeded

        with seeded(measurement.task.seed):
            return _safetensors(benchmark.space.build(measurement.architecture, benchmark.io).state_dict())
    try:
        return _safetensors(benchmark.state_dict(measurement, artifacts=run.artifacts))
    except InputError as error:
        raise InputError(f"{error}; add --untrained to export the network with fresh weights") from error
    except ArtifactError as error:
        if not _superseded(run, measurement):
            raise
        raise InputError(
            f"trial {measurement.id} was measured with shared weights after {measurement.task.fidelity} epochs, which "
            "went when later ones replaced them; pick from the front, which is of the last, or add --untrained to "
            "export the network with fresh weights"
        ) from error
    except NasplatError:
        raise
    except Exception as error:
        raise RunError(
            f"the weights of trial {measurement.id} cannot be put together: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error


def _superseded(run: Run, measurement: Measurement) -> bool:
    """Whether a measurement was made with shared weights that the search has deleted, as it may."""
    weights = measurement.task.weights
    if weights is None or run.artifacts.path(weights).exists():
        return False
    return measurement.task.fidelity < run.history().fidelities[-1]


def _safetensors(weights: "Mapping[str, Tensor]") -> bytes:
    parcel = Parcel()
    return parcel.get(parcel.put_tensors(weights))  # the very bytes that a benchmark would leave of them


def _network(benchmark: Benchmark, architecture: Architecture, weights: bytes) -> "nn.Module":
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    from nasplat.training.seeding import seeded

    with seeded(0):
        network = benchmark.space.build(architecture, benchmark.io)
    try:
        network.load_state_dict(read(weights))
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:  # torch refuses other shapes so
        raise RunError(f"the weights do not fit {architecture}: {' '.join(str(error).split())}") from error
    return network.eval()
