"""What a partial table lacks is replaced by the nearest member that it holds; on whole tables nothing changes."""

from itertools import islice

import numpy as np
import pytest
from numpy.random import default_rng
from partial_table import Digits, Generated, rank

from nasplat import problem as problem_module
from nasplat.architecture import Architecture
from nasplat.nearest import Nearest
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import GeneSpace

GOAL = Goal((Objective("accuracy", True),))
SPACE = Digits()


def differing(space: GeneSpace, one: Architecture, other: Architecture) -> int:
    """By counting: 2 for each gene that is active in both and differs, 1 for each that is active in one."""
    active = set(space.active_genes(one)), set(space.active_genes(other))
    a, b = space.choices(one), space.choices(other)
    return sum(
        2 * (a[gene] != b[gene]) if all(gene in each for each in active) else 1 for gene in active[0] | active[1]
    )


@pytest.mark.parametrize("name", ["digits", "ghost/small"])
def test_members_come_by_the_genes_that_differ(name: str) -> None:
    space = SPACE if name == "digits" else SEARCH_SPACES.get(name)()
    assert isinstance(space, GeneSpace)
    rng = default_rng(0)
    members = [space.sample(rng) for _ in range(60)]
    near = Nearest(space, members)
    given = space.sample(rng)
    distances = [differing(space, given, member) for member in near(given, rng)]
    assert len(distances) == 60 and distances == sorted(distances)
    assert next(near(members[7], rng)) == members[7]


def test_equals_come_in_random_order_that_repeats() -> None:
    one = SPACE.member([0] * 10)
    members = [SPACE.member([0] * place + [1] + [0] * (9 - place)) for place in range(10)]
    near = Nearest(SPACE, members)
    orders = [[member.code for member in near(one, default_rng(seed))] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])


def table_problem(held: int = 300) -> tuple[Problem, Generated]:
    table = Generated(SPACE, seed=0, held=held)
    return Problem.of(table, GOAL), table


def test_a_member_is_held_as_it_is_and_another_becomes_the_nearest_accepted() -> None:
    problem, table = table_problem()
    members = list(table.accuracies)
    before = problem.rng.bit_generator.state
    assert problem.held(members[3]) == members[3]
    assert problem.rng.bit_generator.state == before, "nothing is drawn for what is held"
    other = SPACE.mutate(members[3], default_rng(1))
    assert other not in table.accuracies
    assert problem.held(other) == members[3]
    second = problem.held(other, lambda member: member != members[3])
    least = min(differing(SPACE, other, member) for member in members if member != members[3])
    assert second is not None and second != members[3] and differing(SPACE, other, second) == least
    assert problem.held(other, lambda member: False) is None


def test_neighbors_on_a_partial_table_are_its_nearest_members() -> None:
    problem, table = table_problem()
    member = next(iter(table.accuracies))
    neighbors = problem.neighbors(member)
    assert len(neighbors) == len(SPACE.neighbors(member)) == 90
    distances = sorted(differing(SPACE, member, other) for other in table.accuracies if other != member)
    assert [differing(SPACE, member, other) for other in neighbors] == distances[:90]
    assert member not in neighbors and len(set(neighbors)) == 90


def test_what_cannot_be_listed_or_not_within_bounds_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_module, "LISTED", 299)
    problem, table = table_problem()
    other = SPACE.mutate(next(iter(table.accuracies)), default_rng(1))
    assert problem.held(other) == other
    whole = Problem(SEARCH_SPACES.get("nasbench201")(), GOAL, io=table.io)
    drawn = list(islice(whole.candidates(), 20))
    before = whole.rng.bit_generator.state
    assert [whole.held(each) for each in drawn] == drawn
    assert [whole.neighbors(each) for each in drawn] == [whole.space.neighbors(each) for each in drawn]
    assert whole.rng.bit_generator.state == before


@pytest.mark.slow
@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", ["regularized_evolution", "nsga2", "credit_evolution", "local_search"])
def test_evolution_gets_further_among_the_nearest_members(name: str) -> None:
    ranks = np.array([[rank(name, seed, offered=offered) for seed in range(3)] for offered in (False, True)])
    assert ranks[1].mean() < 0.6 * ranks[0].mean()
