"""The formats of an exported network, and how each is compared with torch."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nasplat.architecture import IO
from nasplat.errors import RunError
from nasplat.export.verification import (
    Verification,
    compared,
    onnx_runner,
    output_runner,
    random_inputs,
    real_batches,
    source_network,
    verify_source,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from nasplat.export.verification import Runner


MORE = 4, 4, 4, 4
"""The batch sizes of more random inputs, where of the first ones none agrees but for signs that rounding changes."""


class Format(Enum):
    """A format of a network, by its name on the command line. The value is the name of its file."""

    ONNX = "model.onnx"
    PT2 = "model.pt2"
    SOURCE = "network.py"

    @property
    def title(self) -> str:
        """The name of the format in error messages."""
        return {"ONNX": "the ONNX model", "PT2": "the torch.export program", "SOURCE": "the source"}[self.name]


def write_source(network: "nn.Module", io: IO, path: Path, heading: "Sequence[str]") -> None:
    """Write a network as a Python file that needs only torch."""
    from nasplat.export.source import source
    from nasplat.storage.files import write_atomically

    write_atomically(path, source(network, io, heading))


def verified(
    form: Format,
    network: "nn.Module",
    io: IO,
    path: Path,
    real: "Tensor | None",
    more: "Mapping[str, Runner]" = MappingProxyType({}),
) -> dict[str, Any]:
    """The differences of a format from torch, on random and on real inputs. A source is also compared in float64.

    Args:
        form: The format.
        network: The network as it was trained, in evaluation mode. The file has its rewritten layers in packed form.
        io: The input and output shapes of the network.
        path: The file.
        real: Real inputs, if there are any.
        more: What an ONNX model outputs besides, by name, as torch computes it. It is compared too.

    Raises:
        RunError: The format cannot be run, or a difference exceeds the tolerance.
    """
    try:
        found = _compared(form, network, io, path, real, more)
    except RunError:
        raise
    except Exception as error:  # the runtime and the text of a source may raise any error
        raise RunError(
            f"{form.title} fails when it is run: {type(error).__name__}: {' '.join(str(error).split())}; nothing was "
            "exported; choose another --format (format=…)"
        ) from error
    return {kind: _checked(form, kind, check) for kind, check in found.items()}


def _compared(
    form: Format, network: "nn.Module", io: IO, path: Path, real: "Tensor | None", more: "Mapping[str, Runner]"
) -> dict[str, Verification | None]:
    """All comparisons of a format with torch, by the kind of inputs."""
    from nasplat.nn.packing import packed
    from nasplat.nn.rewritten import jumping

    run, inputs, jumps = _runner(form, path), random_inputs(io), jumping(network)
    first = compared(network, run, inputs, jumping=jumps)
    if jumps and first.holds and not first.agreeing:
        first = compared(network, run, [*inputs, *random_inputs(io, batches=MORE, seed=1)], jumping=jumps)
        if not first.agreeing:
            raise RunError(
                f"{form.title} agrees with torch on none of {sum(first.batches)} random inputs, "
                "though rounding changes few signs or choices of channels; nothing was exported; choose another "
                "--format (format=…)"
            )
    found: dict[str, Verification | None] = {"random": first}
    found["real"] = None if real is None else compared(network, run, real_batches(real), jumping=jumps)
    for name, wanted in more.items() if form is Format.ONNX else ():
        given = output_runner(path, name)
        for kind, batches in (("random", inputs), ("real", None if real is None else real_batches(real))):
            check = None if batches is None else compared(wanted, given, batches, jumping=jumps)
            found[f"{kind}_{name}"] = check
    if form is Format.SOURCE:
        if list(source_network(path).state_dict()) != list(packed(network).state_dict()):
            raise RunError(f"{form.title} has other weights than the network; nothing was exported")
        found["random_float64"] = verify_source(network, path, inputs)
    return found


def _runner(form: Format, path: Path) -> "Runner":
    from nasplat.nn.program import read_program

    if form is Format.ONNX:
        return onnx_runner(path)
    return read_program(path) if form is Format.PT2 else source_network(path)


def _checked(form: Format, kind: str, check: Verification | None) -> dict[str, Any] | None:
    """A verification in its recorded form.

    Raises:
        RunError: The difference exceeds the tolerance.
    """
    if check is None:
        return None
    if not check.holds:
        inputs, _, output = kind.partition("_")
        besides = output and output != "float64"
        what = f"the output {output} of {form.title} differs" if besides else f"{form.title} differs"
        raise RunError(
            f"{what} from torch by {check.largest_difference:.3g} on {inputs} inputs in "
            f"{check.dtype}, more than the allowed {check.allowed:.3g}; nothing was exported"
        )
    return asdict(check)
