"""Seeded randomness in torch. The global generators are restored afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

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
