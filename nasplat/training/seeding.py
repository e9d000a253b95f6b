"""Randomness inside torch from one seed, without a trace in its global generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Everything that torch draws within comes from the seed; afterwards its generators are as before.

    Layers initialise themselves and dropout draws from torch's global generators, which take no other. They
    are therefore lent out, not touched.
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
