"""Figures of a sample smoothed by a predictor, which sees what similar architectures reach."""

from collections.abc import Sequence

import numpy as np
from numpy.random import default_rng
from scipy.stats import rankdata

from nasplat.architecture import Architecture
from nasplat.registry import PREDICTORS
from nasplat.search_space import SearchSpace
from rank_agreement import Floats

FOLDS = 6


def smoothed(space: SearchSpace, sample: Sequence[Architecture], figures: Floats, predictor: str) -> Floats:
    """The sum of each architecture's own rank and of the rank of what is predicted for it from the others.

    Args:
        space: The space of the sample.
        sample: The architectures.
        figures: Of one supernet, `[n]`, higher being better.
        predictor: The registered predictor, fitted to the other folds of the sample.
    """
    predicted = np.empty(len(sample))
    shuffled = default_rng(0).permutation(len(sample))
    for fold in range(FOLDS):
        out = shuffled[fold::FOLDS]
        kept = np.setdiff1d(shuffled, out)
        fitted = PREDICTORS.get(predictor)(space).fit([sample[i] for i in kept], figures[kept])
        predicted[out] = fitted.predict([sample[i] for i in out])
    ranks: Floats = rankdata(figures) + rankdata(predicted)
    return ranks
