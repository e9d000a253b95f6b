"""A peer of guided search: BoTorch's Gaussian process on one-hot choices, over all members."""

import warnings

import numpy as np
import torch
from numpy.random import default_rng

from nasplat.problem import Problem
from nasplat.search_space import GeneSpace
from nasplat.task import Measurement, Outcome, Task

INITIAL = 10
"""Number of random members before the first fit."""


class BoTorchSearcher:
    """`SingleTaskGP` with its defaults, and the logarithm of the expected improvement over all members.

    Args:
        problem: With one objective, of a space that can be listed.
    """

    def __init__(self, problem: Problem) -> None:
        (self._objective,) = problem.goal.objectives
        self._problem = problem
        assert isinstance(problem.space, GeneSpace)
        self._members = problem.listed() or []
        self._codes = torch.from_numpy(np.array([problem.space.features(each) for each in self._members]))
        self._free = torch.ones(len(self._members), dtype=torch.bool)
        self._design = default_rng(problem.seed).permutation(len(self._members))[:INITIAL].tolist()
        self._asked: dict[int, int] = {}  # the place of each task's member
        self._told: list[tuple[int, float]] = []

    def ask(self, n: int) -> list[Task]:
        """Up to `n` new tasks."""
        tasks: list[Task] = []
        for _ in range(min(n, int(self._free.sum()))):
            place = self._design.pop(0) if self._design else self._best()
            self._free[place] = False
            task = self._problem.evaluate(self._members[place])
            self._asked[task.id] = place
            tasks.append(task)
        return tasks

    def tell(self, outcome: Outcome) -> None:
        """Learn from a measurement."""
        assert isinstance(outcome, Measurement)
        self._told.append((self._asked.pop(outcome.id), -self._objective.loss(outcome.metrics)))

    def _best(self) -> int:
        from botorch.acquisition.analytic import LogExpectedImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from botorch.models.transforms import Standardize
        from gpytorch.mlls import ExactMarginalLogLikelihood

        places = torch.tensor([place for place, _ in self._told])
        values = torch.tensor([[value] for _, value in self._told], dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that end before they converge
            model = SingleTaskGP(self._codes[places], values, outcome_transform=Standardize(1))
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            free = torch.nonzero(self._free)[:, 0]
            with torch.no_grad():
                gains = LogExpectedImprovement(model, best_f=values.max())(self._codes[free][:, None])
        return int(free[int(gains.argmax())])
