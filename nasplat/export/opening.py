"""Loading of an exported folder: the network with its weights, and its description."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError
from nasplat.options import construct, explain
from nasplat.registry import JOINED, SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.storage.files import read_file
from nasplat.transform import Transforming

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCHITECTURE, WEIGHTS = "architecture.json", "weights.safetensors"
FORMAT = 1


class _Run(BaseModel):
    """The trial that the network is of."""

    trial: int = Field(default=0, ge=0)
    fidelity: int = Field(default=0, ge=0)


class _Space(BaseModel):
    """A search space by name; everything else is an option of its constructor."""

    model_config = ConfigDict(extra="allow")

    name: str


class _Description(BaseModel):
    """The fields of ``architecture.json`` that `load` needs."""

    format: int
    space: _Space
    architecture: str
    input_shape: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    outputs: int = Field(ge=1)
    scale: int | None = Field(default=None, ge=1)
    sample_shape: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1, max_length=3)
    run: _Run = _Run()


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported network and its description.

    Args:
        network: The network with its weights, in evaluation mode, on the CPU.
        architecture: The architecture of the network.
        io: Its input and output shapes.
        space: The name of its search space.
        options: The options of the space.
        trial: The number of its trial.
        fidelity: The fidelity of its trial, in epochs.
    """

    network: "nn.Module"
    architecture: Architecture
    io: IO
    space: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    trial: int = 0
    fidelity: int = 0


def load(folder: Path | str, space: SearchSpace | None = None) -> "nn.Module":
    """The network of an exported folder as its space builds it, with its weights, in evaluation mode, on the CPU.

    Packed weights are unpacked, so the network can be trained further.

    Args:
        folder: The exported folder.
        space: The search space of the network, if it is no installed plug-in.

    Raises:
        InputError: A file is missing or damaged, or belongs to another version.
    """
    return opened(folder, space).network


def opened(folder: Path | str, space: SearchSpace | None = None) -> Exported:
    """The network of an exported folder, as from `load`, and its description.

    Args:
        folder: The exported folder.
        space: The search space of the network, if it is no installed plug-in.

    Raises:
        InputError: A file is missing or damaged, or belongs to another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as read

    from nasplat.nn.packing import unpack
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
        _, *transforms = description.space.name.split(JOINED)
        options = description.space.model_extra or {}
        if space is None:
            space = construct("space", SEARCH_SPACES.get(description.space.name), **options)
        elif transforms and not isinstance(space, Transforming):
            space = construct("space", SEARCH_SPACES.transformed(type(space), transforms), **options)
        architecture = space.parse(description.architecture)
        sample = None if description.sample_shape is None else tuple(description.sample_shape)
        io = IO(tuple(description.input_shape), description.outputs, description.scale, sample)
        space.check_io(io)
    except InputError as error:
        if ":" in description.space.name and space is None:
            raise InputError(
                f"the network in {folder} is of {description.space.name}, a space of somebody's own; give that space: "
                "nasplat.load(folder, space=…)"
            ) from error
        raise InputError(f"{path} does not fit this version: {error}") from error
    path = folder / WEIGHTS
    try:
        weights = read(read_file(path))
        _check_size(_parameters(space, architecture, io), sum(map(_most_numbers, weights.values())))
        with seeded(0):
            network = space.build(architecture, io)
        unpack(network, weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is missing or damaged: {error}") from error
    # torch raises one of these for weights of another shape, and for sizes beyond its limits
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not fit {ARCHITECTURE}: {' '.join(str(error).split())}") from error
    named, run = description.space, description.run
    return Exported(
        network.eval(), architecture, io, named.name, dict(named.model_extra or {}), run.trial, run.fidelity
    )


def _parameters(space: SearchSpace, architecture: Architecture, io: IO) -> int:
    try:
        return space.cost(architecture, io).params
    except ValueError as error:
        raise ValueError(
            f"size mismatch, the space does not accept the input shape {io.input_shape}: {error}"
        ) from error


def _most_numbers(tensor: "Tensor") -> int:
    """How many parameters a tensor of a file may stand for. A packed byte stands for eight, one for each bit."""
    import torch

    return tensor.numel() * (8 if tensor.dtype == torch.uint8 else 1)


def _check_size(needed: int, given: int) -> None:
    """Refuse a network that cannot fit into memory, before it is built."""
    if needed > given:
        raise ValueError(f"size mismatch, the network has {needed:,} parameters, but the file has {given:,} numbers")
