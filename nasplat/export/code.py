"""Python expressions as small trees. The code of a network is written with them, in the layout of `ruff format`."""

from __future__ import annotations

import builtins
import keyword as python
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

WIDTH = 88
"""The largest length of a line, in columns."""
USED_IN_FORWARD = {"self", "nn", "torch", "functional", "Tensor", "getattr", "float"}
"""Names that already have a meaning in a `forward`."""
RESERVED = {*USED_IN_FORWARD, *dir(builtins), "OrderedDict", "Path", "load_file", "load", "path", "network"}
"""Names that already have a meaning anywhere in a source."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A piece of code that is written without changes, such as a name."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number. It becomes a parameter if it differs between the modules of one class.

    Args:
        value: The number.
        role: The role of the number in its call, such as ``kernel``; empty if the role has no name.
    """

    value: int | float
    role: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """The result of a step of a `nasplat.export.tracing.Graph`, by the number of the step."""

    step: int


@dataclass(frozen=True, slots=True)
class Part:
    """A module that is made by a class or a function of the source, by the path of the module in the network."""

    path: str


Kind: TypeAlias = Literal[
    "call",
    "list",
    "comprehension",
    "tuple",
    "dict",
    "item",
    "keyword",
    "attribute",
    "index",
    "slice",
    "binary",
    "unary",
]


@dataclass(frozen=True, slots=True)
class Node:
    """An expression that contains other expressions.

    Args:
        kind: The kind of expression.
        parts: The inner expressions. The first part of a call is the function; the first part of an index is the
            indexed value.
        text: The name of a keyword or an attribute, or the operator of a binary or unary operation.
        default: For a keyword, the code of its default value. A keyword with this value can be left out.
    """

    kind: Kind
    parts: tuple[Code, ...]
    text: str = ""
    default: str | None = None


Code: TypeAlias = Atom | Number | Value | Part | Node

NOTHING = Atom("")
"""Empty code, for example for a missing limit of a slice."""

_BROKEN = "call", "list", "comprehension", "tuple", "dict"
_ATOMIC, _UNARY, _POWER = 9, 7, 8
_BINARY = {"|": 1, "^": 2, "&": 3, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "@": 6, "**": _POWER}


def call(function: Code | str, *arguments: Code) -> Node:
    """A call of a function, which is given as code or by its name."""
    return Node("call", (Atom(function) if isinstance(function, str) else function, *arguments))


def keyword(name: str, value: Code, default: str | None = None) -> Node:
    """An argument by name. It is left out if its code equals the code of the default."""
    return Node("keyword", (value,), name, default)


def index(value: Code, *items: Code) -> Node:
    """A part of a value, in square brackets."""
    return Node("index", (value, *items))


def binary(operator: str, left: Code, right: Code) -> Node:
    """An operation on two values."""
    return Node("binary", (left, right), operator)


def changed(code: Code, change: Callable[[Code], Code | None]) -> Code:
    """The same tree with some parts replaced, from left to right.

    Args:
        code: The tree.
        change: Gives the replacement of a part. None keeps the part, and its inner parts are visited.
    """
    other = change(code)
    if other is not None:
        return other
    if isinstance(code, Node):
        return replace(code, parts=tuple(changed(part, change) for part in code.parts))
    return code


def leaves(code: Code) -> Iterator[Code]:
    """The leaves of a tree, from left to right."""
    if isinstance(code, Node):
        for part in code.parts:
            yield from leaves(part)
    else:
        yield code


def quoted(text: str) -> str:
    """A string as a Python literal in ASCII. It has double quotes, unless single quotes need fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    escaped = (f"\\{each}" if each == quote else each if each in "'\"" else ascii(each)[1:-1] for each in text)
    return f"{quote}{''.join(escaped)}{quote}"


def is_name(text: str) -> bool:
    """Whether a class can have an attribute with this name. Python changes names that begin with two underscores."""
    spelt_so = text.isidentifier() and unicodedata.is_normalized("NFKC", text)
    return spelt_so and not python.iskeyword(text) and (not text.startswith("__") or text.endswith("__"))


def attribute(value: Code, name: str) -> Node:
    """An attribute of a value. If its name is no Python name, `getattr` is called."""
    return Node("attribute", (value,), name) if is_name(name) else call("getattr", value, Atom(quoted(name)))


def number(value: int | float) -> str:
    """A number as Python code."""
    return repr(value) if value - value == 0 else f'float("{value}")'


def flat(code: Code, *, omit: bool = True) -> str:
    """An expression in one line.

    Args:
        code: The expression.
        omit: Whether arguments that equal their default are left out.
    """
    match code:
        case Atom(text):
            return text
        case Number(value):
            return number(value)
        case Value(step):
            return f"${step}"
        case Part(path):
            return f"<{path}>"
        case Node(kind="keyword", parts=(value,), text=name):
            return f"{name}={flat(value, omit=omit)}"
        case Node(kind="item", parts=(key, value)):
            return f"{flat(key, omit=omit)}: {flat(value, omit=omit)}"
        case Node(kind="comprehension", parts=(value, each)):
            return f"[{flat(value, omit=omit)} {flat(each)}]"
        case Node(kind="attribute", parts=(value,), text=name):
            return f"{_operand(value, _ATOMIC, omit)}.{name}"
        case Node(kind="unary", parts=(value,), text=operator):
            return f"{operator}{_operand(value, _UNARY, omit)}"
        case Node(kind="binary", parts=(left, right), text=operator):
            level = _BINARY[operator]
            return f"{_operand(left, level, omit)} {operator} {_operand(right, level + 1, omit)}"
        case Node(kind="slice", parts=limits):
            return _slice([flat(limit, omit=omit) for limit in limits], simple=all(map(_is_simple, limits)))
    head, inside, tail = _brackets(code, omit=omit)
    comma = "," if code.kind == "tuple" and len(inside) == 1 else ""
    return f"{head}{', '.join(flat(part, omit=omit) for part in inside)}{comma}{tail}"


def laid_out(prefix: str, code: Code, suffix: str = "", *, indent: int) -> list[str]:
    """An expression as lines.

    The expression is one line if it fits. Otherwise the contents of its brackets are one line below. If they do not
    fit either, each part has its own line.

    Args:
        prefix: The text before the expression, such as ``x = ``.
        code: The expression. Only calls, lists, comprehensions, tuples and dictionaries are broken into lines.
        suffix: The text after the expression.
        indent: The number of spaces at the beginning of the lines.
    """
    margin = " " * indent
    line = f"{margin}{prefix}{flat(code)}{suffix}"
    if isinstance(code, Node) and code.kind == "keyword":
        return laid_out(f"{prefix}{code.text}=", code.parts[0], suffix, indent=indent)
    if isinstance(code, Node) and code.kind == "item":
        return laid_out(f"{prefix}{flat(code.parts[0])}: ", code.parts[1], suffix, indent=indent)
    if len(line) <= WIDTH or not isinstance(code, Node) or code.kind not in _BROKEN:
        return [line]
    if code.kind == "comprehension":
        inner = [line for part in code.parts for line in laid_out("", part, indent=indent + 4)]
        return [f"{margin}{prefix}[", *inner, f"{margin}]{suffix}"]
    head, inside, tail = _brackets(code)
    if not inside:
        return [line]
    together = f"{margin}    {', '.join(map(flat, inside))}"
    if code.kind == "call" and len(together) <= WIDTH:
        body = [together]
    elif code.kind == "call" and len(inside) == 1:
        body = laid_out("", inside[0], indent=indent + 4)
    else:
        body = [line for part in inside for line in laid_out("", part, ",", indent=indent + 4)]
    return [f"{margin}{prefix}{head}", *body, f"{margin}{tail}{suffix}"]


def _brackets(node: Node, *, omit: bool = True) -> tuple[str, list[Code], str]:
    """The opening text, the parts inside the brackets, and the closing text. With `omit`, default arguments are left
    out."""
    match node.kind:
        case "call":
            return f"{_operand(node.parts[0], _ATOMIC, omit)}(", _given(node.parts[1:], omit=omit), ")"
        case "index":
            return f"{_operand(node.parts[0], _ATOMIC, omit)}[", list(node.parts[1:]), "]"
        case "list":
            return "[", list(node.parts), "]"
        case "dict":
            return "{", list(node.parts), "}"
    return "(", list(node.parts), ")"


def _given(arguments: tuple[Code, ...], *, omit: bool) -> list[Code]:
    def is_default(code: Code) -> bool:
        return isinstance(code, Node) and code.default is not None and flat(code.parts[0]) == code.default

    return [each for each in arguments if not (omit and is_default(each))]


def _operand(code: Code, level: int, omit: bool) -> str:
    own = _ATOMIC
    if isinstance(code, Node) and code.kind in ("binary", "unary"):
        own = _BINARY[code.text] if code.kind == "binary" else _UNARY
    elif isinstance(code, Number) and code.value < 0 and level > _UNARY:
        own = _UNARY
    text = flat(code, omit=omit)
    return text if own >= level else f"({text})"


def _is_simple(code: Code) -> bool:
    return isinstance(code, Atom | Number) and (code == NOTHING or flat(code).lstrip("-").isalnum())


def _slice(limits: list[str], *, simple: bool) -> str:
    """The text of a slice. Its colons have spaces around them, unless all limits are simple names and numbers."""
    begin, end, step = limits
    if simple:
        return f"{begin}:{end}" + (f":{step}" if step else "")
    parts = [begin, end, *([step] if step else [])]
    return " : ".join(parts).strip() if begin else f": {' : '.join(parts[1:])}"
