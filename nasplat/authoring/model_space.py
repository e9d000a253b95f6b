"""The search space of a model with choices in it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from numpy.random import default_rng
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.authoring.choices import Construction, Place
from nasplat.authoring.discovery import Discovery, discover
from nasplat.authoring.space import (
    SHAPES,
    AuthoredSpace,
    check_parameters,
    genes_of,
    materialized,
    named_shapes,
    new_class,
)
from nasplat.authoring.weight_sharing import SharedModel, shape_only
from nasplat.cost import Parts
from nasplat.errors import InputError
from nasplat.search_space import SupernetSpace

if TYPE_CHECKING:
    from nasplat.nn.supernet import Supernet

ATTEMPTS = 1000
"""Maximum number of draws for a member with a given alternative."""

_CHOSEN: WeakKeyDictionary[nn.Module, Mapping[str, Sequence[nn.Module]]] = WeakKeyDictionary()
"""The modules that were chosen for networks as they are built."""


class ModelSpace(AuthoredSpace):
    """A search space whose networks a model makes; `nasplat.space` makes its subclasses.

    A decision is active if the model asks for it, and what it decides is in the network.
    """

    model: ClassVar[type[nn.Module]]
    discovery: ClassVar[Discovery]

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        active = set(self.discovery.active(self._taken(architecture)))
        return [number for number, gene in enumerate(self.genes) if gene.name in active]

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        """The model with the choices of the architecture, and nothing else."""
        return self.constructed(architecture, io)[0]

    def constructed(self, architecture: Architecture, io: IO) -> tuple[nn.Module, Construction]:
        """The network, and how it was made.

        Raises:
            InputError: The model asks for decisions that its space does not have for this architecture.
        """
        active = self.active_genes(architecture)
        taken = {
            gene.name: choice if number in active else 0
            for number, (gene, choice) in enumerate(zip(self.genes, self.choices(architecture), strict=True))
        }
        construction = Construction(taken)
        with construction.making():
            network = materialized(self.model(**named_shapes(self.model, io)), io)
        inside = set(map(id, network.modules()))
        for place in construction.places:
            self._check(architecture, place, construction, active, inside)
        _CHOSEN[network] = {
            label: [module for module in modules if id(module) in inside]
            for label, modules in construction.chosen().items()
        }
        return network, construction

    def _check(
        self, architecture: Architecture, place: Place, made: Construction, active: Sequence[int], inside: set[int]
    ) -> None:
        """Check that a decision is the one of a gene, and that the gene is active if what it decides is inside."""
        label = place.label
        same = self.discovery.decisions.get(label) == made.decisions[label]
        if same and (self._number[label] in active or (place.module is not None and id(place.module) not in inside)):
            return
        raise InputError(
            f"a decision may depend on the alternatives that it lies in, and on each number alone, but "
            f"{self.said(architecture)} of {self.name} asks for {label!r} in another way; write the space with genes "
            "and build"
        )

    @cached_property
    def _number(self) -> dict[str, int]:
        return {gene.name: number for number, gene in enumerate(self.genes)}

    @staticmethod
    def _counted_parts(network: nn.Module) -> Parts:
        """The chosen modules in the network, by the labels of their choices."""
        return _CHOSEN[network]

    def _taken(self, architecture: Architecture) -> dict[str, int]:
        return {gene.name: choice for gene, choice in zip(self.genes, self.choices(architecture), strict=True)}


class SharedModelSpace(ModelSpace, SupernetSpace):
    """The search space of a model whose networks can share their weights."""

    def supernet(self, io: IO) -> "Supernet":
        """The weights of every alternative of every choice, and of the layers of the largest sizes."""
        from nasplat.nn.supernet import Supernet

        return Supernet(SharedModel(self, io), self._covering())

    def _covering(self) -> list[Architecture]:
        """Members that together have every part; none for an alternative that no member seems to have."""
        found = (self._member_like(taken, about) for taken, about in self.discovery.covering())
        return list(dict.fromkeys(member for member in found if member is not None))

    def _member_like(self, taken: Mapping[str, int], about: frozenset[str]) -> Architecture | None:
        """The architecture with these decisions. If it is forbidden, others than those it is about are drawn anew."""
        choices, rng = [taken[gene.name] for gene in self.genes], default_rng(0)
        decisions = self.discovery.decisions
        free = [number for number, gene in enumerate(self.genes) if gene.name not in about]
        for attempt in range(ATTEMPTS):
            if self.violation(choices) is None:
                return self.member(choices)
            for number in free:
                name, options = self.genes[number].name, len(self.genes[number].choices)
                # Numbers stay the largest as long as possible, since the shared layers have their sizes.
                if attempt >= ATTEMPTS // 2 or not decisions[name].numeric:
                    choices[number] = int(rng.integers(options))
        return None

    def check_sharing(self) -> None:
        """Check that the networks can share weights, with all values of each number.

        Raises:
            InputError: They cannot.
        """
        supernet = self.supernet(self.reference_io)
        largest = self._covering()[0]
        for number, gene in enumerate(self.genes):
            for choice in range(len(gene.choices)):
                choices = self.choices(largest)
                choices[number] = choice
                if self.violation(choices) is None:
                    supernet.path(self.member(choices))


def model_space_class(model: type[nn.Module], common: Mapping[str, Any]) -> type[ModelSpace]:
    """The class of the space of a model.

    Raises:
        InputError: The model is no class of modules, cannot be made, or asks for no decisions.
    """
    if not (isinstance(model, type) and issubclass(model, nn.Module)):
        raise InputError(
            f"model must be a subclass of torch.nn.Module, but got {model!r}; give the class, not a module"
        )
    check_parameters("the constructor of the model", model, offered=SHAPES)
    io = common["reference_io"]
    discovery = discover(lambda construction: _explore(model, io, construction))
    values = {label: decision.options for label, decision in discovery.decisions.items()}
    attributes = {"model": model, "discovery": discovery, "values": values, "genes": genes_of(values), **common}
    shared: type[SharedModelSpace] = new_class(SharedModelSpace, model, attributes)
    try:
        shape_only(shared().check_sharing)
    except InputError as error:
        return new_class(ModelSpace, model, {**attributes, "no_supernet": str(error)})
    return shared


def _explore(model: type[nn.Module], io: IO, construction: Construction) -> None:
    """Make a model on the meta device.

    Raises:
        InputError: It cannot be made, or run where its lazy layers need that.
    """

    def make() -> None:
        with construction.making():
            materialized(model(**named_shapes(model, io)), io)

    try:
        shape_only(make)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"a model must be made for inputs of the shape {io.input_shape} and {io.outputs} outputs, but "
            f"{model.__qualname__} raised {type(error).__name__}: {error}; correct it, or give "
            "input_shape and outputs"
        ) from error
