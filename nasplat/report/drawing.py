"""Figures as SVG: matplotlib without a screen, the same whatever a user has set for notebooks."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 1e100
"""The largest absolute value that is drawn."""
BACKEND = "MPLBACKEND"
"""The variable that names where matplotlib is to draw on a screen."""


@contextmanager
def default_style() -> Iterator[None]:
    """Draw with matplotlib's own style, not with that of a user's ``matplotlibrc``, which may ask for LaTeX.

    A backend in the environment is for screens, so matplotlib is imported without it. That of a notebook need not exist
    for this interpreter, and then already the import fails.
    """
    backend = os.environ.pop(BACKEND, None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ[BACKEND] = backend
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def drawable(values: Iterable[float]) -> NDArray[np.float64]:
    """Values as they are drawn: those beyond 1e100 at the edge, so that differences and margins are no overflow."""
    return np.clip(np.fromiter(values, np.float64), -LARGEST, LARGEST)


def svg(drawing: "Figure", title: str, **options: Any) -> str:
    """A figure as SVG, the same for the same data; to be called in `default_style`.

    Args:
        drawing: The figure.
        title: Its title in the metadata.
        options: More for `Figure.savefig`.
    """
    import matplotlib

    text = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Title": title}
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        drawing.savefig(text, format="svg", metadata=metadata, **options)
    return text.getvalue()
