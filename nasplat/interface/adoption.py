"""Objects of the user as plug-ins: a class, an instance, a function, a module with choices, or where one is found."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from nasplat.benchmark import Benchmark
from nasplat.config import PluginConfig, SearchConfig
from nasplat.errors import InputError, NasplatError
from nasplat.executors.importing import being_imported, importing
from nasplat.interface.fingerprints import check_unchanged, fingerprint
from nasplat.interface.sections import REGISTRIES
from nasplat.options import complete, shortly
from nasplat.registry import JOINED, STRATEGIES
from nasplat.retraining import RETRAINING, Retraining
from nasplat.run.directory import RunDirectory
from nasplat.search_space import SearchSpace

NUMBER = "#"
"""It parts a name from the number that tells it from others of the same name."""
MOST_OF_ONE_NAME = 10_000
_givens: dict[tuple[str, str], Any] = {}
"""What was given, by section and name: the same object keeps its name."""


def adopt(section: str, given: Any, *, known_as: str = "") -> tuple[str, dict[str, Any]]:
    """The name and the options of a plug-in, which is made known in this process if it is no installed one.

    Args:
        section: ``space``, ``benchmark`` or ``strategy``.
        given: The name of an installed plug-in; ``MODULE:ATTRIBUTE``, which is imported; a mapping of a configuration
            with `name` and options; or an object: a class, an instance of a space or a benchmark, for a benchmark a
            function, for a space a class of modules with choices.
        known_as: The name in configurations; by default that of the object's module and its variable there.

    Raises:
        InputError: It is none of these, or its module cannot be imported.
    """
    registry = REGISTRIES[section]
    match given:
        case str():
            if ":" not in given:
                return given, {}
            given, joined, transforms = given.partition(JOINED)
            if joined:
                name, options = adopt(section, given, known_as=known_as)
                return f"{name}{joined}{transforms}", options
            return adopt(section, imported(section, given), known_as=known_as or as_module(given))
        case PluginConfig():
            return adopt(section, given.model_dump(mode="json"))
        case Mapping() if isinstance(given.get("name"), str):
            name, options = adopt(section, given["name"], known_as=known_as)
            return name, {**options, **{key: value for key, value in given.items() if key != "name"}}
    made = _as_plugin(section, given)
    plugin = made if isinstance(made, type) else type(made)
    _check_constructor(section, plugin, made)
    options = {} if isinstance(made, type) else _options(section, made)
    registered = [each.name for each in registry if each.target == _address(plugin)]
    if registered and not known_as:
        return registered[0], options
    name = known_as or _unique(section, _found_as(given, made), given, plugin)
    registry.adopt(name, plugin)
    _givens[section, name] = given
    return name, options


def _unique(section: str, name: str, given: Any, plugin: type) -> str:
    """The name, with a number if another class of this process has it, as after a cell of a notebook was changed.

    An earlier run keeps its own objects so.
    """
    for number in range(1, MOST_OF_ONE_NAME):
        found = f"{name}{NUMBER}{number}" if number > 1 else name
        now = REGISTRIES[section].adopted(found)
        if (
            now in (None, plugin)
            or _givens.get((section, found)) is given
            or fingerprint(now, exact=True) == fingerprint(plugin, exact=True)
        ):
            return found
    raise InputError(f"{MOST_OF_ONE_NAME:,} different objects had the name {name} in this process; give it another")


def adopt_all(config: SearchConfig) -> None:
    """Import what a configuration names by module: it is the user's own, or the user trusts it.

    Raises:
        InputError: A module cannot be imported.
    """
    for section in REGISTRIES:
        name = getattr(config, section).name
        if ":" in name and REGISTRIES[section].adopted(name) is None:
            adopt(section, name)


def adopt_for(run: RunDirectory, section: str, given: Any) -> None:
    """Make an object known as what a run names in a section: it was searched with it, perhaps in another process.

    Raises:
        InputError: The run was searched with an installed plug-in, or with other options.
    """
    plugin: PluginConfig = getattr(run.config, section)
    below = plugin.name.partition(JOINED)[0]
    name, options = adopt(section, given, known_as=below if ":" in below else "")
    if name not in (below, plugin.name):
        raise InputError(
            f"{run.folder} was searched with the {section} {plugin.name}, an installed plug-in, but got {name}; leave "
            "it out"
        )
    other = [key for key, value in options.items() if plugin.options.get(key, value) != value]
    if other:
        said = ", ".join(f"{key}={shortly(plugin.options[key])}" for key in other)
        raise InputError(f"{run.folder} was searched with the {section} {name} with {said}; give it with these options")


def own_of(run: RunDirectory, given: Mapping[str, Any], *, trust: bool, accept_changed_code: bool) -> dict[str, type]:
    """The user's own plug-ins of a run by section, as far as they are known; a refusal leaves all as it was.

    Args:
        run: The run.
        given: Objects by section; None for what is not given.
        trust: Whether modules that the run names are imported.
        accept_changed_code: Whether code that has changed since the search is accepted.

    Raises:
        InputError: An object is not the one that the run was searched with, or a module cannot be imported.
    """
    names = {section: getattr(run.config, section).name for section in REGISTRIES}
    before = {section: REGISTRIES[section].adopted(name) for section, name in names.items()}
    try:
        for section, each in given.items():
            if each is not None:
                adopt_for(run, section, each)
        if trust:
            adopt_all(run.config)
        check_unchanged(run, accept=accept_changed_code)
    except InputError:
        for section, plugin in before.items():
            REGISTRIES[section].restore(names[section], plugin)
            _givens.pop((section, names[section]), None)
        raise
    now = {section: REGISTRIES[section].adopted(name) for section, name in names.items()}
    return {section: plugin for section, plugin in now.items() if plugin is not None}


def opened(folder: Path, *, trust: bool, accept_changed_code: bool = False) -> RunDirectory:
    """A run; what it names by module is imported if its user trusts it.

    Raises:
        InputError: It is no run directory, a module cannot be imported, or it has changed since the search.
    """
    run = RunDirectory(folder)
    if trust:
        adopt_all(run.config)
    check_unchanged(run, accept=accept_changed_code)
    return run


def imported(section: str, name: str) -> Any:
    """The object that ``MODULE:ATTRIBUTE`` or ``FILE.py:ATTRIBUTE`` names; the working directory is searched too.

    Raises:
        InputError: There is none, or its module raises an error.
    """
    module, _, attribute = as_module(name).partition(NUMBER)[0].partition(":")
    try:
        with importing(module), _found_here():
            found: Any = importlib.import_module(module)
            _check_file(name, found)
            for part in attribute.split("."):
                found = getattr(found, part)
    except NasplatError:
        raise
    except Exception as error:  # the module of a user may raise anything
        raise InputError(
            f"the {section} {name!r} cannot be imported: {type(error).__name__}: {error}; it must be MODULE:ATTRIBUTE, "
            "where Python finds the module in the working directory or as an installed package"
        ) from error
    return found


def _check_file(name: str, found: ModuleType) -> None:
    """Refuse a file whose name is that of another module, which Python has found in its place.

    Raises:
        InputError: The module is not of the file that was named.
    """
    file = name.partition(":")[0]
    if file.endswith(".py") and Path(found.__file__ or "").resolve() != Path(file).resolve():
        raise InputError(
            f"{file} has the name of another module, {found.__file__ or found.__name__}, which Python finds first; "
            "rename the file"
        )


def as_module(name: str) -> str:
    """``MODULE:ATTRIBUTE`` for ``FILE.py:ATTRIBUTE``, a file in the working directory or below; else the name.

    Raises:
        InputError: The file is elsewhere.
    """
    file, _, attribute = name.partition(":")
    if not file.endswith(".py"):
        return name
    parts = Path(file).with_suffix("").parts
    if Path(file).is_absolute() or not all(part.isidentifier() for part in parts):
        raise InputError(
            "a file of plug-ins must be named by its path from the working directory, of names that Python can import, "
            f"such as my_space.py:MySpace, but got {shortly(name)}; change to its folder"
        )
    return f"{'.'.join(parts)}:{attribute}"


@contextmanager
def _found_here() -> Iterator[None]:
    """Find modules in the working directory first; afterwards it is the last place, for what they import later."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # what was imported may have changed it
            sys.path.remove(here)
        sys.path.append(here)


def check_not_importing() -> None:
    """Refuse a search that starts while a module is imported: each worker imports it too, and would search again.

    Raises:
        InputError: It is being imported, for a search or by a worker.
    """
    if module := being_imported():
        raise InputError(
            f"{module} starts a search while it is imported, as every worker does; put that below "
            'if __name__ == "__main__":'
        )


def _as_plugin(section: str, given: Any) -> Any:
    """A class of the contract, or an instance of one, for an object of the user.

    Raises:
        InputError: It is no such object.
    """
    base = REGISTRIES[section].base
    if isinstance(given, type) and issubclass(given, Retraining):
        raise InputError(STRATEGIES.elsewhere[RETRAINING])
    if isinstance(given, type) and issubclass(given, base):
        return given
    if section == "space" and isinstance(given, SearchSpace):
        return given
    if section == "benchmark" and isinstance(given, Benchmark):
        return given
    if section == "space" and isinstance(given, type) and _is_module(given):
        from nasplat.authoring.space import space

        return space(model=given)
    if section == "benchmark" and callable(given) and not isinstance(given, type):
        from nasplat.authoring.function import function_benchmark

        return function_benchmark(given)
    forms = {
        "space": "the name of a search space, a SearchSpace as nasplat.space makes one, or a torch module with choices",
        "benchmark": "the name of a benchmark, a Benchmark, or a function that measures a network",
        "strategy": "the name of a strategy, or a subclass of Strategy",
    }
    raise InputError(f"the {section} must be {forms[section]}, but got {shortly(given)}")


def _is_module(given: type) -> bool:
    from torch import nn

    return issubclass(given, nn.Module)


def _options(section: str, plugin: Any) -> dict[str, Any]:
    """The options of an instance, which it has stored under their names."""
    parameters = inspect.signature(type(plugin)).parameters.values()
    names = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    return complete(section, type(plugin), {name: getattr(plugin, name) for name in names})


def _check_constructor(section: str, plugin: type, made: Any) -> None:
    """Refuse parameters of a constructor that are no options, where they must be given or an instance may have others.

    Raises:
        InputError: There is one.
    """
    given = {"space": 0, "benchmark": 1, "strategy": 1}[section]  # what the contract passes by position
    for parameter in list(inspect.signature(plugin).parameters.values())[given:]:
        if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            continue
        if made is not plugin or parameter.default is inspect.Parameter.empty:
            raise InputError(
                f"the options of a {section} must be keyword-only parameters of its constructor, since every worker "
                f"makes it anew, but {parameter.name!r} of {_address(plugin)} is positional; write a * before it, and "
                "a type behind it"
            )


def _address(plugin: type) -> str:
    return f"{plugin.__module__}:{plugin.__qualname__}"


def _found_as(given: Any, made: Any) -> str:
    """Where an object can be imported from: its module and the variable that holds it, or else its own name."""
    home = str(getattr(given, "__module__", None) or "__main__")
    for variable, value in list(vars(sys.modules[home]).items()) if home in sys.modules else ():
        if value is given and not variable.startswith("_"):  # such as `_`, the last result in a notebook
            return f"{home}:{variable}"
    return f"{home}:{getattr(given, '__qualname__', None) or getattr(made, 'name', type(made).__name__)}"
