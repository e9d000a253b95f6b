"""Helpers for the checks of several kinds of plug-ins."""

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import SkipTest

import numpy as np

from nasplat.options import options_model
from nasplat.search_space import SearchSpace


@contextmanager
def global_generators_untouched() -> Iterator[None]:
    """Fails if the global generators of Python, numpy or torch have moved."""
    import torch

    before = _generator_states()
    torch_before = torch.get_rng_state()
    yield
    assert _generator_states() == before, "a global generator of Python or numpy was drawn from or seeded"
    assert bool((torch.get_rng_state() == torch_before).all()), "torch's global generator was drawn from or seeded"


def does_not_apply(reason: str) -> NoReturn:
    """Skip a check of an optional feature. Test runners count it as skipped, not as passed.

    Args:
        reason: The feature that the plug-in lacks.

    Raises:
        SkipTest: Always.
    """
    raise SkipTest(reason)


def needs_networks(space: SearchSpace) -> None:
    """Skip a check if the networks of a space cannot be built."""
    if not space.builds:
        does_not_apply(f"the networks of {space.name} cannot be built")


def check_configuration(plugin: Any, *, given: int) -> None:
    """Every option of the constructor is annotated, keyword-only and stored under its own name; there is a docstring.

    Args:
        plugin: An instance.
        given: The number of positional arguments in the contract of this kind of plug-in.
    """
    for name in options_model(type(plugin)).model_fields:
        assert hasattr(plugin, name), f"the option {name!r} of {type(plugin).__name__} is not stored as .{name}"
    described = (type(plugin).__doc__ or "").strip()
    assert described, f"{type(plugin).__name__} has no docstring, but `nasplat list` shows the docstring"
    positional = [
        parameter.name
        for parameter in list(inspect.signature(type(plugin)).parameters.values())[given:]
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert not positional, f"the options {', '.join(positional)} of {type(plugin).__name__} are not keyword-only"


def _generator_states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  looked at, not drawn from
    assert isinstance(numpy_state, dict)
    return random.getstate(), repr(numpy_state["state"]["key"].tolist()), numpy_state["state"]["pos"]
