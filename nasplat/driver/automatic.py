"""`--strategy auto`: a strategy chosen by the space, the benchmark, the goal and the budget.

The first row that fits is taken. "Evaluations" are those of the budget. If a table has only a budget of seconds, they
are `LOOKUPS` times the seconds. If neither is known, as with seconds for networks that are trained, they count as few.
"Enough" means enough for the whole plan of CARS; "many" means more than `MOST_EXAMPLES`. CARS ends with a race, if the
benchmark can fine-tune.

| space and benchmark                   | objectives | budget                                  | strategy              |
|---------------------------------------|------------|-----------------------------------------|-----------------------|
| a supernet, and what trains it        | any        | no evaluations, or enough, or many      | cars                  |
| members can be listed                 | any        | evaluations enough for all              | random_search         |
| any                                   | one        | many evaluations                        | regularized_evolution |
| any                                   | several    | many evaluations                        | nsga2                 |
| networks are trained, perhaps briefly | one        | images, device-seconds, or only seconds | asha                  |
| any                                   | any        | any other                               | predictor_guided      |

Reasons. Shared weights cost one training; other strategies cost one training for each network. From the images of ten
full trainings, CARS with a race found better fronts than random search and NSGA-II on two spaces, and than ASHA and
predictor-guided search on the one where these were run; from those of three on that one only; not from those of one,
and no more from those of thirty. A random search that trains more candidates briefly was never shown worse. (See
docs/results.md, "CARS: from how many trainings it pays"; the supernet has a larger part there.) Here the supernet takes
one training and the race some four, whatever the budget in images: how many one training takes is not known before its
data is read. If all members can be measured, no prediction is needed. A predictor makes the best use of few
evaluations, but its fitting time grows with the cube of the number of examples. Early stopping saves images and
seconds, but not evaluations: a short evaluation counts as one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasplat.architecture import Architecture
from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.driver.budget import Budget
from nasplat.errors import InputError
from nasplat.evolution.race import RaceOptions
from nasplat.problem import Problem
from nasplat.registry import AUTO
from nasplat.search_space import LISTED, SupernetSpace

MOST_EXAMPLES = 2_000
"""Maximum number of evaluations for a predictor; with more, fitting would take too long."""
LOOKUPS = 500
"""Evaluations per second that a table answers on every executor, Ray included; each counts as one in a run."""
POPULATION = 32
"""Maximum population of CARS; its schedule has the proportions of the paper."""
WORTH_LISTING = 10
"""Members are compared for duplicates, which takes time, if there are at most this many times the evaluations."""
ETA = 3
"""The factor between the rungs of ASHA."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy and why it was chosen.

    Args:
        strategy: Its registered name.
        options: The options that the choice depends on; all others keep their defaults.
        reasons: The reasons for the choice, for people.
    """

    strategy: str
    options: Mapping[str, Any]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{AUTO} chose {self.strategy}: {', '.join(self.reasons)}"


def choose(benchmark: Benchmark, problem: Problem, budget: Budget) -> Choice:
    """Choose the strategy for a search that names none.

    The choice depends only on the arguments, and does not use the problem's generator.

    Args:
        benchmark: The benchmark; it need not be prepared.
        problem: The strategy's problem.
        budget: When the search is to stop.
    """
    said = (_objectives(problem), *_limits(budget))
    evaluations = _evaluations(benchmark, budget)
    races = isinstance(benchmark, SupernetBenchmark) and benchmark.fine_tunes
    plan = _plan(problem.fidelity, budget.evaluations, races=races)
    if plan and _trains_supernet(benchmark, problem):
        shares = f"the benchmark trains a supernet of {problem.space.name}"
        return Choice("cars", plan, (f"{shares}, and the best go on in a race" if races else shares, *said))
    members = benchmark.enumerable_members if benchmark.enumerable_members is not None else problem.space.members()
    if evaluations is not None and members is not None:
        number = _different(members, problem, evaluations)
        if number <= evaluations:
            reason = f"the budget is enough for all {number:,} members of {problem.space.name}"
            return Choice("random_search", {"duplicates": "redraw"}, (reason, *said))
    if evaluations is not None and evaluations > MOST_EXAMPLES:
        reason = f"fitting a predictor to more than {MOST_EXAMPLES:,} evaluations would take too long"
        if len(problem.goal.objectives) == 1:
            return Choice("regularized_evolution", {"duplicates": "redraw"}, (reason, *said))
        return Choice("nsga2", {"duplicates": "redraw"}, (reason, *said))
    if _stops_early(benchmark, problem, budget):
        reason = f"stopping trainings before {problem.fidelity} epochs saves budget"
        return Choice("asha", {"eta": ETA}, (reason, *said))
    listed = f"can be listed ({len(members):,} members)" if members is not None else "is too large to be listed"
    return Choice("predictor_guided", {}, (f"{problem.space.name} {listed}", *said))


def _plan(epochs: int, evaluations: int | None, *, races: bool) -> dict[str, Any] | None:
    """Options with which CARS completes its plan; None if there are too few epochs or evaluations for it.

    CARS evaluates the initial population, then parents and offspring in every generation, then each rung of a race. If
    there are many evaluations, but too few for the usual population, the population is made smaller, since the
    networks should not all be trained one by one.
    """
    warmup, interval = max(1, round(epochs / 10)), max(1, round(epochs / 50))
    generations = math.ceil((epochs - warmup) / interval)
    if generations < 1:
        return None
    raced = sum(RaceOptions().plan(POPULATION, epochs).sizes) if races else 0
    generation = 1 + 2 * generations
    population = POPULATION if evaluations is None else min(POPULATION, (evaluations - raced) // generation)
    if population < POPULATION and evaluations is not None and evaluations <= MOST_EXAMPLES:
        return None
    end = {"finish": "race"} if races else {}
    return {"population": population, "warmup": warmup, "interval": interval, **end}


def _trains_supernet(benchmark: Benchmark, problem: Problem) -> bool:
    if not (isinstance(benchmark, SupernetBenchmark) and isinstance(problem.space, SupernetSpace)):
        return False
    try:
        benchmark.check_supernet()
    except InputError:
        return False
    return True


def _evaluations(benchmark: Benchmark, budget: Budget) -> int | None:
    """The number of evaluations in the budget; None if it depends on how long networks are trained."""
    known = [] if budget.evaluations is None else [budget.evaluations]
    if benchmark.looks_up and budget.seconds is not None:
        known.append(int(LOOKUPS * budget.seconds))
    return min(known, default=None)


def _different(members: Sequence[Architecture], problem: Problem, evaluations: int) -> int:
    """The number of members; or, if it could change the choice, the number of feasible members without duplicates."""
    if not evaluations < len(members) <= min(WORTH_LISTING * evaluations, LISTED):
        return len(members)
    return len(problem.listed() or members)


def _stops_early(benchmark: Benchmark, problem: Problem, budget: Budget) -> bool:
    """Whether there is one objective, trainings can be stopped early, and that saves budget."""
    if benchmark.looks_up or len(problem.goal.objectives) > 1:
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
