"""A graph of steps as the lines of a `forward`: short expressions are put where they are used, others get names."""

import keyword as python
from collections import Counter
from collections.abc import Sequence

from nasplat.export.code import Atom, Code, Node, Value, changed, flat, laid_out, leaves

INDENT = 8
LONGEST = 88 - INDENT
"""A line that is longer is divided."""
_NAMES = {"cat": "joined", "stack": "stacked", "pad": "padded", "channel_shuffle": "shuffled", "mean": "average"}
_TAKEN = {"self", "nn", "torch", "functional", "Tensor"}


def forward_lines(
    inputs: Sequence[str], steps: Sequence[Code | None], effects: frozenset[int], result: Code
) -> list[str]:
    """The body of a `forward`, below its signature.

    Args:
        inputs: The names of what comes in, in the order of the steps without code.
        steps: The code of each step.
        effects: The steps that change a tensor in place; then nothing is put elsewhere.
        result: What is returned.
    """
    return _Body(inputs, steps, effects, result).lines


class _Body:
    """Writes the lines; a step waits until it is known where its code is to stand."""

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
        """Write a line that gives the step's value a name."""
        code = self._steps[step]
        assert code is not None
        if not self._uses[step]:
            self._divide(code, "")
            self.lines += laid_out("", self._expanded(code), indent=INDENT)
            return
        self._divide(code, "x" * 10)
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
        """Write down, before their use, the longest of the steps that the code holds until it fits in a line."""
        for _ in self._steps:
            held = [value for value in _values(code) if value in self._waiting]
            line = self._expanded(code)
            if not held or (len(prefix) + len(flat(line)) <= LONGEST and _depth(line) <= 4):
                return
            longest = held[0] if self._strict else max(held, key=lambda each: len(flat(self._expanded(Value(each)))))
            self._waiting.discard(longest)
            self._write(longest)

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
        taken = {*self._names.values(), *_TAKEN}
        if len(freed) == 1 and len(set(_values(code))) == 1:  # a value that goes on its way
            name = freed[0]
            return "x" if name in self._inputs and "x" not in taken else name
        name = _role(code)
        if name in taken or python.iskeyword(name) or not name.isidentifier():
            name = next(f"{name}_{number}" for number in range(2, len(taken) + 3) if f"{name}_{number}" not in taken)
        return name


def _uses(steps: Sequence[Code | None], effects: frozenset[int], result: Code) -> Counter[int]:
    """How often each step's value is used by what is used itself."""
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
    """How deep calls stand in one another."""
    if not isinstance(code, Node):
        return 0
    return (code.kind == "call") + max((_depth(part) for part in code.parts), default=0)


def _role(code: Code) -> str:
    """A name for a value, by the module or the function that gives it."""
    match code:
        case Node(kind="call", parts=(function, *_)):
            if (name := _module(function)) is not None:
                return name
            called = flat(function).rpartition(".")[2]
            return _NAMES.get(called, called.rstrip("_") if called not in _TAKEN else "x")
        case Node(kind="binary", parts=parts):
            return next((name for part in parts if "self" in flat(part) and (name := _role(part)) != "x"), "x")
    return "part" if isinstance(code, Node) and code.kind == "index" else "x"


def _module(function: Code) -> str | None:
    """What a module is called by: ``self.nodes[1][0]`` gives ``node_1``."""
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
