"""The forms that a network is exported in: what is written of each, and how it is run to be compared with torch."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasplat.architecture import IO
from nasplat.errors import RunError
from nasplat.export.verification import Verification, compared, random_inputs, real_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


class Format(Enum):
    """A form of a network, by the name that the command line gives it; the value is its file."""

    ONNX = "model.onnx"
    PT2 = "model.pt2"
    SOURCE = "network.py"

    @property
    def title(self) -> str:
        """What errors call it."""
        return {"ONNX": "the ONNX model", "PT2": "the torch.export program", "SOURCE": "the source"}[self.name]


def write_source(network: "nn.Module", io: IO, path: Path, heading: "Sequence[str]") -> None:
    """Write a network as a file that needs torch alone."""
    from nasplat.export.source import source
    from nasplat.run.files import write_atomically

    write_atomically(path, source(network, io, heading))


def verified(form: Format, network: "nn.Module", io: IO, path: Path, real: "Tensor | None") -> dict[str, Any]:
    """How far a program or a source is from torch: on random and on real inputs, a source in float64 as well.

    Raises:
        RunError: A difference is larger than is allowed.
    """
    from nasplat.export.program import read_program
    from nasplat.export.verification import source_network, verify_source

    run = read_program(path) if form is Format.PT2 else source_network(path)
    inputs = random_inputs(io)
    found: dict[str, Verification | None] = {"random": compared(network, run, inputs)}
    found["real"] = None if real is None else compared(network, run, real_batches(real))
    if form is Format.SOURCE:
        if list(run.state_dict()) != list(network.state_dict()):
            raise RunError(f"{form.title} has other weights than the network; nothing was exported")
        found["random_float64"] = verify_source(network, path, inputs)
    return {kind: checked(form, kind, check) for kind, check in found.items()}


def checked(form: Format, kind: str, check: Verification | None) -> dict[str, Any] | None:
    """A verification as it is recorded.

    Raises:
        RunError: The difference is larger than is allowed.
    """
    if check is None:
        return None
    if not check.holds:
        raise RunError(
            f"{form.title} differs from torch by {check.largest_difference:.3g} on {kind.partition('_')[0]} inputs in "
            f"{check.dtype}, more than the allowed {check.allowed:.3g}; nothing was exported"
        )
    return asdict(check)
