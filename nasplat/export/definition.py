"""A class or a function of the source that is written, and the modules that it stands for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nasplat.export.code import Code
from nasplat.export.tracing import Graph


@dataclass(frozen=True, slots=True)
class Member:
    """A module as it is written.

    Args:
        attributes: What it is made of, by name; a sequence that a function makes is one, without a name.
        graph: What it does; None for sequences, and for modules that are never called.
    """

    attributes: dict[str, Code]
    graph: Graph | None

    def codes(self) -> Iterator[tuple[str, Code]]:
        """All of its code, each with the attribute that it is of; that of the forward has none."""
        yield from self.attributes.items()
        if self.graph is not None:
            yield from (("", code) for code in (*self.graph.steps, self.graph.result) if code is not None)


@dataclass
class Definition:
    """A class or a function of the source.

    Args:
        name: What it is called.
        doc: Its first sentence.
        members: The modules that it stands for, by their paths.
        parameters: The numbers of each of them, in order, by the name of the parameter.
    """

    name: str
    doc: str
    members: dict[str, Member] = field(default_factory=dict)
    parameters: dict[str, tuple[int | float, ...]] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """Whether it returns a sequence of torch's modules, rather than being a class."""
        return "" in self.first.attributes

    @property
    def first(self) -> Member:
        """The module that the others are like."""
        return next(iter(self.members.values()))


@dataclass(frozen=True, slots=True)
class Written:
    """A definition whose code has parameters where its modules differ.

    Args:
        definition: What it is called, and its parameters.
        attributes: What is made in its ``__init__``, or returned by a function.
        graph: Its forward.
        fields: The parameters that the forward needs.
    """

    definition: Definition
    attributes: dict[str, Code]
    graph: Graph | None
    fields: tuple[str, ...]
