"""The network that a student learns from: an exported one, one of a run, or a module of torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from nasplat.benchmark import Preprocessing
from nasplat.data.picked import Layout
from nasplat.data.picture_files import MOST_PIXELS
from nasplat.errors import InputError, NasplatError
from nasplat.interface.adoption import opened
from nasplat.interface.running import check_measures
from nasplat.options import shortly
from nasplat.run.directory import RunDirectory
from nasplat.run.layout import LOG
from nasplat.storage.files import is_taken

if TYPE_CHECKING:
    from torch import nn


LARGEST = 4096
"""The largest side of an image that a classifier takes, in pixels."""


@dataclass(frozen=True, slots=True)
class TaughtBy:
    """A trained classifier and how images are made ready for it.

    Args:
        network: The network, in evaluation mode, on the CPU.
        layout: How images are made ready.
        most_pixels: The largest number of pixels of an image in a file.
    """

    network: "nn.Module"
    layout: Layout
    most_pixels: int


@contextmanager
def restored(teacher: "str | Path | nn.Module") -> Iterator[None]:
    """Give a module of the user back as it was: each part in its mode, each tensor on its device."""
    if isinstance(teacher, str | Path):
        yield
        return
    modules = [(each, each.training, dict(each._parameters), dict(each._buffers)) for each in teacher.modules()]
    tensors = [(each, each.data) for p in teacher.parameters() for each in (p, p.grad) if each is not None]
    try:
        yield
    finally:
        for module, training, parameters, buffers in modules:
            module.training = training
            module._parameters.update(parameters)  # torch moves some in place, and puts others in their place
            module._buffers.update(buffers)
        for tensor, data in tensors:
            tensor.data = data


def teacher_of(
    teacher: "str | Path | nn.Module",
    pick: str,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    *,
    trust: bool,
) -> TaughtBy:
    """The teacher.

    Args:
        teacher: An exported folder, a run, or a module of torch.
        pick: Which network of a run: ``best``, ``knee`` or a trial's number.
        preprocessing: How images are made ready, for a module of torch; an export and a run say it themselves.
        trust: Whether what only the run names may be used.

    Raises:
        InputError: There is no such network, or it does not say how images are made ready.
    """
    if isinstance(teacher, str | Path):
        if preprocessing is not None:
            raise InputError(
                f"{teacher} says itself how images are made ready, so that preprocessing has no effect; leave it out"
            )
        network, found = _of_folder(Path(teacher), pick, trust=trust)
    elif preprocessing is None:
        raise InputError(
            "a module of torch does not say how images are made ready; give preprocessing=nasplat.Preprocessing("
            "channels=3, height=32, width=32, mean=(…), std=(…), classes=(…)), with mean and std in 0..255"
        )
    else:
        network, found = teacher.eval(), preprocessing_of(preprocessing)
    return TaughtBy(network, layout_of(found), found.most_pixels or MOST_PIXELS)


def _of_folder(folder: Path, pick: str, *, trust: bool) -> "tuple[nn.Module, Preprocessing]":
    from nasplat.export.opening import ARCHITECTURE

    if is_taken(folder / LOG):
        return _of_run(opened(folder, trust=trust), pick)
    if not is_taken(folder / ARCHITECTURE):
        raise InputError(
            f"a teacher is an exported folder or a run, but {shortly(str(folder))} is neither; export a network by "
            "nasplat export RUN"
        )
    import json

    from nasplat.export.opening import opened as read
    from nasplat.storage.files import read_file

    network = read(folder).network
    said = json.loads(read_file(folder / ARCHITECTURE)).get("preprocessing")
    if not isinstance(said, Mapping):
        raise _unsaid(folder)
    return network, preprocessing_of(said)


def _of_run(run: RunDirectory, pick: str) -> "tuple[nn.Module, Preprocessing]":
    from safetensors.torch import load

    from nasplat.export.bundle import trained_weights
    from nasplat.training.seeding import seeded

    check_measures(run, "a teacher", "export the network, and give that")
    measurement = run.history().pick(pick)
    benchmark = run.benchmark()
    said = benchmark.preprocessing()
    if said is None:
        raise _unsaid(run.folder)
    weights = load(trained_weights(run, measurement, benchmark, untrained=False))
    with seeded(0):  # whatever it is made with is replaced
        network = benchmark.space.build(run.member(measurement, benchmark), benchmark.io)
    network.load_state_dict(weights)
    return network.eval(), said


def _unsaid(folder: Path) -> InputError:
    return InputError(
        f"{folder} does not say how images become inputs of its network, as its data set has no images of 8 bits; take "
        "a network of a data set that does, such as image_folder, or give a module of torch with preprocessing=…"
    )


def preprocessing_of(said: Preprocessing | Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that somebody says.

    Raises:
        InputError: It is none.
    """
    if isinstance(said, Preprocessing):
        return said
    known = {field.name for field in fields(Preprocessing)}
    try:
        return TypeAdapter(Preprocessing).validate_python({name: v for name, v in said.items() if name in known})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            "preprocessing needs channels, height, width, mean and std: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        ) from None


def layout_of(said: Preprocessing) -> Layout:
    """The classes of a classifier and how images are made ready for it.

    Raises:
        InputError: It takes other images than square ones of 1 or 3 channels, or has no classes.
    """
    side, square = said.height, said.height == said.width
    if side is None or not (square and 1 <= side <= LARGEST and said.channels in (1, 3) and len(said.classes) > 1):
        raise InputError(
            "the network must classify square images of 1 or 3 channels into at least two classes, but this one takes "
            f"{said.channels} x {said.height} x {said.width} and has {len(said.classes)} classes; take a classifier"
        )
    if not (len(said.mean) == len(said.std) == said.channels and min(said.std) > 0 and said.white > 0):
        raise InputError(
            f"preprocessing needs a mean and a std above 0 for each channel, {said.channels} here, and a white above "
            f"0, but got mean={said.mean}, std={said.std} and white={said.white:g}; give them in 0..white"
        )
    white = said.white / 255
    mean, std = (tuple(float(value) / white for value in each) for each in (said.mean, said.std))
    return Layout(tuple(said.classes), said.channels, side, mean, std)


def student_of(student: str | Path, pick: str, *, trust: bool) -> tuple[dict[str, Any], str]:
    """The space and the code of a student.

    Args:
        student: ``SPACE:CODE``, a run, or an exported folder.
        pick: Which network of a run.
        trust: Whether what only the run names may be used.

    Returns:
        The section `space` of a configuration, and the code.

    Raises:
        InputError: There is no such student.
    """
    from nasplat.export.opening import ARCHITECTURE
    from nasplat.export.opening import opened as read
    from nasplat.registry import SEARCH_SPACES

    folder = Path(student)
    if is_taken(folder / LOG):
        run = opened(folder, trust=trust)
        return run.config.space.model_dump(mode="json"), run.history().pick(pick).architecture.code
    if is_taken(folder / ARCHITECTURE):
        exported = read(folder)
        return {"name": exported.space, **exported.options}, exported.architecture.code
    text = str(student)
    for place in (place for place, letter in enumerate(text) if letter == ":"):
        name, code = text[:place], text[place + 1 :]
        try:
            SEARCH_SPACES.get(name)
        except NasplatError:
            continue
        return {"name": name}, code
    raise InputError(
        f"a student is SPACE:CODE of a known search space, a run or an exported folder, but got {shortly(text)}; "
        "nasplat list spaces shows the spaces, nasplat show RUN the codes that a search found"
    )
