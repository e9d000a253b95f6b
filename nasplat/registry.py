"""Plug-ins by name: one registry class, with one instance for each kind of plug-in."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Generic, TypeAlias, TypeVar

from pydantic import AfterValidator

from nasplat.benchmark import Benchmark
from nasplat.errors import InputError, NasplatError, unknown
from nasplat.predictor import Predictor
from nasplat.retraining import RETRAINING
from nasplat.search_space import SearchSpace
from nasplat.strategy import Strategy
from nasplat.transform import Transform

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """The target of a registered name.

    Args:
        name: The registered name.
        target: The class, as ``package.module:Class``.
        origin: ``built-in``, or the distribution of the entry point.
    """

    name: str
    target: str
    origin: str


class Registry(Generic[T]):
    """The plug-ins of one kind.

    Built-ins are registered by the package with the name of the group, at the first use; third parties declare
    entry points in that group. A plug-in is imported only when it is requested, so a broken plug-in affects only
    searches that use it.

    Args:
        kind: The name of this kind of plug-in in messages, such as ``strategy``.
        group: The package of the built-ins and the entry-point group of third parties.
        base: The contract that every plug-in subclasses.
        reserved: Names that stand for one of the plug-ins in a configuration but are not plug-ins, with the meaning
            of each.
        elsewhere: Names that stand for something else in a configuration, with the message for who takes it for a
            plug-in.
        composed: The function that makes the class for a plug-in and transforms of it, as ``package.module:function``;
            empty if there are no transforms of this kind. Their names are joined by `JOINED`.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        base: type[T],
        reserved: Mapping[str, str] | None = None,
        elsewhere: Mapping[str, str] | None = None,
        composed: str = "",
    ) -> None:
        self.kind = kind
        self.group = group
        self.base = base
        self.reserved = dict(reserved or {})
        self.elsewhere = dict(elsewhere or {})
        self.composed = composed
        self._plugins: dict[str, Plugin] = {}
        self._former: dict[str, str] = {}
        self._adopted: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str, target: str, origin: str = "built-in", *, former: str = "") -> None:
        """Register ``package.module:Class`` under a name.

        Args:
            name: The name.
            target: The class.
            origin: ``built-in``, or the distribution of the entry point.
            former: The name that files of earlier versions have for it; it works, but is not listed.

        Raises:
            InputError: The name is taken (the message names both plug-ins), or it is reserved.
        """
        if JOINED in name:
            raise InputError(f"the {self.kind} {target} ({origin}) has the name {name!r}; leave out {JOINED!r}")
        if name in self.reserved or name in self.elsewhere:
            raise InputError(f"the {self.kind} {target} ({origin}) has the reserved name {name!r}; give it another one")
        taken = self._plugins.get(name)
        if taken is not None and taken.target != target:
            raise InputError(
                f"two plug-ins register the {self.kind} {name!r}: {taken.target} ({taken.origin}) and "
                f"{target} ({origin}); rename or uninstall one"
            )
        self._plugins[name] = Plugin(name, target, origin)
        if former:
            self._former[former] = name
        for old, new in self._former.items():
            if old in self._plugins:
                raise InputError(
                    f"the {self.kind} {self._plugins[old].target} ({self._plugins[old].origin}) has the name {old!r}, "
                    f"which files of earlier versions use for {new!r}; give it another one"
                )

    def adopt(self, name: str, plugin: type[T]) -> None:
        """Make a class of the user known in this process as ``MODULE:ATTRIBUTE``; a later one replaces it.

        Of a name with transforms, it is the class below them.

        Raises:
            InputError: The name could be that of an installed plug-in, or it is no subclass of the contract.
        """
        if ":" not in name:
            raise InputError(f"the {self.kind} {name!r} must be named as MODULE:ATTRIBUTE, unlike installed plug-ins")
        if not (isinstance(plugin, type) and issubclass(plugin, self.base)):
            raise InputError(
                f"the {self.kind} {name!r} must be a subclass of {self.base.__module__}.{self.base.__qualname__}, but "
                f"is {plugin!r}"
            )
        name = name.partition(JOINED)[0]
        self._adopted[name] = plugin
        if issubclass(plugin, SearchSpace):
            plugin.known_as = name  # what is saved of an instance, as a predictor, names its space so

    def restore(self, name: str, plugin: type[T] | None) -> None:
        """Make a name mean again what it meant before `adopt`; None for nothing."""
        if plugin is None:
            self._adopted.pop(name.partition(JOINED)[0], None)
        else:
            self.adopt(name, plugin)

    def adopted(self, name: str) -> type[T] | None:
        """The class of the user that is known as this name in this process; None if there is none.

        Of a name with transforms, it is the class below them.
        """
        return self._adopted.get(name.partition(JOINED)[0])

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._plugins)

    def plugin(self, name: str) -> Plugin:
        """The plug-in of a name, without importing it.

        Raises:
            InputError: The name is unknown; near matches are listed.
        """
        self._discover()
        if self.composed and JOINED in name:
            below, *transforms = name.split(JOINED)
            origins = [self.plugin(below).origin, *(TRANSFORMS.plugin(each).origin for each in transforms)]
            return Plugin(name, self.composed, next((each for each in origins if each != BUILT_IN), BUILT_IN))
        if name in self.elsewhere:
            raise InputError(self.elsewhere[name])
        if name in self.reserved:
            known = ", ".join(self.names())
            raise InputError(
                f"{name} can only be used in the configuration of a search; name a {self.kind} here: {known}"
            )
        if name not in self._plugins:
            name = self._former.get(name, name)
        if name not in self._plugins and ":" in name and self.kind == "predictor":
            raise InputError(
                f"a predictor must be an installed plug-in, but got {name!r}; give its package an entry point for it"
            )
        if name not in self._plugins and ":" in name:
            raise InputError(
                f"the {self.kind} {name!r} is an object of somebody's program, which is used only if you say so: give "
                f"it to Python, as in nasplat.open_run(RUN, {self.kind.rpartition(' ')[2]}=…)"
                + ("" if name.startswith("__main__:") else ", or give --trust-run (trust=True) if the run is your own")
            )
        if name not in self._plugins:
            raise InputError(unknown(self.kind, name, [*self._plugins, *self.reserved]))
        return self._plugins[name]

    def get(self, name: str) -> type[T]:
        """The class registered under a name.

        Raises:
            InputError: The name is unknown, or its target cannot be loaded or is of another kind.
        """
        if name in self._adopted:
            return self._adopted[name]
        if self.composed and JOINED in name:
            below, *transforms = name.split(JOINED)
            return self.transformed(self.get(below), transforms)
        plugin = self.plugin(name)
        module, _, attribute = plugin.target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except NasplatError:
            raise
        except Exception as error:  # a third party's module may raise anything at import
            raise InputError(
                f"the {self.kind} {name!r} ({plugin.target}, {plugin.origin}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise InputError(
                f"the {self.kind} {name!r} ({plugin.target}, {plugin.origin}) is not a subclass of "
                f"{self.base.__module__}.{self.base.__qualname__}"
            )
        return found

    def transformed(self, below: type[T], transforms: Sequence[str]) -> type[T]:
        """The class for a plug-in and transforms of it.

        Raises:
            InputError: A transform is unknown or cannot be loaded, or is given twice.
        """
        module, _, attribute = self.composed.partition(":")
        compose = getattr(importlib.import_module(module), attribute)
        found: type[T] = compose(below, tuple((name, TRANSFORMS.get(name)) for name in transforms))
        return found

    def __contains__(self, name: object) -> bool:
        """Whether a name, or a former name, is registered or adopted, or composed of such names."""
        self._discover()
        if self.composed and isinstance(name, str) and JOINED in name:
            below, *transforms = name.split(JOINED)
            return below in self and all(each in TRANSFORMS for each in transforms)
        return name in self._plugins or name in self._former or name in self._adopted

    def __iter__(self) -> Iterator[Plugin]:
        return (self._plugins[name] for name in self.names())

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        importlib.import_module(self.group)
        for entry in sorted(entry_points(group=self.group), key=_origin):
            self.register(entry.name, entry.value, _origin(entry))


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


BUILT_IN = "built-in"
"""The origin of the plug-ins of the platform."""

JOINED = "+"
"""Between the name of a plug-in and the names of its transforms."""

AUTO = "auto"
"""The name that lets `nasplat.driver.automatic` choose the strategy."""
AUTO_SUMMARY = "Chosen by space, benchmark, objectives and budget; the search says why."

# mypy expects a concrete class wherever a class is passed, but a contract is abstract.
SEARCH_SPACES: Registry[SearchSpace] = Registry(
    "search space",
    "nasplat.search_spaces",
    SearchSpace,  # type: ignore[type-abstract]
    composed="nasplat.search_spaces.transformed:transformed",
)
STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    "nasplat.strategies",
    Strategy,  # type: ignore[type-abstract]
    {AUTO: AUTO_SUMMARY},
    {
        RETRAINING: f"{RETRAINING} is no search strategy, since it proposes nothing; to train what a search found, use "
        "nasplat retrain RUN (nasplat.open_run(RUN).retrain()), and for other networks a configuration with "
        f"kind: {RETRAINING}"
    },
)
PREDICTORS: Registry[Predictor] = Registry("predictor", "nasplat.predictors", Predictor)  # type: ignore[type-abstract]
BENCHMARKS: Registry[Benchmark] = Registry("benchmark", "nasplat.benchmarks", Benchmark)  # type: ignore[type-abstract]
TRANSFORMS: Registry[Transform] = Registry("transform", "nasplat.transforms", Transform)  # type: ignore[type-abstract]


def todays_name(name: str) -> str:
    """The registered name of a predictor, which files of an earlier version may call by a former one."""
    return PREDICTORS.plugin(name).name if name in PREDICTORS else name


PredictorName: TypeAlias = Annotated[str, AfterValidator(todays_name)]
"""The name of a predictor as an option; a former name becomes the one of today."""
