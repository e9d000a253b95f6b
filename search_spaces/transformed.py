"""Search spaces whose networks are those of another space with rewritten layers.

The name of such a space is that of the space below, and of its transforms, joined by ``+``: ``ghost/cifar+full_stack``.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel

from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost, count, layers
from nasplat.errors import InputError
from nasplat.gene import Gene
from nasplat.graph import Graphs
from nasplat.options import described_arguments
from nasplat.search_space import LISTED, GeneSpace, Prior, SearchSpace, SupernetSpace
from nasplat.search_spaces.stage_graphs import with_stages
from nasplat.search_spaces.transform_choices import alternatives, options_of
from nasplat.transform import Rewriting, Transform, Transforming

if TYPE_CHECKING:
    from torch import nn

    from nasplat.nn.supernet import Supernet

STAGE = "."
"""What separates the code of the space below from the choices of the stages."""
CACHED = 4096
"""Maximum number of counted costs in the cache of a space."""
TRIED = 8
"""Number of random members whose layers are looked at before a search begins."""


class TransformedSpace(SearchSpace, Transforming):
    """The networks of another space, with layers rewritten by transforms.

    With ``transform.per=network``, all layers that can be are rewritten, and codes are those of the space below. With
    ``transform.per=stage``, each stage is a gene more: it is plain, or one of the transforms rewrites its layers. An
    option of a transform may then be a list of values, which are choices. The code is that of the space below, a point,
    and a symbol for each stage; without the point, all stages are plain.

    An architecture of the space below can be built as well; it is the network that is not transformed. The limits of
    the space below hold for its own networks only. Costs are computed by formula if the space below has one for its
    convolutions, else counted on networks. Those of graphs are the ones of the space below.

    Args:
        transform: The options of the transforms, and whether they are chosen per network or per stage.
    """

    below_class: ClassVar[type[SearchSpace]]
    """The class of the space below."""
    kinds: ClassVar[Mapping[str, type[Transform]]]
    """The transforms by name."""

    def __init__(self, *, transform: BaseModel, **options: Any) -> None:
        self.transform = transform
        self.below = self.below_class(**options)
        for name in options:
            setattr(self, name, getattr(self.below, name))
        self.alternatives = alternatives(self.kinds, transform)
        self._cost = lru_cache(maxsize=CACHED)(self._counted)

    @cached_property
    def stage_genes(self) -> tuple[Gene, ...]:
        """A gene for each stage; none if the whole network is transformed."""
        if len(self.alternatives) == 1:
            return ()
        example = self.below.sample(np.random.default_rng(0))
        names = tuple(each.name for each in self.alternatives)
        return tuple(Gene(f"{stage} transform", names) for stage in self.below.stages_of(example))

    def base(self, architecture: Architecture) -> Architecture:
        code = architecture.code.rpartition(STAGE)[0] if self.stage_genes else architecture.code
        return Architecture(self.below.name, code)

    def chosen_stages(self, architecture: Architecture) -> list[int]:
        """The index of the choice of every stage."""
        if not self.stage_genes:
            return []
        symbols = architecture.code.rpartition(STAGE)[2]
        return [gene.symbols.index(symbol) for gene, symbol in zip(self.stage_genes, symbols, strict=True)]

    def active_stages(self, architecture: Architecture) -> list[int]:
        """The stages that have modules in the architecture's network."""
        stages = self.below.stages_of(self.base(architecture)).values() if self.stage_genes else ()
        return [number for number, modules in enumerate(stages) if modules]

    def of(self, base: Architecture, stages: Sequence[int]) -> Architecture:
        """The architecture of an architecture of the space below, with the choice of every stage."""
        symbols = "".join(gene.symbols[choice] for gene, choice in zip(self.stage_genes, stages, strict=True))
        return Architecture(self.name, f"{base.code}{STAGE}{symbols}" if self.stage_genes else base.code)

    def parse(self, code: str) -> Architecture:
        text, point, symbols = code.rpartition(STAGE) if self.stage_genes else (code, "", "")
        if self.stage_genes and not point:
            text, symbols = code, self.stage_genes[0].symbols[0] * len(self.stage_genes)
        try:
            base = self.below.parse(text)
        except InputError as error:
            whole = f"; the code of {self.name} that was given is {code!r}" if point else ""
            raise InputError(f"{error}{whole}") from None
        if len(symbols) != len(self.stage_genes):
            names = ", ".join(gene.name.removesuffix(" transform") for gene in self.stage_genes)
            raise InputError(
                f"behind the point, a code of {self.name} must have a symbol for each of the stages {names}, but "
                f"{code!r} has {len(symbols)}"
            )
        for gene, symbol in zip(self.stage_genes, symbols, strict=True):
            if symbol not in gene.symbols:
                raise InputError(f"{gene.name} of {code!r} is {symbol!r}; it must be one of {gene.legend()}")
        return Architecture(self.name, f"{base.code}{STAGE}{symbols}" if self.stage_genes else base.code)

    def sample(self, rng: Generator) -> Architecture:
        base = self.below.sample(rng)
        return self.of(base, [int(rng.integers(len(gene.choices))) for gene in self.stage_genes])

    def mutate(self, architecture: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
        """Change one decision: of the space below, or the choice of a stage, as often as there are such genes."""
        base, stages, active = (
            self.base(architecture),
            self.chosen_stages(architecture),
            self.active_stages(architecture),
        )
        others = len(self.below.active_genes(base)) if isinstance(self.below, GeneSpace) else len(active) or 1
        place = int(rng.integers(others + len(active))) if active else 0
        if place < others:
            known = len(self.below.genes) if isinstance(self.below, GeneSpace) else 0
            return self.of(self.below.mutate(base, rng, None if prior is None else prior[:known]), stages)
        stage = active[place - others]
        size = len(self.stage_genes[stage].choices)
        weights = (
            np.ones(size) if prior is None else np.array(prior[len(prior) - len(stages) + stage], dtype=np.float64)
        )
        weights[stages[stage]] = 0.0
        if weights.sum() <= 0.0:  # the prior allows only the old choice
            weights = np.array([float(choice != stages[stage]) for choice in range(size)])
        stages[stage] = int(rng.choice(size, p=weights / weights.sum()))
        return self.of(base, stages)

    def crossover(self, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
        """A child of the space below, with every stage's choice from either parent with equal probability."""
        base = self.below.crossover(self.base(a), self.base(b), rng)
        pairs = zip(self.chosen_stages(a), self.chosen_stages(b), strict=True)
        return self.of(base, [pair[int(rng.integers(2))] for pair in pairs])

    def neighbors(self, architecture: Architecture) -> list[Architecture]:
        """The neighbors of the space below with the same choices, then those that differ in the choice of a stage."""
        base, stages = self.base(architecture), self.chosen_stages(architecture)
        found = [self.of(neighbor, stages) for neighbor in self.below.neighbors(base)]
        for stage in self.active_stages(architecture):
            for choice in range(len(self.stage_genes[stage].choices)):
                if choice != stages[stage]:
                    found.append(self.of(base, [*stages[:stage], choice, *stages[stage + 1 :]]))
        return found

    def members(self) -> list[Architecture] | None:
        below = self.below.members()
        combinations = 1
        for gene in self.stage_genes:
            combinations *= len(gene.choices)
        if below is None or len(below) * combinations > LISTED:
            return None
        chosen = list(itertools.product(*(range(len(gene.choices)) for gene in self.stage_genes)))
        return [self.of(base, stages) for base in below for stages in chosen]

    def canonical_key(self, architecture: Architecture) -> str:
        key = self.below.canonical_key(self.base(architecture))
        return f"{key}{STAGE}{self._said(architecture)}" if self.stage_genes else key

    def features(self, architecture: Architecture) -> NDArray[np.float64]:
        """The features of the space below, and one-hot choices of the stages; zeros for stages without modules."""
        hot = np.zeros((len(self.stage_genes), len(self.alternatives)))
        stages = self.chosen_stages(architecture)
        for stage in self.active_stages(architecture):
            hot[stage, stages[stage]] = 1.0
        below = self.below.features(self.base(architecture))
        return np.concatenate([below.ravel(), hot.ravel()]) if self.stage_genes else below

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """The graphs of the space below, each with a node for every stage that has modules, in a chain of their own."""
        below = self.below.graphs([self.base(each) for each in architectures])
        if not self.stage_genes:
            return below
        nodes = [self._nodes(each) for each in architectures]
        return with_stages(below, nodes, len(self.stage_genes), self.alternatives)

    def tensors(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        if self.stage_genes:
            return super().tensors(architectures)
        return self.below.tensors([self.base(each) for each in architectures])

    @property
    def has_default_graph(self) -> bool:
        return self.below.has_default_graph

    def reference_cost(self, architecture: Architecture) -> Cost:
        """The cost of the network that is not transformed, which graphs have."""
        return self.below.reference_cost(self.base(architecture))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """The cost; without parts if it is computed by formula. Of an architecture of the space below, its own.

        `nasplat.transforms.cost` of the built network has the cost of each layer.
        """
        return self.below.cost(architecture, io) if self._is_below(architecture) else self._cost(architecture, io)

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network with rewritten layers whose weights are drawn; of an architecture of the space below, its own."""
        if self._is_below(architecture):
            return self.below.build(architecture, io)
        return self._rewritten(architecture, self.below.build(self.base(architecture), io), fitted=False).network

    def fitted(self, architecture: Architecture, network: "nn.Module") -> Rewriting:
        if self._is_below(architecture):
            return Rewriting(network, {})
        return self._rewritten(architecture, network, fitted=True)

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        return self.below.stages_of(self.base(architecture))

    def check_io(self, io: IO) -> None:
        """Check that the data fits the networks, and that each choice fits some members.

        Raises:
            InputError: It does not, or a choice fits none.
        """
        self.below.check_io(io)
        for choice in range(len(self.alternatives)):
            self._check_choice(choice, io)

    def _check_choice(self, choice: int, io: IO) -> None:
        rng, found = np.random.default_rng(0), None
        for _ in range(TRIED):
            try:
                self.cost(self.of(self.below.sample(rng), [choice] * len(self.stage_genes)), io)
            except InputError as error:
                found = found or error
            else:
                return
        assert found is not None
        raise found

    def plan(self, architecture: Architecture, network: "nn.Module") -> Iterator[tuple[str, Transform, list[str]]]:
        """The choices for an architecture that rewrite something: name, transform, and layers of the network.

        Args:
            architecture: The architecture.
            network: The network of its architecture in the space below.
        """
        return self._plan(architecture, lambda transform: transform.eligible(network))

    def _plan(
        self, architecture: Architecture, eligible: Callable[[Transform], list[str]]
    ) -> Iterator[tuple[str, Transform, list[str]]]:
        if not self.stage_genes:
            for transform in self.alternatives[0].transforms:
                yield self.alternatives[0].name, transform, eligible(transform)
            return
        stages = list(self.below.stages_of(self.base(architecture)).values())
        chosen = self.chosen_stages(architecture)
        for number, alternative in enumerate(self.alternatives):
            places = tuple(
                f"{name}." for stage, choice in zip(stages, chosen, strict=True) if choice == number for name in stage
            )
            for transform in alternative.transforms:
                names = [name for name in eligible(transform) if f"{name}.".startswith(places)] if places else []
                if names:
                    yield alternative.name, transform, names

    def _rewritten(self, architecture: Architecture, network: "nn.Module", *, fitted: bool) -> Rewriting:
        errors: dict[str, float] = {}
        for _, transform, names in list(self.plan(architecture, network)):
            rewriting = transform.apply(network, names if self.stage_genes else None, fitted=fitted)
            network = rewriting.network
            errors |= rewriting.errors
        return Rewriting(network, errors)

    def _counted(self, architecture: Architecture, io: IO) -> Cost:
        base = self.base(architecture)
        stages = self.chosen_stages(architecture)
        chosen = [self.alternatives[choice] for choice in set(stages)] if self.stage_genes else self.alternatives
        one = all(len(each.transforms) < 2 for each in chosen)  # a second one sees what the first has made
        known = self.below.convolutions_of(base, io) if one else None
        able = {}
        if known is not None:
            able = {each: each.eligible_of(known) for choice in chosen for each in choice.transforms}
        if known is None or None in able.values():
            return count(lambda: self.build(architecture, io), io, layers)
        found = [self.below.cost(base, io)]
        for _, transform, names in self._plan(architecture, lambda transform: able.get(transform) or []):
            found.append(transform.added_cost(known, names if self.stage_genes else None))
        whole = Cost.total({str(number): cost for number, cost in enumerate(found)})
        return replace(whole, published={}, parts={})

    def _is_below(self, architecture: Architecture) -> bool:
        return architecture.space == self.below.name

    def _nodes(self, architecture: Architecture) -> dict[int, int]:
        stages = self.chosen_stages(architecture)
        return {stage: stages[stage] for stage in self.active_stages(architecture)}

    def _said(self, architecture: Architecture) -> str:
        """The choices of the stages, without those of stages that have no modules."""
        nodes = self._nodes(architecture)
        return "".join(gene.symbols[nodes.get(stage, 0)] for stage, gene in enumerate(self.stage_genes))


class TransformedGeneSpace(TransformedSpace, GeneSpace):
    """A transformed space whose decisions are all genes: those of the space below, then the stages."""

    def __init__(self, *, transform: BaseModel, **options: Any) -> None:
        super().__init__(transform=transform, **options)
        assert isinstance(self.below, GeneSpace)
        self.genes = (*self.below.genes, *self.stage_genes)  # type: ignore[misc]  # which there are is an option's

    def choices(self, architecture: Architecture) -> list[int]:
        assert isinstance(self.below, GeneSpace)
        return [*self.below.choices(self.base(architecture)), *self.chosen_stages(architecture)]

    def chosen(self, architecture: Architecture) -> Mapping[str, Any]:
        assert isinstance(self.below, GeneSpace)
        stages = zip(self.stage_genes, self.chosen_stages(architecture), strict=True)
        return {
            **self.below.chosen(self.base(architecture)),
            **{gene.name: gene.choices[choice] for gene, choice in stages},
        }

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        assert isinstance(self.below, GeneSpace)
        known = len(self.below.genes)
        return [
            *self.below.active_genes(self.base(architecture)),
            *(known + stage for stage in self.active_stages(architecture)),
        ]

    def violation(self, choices: Sequence[int]) -> str | None:
        assert isinstance(self.below, GeneSpace)
        return self.below.violation(choices[: len(self.below.genes)])

    def member(self, choices: Sequence[int]) -> Architecture:
        assert isinstance(self.below, GeneSpace)
        known = len(self.below.genes)
        return self.of(self.below.member(choices[:known]), choices[known:])

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        if self.has_default_graph and self.stage_genes:
            return GeneSpace.graphs(self, architectures)
        return super().graphs(architectures)


class TransformedSupernet(SupernetSpace):
    """What a transformed space has besides if the space below has a supernet, and its transforms replace layers."""

    def supernet(self, io: IO) -> "Supernet":
        """The supernet of the space below, with the layers of each choice beside one another."""
        from nasplat.nn.rewritten_supernet import rewritten_supernet

        assert isinstance(self, TransformedSpace) and isinstance(self.below, SupernetSpace)
        whole = self.below.supernet(io)
        stages = len(self.stage_genes)
        covering = [
            self.of(base, [choice] * stages) for choice in range(len(self.alternatives)) for base in whole.covering
        ]
        return rewritten_supernet(whole, covering, self.base, self.plan)


@cache
def transformed(below: type[SearchSpace], kinds: tuple[tuple[str, type[Transform]], ...]) -> type[SearchSpace]:
    """The class of a space with transforms.

    Args:
        below: The class of the space below.
        kinds: The transforms with their names.

    Raises:
        InputError: A transform is given twice.
    """
    from nasplat.nn.rewriting import LayerTransform

    names = [name for name, _ in kinds]
    if len(set(names)) < len(names):
        raise InputError(f"a space is transformed by each transform once, but got {', '.join(names)}; leave one out")
    suffix = "".join(f"+{name}" for name in names)
    shares = issubclass(below, SupernetSpace) and all(issubclass(kind, LayerTransform) for _, kind in kinds)
    base = TransformedGeneSpace if issubclass(below, GeneSpace) else TransformedSpace
    why = "" if not issubclass(below, SupernetSpace) else f"{', '.join(names)} does more than to replace layers"
    attributes: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": _described(below),
        "__init__": _constructor(base, below, dict(kinds)),
        "name": f"{below.name}{suffix}",
        "known_as": f"{below.known_as}{suffix}" if below.known_as else "",
        "below_class": below,
        "kinds": dict(kinds),
        "varies": any(kind.varies for _, kind in kinds),
        "reference_io": below.reference_io,
        "builds": below.builds,
        "no_supernet": "" if shares else below.no_supernet or why,
    }
    if issubclass(below, GeneSpace):
        attributes["genes"] = below.genes  # those of the class; an instance has those of its stages too
    bases = (base, TransformedSupernet) if shares else (base,)
    return type(f"{below.__name__}{''.join(part.title().replace('_', '') for part in names)}", bases, attributes)


def _described(below: type[SearchSpace]) -> str:
    """The docstring of the class, with the options of the space below."""
    about, _, own = (inspect.getdoc(TransformedSpace) or "").partition("\nArgs:\n")
    options = [f"    {name}: {said}" for name, said in described_arguments(inspect.getdoc(below) or "").items()]
    return "\n".join([about, "Args:", *options, own])


def _constructor(base: type, below: type[SearchSpace], kinds: Mapping[str, type[Transform]]) -> Any:
    """A constructor with the options of the space below, and those of the transforms as a group."""

    group = options_of(kinds)

    def construct_space(self: Any, **options: Any) -> None:
        given = options.pop("transform", {})
        transform = given if isinstance(given, BaseModel) else group.model_validate(given)
        base.__init__(self, transform=transform, **options)  # type: ignore[misc]

    given = getattr(below, "__init__")  # noqa: B009  mypy: a class's own, not an instance's
    hints = get_type_hints(given, include_extras=True)
    known = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
        for parameter in inspect.signature(given).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    parameter = inspect.Parameter("transform", inspect.Parameter.KEYWORD_ONLY, default=group(), annotation=group)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    construct_space.__signature__ = inspect.Signature([first, *known, parameter])  # type: ignore[attr-defined]
    construct_space.__annotations__ = {each.name: each.annotation for each in [*known, parameter]}
    return construct_space
