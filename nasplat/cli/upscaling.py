"""`nasplat upscale`: an image upscaled by an exported network."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from nasplat.cli.benchmarking import INTERRUPTED, Device
from nasplat.cli.console import err, out, print_json
from nasplat.errors import InputError
from nasplat.executors.executor import cuda_is_available
from nasplat.interface.bars import LineColumn
from nasplat.interface.interruption import Interruption
from nasplat.storage.files import appearing, appearing_folder, is_taken, refusal
from nasplat.units import duration

if TYPE_CHECKING:
    from PIL.Image import Image

MIB = 2**20


def upscale(
    model: Annotated[
        Path, typer.Argument(help="The folder of an exported super-resolution network.", show_default=False)
    ],
    picture: Annotated[Path, typer.Argument(help="The picture, a file.", show_default=False)],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The PNG file to write. Default: PICTURE-x2.png beside it.", show_default=False),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Also write a PNG file: bicubic, network and original side by side, cropped to the middle if large.",
            show_default=False,
        ),
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option(
            help="The true picture, in the size of the result; the network and bicubic are compared with it.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="The device that runs the network.")] = Device.CPU,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads on the CPU. Default: all cores.", show_default=False)
    ] = None,
    memory: Annotated[
        int,
        typer.Option(
            min=1, metavar="MIB", help="Memory for running the network; the pictures need memory in addition."
        ),
    ] = 1024,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Upscale an image with an exported network, strip by strip; the result equals the untiled one up to rounding.

    Grey pictures stay grey, transparency is upscaled by bicubic, and values are rounded to 8 bits.
    """
    from nasplat.export import opening, side_by_side, upscaling

    if device is Device.CUDA and not cuda_is_available():
        raise InputError("there is no CUDA device that torch can use; leave out --device cuda")
    exported = opening.opened(model)
    scale = upscaling.check_scale(exported, model)
    out_file = out_file or picture.parent / f"{picture.stem}-x{scale}.png"
    _check_places([out_file] if compare is None else [out_file, compare])
    source = upscaling.read_source(picture, scale)
    wanted = None if original is None else upscaling.read_source(original).colors
    if wanted is not None:
        side_by_side.check_original(source.colors, wanted, scale)
    if source.several:
        err.print(f"[yellow]{escape(str(picture))} holds several pictures[/]; the first is upscaled")
    if source.deep:
        err.print(f"[yellow]{escape(str(picture))} has more than 8 bits a channel[/]; they are scaled to 8")
    began = time.monotonic()
    try:
        with Interruption() as interruption, _threads(threads), _bar() as progress:
            interruption.arm()
            result = upscaling.upscaled(exported, source, device=device.value, memory=memory * MIB, progress=progress)
            seconds = time.monotonic() - began
            found = None if wanted is None else side_by_side.figures(source.colors, result, wanted, scale)
            images = {out_file: result}
            if compare is not None:
                images[compare] = side_by_side.side_by_side(source.colors, result, wanted, scale, found)
            _write(images, source.profile, interruption.disarm)
    except KeyboardInterrupt:
        err.print("interrupted; nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    if json:
        print_json(
            {
                "model": str(model),
                "architecture": str(exported.architecture),
                "picture": str(picture),
                "size": list(source.colors.size),
                "scale": scale,
                "out": str(out_file),
                "upscaled": list(result.size),
                "compare": None if compare is None else str(compare),
                "device": device.value,
                "seconds": seconds,
                "figures": found,
                "protocol": None if found is None else side_by_side.protocol(scale),
            }
        )
        return
    for path in images:
        out.print(f"written: {escape(str(path))}")
    sizes = " to ".join(f"{image.width} x {image.height}" for image in (source.colors, result))
    out.print(f"  upscaled   {sizes} pixels in {duration(seconds)} on {device.value}")
    for name, figure in (found or {}).items():
        out.print(f"  {name:10} {figure['psnr_db']:.2f} dB, SSIM {figure['ssim']:.4f} against the original")
    if found:
        out.print(f"  protocol   {side_by_side.protocol(scale)}")


def _check_places(paths: list[Path]) -> None:
    """Refuse places that cannot be written to before any work is done.

    Raises:
        InputError: A name does not end in .png, exists, or is given twice.
    """
    for path in paths:
        if path.suffix.lower() != ".png":
            raise InputError(f"only PNG files are written, but got {path}; choose a name that ends in .png")
        _check_free(path)
    if len({path.absolute() for path in paths}) < len(paths):
        raise InputError(f"--out and --compare are both {paths[0]}; choose two names")


def _check_free(path: Path) -> None:
    if is_taken(path):
        raise InputError(f"{path} exists; choose another name, or remove it")


def _write(images: "Mapping[Path, Image]", profile: bytes | None, close: Callable[[], None]) -> None:
    """Write PNG files, all complete or none at all.

    Args:
        images: By the names of the files.
        profile: The ICC profile of their colors, if they have one.
        close: Called when the contents are written and only the names are missing. Afterwards nothing may interrupt.

    Raises:
        InputError: A path exists by now or cannot be written.
        StorageError: The disk is full.
    """
    path = Path()
    try:
        with ExitStack() as stack:
            for path, image in images.items():
                stack.enter_context(appearing_folder(path.parent))
                file = stack.enter_context(appearing(path))
                image.save(file, "PNG", icc_profile=profile)
                file.flush()
            for path in images:
                _check_free(path)
            close()
    except OSError as error:
        raise refusal(path, "written", error) from error


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Set the number of torch threads, if `number` is given."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar() -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, which is told which part is done."""
    with Progress(
        BarColumn(bar_width=24), LineColumn("{task.percentage:3.0f} %  {task.description}"), TimeRemainingColumn(),
        console=err, transient=True, disable=not err.is_terminal,
    ) as bar:  # fmt: skip
        shown = bar.add_task("upscaling", total=1.0)

        def progress(fraction: float) -> None:
            bar.update(shown, completed=fraction, description="writing" if fraction == 1 else "upscaling")

        yield progress
