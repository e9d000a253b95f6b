"""Where members can be listed, a search that asks for each only once misses none."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from nasplat import problem as problem_module
from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.errors import InputError
from nasplat.objective import Constraint, Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import STRATEGIES
from nasplat.strategy import Strategy
from nasplat.task import Measurement
from nasplat.testing import ToySpace
from nasplat.testing.toy import toy_accuracy

SIDE = IO.image(channels=1, side=4, outputs=3)
MEMBERS = ToySpace().members() or []
REDRAWING = ["random_search", "regularized_evolution", "local_search", "nsga2"]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few draws that the last members are not found by them."""
    monkeypatch.setattr(problem_module, "ATTEMPTS", 20)


def strategy_of(name: str, *, held: Sequence[Architecture] | None = None) -> Strategy:
    def is_held(architecture: Architecture) -> bool:
        return held is None or architecture in held

    goal = Goal((Objective("accuracy", True),))
    problem = Problem(ToySpace(), goal, io=SIDE, is_measurable=is_held, enumerable_members=held)
    make: Callable[..., Strategy] = STRATEGIES.get(name)
    return make(problem, duplicates="redraw")


def asked(strategy: Strategy, most: int) -> list[str]:
    codes: list[str] = []
    for _ in range(most):
        tasks = strategy.ask(1)
        if not tasks:
            break
        task: Any = tasks[0]
        codes.append(task.architecture.code)
        strategy.tell(Measurement(task=task, metrics={"accuracy": toy_accuracy(task.architecture)}))
    return codes


@pytest.mark.parametrize("held", [None, MEMBERS[5:100:3]], ids=["whole", "held"])
@pytest.mark.parametrize("name", REDRAWING)
def test_a_search_without_repeats_ends_when_all_members_are_asked_for(
    name: str, held: Sequence[Architecture] | None
) -> None:
    wanted = {member.code for member in (MEMBERS if held is None else held)}
    found = asked(strategy_of(name, held=held), most=2 * len(MEMBERS))
    assert sorted(found) == sorted(wanted), f"{len(wanted) - len(found)} members were missed"


@pytest.mark.parametrize("after", [100, 250])
def test_a_search_goes_on_among_the_last_members(after: int) -> None:
    whole = asked(strategy_of("random_search"), most=1000)
    begun, resumed = strategy_of("random_search"), strategy_of("random_search")
    first = asked(begun, after)
    resumed.restore(begun.state())
    assert [*first, *asked(resumed, 1000)] == whole


def test_the_last_members_are_drawn_uniformly() -> None:
    problem = strategy_of("random_search").problem
    left = {member.code for member in MEMBERS[:3]}
    found = [problem.find(lambda architecture: architecture.code in left) for _ in range(300)]
    counts = Counter(architecture.code for architecture in found if architecture is not None)
    assert counts.keys() == left and min(counts.values()) > 60
    assert problem.find(lambda architecture: False) is None


class Built(ToySpace):
    """The toy, whose costs are counted on its networks."""

    counts_its_networks = True


@pytest.mark.parametrize(("space", "listed"), [(ToySpace(), True), (Built(), False)], ids=["formula", "counted"])
def test_no_more_networks_are_built_for_a_list_than_for_draws(space: ToySpace, listed: bool) -> None:
    problem = Problem(space, Goal((Objective("accuracy", True), Objective("params", False))), io=SIDE)
    counted = set[str]()
    price = problem.cost

    def noted(architecture: Architecture) -> Cost:
        counted.add(architecture.code)
        return price(architecture)

    problem.cost = problem._has_cost = noted  # type: ignore[assignment]
    assert problem.find(lambda architecture: False) is None
    assert (len(counted) == len(MEMBERS)) == listed
    if not listed:
        assert len(counted) <= 20


def test_a_member_that_draws_miss_is_feasible_all_the_same() -> None:
    (cheapest, *others) = sorted(ToySpace().cost(member, SIDE).params for member in MEMBERS)
    assert cheapest < others[0]
    goal = Goal((Objective("accuracy", True),), (Constraint.parse(f"params<={cheapest}"),))
    problem = Problem(ToySpace(), goal, io=SIDE)
    problem.check_feasible()
    assert problem.cost(problem.sample()).params == cheapest
    with pytest.raises(InputError, match="no member of toy is feasible under params<="):
        Problem(ToySpace(), Goal(goal.objectives, (Constraint.parse("params<=1"),)), io=SIDE).check_feasible()
