"""Fingerprints of users' own plug-ins, by which a run notices that their code has changed.

A fingerprint covers the code of an object without its comments, its default values, and what it refers to: plain
values, and functions and classes of its own module, and so on. It does not cover other modules, files, or objects such
as data sets, which it knows by their class only.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from typing import Any

from nasplat.config import SearchConfig
from nasplat.errors import InputError
from nasplat.interface.sections import REGISTRIES
from nasplat.run.directory import RunDirectory
from nasplat.search_space import GeneSpace

PLATFORM = __name__.partition(".")[0]
GENES = "genes"
"""The key of a record for what codes mean: the genes with their values. It is the same under any version of Python."""
_GENERATED = {
    "__abstractmethods__", "__annotations__", "__dict__", "__doc__", "__firstlineno__", "__module__", "__parameters__",
    "__qualname__", "__static_attributes__", "__weakref__", "_abc_impl", "known_as",
}  # fmt: skip
"""What Python and the platform add to a class."""


def fingerprint(plugin: type, *, exact: bool = False) -> str:
    """The fingerprint of a class. Those of two versions of Python do not compare; each begins with its version.

    Args:
        plugin: The class.
        exact: Whether objects that are known by their class only must be the very same; for this process alone.
    """
    walk = _Walk(plugin.__module__, exact=exact)
    walk.visit_class(plugin, whole=True)
    return f"{sys.version_info[0]}.{sys.version_info[1]}:{walk.digest}"


def objects_of(config: SearchConfig) -> dict[str, str]:
    """The fingerprints of the plug-ins of a configuration that are no installed ones, by section."""
    found = {}
    for section, registry in REGISTRIES.items():
        plugin = registry.adopted(getattr(config, section).name)
        if plugin is not None and plugin.__module__.partition(".")[0] != PLATFORM:  # its own change with its version
            found[section] = fingerprint(plugin)
            if issubclass(plugin, GeneSpace):
                values = getattr(plugin, "values", None)
                genes = [(gene.name, gene.choices) for gene in plugin.genes] if values is None else list(values.items())
                found[GENES] = hashlib.sha256(repr(genes).encode()).hexdigest()
    return found


def check_unchanged(run: RunDirectory, *, accept: bool) -> None:
    """Check that the user's own plug-ins of a run are what it was searched with.

    Plug-ins that are not known in this process are not looked at; whatever needs them says so.

    Args:
        run: The run.
        accept: Whether other code is accepted; other genes never are, since codes would mean other networks.

    Raises:
        InputError: They have changed.
    """
    before, now = run.objects, objects_of(run.config)
    if before.get(GENES, now.get(GENES)) != now.get(GENES, before.get(GENES)):
        raise InputError(
            f"the genes of the search space {run.config.space.name} are not those that {run.folder} was searched with, "
            "so its codes would mean other networks; give the space of the run"
        )
    for section in REGISTRIES.keys() & before.keys() & now.keys():
        (version, _, _), (today, _, _) = before[section].partition(":"), now[section].partition(":")
        if version == today and before[section] != now[section] and not accept:
            raise InputError(
                f"the code of the {section} {getattr(run.config, section).name}, or what it refers to, has changed "
                f"since {run.folder} was searched, so that new figures would not compare with the old ones; give the "
                f"{section} of the run, or say that the change makes no difference: --accept-changed-code, in Python "
                "nasplat.open_run(…, accept_changed_code=True)"
            )


class _Walk:
    """Goes through what a class consists of, and digests it."""

    def __init__(self, home: str, *, exact: bool) -> None:
        self._home = home
        self._exact = exact
        self._hash = hashlib.sha256()
        self._seen: dict[int, object] = {}  # what is kept here keeps its identity

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def _feed(self, *texts: object) -> None:
        for each in texts:
            self._hash.update(f"{each}\0".encode(errors="surrogatepass"))

    def _is_new(self, value: object) -> bool:
        """Whether a value is met for the first time."""
        new = id(value) not in self._seen
        self._seen[id(value)] = value
        return new

    def _module(self, defined: type | types.FunctionType) -> str:
        """The module of a class or function; none for the plug-in's own, which is `__main__` where it is a script."""
        return "" if defined.__module__ == self._home else defined.__module__

    def visit_class(self, plugin: type, *, whole: bool = False) -> None:
        """A class: all that it defines, if it is the plug-in itself or of the same module; else its name."""
        self._feed("class", self._module(plugin), plugin.__qualname__)
        if id(plugin) in self._seen or not (whole or plugin.__module__ == self._home):
            return
        self._seen[id(plugin)] = plugin
        for base in plugin.__bases__:
            self.visit_class(base)
        for name, value in sorted(vars(plugin).items()):
            if name not in _GENERATED:
                self._feed(name)
                self.visit(value, direct=True)

    def visit(self, value: Any, *, direct: bool = False) -> None:
        """Any value; `direct` for what the plug-in itself holds, wherever it was written."""
        match value:
            case staticmethod() | classmethod():
                self.visit(value.__func__, direct=direct)
            case property():
                self.visit((value.fget, value.fset), direct=direct)
            case functools.cached_property():
                self.visit(value.func, direct=direct)
            case functools.partial():
                self.visit((value.func, value.args, value.keywords), direct=direct)
            case types.FunctionType():
                self._visit_function(value, direct=direct)
            case type():
                self.visit_class(value, whole=direct and value.__module__ == self._home)
            case bool() | int() | float() | complex() | str() | bytes() | None:
                self._feed(repr(value))
            case list() if not self._is_new(value):  # it may contain itself
                self._feed("seen")
            case tuple() | list():
                self._feed(type(value).__name__, len(value))
                for each in value:
                    self.visit(each, direct=direct)
            case set() | frozenset():
                self._feed(type(value).__name__, *sorted(map(repr, value)))
            case inspect.Signature():
                self._feed(value)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                self._feed(self._module(type(value)), type(value).__qualname__)
                if self._is_new(value):
                    for field in dataclasses.fields(value):
                        self._feed(field.name)
                        self.visit(getattr(value, field.name), direct=direct)
            case dict() if not self._is_new(value):
                self._feed("seen")
            case dict() | types.MappingProxyType():
                self._feed("mapping", len(value))
                for key, each in value.items():
                    self.visit(key)
                    self.visit(each, direct=direct)
            case _:
                self._feed(self._module(type(value)), type(value).__qualname__, id(value) if self._exact else "")

    def _visit_function(self, function: types.FunctionType, *, direct: bool) -> None:
        self._feed("function", self._module(function), function.__qualname__)
        if id(function) in self._seen or not (direct or function.__module__ == self._home):
            return
        self._seen[id(function)] = function
        function = inspect.unwrap(function)
        self._feed(_code(function))
        self.visit((function.__defaults__, tuple(sorted((function.__kwdefaults__ or {}).items()))))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._feed(name)
            try:
                self.visit(cell.cell_contents)
            except ValueError:  # the cell is empty
                self._feed("empty")
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                value = function.__globals__[name]
                if isinstance(value, types.FunctionType | type | tuple | bool | int | float | str | None):
                    self._feed(name)
                    self.visit(value)


def _code(function: types.FunctionType) -> str:
    """The code of a function: its source without comments, or what was compiled from it."""
    if function.__name__ != "<lambda>":  # the source of a lambda is that of its whole line
        try:
            return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
        except (OSError, SyntaxError, TypeError, ValueError):
            pass
    return repr(_compiled(function.__code__))


def _compiled(code: types.CodeType) -> tuple[object, ...]:
    """What was compiled, without the place of its source."""
    constants = tuple(_compiled(each) if isinstance(each, types.CodeType) else each for each in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, repr(constants)


def _names(code: types.CodeType) -> set[str]:
    """The names that a function looks up, also in functions inside it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*(map(_names, inner)))
