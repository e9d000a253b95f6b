"""Seeded randomness. The global generators are restored afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Torch draws from the seed inside this context. Its generators are restored afterwards.

    The initialization of layers and dropout can only use torch's global generators. The context therefore seeds these
    generators, and restores them at its end.
    """
    if device == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    else:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            torch.default_generator.manual_seed(seed)
            torch.cuda.manual_seed(seed)
            yield


@contextmanager
def all_seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """As `seeded`, and so are the global generators of numpy and Python, for code that is not ours."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global one, which foreign code uses
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with seeded(seed, device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
