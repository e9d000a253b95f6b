"""The rooms of the project and what they import, from the imports themselves: python performance/house.py

Prints, for each room from the command line down to the contracts, how many modules it has, how long they are, and which
rooms it imports; imports for type checkers alone do not count. `--svg FILE` draws that, as in docs/rooms.svg.
"""

import argparse
import ast
import configparser
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ("benchmarks", "predictors", "search_spaces", "strategies")
WIDTH, HEIGHT, GAP = 1040, 76, 8


def modules(root: Path) -> dict[str, Path]:
    """Every module below `nasplat`, by its dotted name without that, plug-ins among them."""
    found = {}
    for folder, prefix in ((root / "nasplat", ""), *((root / name, f"{name}.") for name in PLUGINS)):
        for path in folder.rglob("*.py"):
            if path.name not in ("__init__.py", "__main__.py"):
                found[prefix + ".".join(path.relative_to(folder).with_suffix("").parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """What a module imports of `nasplat`, inside functions too, but for type checkers."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nasplat."):
            yield node.module.removeprefix("nasplat.")
        elif isinstance(node, ast.ImportFrom) and node.module == "nasplat":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("nasplat.") for a in node.names if a.name.startswith("nasplat."))
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_bytes()))


def layers(root: Path) -> list[list[str]]:
    """The layers that setup.cfg states, the highest first, each with its rooms or contracts."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "setup.cfg")
    return [
        re.findall(r"\w+", line) for line in parser["importlinter:contract:one-direction"]["layers"].split("\n") if line
    ]


def arrows(found: dict[str, Path]) -> dict[tuple[str, str], int]:
    """How many modules of a room import another room, by the two rooms."""
    counts: dict[tuple[str, str], int] = {}
    for name, path in found.items():
        room = name.partition(".")[0]
        for other in {each.partition(".")[0] for each in imports(path)} - {room}:
            counts[room, other] = counts.get((room, other), 0) + 1
    return counts


def table(root: Path) -> Iterator[str]:
    """The lines that are printed."""
    found, order = modules(root), layers(root)
    place = {room: level for level, rooms in enumerate(order) for room in rooms}
    counts = arrows(found)
    yield f"{'room':15} {'modules':>7} {'median':>7} {'largest':>8}  imports"
    for rooms in order:
        for room in rooms:
            lines = [len(p.read_text().splitlines()) for n, p in found.items() if n.partition(".")[0] == room]
            if not lines:  # a room of its `__init__` alone
                continue
            below = sorted((b for a, b in counts if a == room and b in place), key=lambda b: (place[b], b))
            sizes = f"{len(lines):7} {statistics.median(lines):7.0f} {max(lines):8}"
            yield f"{room:15} {sizes}  {' '.join(below)}"
    lines = [len(p.read_text().splitlines()) for p in found.values()]
    upwards = [f"{a} -> {b}" for a, b in counts if a in place and b in place and place[a] > place[b]]
    yield f"{'all':15} {len(lines):7} {statistics.median(lines):7.0f} {max(lines):8}"
    yield f"imports upwards: {len(upwards)} {' '.join(upwards)}".rstrip()


def picture(root: Path) -> str:
    """The layers as an SVG image: what stands higher imports what stands lower, and each box says what."""
    found, order = modules(root), layers(root)
    place = {room: level for level, rooms in enumerate(order) for room in rooms}
    rooms_of = {name.partition(".")[0] for name in found if "." in name}
    counts = arrows(found)
    height = len(order) * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" '
        'role="img" aria-label="The rooms of NASPlat in layers; each imports only what stands below it.">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for level, rooms in enumerate(order):
        top, width = GAP + level * (HEIGHT + GAP), (WIDTH - GAP) / len(rooms)
        for place_in_row, room in enumerate(rooms):
            left = GAP + place_in_row * width
            fill = "#eef6ee" if room in PLUGINS else "#f6f7f8" if room in rooms_of else "#fff7ed"
            below = sorted((b for a, b in counts if a == room and b in place), key=lambda b: (place[b], b))
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width - GAP:.0f}" height="{HEIGHT}" rx="6" fill="{fill}" '
                f'stroke="#94a3b8"/><text x="{left + 12:.0f}" y="{top + 22}" font-size="15" font-weight="600">'
                f"{escape(room + ('/' if room in rooms_of else ''))}</text>"
            )
            letters = int((width - 30) / 5.6)
            lines, line = [], "→ " if below else ""
            for name in below:
                if len(line) + len(name) > letters:
                    lines.append(line)
                    line = ""
                line += f"{name} "
            for number, text in enumerate([*lines, line]):
                parts.append(
                    f'<text x="{left + 12:.0f}" y="{top + 36 + 12 * number}" font-size="10.5" fill="#475569">'
                    f"{escape(text.rstrip())}</text>"
                )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Print the table, or draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--svg", type=Path, help="the file to draw into")
    given = parser.parse_args()
    if given.svg:
        given.svg.write_text(picture(ROOT), encoding="utf-8")
    else:
        print("\n".join(table(ROOT)))


if __name__ == "__main__":
    main()
