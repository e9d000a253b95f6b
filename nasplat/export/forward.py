"""A graph of steps as the lines of a `forward`. Short expressions are inlined; other expressions get names."""

import keyword as python
from collections import Counter
from collections.abc import Sequence

from nasplat.export.code import USED_IN_FORWARD, Atom, Code, Node, Value, changed, flat, laid_out, leaves

INDENT = 8
LONGEST = 88 - INDENT
"""The largest length of a line, in characters without the indent. A longer line is divided."""
DEEPEST = 3
"""The largest number of nested calls in a line. A line with more nested calls is divided."""
LONG_ENOUGH = 0.7
"""A part counts as long if it has at least this fraction of the longest part's length. The long part that is computed
first gets its own line first."""
_LONG_NAME = "a_long_name = "
_NAMES = {
    "cat": "joined", "stack": "stacked", "pad": "padded", "channel_shuffle": "shuffled", "pixel_shuffle": "shuffled",
    "mean": "average", "avg_pool2d": "pooled", "max_pool2d": "pooled", "adaptive_avg_pool2d": "pooled",
    "interpolate": "resized", "flatten": "flat",
}  # fmt: skip
_ACTIVATIONS = {"relu", "relu6", "sigmoid", "hardsigmoid", "hardswish", "gelu", "silu", "tanh", "softmax", "dropout"}
"""Functions whose output is named after their input."""


def forward_lines(
    inputs: Sequence[str], steps: Sequence[Code | None], effects: frozenset[int], result: Code
) -> list[str]:
    """The lines of a `forward` below its signature.

    Args:
        inputs: The names of the inputs, in the order of the steps without code.
        steps: The code of each step; None for inputs.
        effects: The steps that change a tensor in place. If there are any, all steps keep their order.
        result: The code of the returned value.
    """
    return _Body(inputs, steps, effects, result).lines


class _Body:
    """Writes the lines. A step that can be inlined waits until its value is used."""

    def __init__(
        self, inputs: Sequence[str], steps: Sequence[Code | None], effects: frozenset[int], result: Code
    ) -> None:
        self.lines: list[str] = []
        self._steps = list(steps)
        self._strict = bool(effects)
        self._uses = _uses(steps, effects, result)
        self._waiting: set[int] = set()
        names = iter(inputs)
        self._names = {step: next(names) for step, code in enumerate(steps) if code is None}
        self._inputs = set(inputs)
        for step, code in enumerate(steps):
            if code is None or (not self._uses[step] and step not in effects):
                continue
            following = steps[step + 1] if step + 1 < len(steps) else result
            if self._uses[step] == 1 and (not self._strict or _comes_first(step, following)):
                self._waiting.add(step)
            else:
                self._write(step)
        self._divide(result, "return ")
        self.lines += laid_out("return ", self._expanded(result), indent=INDENT)

    def _write(self, step: int) -> None:
        """Write a line that gives a name to the step's value. A value without uses gets no name."""
        code = self._steps[step]
        assert code is not None
        if not self._uses[step]:
            self._divide(code, "")
            self.lines += laid_out("", self._expanded(code), indent=INDENT)
            return
        self._divide(code, _LONG_NAME)
        whole = self._expanded(code, named=False)
        code = self._expanded(code)
        freed = []
        for value in _values(whole):
            self._uses[value] -= 1
            if not self._uses[value] and value in self._names:
                freed.append(self._names.pop(value))
        self._names[step] = self._name(whole, freed)
        self.lines += laid_out(f"{self._names[step]} = ", code, indent=INDENT)

    def _divide(self, code: Code, prefix: str) -> None:
        """Write the largest parts of the code that fit in a line, each as its own line, until the rest fits too."""
        for _ in self._steps:
            held = self._held(code)
            if not held or self._fits(code, prefix):
                return
            lengths = {step: len(flat(self._expanded(Value(step)))) for step in held}
            longest = max(lengths.values())
            step = next(step for step, length in sorted(lengths.items()) if length >= LONG_ENOUGH * longest)
            self._waiting.discard(step)
            self._write(step)

    def _fits(self, code: Code, prefix: str) -> bool:
        line = self._expanded(code)
        return len(prefix) + len(flat(line)) <= LONGEST and _depth(line) <= DEEPEST

    def _held(self, code: Code) -> list[int]:
        """The largest waiting steps in the code that each fit in a line."""
        found: list[int] = []
        for step in _values(code):
            if step in self._waiting:
                inside = self._steps[step]
                assert inside is not None
                found += [step] if self._fits(Value(step), _LONG_NAME) else self._held(inside) or [step]
        return found

    def _expanded(self, code: Code, *, named: bool = True) -> Code:
        def change(part: Code) -> Code | None:
            if isinstance(part, Value):
                if part.step in self._waiting:
                    held = self._steps[part.step]
                    assert held is not None
                    return self._expanded(held, named=named)
                return Atom(self._names[part.step]) if named else None
            return None

        return changed(code, change)

    def _name(self, code: Code, freed: list[str]) -> str:
        taken = {*self._names.values(), *USED_IN_FORWARD}
        role = _role(code)
        role = role if role.isidentifier() else "x"
        if role not in taken and role in freed:
            return role
        if len(freed) == 1 and len(set(_values(code))) == 1:  # the only input, which is not used again
            if freed[0] in self._inputs and "x" not in taken:
                return "x"
            if freed[0] == "x" or "self" not in flat(code):
                return freed[0]
        if role in taken or python.iskeyword(role):
            role = next(f"{role}_{number}" for number in range(2, len(taken) + 3) if f"{role}_{number}" not in taken)
        return role


def _uses(steps: Sequence[Code | None], effects: frozenset[int], result: Code) -> Counter[int]:
    """The number of uses of each step's value. Uses in steps that are never used themselves do not count."""
    uses = Counter(_values(result))
    for step in reversed(range(len(steps))):
        code = steps[step]
        if code is not None and (uses[step] or step in effects):
            uses.update(_values(code))
    return uses


def _values(code: Code) -> list[int]:
    return [leaf.step for leaf in leaves(code) if isinstance(leaf, Value)]


def _comes_first(step: int, code: Code | None) -> bool:
    return code is not None and _values(code)[:1] == [step]


def _depth(code: Code) -> int:
    """The number of nested calls."""
    if not isinstance(code, Node):
        return 0
    return (code.kind == "call") + max((_depth(part) for part in code.parts), default=0)


def _role(code: Code) -> str:
    """A name for a value, from the module or the function that computes it."""
    match code:
        case Node(kind="call", parts=(function, *_)):
            if (module := _module(function)) is not None:
                return module
            called = flat(function).rpartition(".")[2]
            if called in _ACTIVATIONS and isinstance(code, Node):
                return _role(code.parts[1]) if len(code.parts) > 1 else "x"
            return _NAMES.get(called, called.rstrip("_") if called not in USED_IN_FORWARD else "x")
        case Node(kind="binary", parts=parts):
            return next((name for part in parts if "self" in flat(part) and (name := _role(part)) != "x"), "x")
    return "part" if isinstance(code, Node) and code.kind == "index" else "x"


def _module(function: Code) -> str | None:
    """A name from the path of a module: ``self.nodes[1][0]`` gives ``node_1``. None for other functions."""
    path = flat(function)
    if not path.startswith("self."):
        return None
    name, *places = path.removeprefix("self.").replace("]", "").replace('"', "").split("[")
    name = name.rpartition(".")[2]
    if not places:
        return name
    return "_".join([_singular(name), places[0]])


def _singular(name: str) -> str:
    for ending, other in (("ices", "ex"), ("ies", "y"), ("ss", "ss"), ("s", "")):
        if name.endswith(ending):
            return name.removesuffix(ending) + other
    return name
