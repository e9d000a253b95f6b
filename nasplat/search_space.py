"""The contract of a search space, and the base class of those that are products of genes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.convolution import Convolution
from nasplat.cost import Cost, Parts, children, count
from nasplat.errors import InputError
from nasplat.gene import NAMED, checked
from nasplat.gene import Gene as Gene
from nasplat.gene_chain import Added, added_costs, gene_chain
from nasplat.graph import Graphs

if TYPE_CHECKING:
    from torch import nn

    from nasplat.nn.supernet import Supernet

Prior: TypeAlias = Sequence[NDArray[np.float64]]
"""One non-negative weight for every choice of every gene: `prior[gene][choice]`, each row `[choices]`."""

ATTEMPTS = 10_000
"""Maximum number of draws in rejection sampling, if not all combinations of genes are members."""

LISTED = 100_000
"""Maximum number of combinations of genes for a space whose members can be listed."""

COUNTED, REPEATED = 4096, 4
"""Maximum number of counted costs in the cache of a space, and how often it builds a network again to compare it."""


class SearchSpace(ABC):
    """A set of architectures: its members, their costs, and how they are built.

    A search space is stateless and independent of strategies, benchmarks and data sets. Its constructor takes
    keyword arguments only (the fixed outer shape of the networks, such as width and depth) and stores them
    under their own names. All randomness comes from the generator that is passed in. `nasplat.testing`
    has the checks of this contract for every space.
    """

    name: ClassVar[str]
    """The name the space is registered under; every architecture carries it."""

    known_as: ClassVar[str] = ""
    """The name in configurations of a space that is no installed plug-in, as ``MODULE:ATTRIBUTE``."""

    reference_io: ClassVar[IO] = IO.image(channels=3, side=32, outputs=10)
    """The shapes that predictors compute node costs for; they compare within the space, so any usual size is suitable.
    It also tells the task of the networks: super-resolution if it has a scale, classification otherwise."""

    builds: ClassVar[bool] = True
    """Whether networks can be built; False if the members are known only from a table."""

    varies: ClassVar[bool] = False
    """Whether what some of the networks compute depends on the image."""

    limits: ClassVar[tuple[str, ...]] = ()
    """Hard constraints on costs, such as ``params<=325e3``; a search's own constraint on the same side replaces one."""

    no_supernet: ClassVar[str] = ""
    """Why networks cannot share weights, for the error of a strategy that needs it; empty if nothing is known."""

    @abstractmethod
    def sample(self, rng: Generator) -> Architecture:
        """Draw a member, uniformly as far as the space permits."""

    @abstractmethod
    def parse(self, code: str) -> Architecture:
        """Return the member with the given code.

        Raises:
            InputError: The code is not a member; the message names the gene and its possible values.
        """

    @abstractmethod
    def mutate(self, architecture: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
        """A member close to the given one and different from it; `prior` weights the choices of each gene."""

    @abstractmethod
    def crossover(self, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
        """A member that combines two parents."""

    @abstractmethod
    def neighbors(self, architecture: Architecture) -> list[Architecture]:
        """All members at distance one, in a fixed order; the given one is not among them."""

    @abstractmethod
    def canonical_key(self, architecture: Architecture) -> str:
        """A key that two codes share only if their networks compute the same function; it avoids duplicate work."""

    @abstractmethod
    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """A feature vector for predictors: an array of one fixed shape for the whole space."""

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """The architectures as graphs of operations, costed for `reference_io`.

        By default a chain: the network with its costs, and a node for each of a few features that are not zero.
        Predictors rank better by a graph of what is built.
        """
        width = self.features(self.sample(default_rng(0))).size  # even if there are no architectures
        features = np.array([self.features(each).ravel() for each in architectures]).reshape(-1, width)
        return Graphs.of_features(features, [self.reference_cost(each) for each in architectures])

    @property
    def has_default_graph(self) -> bool:
        """Whether `graphs` is the default, which shows no layers."""
        return type(self).graphs is SearchSpace.graphs

    def reference_cost(self, architecture: Architecture) -> Cost:
        """The cost that graphs have; none of what cannot be built, which predictors may meet all the same."""
        with suppress(InputError):
            return self.cost(architecture, self.reference_io)
        return Cost()

    def tensors(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        """Node properties in the form of the adjacency matrix, `[n, maps, nodes, nodes]`: types, MACs, parameters.

        If there is an edge from i to j, element `[i, j]` of a map is the property of node j (Xu et al., 2021,
        "ReNAS", sec. 3.1). Types count from 1. A space with a published tensor returns that one. This general form
        has one map of MACs and one of parameters, in units that keep the values near 1 (1e7 and 1e5, for all
        repetitions of a cell together).
        """
        graphs = self.graphs(architectures)
        maps = np.stack([graphs.types + 1.0, graphs.macs / 1e7, graphs.params / 1e5], axis=1)
        return (graphs.adjacency[:, None] * maps[:, :, None, :]).astype(np.float32)

    @abstractmethod
    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """The exact cost of the network that `build` returns for the same arguments."""

    @abstractmethod
    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """A new network: input `[batch, *io.input_shape]`, output `[batch, *io.output_shape]`."""

    def members(self) -> list[Architecture] | None:
        """All members in a fixed order, if they are few enough to be listed; by default None."""
        return None

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        """The stages of the architecture's network, each with the names of its modules; layers inside belong to it.

        All architectures have the same stages in the same order, some maybe without modules. Layers may belong to none.
        Transforms can be chosen for each stage. By default the children of a random network are the stages.
        """
        return {name: [name] for name in self._children}

    def convolutions_of(self, architecture: Architecture, io: IO) -> Sequence[Convolution] | None:
        """All convolutions of the network by formula, in the order of `named_modules`; None if there is no formula.

        Costs of transformed networks are then computed in a thousandth of the time that counting takes.
        """
        return None

    @cached_property
    def _children(self) -> list[str]:
        import torch

        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = self.build(self.sample(default_rng(0)), self.reference_io)
        return [name for name, child in network.named_children() if any(True for _ in child.parameters())]

    def check_io(self, io: IO) -> None:
        """Check that the data fits the task of the space's networks.

        Raises:
            InputError: The networks and the data have different purposes, such as super-resolution and classification.
        """
        if io.purpose != self.reference_io.purpose:
            does = {"classification": "classify", "super-resolution": "upscale", "generation": "generate"}
            raise InputError(
                f"the networks of the search space {self.name} {does[self.reference_io.purpose]} images, but the data "
                f"is for {io.purpose}; "
                "choose another space or another benchmark (nasplat list)"
            )


class SupernetSpace(SearchSpace):
    """A search space that has a supernet: one network with the weights of all its members."""

    @abstractmethod
    def supernet(self, io: IO) -> "Supernet":
        """A new supernet; its paths are the networks that `build` returns, with the same names in their state dicts."""


class _ClassName:
    """A class attribute that is the name of the class."""

    def __get__(self, instance: object, owner: type) -> str:
        return owner.__name__


class GeneSpace(SearchSpace):
    """A search space that is a product of categorical genes.

    A subclass defines `genes` and `build`. By default its name is that of the class, and costs are counted on built
    networks; a `cost` by formula is faster. `active_genes` tells which genes have an effect; override `canonical_key`
    if codes are equal for another reason. The code has one symbol for each gene, in order: ``0`` is its first choice.
    """

    name: ClassVar[str] = cast(str, _ClassName())
    genes: ClassVar[tuple[Gene, ...]]

    def choices(self, architecture: Architecture) -> list[int]:
        """The index of the choice of every gene."""
        code = architecture.code
        return [numbers[code[place]] for numbers, place in zip(self._numbers, self._places, strict=True)]

    def chosen(self, architecture: Architecture) -> Mapping[str, Any]:
        """The value of every gene by its name; by default the name of its choice."""
        choices = self.choices(architecture)
        return {gene.name: gene.choices[choice] for gene, choice in zip(self.genes, choices, strict=True)}

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        """The genes that have an effect in this architecture, by default all; only active genes mutate."""
        return range(len(self.genes))

    def violation(self, choices: Sequence[int]) -> str | None:
        """Validity constraint: why a combination of choices is not a member, as the end of a sentence; None if it is.

        By default all combinations are members. A space with such constraints must be dense enough for rejection
        sampling, or define its own `sample` and `crossover`.
        """
        return None

    def member(self, choices: Sequence[int]) -> Architecture:
        """The architecture with the given choice of every gene."""
        code = "".join(symbols[choice] for symbols, choice in zip(self._symbols, choices, strict=True))
        return Architecture(self.name, code)

    def sample(self, rng: Generator) -> Architecture:
        for _ in range(ATTEMPTS):
            choices = rng.integers(self._sizes).tolist()
            if self.violation(choices) is None:
                return self.member(choices)
        raise self._none_found("drawn")

    def parse(self, code: str) -> Architecture:
        if len(code) != self._length:
            names = f" ({', '.join(gene.name for gene in self.genes)})" if len(self.genes) <= NAMED else ""
            raise InputError(
                f"a code of {self.name} must have {self._length} symbols{names}, but {code!r} has {len(code)}"
            )
        for position, (gene, numbers, place) in enumerate(zip(self.genes, self._numbers, self._places, strict=True)):
            if code[place] not in numbers:
                raise InputError(
                    f"gene {position + 1} ({gene.name}) of {self.name} code {code!r} is {code[place]!r}; "
                    f"it must be one of {gene.legend()}"
                )
        architecture = Architecture(self.name, code)
        reason = self.violation(self.choices(architecture)) if self._refuses else None
        if reason is not None:
            raise InputError(f"{self.name} code {code!r} {reason}")
        return architecture

    def mutate(self, architecture: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
        """Change exactly one active gene, drawn uniformly; its new choice is drawn by `prior`, or uniformly."""
        genes = self.active_genes(architecture)
        for _ in range(ATTEMPTS):
            gene = genes[int(rng.integers(len(genes)))]
            old = self._numbers[gene][architecture.code[self._places[gene]]]
            if prior is None:
                new = int(rng.integers(self._sizes[gene] - 1))
                new += new >= old
            else:
                weights = np.array(prior[gene], dtype=np.float64)
                weights[old] = 0.0
                if weights.sum() <= 0.0:  # the prior allows only the old choice, but a mutation must change something
                    weights = np.ones_like(weights)
                    weights[old] = 0.0
                new = int(rng.choice(len(weights), p=weights / weights.sum()))
            mutant = self._with(architecture, gene, new)
            if self._holds(mutant):
                return mutant
        raise self._none_found(f"mutated from {architecture.code}")

    def crossover(self, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
        """Take every gene from either parent with equal probability."""
        for _ in range(ATTEMPTS):
            first = rng.integers(2, size=len(self.genes)).tolist()
            code = "".join((a if take else b).code[place] for take, place in zip(first, self._places, strict=True))
            child = Architecture(self.name, code)
            if self._holds(child):
                return child
        raise self._none_found(f"crossed from {a.code} and {b.code}")

    def neighbors(self, architecture: Architecture) -> list[Architecture]:
        """All members that differ in exactly one active gene."""
        old = self.choices(architecture)
        every = (
            self._with(architecture, gene, choice)
            for gene in self.active_genes(architecture)
            for choice in range(self._sizes[gene])
            if choice != old[gene]
        )
        return [neighbor for neighbor in every if self._holds(neighbor)]

    def members(self) -> list[Architecture] | None:
        """All members by code, if there are at most `LISTED` combinations of choices; else None."""
        if math.prod(self._sizes) > LISTED:
            return None
        combinations = product(*map(range, self._sizes))
        return [self.member(choices) for choices in combinations if self.violation(choices) is None]

    def canonical_key(self, architecture: Architecture) -> str:
        """The code, with the first choice of every inactive gene: correct if no other codes compute one function."""
        active, choices = self.active_genes(architecture), self.choices(architecture)
        return self.member([choices[gene] if gene in active else 0 for gene in range(len(choices))]).code

    def check_io(self, io: IO) -> None:
        """Check that the data fits the task of the networks; if costs are counted, also that networks fit the data.

        Raises:
            InputError: They do not, or `build` returns something else each time that it is called.
        """
        super().check_io(io)
        if self.counts_its_networks:
            member = self.sample(default_rng(0))
            first = self.cost(member, io)
            for seed in range(1, REPEATED + 1):
                again = self._counted_cost(member, io, seed)
                if first != again:
                    counts = [f"{cost.params:,} parameters and {cost.macs:,} MACs" for cost in (first, again)]
                    raise InputError(self.irreproducible(member, *counts))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """The cost of the network that `build` returns, counted by torch; the last few thousand are cached.

        The network is made and run on the meta device, which allocates no memory and computes nothing. If it cannot be,
        since it looks at values, it runs on the CPU. The parts of the cost are the children of the network.

        Raises:
            InputError: The network cannot be built or run, or its outputs have another shape than `io` says.
        """
        costs, key = self._counted_costs, (architecture, io)
        costs[key] = costs.pop(key) if key in costs else self._counted_cost(architecture, io)
        while len(costs) > COUNTED:
            del costs[next(iter(costs))]
        return costs[key]

    @property
    def counts_its_networks(self) -> bool:
        """Whether costs are counted on built networks, not computed by formula."""
        return type(self).cost is GeneSpace.cost

    def irreproducible(self, architecture: Architecture, first: str, again: str) -> str:
        """The message for a `build` that makes two networks for one architecture, with the counts of both."""
        return (
            f"a network must depend on nothing but the choices of its genes, but {self.said(architecture)} of "
            f"{self.name} first had {first} and then {again}; make every random decision in its build a gene"
        )

    def said(self, architecture: Architecture) -> str:
        """An architecture in messages: its code with the choices of its genes, if they are few."""
        pairs = zip(self.genes, self.choices(architecture), strict=True)
        said = ", ".join(f"{gene.name}={gene.choices[choice]}" for gene, choice in pairs)
        return f"{architecture.code} ({said})" if len(self.genes) <= NAMED else architecture.code

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """One-hot choices of all genes, in order, with zeros for inactive genes: `[sum of all choices]`."""
        hot, choices = np.zeros(self._offsets[-1]), self.choices(architecture)
        for gene in self.active_genes(architecture):
            hot[self._offsets[gene] + choices[gene]] = 1.0
        return hot

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """A chain of the choices of all active genes, as `nasplat.gene_chain` describes."""
        return gene_chain(self, architectures, self._added_costs)

    @property
    def has_default_graph(self) -> bool:
        return type(self).graphs is GeneSpace.graphs

    @cached_property
    def _added_costs(self) -> Added:
        return added_costs(self)

    @cached_property
    def _counted_costs(self) -> dict[tuple[Architecture, IO], Cost]:
        return {}

    def _counted_cost(self, architecture: Architecture, io: IO, seed: int = 0) -> Cost:
        try:
            return count(lambda: self.build(architecture, io), io, self._counted_parts, seed=seed)
        except Exception as error:  # foreign code may raise anything
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            raise InputError(
                f"the network of {self.said(architecture)} of {self.name} cannot be used: {kind}{error}"
            ) from error

    _counted_parts: Callable[["nn.Module"], Parts] = staticmethod(children)  # those of counted costs

    @cached_property
    def _sizes(self) -> list[int]:
        return [len(gene.choices) for gene in checked(self.genes, self.name)]

    @cached_property
    def _offsets(self) -> list[int]:
        """The index in the features at which each gene begins, and the end of the last."""
        return [0, *accumulate(self._sizes)]

    @cached_property
    def _symbols(self) -> list[tuple[str, ...]]:
        return [gene.symbols for gene in checked(self.genes, self.name)]

    @cached_property
    def _numbers(self) -> list[dict[str, int]]:
        return [{symbol: number for number, symbol in enumerate(symbols)} for symbols in self._symbols]

    @cached_property
    def _places(self) -> list[slice]:
        """The slice of a code that each gene takes."""
        ends = list(accumulate(len(symbols[0]) for symbols in self._symbols))
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def _length(self) -> int:
        return sum(len(symbols[0]) for symbols in self._symbols)

    def _with(self, architecture: Architecture, gene: int, choice: int) -> Architecture:
        code, place = architecture.code, self._places[gene]
        return Architecture(architecture.space, code[: place.start] + self._symbols[gene][choice] + code[place.stop :])

    def _holds(self, architecture: Architecture) -> bool:
        return not self._refuses or self.violation(self.choices(architecture)) is None

    @cached_property
    def _refuses(self) -> bool:
        return type(self).violation is not GeneSpace.violation

    def _none_found(self, how: str) -> InputError:
        return InputError(
            f"no member of {self.name} was found in {ATTEMPTS:,} attempts, {how}; the space rejects too many "
            "combinations for rejection sampling, and must draw its members itself"
        )
