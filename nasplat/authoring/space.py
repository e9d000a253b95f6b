"""A search space made of genes and a function that builds networks, or of a model with choices in it."""

import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.errors import InputError, unknown
from nasplat.objective import Constraint
from nasplat.search_space import Gene, GeneSpace

if TYPE_CHECKING:
    from torch import nn

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | None"
"""A value that a gene may have."""

SHAPES = ("io", "input_shape", "outputs")
"""The parameters by which a function or a model is told the shapes of the data, if it has them."""


class AuthoredSpace(GeneSpace):
    """A search space whose genes have values; `nasplat.space` makes its subclasses."""

    values: ClassVar[Mapping[str, tuple[Value, ...]]]
    """The values of every gene by its name, in the order of the gene's choices."""

    allowed: ClassVar[Callable[..., bool | str] | None] = None
    """Whether a combination of values is a member, or why it is not."""

    def chosen(self, architecture: Architecture) -> dict[str, Value]:
        """The value of every gene, by name. Inactive genes have their first value, whatever the code says."""
        active = self.active_genes(architecture)
        return {
            name: values[choice if number in active else 0]
            for number, ((name, values), choice) in enumerate(
                zip(self.values.items(), self.choices(architecture), strict=True)
            )
        }

    def violation(self, choices: Sequence[int]) -> str | None:
        allowed = type(self).allowed
        if allowed is None:
            return None
        member = self.member(choices)
        said = called("allowed", allowed, self.chosen(member), self.said(member))
        if isinstance(said, str):
            return f"is not allowed: {said}"
        if said not in (True, False):
            raise InputError(
                f"allowed must return True, False, or a text that says why not, but for {self.said(member)} it "
                f"returned {said!r}"
            )
        return None if said else f"is not allowed: {self.said(member)}"


class FunctionSpace(AuthoredSpace):
    """A search space whose networks a function builds; `nasplat.space` makes its subclasses."""

    function: ClassVar[Callable[..., "nn.Module"]]
    """Builds a network from the values of the genes."""

    active: ClassVar[Callable[..., Iterable[str]] | None] = None
    """The names of the genes that matter, for the values of all genes."""

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        active = type(self).active
        if active is None:
            return range(len(self.genes))
        pairs = zip(self.values.items(), self.choices(architecture), strict=True)
        given = {name: values[choice] for (name, values), choice in pairs}
        names = called("active", active, given, self.said(architecture))
        if isinstance(names, str) or not isinstance(names, Iterable) or not (names := list(names)):
            raise InputError(
                f"active must return the names of the genes that matter, at least one, but for "
                f"{self.said(architecture)} it returned {names!r}"
            )
        numbers = {name: number for number, name in enumerate(self.values)}
        for name in names:
            if name not in numbers:
                raise InputError(f"active returned {name!r}: {unknown('gene', str(name), numbers)}")
        return sorted({numbers[name] for name in names})

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network that the function returns."""
        function = type(self).function
        network = function(**declared(function, self.chosen(architecture)), **named_shapes(function, io))
        return materialized(network, io)


def space(
    genes: Mapping[str, Sequence[Value]] | None = None,
    build: Callable[..., "nn.Module"] | None = None,
    *,
    model: type["nn.Module"] | None = None,
    name: str | None = None,
    input_shape: Sequence[int] = (3, 32, 32),
    outputs: int = 10,
    allowed: Callable[..., bool | str] | None = None,
    active: Callable[..., Iterable[str]] | None = None,
    limits: Sequence[str] = (),
) -> GeneSpace:
    """Make a search space of genes and a function, or of a model that uses `nasplat.choice` and `nasplat.number`.

    Costs are counted on the networks themselves. The same values must give the same network every time: what `build`
    decides by chance must be a gene.

    Args:
        genes: The values of each gene: at least two numbers, texts, booleans, None, or tuples of them.
        build: Builds the network, a `torch.nn.Module` with any weights. It is called with the value of each gene by
            keyword, and with the shapes of the data if it has a parameter `io` (a `nasplat.IO`), or parameters
            `input_shape` (such as ``(3, 32, 32)``) and `outputs` (such as 10 classes).
        model: In place of genes and build: the class of a network with choices in it. It is made with the shapes of the
            data, if it has parameters for them.
        name: The name of the space, which every architecture carries; by default that of the function or model.
        input_shape: The input shape of one example, for which predictors compare costs. A benchmark has its own.
        outputs: The number of outputs, likewise.
        allowed: Whether a combination of values is a member: True, False, or a text that says why not. It is called
            with the values of the genes that it has parameters for.
        active: The names of all genes that matter, called like `allowed`. The others do not mutate, and `build` and
            `allowed` are given their first value: codes that differ in nothing else are one network.
        limits: Hard constraints on costs, such as ``params<=325e3``.

    Returns:
        An instance of a new class, the space. ``.sample(numpy.random.default_rng(0))`` draws an architecture,
        ``.build(architecture, io)`` builds its network.

    Raises:
        InputError: Genes, functions or shapes are not as described, or no combination is allowed.

    >>> import math
    >>> from itertools import pairwise
    >>> from torch import nn
    >>> def perceptron(width, depth, input_shape, outputs):
    ...     widths = [math.prod(input_shape), *[width] * depth]
    ...     hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    ...     return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, outputs))
    >>> perceptrons = space({"width": (16, 32), "depth": (1, 2, 3)}, perceptron)
    >>> perceptrons.chosen(perceptrons.parse("12"))
    {'width': 32, 'depth': 3}
    """
    common: dict[str, Any] = {
        "limits": _limits(limits),
        "reference_io": _io(input_shape, outputs),
        "allowed": None if allowed is None else staticmethod(allowed),
        "__module__": sys._getframe(1).f_globals.get("__name__", __name__),  # where a configuration finds the space
    }
    made: type[AuthoredSpace]
    if model is not None:
        if genes is not None or build is not None or active is not None:
            raise InputError("a space of a model finds its genes in the model; leave out genes, build and active")
        from nasplat.authoring.model_space import model_space_class

        common["name"] = _name(name, model)
        made = model_space_class(model, common)
    else:
        if genes is None or build is None:
            raise InputError("a space needs genes and build, or model; give both, or the class of a model")
        values = _values(genes)
        check_parameters("build", build, needed=values, offered=SHAPES)
        for role, function in (("allowed", allowed), ("active", active)):
            if function is not None:
                check_parameters(role, function, offered=values)
        parts = {
            "genes": genes_of(values),
            "values": values,
            "function": staticmethod(build),
            "active": None if active is None else staticmethod(active),
            "name": _name(name, build),
        }
        made = new_class(FunctionSpace, build, common | parts)
    if allowed is not None:
        check_parameters("allowed", allowed, offered=made.values)
    found = made()
    # Refuses a space without members, and wrong functions, now instead of in the middle of a search.
    found.active_genes(found.sample(default_rng(0)))
    return found


Space = TypeVar("Space", bound=AuthoredSpace)


def materialized(network: object, io: IO) -> "nn.Module":
    """The network; its lazy layers, if it has any, get their sizes from one example.

    Raises:
        InputError: It is no module.
    """
    import torch
    from torch.nn.parameter import is_lazy

    if not isinstance(network, torch.nn.Module):
        raise InputError(f"build must return a torch.nn.Module, but it returned {network!r}; return the network")
    if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        training = [module for module in network.modules() if module.training]
        with torch.no_grad():
            network.eval()(torch.zeros(1, *io.input_shape))
        for module in training:
            module.training = True
    return network


def new_class(base: type[Space], author: object, attributes: Mapping[str, Any]) -> type[Space]:
    """A subclass of a space, named after its space and documented like the function or model that it is made of."""
    own = author.__doc__ if inspect.isfunction(author) or inspect.isclass(author) else None
    said = inspect.cleandoc(own or "") or f"Networks of {getattr(author, '__qualname__', repr(author))}."
    name = re.sub(r"\W", "_", str(attributes["name"]))
    made: type[Space] = types.new_class(
        name, (base,), exec_body=lambda body: body.update({"__doc__": said, **attributes})
    )
    return made


def genes_of(values: Mapping[str, tuple[Value, ...]]) -> tuple[Gene, ...]:
    """The genes with these values."""
    return tuple(Gene(name, tuple(map(text, each))) for name, each in values.items())


def text(value: Value) -> str:
    """A value as the name of a choice."""
    return value if isinstance(value, str) else str(value)


def named_shapes(function: Callable[..., Any], io: IO) -> dict[str, Any]:
    """Those of the shapes of the data that a function or model has parameters for."""
    named = inspect.signature(function).parameters
    shapes = {"io": io, "input_shape": io.input_shape, "outputs": io.outputs}
    return {name: shape for name, shape in shapes.items() if name in named}


def declared(function: Callable[..., Any], values: Mapping[str, Value]) -> dict[str, Value]:
    """Those of the values that the function has parameters for."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(values)
    return {name: value for name, value in values.items() if name in parameters}


def called(role: str, function: Callable[..., Any], values: Mapping[str, Value], said: str) -> Any:
    """Call a user's function with the values that it has parameters for.

    Raises:
        InputError: It raised something, which the message names.
    """
    try:
        return function(**declared(function, values))
    except Exception as error:
        raise InputError(f"{role} must answer for every architecture, but for {said} it raised {error!r}") from error


def check_parameters(
    role: str, function: Callable[..., Any], *, needed: Iterable[str] = (), offered: Iterable[str] = ()
) -> None:
    """Check that a function can be called with keyword arguments, and takes all that it must use.

    Args:
        role: What the function is, in messages.
        function: The function.
        needed: The arguments that it is always called with.
        offered: The arguments that it is called with, if it has parameters for them.

    Raises:
        InputError: A parameter is missing, unknown or positional-only.
    """
    needed, offered = tuple(needed), tuple(offered)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"{role} must be a function with readable parameters, but got {function!r}: {error}") from None
    kinds = {parameter.kind for parameter in parameters.values()}
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InputError(f"{role} is called with keyword arguments, but {name!r} is positional-only; remove the /")
        if name not in (*needed, *offered) and parameter.default is parameter.empty:
            raise InputError(
                f"{role} has the parameter {name!r}, and {unknown('gene', name, (*needed, *offered))}; "
                "add the gene, or give the parameter a default"
            )
    missing = [name for name in needed if name not in parameters]
    if missing and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise InputError(
            f"{role} must have a parameter for every gene, but has none for {', '.join(map(repr, missing))}; "
            "add it, or leave the gene out"
        )


def _values(genes: Mapping[str, Sequence[Value]]) -> dict[str, tuple[Value, ...]]:
    if not isinstance(genes, Mapping) or not genes:
        raise InputError(f'genes must be a mapping such as {{"width": (16, 24, 32)}}, but got {genes!r}')
    found = {}
    for name, values in genes.items():
        if not isinstance(name, str) or not name or name in SHAPES:
            raise InputError(
                f"the name of a gene must be a text other than {', '.join(SHAPES)}, but got {name!r}; rename it"
            )
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InputError(f"the gene {name!r} must have a tuple of values, but got {values!r}")
        found[name] = checked_values(name, values)
    return found


def checked_values(name: str, values: Iterable[Value]) -> tuple[Value, ...]:
    """The values of a gene, as plain Python values.

    Raises:
        InputError: A value is of another kind or given twice, or there are fewer than two.
    """
    plain = tuple(_plain(name, value) for value in values)
    if len(plain) < 2:
        raise InputError(
            f"a gene must have at least two values, but {name!r} has {plain!r}; leave it out, and use the value itself"
        )
    for i, value in enumerate(plain):
        for other in plain[:i]:
            if value == other or text(value) == text(other):
                raise InputError(
                    f"the values of a gene must differ, but {name!r} has {other!r} and {value!r}; remove one"
                )
    return plain


def _plain(name: str, value: Any) -> Value:
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, tuple | list):
        return tuple(_plain(name, each) for each in value)
    if not (value is None or isinstance(value, bool | int | float | str)) or (
        isinstance(value, float) and math.isnan(value)
    ):
        raise InputError(
            f"a value of a gene must be a number, text, boolean, None or a tuple of them, but {name!r} has {value!r}; "
            "give it a name, and look the name up in build"
        )
    return value


def _io(input_shape: Sequence[int], outputs: int) -> IO:
    sizes = (*input_shape, outputs)
    if not sizes[:-1] or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            "input_shape must be the shape of one example, such as (3, 32, 32), and outputs a number above 0, but got "
            f"{input_shape!r} and {outputs!r}"
        )
    return IO(tuple(input_shape), outputs)


def _limits(limits: Sequence[str]) -> tuple[str, ...]:
    if isinstance(limits, str):
        raise InputError(f'limits must be a sequence of constraints, but got {limits!r}; write ("{limits}",)')
    for limit in limits:
        Constraint.parse(limit)
    return tuple(limits)


def _name(name: str | None, author: object) -> str:
    if name is None:
        name = getattr(author, "__name__", "space").replace("<lambda>", "space")
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", name):
        raise InputError(
            f"the name of a space must consist of letters, digits and any of _ . / -, but got {name!r}; give another"
        )
    return name
