"""The contract checks of one plug-in, each with what came of it."""

import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import starmap
from typing import Any, Literal

from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.errors import InputError
from nasplat.interface.adoption import adopt, imported
from nasplat.options import complete, construct, merged, nested
from nasplat.predictor import Predictor
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, STRATEGIES, TRANSFORMS, Registry
from nasplat.search_space import SearchSpace
from nasplat.strategy import Strategy
from nasplat.transform import Transform

KINDS: dict[str, Registry[Any]] = {
    "space": SEARCH_SPACES,
    "strategy": STRATEGIES,
    "benchmark": BENCHMARKS,
    "predictor": PREDICTORS,
    "transform": TRANSFORMS,
}
BASES: dict[str, type] = {
    "space": SearchSpace,
    "strategy": Strategy,
    "benchmark": Benchmark,
    "predictor": Predictor,
    "transform": Transform,
}

DEFAULT_GRAPH = (
    "predictors see this space as the default chain of genes or features; they rank better with a graph of layers, "
    "which SearchSpace.graphs returns, with one node for each layer, its costs and its role (nasplat.graph.Graphs)"
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one check of a contract.

    Args:
        rule: The rule: the name of the check, with blanks.
        result: Whether the plug-in keeps it. ``skipped``: it has nothing that the rule is about.
        message: What is wrong, why it was skipped, or what could be better though it passed.
    """

    rule: str
    result: Literal["passed", "failed", "skipped"]
    message: str = ""


def check(
    plugin: Any, *, kind: str | None = None, space: Any = None, options: Mapping[str, Any] | None = None
) -> list[Checked]:
    """Check a plug-in against the contract of its kind.

    It does what ``nasplat check`` does::

        [failed] = [each for each in nasplat.check(MyStrategy) if each.result == "failed"]

    Args:
        plugin: A class or an object; for a space also a torch module with choices, for a benchmark also a function; the
            name of an installed plug-in; or ``MODULE:ATTRIBUTE``, where the module may be a file, ``FILE.py``.
        kind: ``space``, ``strategy``, ``benchmark``, ``predictor`` or ``transform``, where a name or an object may be
            several.
        space: For a benchmark: the space to measure, as for `nasplat.search`.
        options: Options by ``SECTION.OPTION``, such as ``{"benchmark.epochs": 2, "space.channels": 4}``.

    Returns:
        One result for each check.

    Raises:
        InputError: There is no such plug-in, or it cannot be made with these options.
    """
    return list(checked(plugin, kind=kind, space=space, options=options))


def checked(plugin: Any, *, kind: str | None, space: Any, options: Mapping[str, Any] | None) -> Iterator[Checked]:
    """As `check`, one result after another."""
    if not __debug__:
        raise InputError("checks are assertions, which Python leaves out with -O; leave -O and PYTHONOPTIMIZE away")
    found, kind = _found(plugin, kind)
    if space is not None and kind != "benchmark":
        raise InputError(f"only a benchmark is checked on a space, but got a {kind}; leave the space out")
    sections = [kind, *(["space"] if kind == "benchmark" else [])]
    given = reduce(merged, starmap(nested, (options or {}).items()), dict[str, Any]())
    for section in given:
        if section not in sections or not isinstance(given[section], Mapping):
            raise InputError(
                f"options must be named {' or '.join(f'{each}.OPTION' for each in sections)}, but got {section!r}"
            )
    from nasplat.testing.search_spaces import graphs_are_well_formed

    for rule, arguments in _checks(found, kind, space, given):
        outcome = _outcome(rule, arguments)
        if rule is graphs_are_well_formed and outcome.result == "passed" and arguments[0].has_default_graph:
            outcome = replace(outcome, message=DEFAULT_GRAPH)
        yield outcome


def _found(plugin: Any, kind: str | None) -> tuple[Any, str]:
    """The object and its kind.

    Raises:
        InputError: There is none, or it may be of several kinds.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"the kind of a plug-in must be {', '.join(KINDS)}, but got {kind!r}")
    if isinstance(plugin, str) and ":" not in plugin:
        kinds = [each for each, registry in KINDS.items() if plugin in {known.name for known in registry}]
        if kind is None and len(kinds) > 1:
            raise InputError(f"{plugin} names a {' and a '.join(kinds)}; say which, by --kind (kind=…)")
        kind = kind or next(iter(kinds), None)
        if kind is None:
            raise InputError(f"no plug-in is named {plugin!r}; nasplat list names all, and MODULE:NAME one of your own")
        return KINDS[kind].get(plugin), kind
    found = imported(kind or "plug-in", plugin) if isinstance(plugin, str) else plugin
    if kind is None:
        made = found if isinstance(found, type) else type(found)
        kind = next((each for each, base in BASES.items() if issubclass(made, base)), None)
    if kind is None:
        kind = "space" if isinstance(found, type) else "benchmark"  # a module with choices, or a function
    return found, kind


def _checks(
    found: Any, kind: str, space: Any, given: Mapping[str, Any]
) -> Iterator[tuple[Callable[..., None], Sequence[Any]]]:
    """The checks of a kind, each with what it is given."""
    from nasplat import testing

    options = dict(given.get(kind, {}))
    if kind not in ("predictor", "transform"):
        name, own = adopt(kind, found)
        found, options = KINDS[kind].get(name), {**own, **options}
    options = complete(kind, found, options)
    match kind:
        case "space":
            made: SearchSpace = construct(kind, found, **options)
            yield from ((check, (made, made.reference_io)) for check in testing.SEARCH_SPACE_CHECKS)
        case "benchmark":
            measured = _space(space, given.get("space", {}))
            make = partial(construct, kind, found, measured, **options)
            yield from ((check, (make,)) for check in testing.BENCHMARK_CHECKS)
            if issubclass(found, SupernetBenchmark) and _trains_supernet(make()):
                yield from ((check, (make,)) for check in testing.SUPERNET_CHECKS)
        case "transform":
            transform = found if isinstance(found, type) else type(found)
            yield from (
                (check, (partial(construct, kind, transform, **options),)) for check in testing.TRANSFORM_CHECKS
            )
        case _:
            checks: Sequence[Callable[..., None]] = (
                testing.STRATEGY_CHECKS if kind == "strategy" else testing.PREDICTOR_CHECKS
            )
            yield from ((check, (partial(_made, kind, found, options),)) for check in checks)


def _trains_supernet(benchmark: SupernetBenchmark) -> bool:
    """Whether the space has a supernet that the benchmark trains."""
    try:
        benchmark.check_supernet()
    except InputError:
        return False
    return True


def _made(kind: str, plugin: type, options: Mapping[str, Any], given: Any) -> Any:
    """A strategy for a problem, or a predictor for a space."""
    return construct(kind, plugin, given, **options)


def _space(given: Any, options: Mapping[str, Any]) -> SearchSpace:
    """The space that a benchmark is checked on.

    Raises:
        InputError: None is given.
    """
    if given is None:
        raise InputError("a benchmark is checked on a search space, but got none; name one, by --space (space=…)")
    name, own = adopt("space", given)
    made: SearchSpace = construct("space", SEARCH_SPACES.get(name), **{**own, **options})
    return made


def _outcome(check: Callable[..., None], arguments: Sequence[Any]) -> Checked:
    rule = check.__name__.replace("_", " ")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            check(*arguments)
        except unittest.SkipTest as reason:
            return Checked(rule, "skipped", str(reason))
        except AssertionError as error:
            return Checked(rule, "failed", str(error) or "an assertion of the check does not hold")
        except Exception as error:  # noqa: BLE001  foreign code, which may raise anything
            return Checked(rule, "failed", f"{type(error).__name__}: {error}")
    return Checked(rule, "passed")
