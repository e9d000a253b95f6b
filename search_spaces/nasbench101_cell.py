"""Cells of NAS-Bench-101 as graphs: codes, official specifications, pruning, and neighbors."""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, TypeAlias

from nasplat.architecture import Architecture
from nasplat.errors import InputError

VERTICES, EDGES = 7, 9
"""The maximum numbers of vertices and edges of a cell."""
OPERATIONS = {"3": "conv3x3-bn-relu", "1": "conv1x1-bn-relu", "m": "maxpool3x3"}
"""The official names by the letters of the code, in the official order. The hash depends on the order."""
PAIRS = tuple(combinations(range(VERTICES), 2))
"""The edge of each bit of a code, from the lowest bit up."""
LAST = VERTICES - 1
"""The place of the output in every graph. Smaller cells leave the places before it empty."""

Edge: TypeAlias = tuple[int, int]

BIT = {pair: 1 << b for b, pair in enumerate(PAIRS)}
"""The bit of each edge in a code."""


def edges_of(bits: int) -> list[Edge]:
    """The edges of the bits of a code, in the order of `PAIRS`."""
    return [pair for pair, bit in BIT.items() if bits & bit]


def cell_of(architecture: Architecture) -> tuple[list[Edge], str]:
    """The edges, in the order of `PAIRS`, and the letters of the inner vertices."""
    bits, _, letters = architecture.code.partition(":")
    return edges_of(int(bits, 16)), letters


def pruned(edges: Sequence[Edge], letters: Sequence[str]) -> tuple[list[Edge], list[str]] | None:
    """The vertices and edges on paths from the input to the output, renumbered; None if there is no path.

    Args:
        edges: Sorted, each leading to a higher number.
        letters: The letters of the inner vertices.
    """
    reached, useful = {0}, {len(letters) + 1}
    for i, j in edges:
        if i in reached:
            reached.add(j)
    for i, j in reversed(edges):
        if j in useful:
            useful.add(i)
    kept = sorted(reached & useful)
    if len(kept) < 2:
        return None
    number = {v: new for new, v in enumerate(kept)}
    return (
        [(number[i], number[j]) for i, j in edges if i in number and j in number],
        [letters[v - 1] for v in kept[1:-1]],
    )


def steps(edges: list[Edge], letters: str) -> Iterator[tuple[list[Edge], str]]:
    """The cells that one step leads to."""
    output = len(letters) + 1
    inner = range(1, output)
    sources = {v: [i for i, j in edges if j == v] for v in range(output + 1)}
    targets = {v: [j for i, j in edges if i == v] for v in range(output + 1)}
    for v in inner:
        for letter in OPERATIONS:
            if letter != letters[v - 1]:
                yield edges, letters[: v - 1] + letter + letters[v:]
    for i, j in combinations(range(output + 1), 2):
        if (i, j) not in edges:
            if len(edges) < EDGES:
                yield [*edges, (i, j)], letters
        elif len(targets[i]) > 1 and len(sources[j]) > 1:
            yield [edge for edge in edges if edge != (i, j)], letters
    if output < LAST and len(edges) < EDGES:
        for i, j in edges:
            for new in range(i + 1, j + 1):
                moved = [(a + (a >= new), b + (b >= new)) for a, b in edges if (a, b) != (i, j)]
                for letter in OPERATIONS:
                    yield [*moved, (i, new), (new, j + 1)], letters[: new - 1] + letter + letters[new - 1 :]
    for v in inner:
        if len(sources[v]) == len(targets[v]) == 1 and (sources[v][0], targets[v][0]) not in edges:
            rest = [edge for edge in edges if v not in edge] + [(sources[v][0], targets[v][0])]
            yield [(a - (a > v), b - (b > v)) for a, b in rest], letters[: v - 1] + letters[v:]


def read_specification(text: str) -> tuple[list[Edge], list[str]]:
    """The pruned cell of an official specification.

    Raises:
        InputError: It is not a specification, or not in the space.
    """
    try:
        specification: Any = json.loads(text)
        matrix, names = specification["matrix"], specification["ops"]
        if not (isinstance(matrix, list) and isinstance(names, list)):
            raise TypeError("matrix and ops are lists")
        edges = [(i, j) for i, row in enumerate(matrix) for j, value in enumerate(row) if value]
        square = all(len(row) == len(names) == len(matrix) for row in matrix)
        sound = square and all(value in (0, 1) for row in matrix for value in row)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            'an official specification must be JSON such as {"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}, '
            f"but got {text!r}: {type(error).__name__}"
        ) from error
    if not sound or len(names) < 2:
        raise InputError(
            "the matrix of a specification must have a row and a column of 0 and 1 for each of at least 2 ops, but "
            f"got {text!r}"
        )
    if any(i >= j for i, j in edges):
        raise InputError(f"the matrix of a specification must have edges only above its diagonal, but got {text!r}")
    letter = {name: letter for letter, name in OPERATIONS.items()}
    if (names[0], names[-1]) != ("input", "output") or not all(
        isinstance(name, str) and name in letter for name in names[1:-1]
    ):
        raise InputError(
            f"the ops of a specification must be input, then any of {', '.join(letter)}, then output, but got {text!r}"
        )
    found = pruned(edges, [letter[name] for name in names[1:-1]])
    if found is None:
        raise InputError(f"a cell must have a path from its input to its output, but {text!r} has none")
    if len(found[1]) > VERTICES - 2:
        raise InputError(
            f"a cell must have at most {VERTICES} vertices on paths, but {text!r} has {len(found[1]) + 2}; leave some "
            "out"
        )
    check_edges(len(found[0]), text)
    return found


def check_edges(number: int, text: str) -> None:
    """Refuse more edges than a cell may have.

    Raises:
        InputError: There are more.
    """
    if number > EDGES:
        raise InputError(f"a cell must have at most {EDGES} edges, but {text!r} has {number}; leave some out")
