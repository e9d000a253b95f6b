"""The rounds in which pictures are labelled: how many, and which ones, given the labels so far."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasplat.calibration.clusters import k_medoids
from nasplat.calibration.operational import PAPER, USUAL, Operational, Recipe
from nasplat.calibration.outputs import Floats, Integers, Outputs
from nasplat.calibration.selection import NEAR, RANDOM_SHARE, choose
from nasplat.errors import InputError

ROUNDS = 5
"""By default, a budget is asked for in so many rounds."""
LEAST_BATCH = 10
"""The least number of pictures of a round by default."""
PAPER_BATCH = 10
"""The pictures of a round in the paper's experiments."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How pictures are chosen to be labelled.

    Args:
        budget: How many are labelled, at least 2.
        threshold: The confidence from which predictions are acted on, above 0 and below 1.
        batch: The pictures of a round; by default a fifth of the budget and no fewer than 10, in the paper's settings
            10.
        paper: Whether the paper's settings hold: the first pictures are the medoids, and all later ones are those of
            the least doubt, near-duplicates too.
        seed: Draws.

    Raises:
        InputError: A value is outside its range.
    """

    budget: int
    threshold: float = 0.9
    batch: int | None = None
    paper: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 2:
            raise InputError(
                f"a calibrator needs at least two labelled pictures, but the budget is {self.budget}; raise --budget "
                "(budget=…)"
            )
        if not 0 < self.threshold < 1:
            raise InputError(
                f"the threshold is the confidence from which predictions are acted on, above 0 and below 1, but got "
                f"{self.threshold:g}; correct --threshold (threshold=…)"
            )
        if self.batch is not None and self.batch < 1:
            raise InputError(f"a round has at least one picture, but got {self.batch}; raise --batch (batch=…)")
        if self.seed < 0:
            raise InputError(f"--seed (seed=…) must be at least 0, but got {self.seed}; give another one")
        if self.paper and self.budget < PAPER.clusters:
            raise InputError(
                f"in the paper's settings each of {PAPER.clusters} clusters has a label, but the budget is "
                f"{self.budget}; raise --budget (budget=…), or leave out --paper (paper=…)"
            )

    @property
    def recipe(self) -> Recipe:
        """The settings of the operational calibrator."""
        return PAPER if self.paper else USUAL

    @property
    def step(self) -> int:
        """The pictures of a round."""
        if self.batch is not None:
            return self.batch
        return PAPER_BATCH if self.paper else max(-(-self.budget // ROUNDS), LEAST_BATCH)


def medoids_of(plan: Plan, features: Floats) -> Integers | None:
    """The rows of the medoids of all operation pictures that the plan's calibrator needs; None if it needs none."""
    return k_medoids(features, plan.recipe.clusters, plan.seed) if plan.paper else None


def next_round(
    plan: Plan,
    outputs: Outputs,
    labelled: Integers,
    labels: Integers,
    *,
    asked: int | None = None,
    closed: Integers | None = None,
    medoids: Integers | None = None,
) -> tuple[Integers, NDArray[np.bool_]]:
    """The pictures of the next round.

    The same arguments give the same pictures.

    Args:
        plan: How they are chosen.
        outputs: What the network gives for all operation pictures.
        labelled: The rows that have a label.
        labels: The labels, as many.
        asked: How many of the budget were asked for already, with those whose class is not known; by default all that
            are labelled.
        closed: Rows that are not asked for besides: their class is not known, or their labels are not given.
        medoids: As from `medoids_of`.

    Returns:
        The rows, fewer than `plan.step` if the budget ends, and for each whether it was drawn at random.

    Raises:
        InputError: Fewer pictures are left than the round has.
    """
    asked = len(labelled) if asked is None else asked
    count = min(plan.step, plan.budget - asked)
    known = labelled if closed is None else np.union1d(labelled, closed)
    if medoids is not None and len(first := np.setdiff1d(medoids, known)):
        return first[:count], np.zeros(min(len(first), count), bool)
    posterior = None
    if len(labels) >= 2:
        of_medoids = None if medoids is None else outputs.features[medoids]
        calibrator = Operational.fit(outputs.take(labelled), labels, recipe=plan.recipe, medoids=of_medoids)
        posterior = calibrator.posterior(outputs)
    return choose(
        count,
        outputs.features,
        known,
        np.random.default_rng([plan.seed, asked]),
        posterior=posterior,
        threshold=plan.threshold,
        random_share=0.0 if plan.paper else RANDOM_SHARE,
        quantile=0.0 if plan.paper else NEAR,
    )
