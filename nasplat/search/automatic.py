"""What `--strategy auto` stands for: a strategy chosen by what space, benchmark, goal and budget offer.

The first row that fits is taken. "Evaluations" are those of the budget; of a table that has only seconds they are
`LOOKUPS` times as many. Where neither is known, as with seconds for networks that are trained, they count as few.
"Enough" are those of the whole plan of CARS; "many" are more than `MOST_LEARNT`.

| space and benchmark                   | objectives | budget                                  | strategy              |
|---------------------------------------|------------|-----------------------------------------|-----------------------|
| a supernet, and what trains it        | any        | no evaluations, or enough, or many      | cars                  |
| members can be listed                 | any        | evaluations enough for all              | random_search         |
| any                                   | one        | many evaluations                        | regularized_evolution |
| any                                   | several    | many evaluations                        | nsga2                 |
| networks are trained, perhaps briefly | one        | images, device-seconds, or only seconds | asha                  |
| any                                   | any        | any other                               | predictor_guided      |

Why so. Shared weights cost one training where others cost one for each network. What can be measured whole needs no
guess. A predictor makes the most of few evaluations, but the time in which it learns grows with the cube of what it
learns from. Networks that are stopped early save images and seconds; an evaluation counts as one however short it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasplat.architecture import Architecture
from nasplat.benchmark import Benchmark, SupernetBenchmark, TableBenchmark
from nasplat.errors import InputError
from nasplat.problem import Problem
from nasplat.registry import AUTO
from nasplat.search.budget import Budget
from nasplat.search_space import LISTED, SupernetSpace

MOST_LEARNT = 2_000
"""Of more evaluations a predictor would learn for too long."""
LOOKUPS = 500
"""Evaluations in a second that a table answers anywhere, on Ray too; a run counts one for each."""
POPULATION = 32
"""How many survive a generation of CARS at most; its schedule has the proportions of the paper."""
WORTH_LISTING = 10
"""Members are compared with one another, which takes time, where they are at most so many times the evaluations."""
ETA = 3
"""The factor between the rungs of ASHA."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy and why it was chosen.

    Args:
        strategy: Its registered name.
        options: Those that the choice rests on; all others are left at their defaults.
        reasons: What spoke for it, for people.
    """

    strategy: str
    options: Mapping[str, Any]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{AUTO} chose {self.strategy}: {', '.join(self.reasons)}"


def choose(benchmark: Benchmark, problem: Problem, budget: Budget) -> Choice:
    """The strategy for a search that names none.

    It depends on the arguments alone, and leaves the problem's generator as it is.

    Args:
        benchmark: What measures; it need not be prepared.
        problem: What the strategy will be given.
        budget: When the search is to stop.
    """
    said = (_objectives(problem), *_limits(budget))
    evaluations = _evaluations(benchmark, budget)
    plan = _plan(problem.fidelity, budget.evaluations)
    if plan and _trains_supernet(benchmark, problem):
        return Choice("cars", plan, (f"the benchmark trains a supernet of {problem.space.name}", *said))
    members = benchmark.offered if benchmark.offered is not None else problem.space.members()
    if evaluations is not None and members is not None:
        number = _different(members, problem, evaluations)
        if number <= evaluations:
            reason = f"the budget is enough for all {number:,} members of {problem.space.name}"
            return Choice("random_search", {"repeats": "redraw"}, (reason, *said))
    if evaluations is not None and evaluations > MOST_LEARNT:
        reason = f"more than {MOST_LEARNT:,} evaluations, from which a predictor would learn for too long"
        if len(problem.goal.objectives) == 1:
            return Choice("regularized_evolution", {"repeats": "redraw"}, (reason, *said))
        return Choice("nsga2", {"repeats": "redraw"}, (reason, *said))
    if _stops_early(benchmark, problem, budget):
        reason = f"networks that are stopped before {problem.fidelity} epochs save what the budget counts"
        return Choice("asha", {"eta": ETA}, (reason, *said))
    listed = f"can be listed ({len(members):,} members)" if members is not None else "is too large to be listed"
    return Choice("predictor_guided", {}, (f"{problem.space.name} {listed}", *said))


def _plan(epochs: int, evaluations: int | None) -> dict[str, int] | None:
    """Options with which CARS comes to its end; None where there are too few epochs or evaluations for it.

    It evaluates founders, then parents and offspring in every generation. Where evaluations are many, but too few for
    the usual population, that is made smaller: so many networks are not to be trained one by one.
    """
    warmup, interval = max(1, round(epochs / 10)), max(1, round(epochs / 50))
    generations = math.ceil((epochs - warmup) / interval)
    if generations < 1:
        return None
    population = POPULATION if evaluations is None else min(POPULATION, evaluations // (1 + 2 * generations))
    if population < POPULATION and evaluations is not None and evaluations <= MOST_LEARNT:
        return None
    return {"population": population, "warmup": warmup, "interval": interval}


def _trains_supernet(benchmark: Benchmark, problem: Problem) -> bool:
    if not (isinstance(benchmark, SupernetBenchmark) and isinstance(problem.space, SupernetSpace)):
        return False
    try:
        benchmark.check_supernet()
    except InputError:
        return False
    return True


def _evaluations(benchmark: Benchmark, budget: Budget) -> int | None:
    """How many a search may have; None where that depends on how long networks are trained."""
    known = [] if budget.evaluations is None else [budget.evaluations]
    if isinstance(benchmark, TableBenchmark) and budget.seconds is not None:
        known.append(int(LOOKUPS * budget.seconds))
    return min(known, default=None)


def _different(members: Sequence[Architecture], problem: Problem, evaluations: int) -> int:
    """How many members there are, or, where that could decide anything, those that are feasible and differ."""
    if not evaluations < len(members) <= min(WORTH_LISTING * evaluations, LISTED):
        return len(members)
    return len(problem.listed() or members)


def _stops_early(benchmark: Benchmark, problem: Problem, budget: Budget) -> bool:
    """Whether trainings can be cut short, and the budget is of what that saves, for a single objective."""
    if isinstance(benchmark, TableBenchmark) or len(problem.goal.objectives) > 1:
        return False
    if problem.fidelities[-1] < ETA * problem.fidelities[0]:
        return False
    only_seconds = budget.seconds is not None and budget.evaluations is None
    return only_seconds or budget.images is not None or budget.device_seconds is not None


def _objectives(problem: Problem) -> str:
    number = len(problem.goal.objectives)
    return f"{number} objective{'s' * (number > 1)}"


def _limits(budget: Budget) -> list[str]:
    found = [f"{limit:,.15g} {name.replace('_', '-')}" for name, limit in budget.limits().items()]
    return found or ["no budget"]
