"""Exports of networks that a run found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from nasplat.errors import InputError
from nasplat.export.formats import Format
from nasplat.interface.running import keep_accepted
from nasplat.latency.conditions import Engine
from nasplat.run.directory import RunDirectory
from nasplat.run.history import names_several
from nasplat.storage.files import is_taken
from nasplat.task import Measurement

FORMS = {**{form.name.lower(): [form] for form in Format}, "all": list(Format)}
"""The export formats that are written in addition to the weights."""


def exported(
    run: RunDirectory,
    console: Console,
    pick: str = "best",
    *,
    out: Path | None = None,
    form: str = "onnx",
    test: bool = False,
    untrained: bool = False,
    features: bool = False,
    latency: bool = True,
    engine: Engine | None = None,
    accept_changed_data: bool = False,
) -> Iterator[tuple[Measurement, dict[str, Any]]]:
    """Export networks one after another; each is told once it is written.

    Args:
        run: The run.
        console: Where notes are printed.
        pick: Networks, as `History.picks` takes them.
        out: The folder to create; for several networks, the parent of their folders ``trial-N``. By default
            ``RUN/export/trial-N``.
        form: ``onnx``, ``pt2``, ``source`` or ``all``.
        test: Whether to measure on the test split as well.
        untrained: Whether new weights are accepted if the measurement left none.
        features: Whether the ONNX model also outputs the input of the last linear layer.
        latency: Whether to measure the latency on this machine.
        engine: The engine of the latency; by default that of the run.
        accept_changed_data: Whether to go on although the data has changed.

    Yields:
        The measurement, and the content of ``architecture.json`` with the `folder`.

    Raises:
        InputError: A value does not fit, a folder exists, or the default one is a link.
        RunError: An exported format differs from torch.
    """
    from nasplat.export import bundle

    if test or accept_changed_data:
        keep_accepted(run, console, accept=accept_changed_data)
    measurements, several = run.history().picks(pick), names_several(pick)
    if form not in FORMS:
        raise InputError(f"--format (format=…) must be one of {', '.join(FORMS)}, but got {form!r}")
    parent = run.folder / "export" if out is None else out
    if out is None and parent.is_symlink():  # drafts would be written, and deleted, in a folder that the run chose
        raise InputError(f"{parent} is a link to {parent.readlink()}, outside the run; give --out FOLDER (out=…)")
    folders = [parent if out is not None and not several else parent / f"trial-{m.id}" for m in measurements]
    for folder in folders:
        if is_taken(folder):  # before any of the others is written
            raise InputError(f"{folder} exists; choose another --out (out=…)")
    for measurement, folder in zip(measurements, folders, strict=True):
        description = bundle.export(
            run,
            measurement,
            folder,
            untrained=untrained,
            test=test,
            formats=FORMS[form],
            features=features,
            latency=latency,
            engine=engine,
        )
        yield measurement, {"folder": str(folder), **description}
