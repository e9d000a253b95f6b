"""The contract of a predictor: it learns to rank architectures from measured ones."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.search_space import SearchSpace


class Predictor(ABC):
    """Learns scores of architectures, in scikit-learn's habits.

    The constructor takes the space and keyword-only options, stores them under their own names and does no
    work. `predict` before `fit` is an `InputError`. What `save` writes is JSON, safetensors or npz without
    pickle, and `load` gives a predictor with the same predictions in another process.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @abstractmethod
    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        """Learn from scores `[n]`, more being better; returns itself."""

    @abstractmethod
    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Scores `[n]` for ranking; only their order is promised to mean something.

        Raises:
            InputError: Nothing was learnt yet.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything into a new folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, space: SearchSpace) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: The folder is missing or damaged; the message says what is wrong.
        """
