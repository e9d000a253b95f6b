"""Choices inside a model: `choice` between modules and `number` between numbers, in the constructor of the model.

What they return depends on what it is made for. In a search space (`nasplat.space(model=Net)`) it is the decision of
an architecture, so that the network is exactly the one that would have been written without choices. Outside of any
space, as in ``Net()``, it is the first alternative and the first number, so that a model can be tried and debugged.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from nasplat.authoring.space import checked_values
from nasplat.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Number = TypeVar("Number", int, float)

Alternative: TypeAlias = "nn.Module | Callable[[], nn.Module]"
"""A module, or a function without arguments that makes one, such as a class or a ``partial``."""


def choice(label: str, alternatives: "Mapping[str, Alternative]") -> "nn.Module":
    """Choose one of several modules; used in the constructor of a model.

    The result is the chosen module itself, so names in state dicts are as without a choice. Alternatives may contain
    choices, which are inactive where their alternative is not chosen. The same label twice means the same decision, for
    other modules: both must have alternatives of the same names.

    A function that makes a module is only called if it is chosen. Prefer functions, such as ``partial(nn.Conv2d, 16,
    16, 3)``, where alternatives are large, or contain a `number`: what is written out is made whether chosen or not.

    Args:
        label: The name of the decision, which is that of the gene.
        alternatives: The modules, or functions that make them, by name; at least two.

    Returns:
        The chosen module. Outside of any search space it is the first.

    Raises:
        InputError: There are fewer than two alternatives, one of them is no module, the label has another meaning, or a
            network is running: a choice in its `forward` would come too late.

    >>> from torch import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.act = choice("act", {"relu": nn.ReLU, "gelu": nn.GELU})
    >>> Net()
    Net(
      (act): ReLU()
    )
    """
    if not isinstance(alternatives, Mapping) or len(alternatives) < 2:
        raise InputError(
            f"a choice needs at least two alternatives, by name, but {label!r} has {_listed(alternatives)}; with one, "
            "use the module itself"
        )
    for name in alternatives:
        if not isinstance(name, str) or not name:
            raise InputError(f"the names of alternatives must be text, but {label!r} has {name!r}")
    making = _making("choice", label)
    if making is not None:
        return making.choice(Decision(_label(label), tuple(alternatives)), list(alternatives.values()))
    return _module(label, *next(iter(alternatives.items())))


def number(label: str, values: "Sequence[Number]") -> "Number":
    """Choose one of several numbers; used in the constructor of a model, for widths, depths, kernel sizes and rates.

    The same label twice means the same decision. In a supernet, convolutions (`nn.Conv2d`), batch norms
    (`nn.BatchNorm2d`) and linear layers (`nn.Linear`) whose sizes depend on numbers share the weights of the largest:
    the leading channels, and the middle of kernels, as in once-for-all networks. If another layer with weights changes
    its size, the space has no supernet, and says why to a strategy that needs one.

    Args:
        label: The name of the decision, which is that of the gene.
        values: The numbers, at least two different ones.

    Returns:
        The chosen number. Outside of any search space it is the first.

    Raises:
        InputError: There are fewer than two values, one is no number or given twice, the label has another meaning, or
            a network is running: a number in its `forward` would come too late.
    """
    numbers = checked_values(_label(label), values)
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"the values of number({label!r}, …) must be numbers, but one is {value!r}; use choice")
    making = _making("number", label)
    at = 0 if making is None else making.number(Decision(label, numbers))  # type: ignore[arg-type]
    return values[at]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of a model.

    Args:
        label: Its name.
        options: The names of the alternatives, or the numbers.
    """

    label: str
    options: tuple[str | int | float, ...]

    @property
    def numeric(self) -> bool:
        """Whether it is about a number."""
        return not isinstance(self.options[0], str)


@dataclass(eq=False, slots=True)
class Place:
    """One place of a model where a decision is asked for.

    Args:
        label: The label of the decision.
        module: The module that was chosen; None for a number.
        inside: The place of the choice that has this place in one of its alternatives, and the alternative's index.
    """

    label: str
    module: "nn.Module | None"
    inside: "tuple[Place, int] | None" = None


class Construction:
    """One making of a model, in which every decision is taken.

    Args:
        taken: The index of the option of each decision, by label; others take the first alternative or largest number.
        explores: Whether all alternatives of every choice are made, to find the decisions inside them.

    Attributes:
        decisions: The decisions that the model asked for, by label, in order.
        places: All places where it asked.
    """

    def __init__(self, taken: Mapping[str, int], *, explores: bool = False) -> None:
        self.taken = taken
        self.explores = explores
        self.decisions: dict[str, Decision] = {}
        self.places: list[Place] = []

    @contextmanager
    def making(self) -> "Iterator[None]":
        """Models that are made in this context ask this construction."""
        token = _MAKING.set(self)
        try:
            yield
        finally:
            _MAKING.reset(token)

    def number(self, decision: Decision) -> int:
        """The index of the number that is taken."""
        at = self._asked(decision)
        self.places.append(Place(decision.label, None))
        return at

    def choice(self, decision: Decision, alternatives: "Sequence[Alternative]") -> "nn.Module":
        """The module that is taken."""
        at = self._asked(decision)
        place = Place(decision.label, None)
        for i, alternative in enumerate(alternatives):
            if i == at or self.explores:
                before = len(self.places)
                made = _module(decision.label, str(decision.options[i]), alternative)
                modules = set(map(id, made.modules()))
                for number_, other in enumerate(self.places):
                    if other.inside is None and (number_ >= before or id(other.module) in modules):
                        other.inside = place, i
                if i == at:
                    place.module = made
        self.places.append(place)
        assert place.module is not None
        return place.module

    def chosen(self) -> "dict[str, list[nn.Module]]":
        """The modules that were chosen, by label."""
        found: dict[str, list[nn.Module]] = {}
        for place in self.places:
            if place.module is not None:
                found.setdefault(place.label, []).append(place.module)
        return found

    def _asked(self, decision: Decision) -> int:
        known = self.decisions.setdefault(decision.label, decision)
        if known != decision:
            raise InputError(
                f"the same label must mean the same decision, but {decision.label!r} is one of "
                f"{_listed(known.options)} and then of {_listed(decision.options)}; give one of them another label"
            )
        if decision.label in self.taken:
            return self.taken[decision.label]
        return decision.options.index(max(decision.options)) if decision.numeric else 0


_MAKING: "ContextVar[Construction | None]" = ContextVar("making", default=None)


def _making(function: str, label: object) -> Construction | None:
    """The construction that is asked, if any.

    Raises:
        InputError: A network is running. Its space has been found from its constructor alone, so that what its forward
            asks for is no gene, and would be the first alternative or number in every network.
    """
    from torch import nn

    running = nn.Module._call_impl.__code__
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "__init__":  # a supernet makes networks while it runs
        if frame.f_code is running:
            raise InputError(
                f"nasplat.{function} must be called in the constructor of a model, but {label!r} is asked for while a "
                "network runs; call it in __init__, and keep the result as an attribute"
            )
        frame = frame.f_back
    return _MAKING.get()


def _module(label: str, name: str, alternative: "Alternative") -> "nn.Module":
    from torch import nn

    made = alternative
    if not isinstance(alternative, nn.Module) and callable(alternative):
        try:
            made = alternative()
        except TypeError as error:
            raise InputError(
                f"an alternative that is a function must need no arguments, but calling {name!r} of {label!r} raised "
                f"{error}; give a module, or a functools.partial"
            ) from error
    if not isinstance(made, nn.Module):
        raise InputError(
            f"an alternative must be a torch.nn.Module, or a function that makes one, but {name!r} of {label!r} is "
            f"{made!r}; for numbers there is nasplat.number"
        )
    return made


def _label(label: object) -> str:
    if not isinstance(label, str) or not label:
        raise InputError(f"the label of a choice or number must be text, but got {label!r}")
    return label


def _listed(options: object) -> str:
    if isinstance(options, Mapping | tuple | list):
        return ", ".join(map(repr, options)) or "none"
    return repr(options)
