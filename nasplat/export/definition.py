"""A class or a function of the written source, and the modules that it makes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nasplat.export.code import Code
from nasplat.export.tracing import Graph


@dataclass(frozen=True, slots=True)
class Member:
    """A module as code.

    Args:
        attributes: The code of the module's attributes, by name. A sequence made by a function is a single attribute
            with an empty name.
        graph: The operations of the module's call; None for sequences, and for modules that are never called.
    """

    attributes: dict[str, Code]
    graph: Graph | None

    def codes(self) -> Iterator[tuple[str, Code]]:
        """All code of the module, each with the name of its attribute. The name is empty for code of the forward."""
        yield from self.attributes.items()
        if self.graph is not None:
            yield from (("", code) for code in (*self.graph.steps, self.graph.result) if code is not None)


@dataclass
class Definition:
    """A class or a function of the source.

    Args:
        name: The name of the class or function.
        doc: The first paragraph of its docstring.
        members: The modules that it makes, by their paths.
        parameters: The value for each module, in the order of `members`, by the name of the parameter.
    """

    name: str
    doc: str
    members: dict[str, Member] = field(default_factory=dict)
    parameters: dict[str, tuple[int | float, ...]] = field(default_factory=dict)

    @property
    def is_function(self) -> bool:
        """Whether it is a function that returns a sequence of torch's modules, not a class."""
        return "" in self.first.attributes

    @property
    def first(self) -> Member:
        """The first module. The code of the other modules differs from its code only in numbers."""
        return next(iter(self.members.values()))


@dataclass(frozen=True, slots=True)
class Written:
    """A definition whose code has parameters where its modules differ.

    Args:
        definition: The definition, with its name and its parameters.
        attributes: The code of the attributes that ``__init__`` makes, or of the sequence that a function returns.
        graph: The operations of the forward; None if there is no forward.
        fields: The names of the parameters that the forward needs.
    """

    definition: Definition
    attributes: dict[str, Code]
    graph: Graph | None
    fields: tuple[str, ...]
