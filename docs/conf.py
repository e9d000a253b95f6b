"""How Sphinx makes the documentation; `make docs` runs it, and every warning is an error."""

import re
import sys
from pathlib import Path
from typing import Any

import nasplat

sys.path.insert(0, str(Path(__file__).parent))

project = "NASPlat"
author = "the NASPlat developers"
project_copyright = "the NASPlat developers; Apache 2.0"
version = release = nasplat.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generate"]
source_suffix = {".md": "markdown"}

# Nothing is fetched, neither here nor by a reader: there is no intersphinx, and the theme brings all that pages need.
html_theme = "furo"
html_title = f"NASPlat {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

nitpicky = True
nitpick_ignore_regex = [
    # Libraries, whose pages lie elsewhere
    (
        "py:.*",
        r"(np|npt|numpy|pandas|pd|torch|pydantic|annotated_types|collections|pathlib|typing|types|abc|enum|os)\..*",
    ),
    ("py:.*", r"(Path|Sequence|Mapping|Iterator|Iterable|Callable|Any|Generator|NDArray|Literal|Tensor|T)"),
    ("py:.*", r"nn\.(Module|Conv2d)"),
    # Imported for type checkers alone, so that Sphinx does not see which they are; the page has them
    ("py:class", "Engine|Latency|Preprocessing|StoredPredictor"),
    # Aliases and type variables, which Sphinx does not see through
    ("py:class", r"Value|Alternative|nasplat\.authoring\.(choices\.Number|function\.F)"),
    # What annotations of options hold beside the type, and classes without a use by their name
    (
        "py:.*",
        r"nasplat\.strategy\._today|PydanticUndefined|nasplat\.run\.(directory\.RunDirectory|history\.History|source\.Origin)",
    ),
]

smartquotes_action = "D"  # dashes; quotation marks stay as they are written
default_role = "code"  # docstrings have names in single backticks
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"


def setup(app: Any) -> None:
    """Write types of arrays as the code does, where Sphinx sees what the alias stands for, and words as words."""
    app.connect("autodoc-process-signature", _arrays)
    app.connect("autodoc-process-docstring", _in_words, priority=0)  # before napoleon


def _in_words(*event: Any) -> None:
    """Let no words before a colon pass for a type, below `Returns:` and of properties; types stand in signatures."""
    _, what, _, _, _, lines = event
    starts = [number for number, line in enumerate(lines[1:], 1) if lines[number - 1].strip() == "Returns:"]
    if what in ("attribute", "property"):
        starts.append(0)
    for number in starts:
        text = lines[number].lstrip()
        lines[number] = f"{lines[number].removesuffix(text)}: {text}"


def _arrays(*event: Any) -> tuple[str | None, str | None]:
    *_, arguments, returned = event
    return _short(arguments), _short(returned)


def _short(annotations: str | None) -> str | None:
    return annotations and re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]", r"NDArray[\1]", annotations)
