"""Objectives, constraints and the front, against brute force and cases worked by hand."""

import itertools
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.objective import Constraint, Goal, Objective, bins, knee
from nasplat.task import Evaluate, Measurement


def measurement(number: int, metrics: dict[str, float], cached_from: int | None = None) -> Measurement:
    task = Evaluate(id=number, seed=0, architecture=Architecture("space", str(number)), fidelity=1)
    return Measurement(task=task, metrics=metrics, cached_from=cached_from)


def goal(*objectives: str, constraints: Sequence[str] = ()) -> Goal:
    return Goal(tuple(map(Objective.parse, objectives)), tuple(map(Constraint.parse, constraints)))


def drawn(seed: int, metrics: Sequence[str], number: int, *, levels: int | None = None) -> list[Measurement]:
    """Random measurements, on a grid of so many levels if ties are wanted; one in six is a cache hit."""
    chance = random.Random(seed)
    return [
        measurement(
            i,
            {name: chance.randrange(levels) - levels // 4 if levels else chance.gauss(0, 1) for name in metrics},
            cached_from=0 if i and chance.random() < 1 / 6 else None,
        )
        for i in range(number)
    ]


# What brute force says: the rules of constrained domination, spelt out for each metric.

OBJECTIVES = ("a:max", "b:min", "c:max", "d:min")
CONSTRAINTS = {"none": (), "one": ("a>=0",), "several": ("b<=2", "e>=0.5", "e<=3")}


def no_worse(a: Measurement, b: Measurement, objective: str) -> bool:
    name, direction = objective.split(":")
    x, y = a.metrics[name], b.metrics[name]
    return x >= y if direction == "max" else x <= y


def dominates(a: Measurement, b: Measurement, objectives: Sequence[str]) -> bool:
    return all(no_worse(a, b, objective) for objective in objectives) and not all(
        no_worse(b, a, objective) for objective in objectives
    )


def excess(a: Measurement, constraint: str) -> float:
    bound = float(constraint[3:])
    beyond = a.metrics[constraint[0]] - bound
    if ">=" in constraint:
        beyond = -beyond
    return max(beyond, 0) / (abs(bound) or 1e-12)


def brute_force_front(
    measurements: Sequence[Measurement], objectives: Sequence[str], constraints: Sequence[str]
) -> list[Measurement]:
    kept = [
        m
        for m in measurements
        if m.cached_from is None and not any(excess(m, constraint) for constraint in constraints)
    ]
    best: list[Measurement] = []
    for m in kept:
        if any(dominates(other, m, objectives) for other in kept):
            continue
        if not any(all(no_worse(other, m, objective) for objective in objectives) for other in best):
            best.append(m)
    return best


@pytest.mark.parametrize("constraints", CONSTRAINTS.values(), ids=CONSTRAINTS)
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [None, 2, 5], ids=["continuous", "two levels", "five levels"])
def test_the_front_is_the_one_of_brute_force(dimensions: int, levels: int | None, constraints: tuple[str, ...]) -> None:
    objectives = OBJECTIVES[:dimensions]
    wanted = goal(*objectives, constraints=constraints)
    sizes = []
    for seed in range(12):
        measurements = drawn(seed, "abcde", 5 * seed + 1, levels=levels)
        front = wanted.front(measurements)
        expected = brute_force_front(measurements, objectives, constraints)
        assert sorted(m.id for m in front) == [m.id for m in expected]
        first = [m.metrics["a"] for m in front]
        assert first == sorted(first, reverse=True)
        sizes.append(len(front))
    assert max(sizes) > (1 if dimensions > 1 and levels is None else 0)


@pytest.mark.slow
def test_the_front_of_many_measurements_is_found_in_moderate_time() -> None:
    measurements = drawn(0, "abc", 20_000)
    front = goal("a:max", "b:min", "c:max").front(measurements)
    names = {m.id for m in front}
    assert 20 < len(front) < 1_000
    assert not any(dominates(x, y, OBJECTIVES[:3]) for x, y in itertools.permutations(front, 2))
    for m in measurements[:2_000]:
        assert m.id in names or m.cached_from is not None or any(dominates(other, m, OBJECTIVES[:3]) for other in front)


def test_the_front_keeps_the_first_of_equals_and_no_answer_from_memory() -> None:
    wanted = goal("accuracy:max", "params:min")
    equal = [measurement(i, {"accuracy": 0.9, "params": 10}) for i in (4, 2, 7)]
    better = measurement(9, {"accuracy": 0.95, "params": 5}, cached_from=4)
    cheap = measurement(8, {"accuracy": 0.5, "params": 1})
    assert wanted.front([cheap, *equal, better]) == [equal[0], cheap]
    assert wanted.front([better]) == []
    assert wanted.front([]) == []


def test_the_front_leaves_out_what_breaks_a_constraint_however_good() -> None:
    wanted = goal("accuracy:max", constraints=["latency_ms<=10"])
    over = measurement(0, {"accuracy": 0.99, "latency_ms": 10.001})
    at = measurement(1, {"accuracy": 0.5, "latency_ms": 10})
    assert wanted.front([over, at]) == [at]
    assert wanted.front([over]) == []


@pytest.mark.parametrize("constraints", CONSTRAINTS.values(), ids=CONSTRAINTS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_better_is_constrained_domination(dimensions: int, constraints: tuple[str, ...]) -> None:
    objectives = OBJECTIVES[:dimensions]
    wanted = goal(*objectives, constraints=constraints)
    seen = set()
    for a, b in itertools.product(drawn(3, "abcde", 45, levels=8), repeat=2):
        excess_a, excess_b = (sum(excess(m, constraint) for constraint in constraints) for m in (a, b))
        expected = excess_a < excess_b if excess_a != excess_b else dominates(a, b, objectives)
        assert wanted.better(a, b) is expected
        first = OBJECTIVES[0]
        assert wanted.better_first(a, b) is (excess_a < excess_b if excess_a != excess_b else dominates(a, b, [first]))
        seen.add((expected, excess_a > 0, excess_b > 0))
    assert len(seen) == (6 if constraints else 2)  # all but an a that violates and is better, or the reverse


def test_better_is_a_strict_order() -> None:
    wanted = goal("a:max", "b:min", constraints=["c<=1"])
    measurements = drawn(5, "abc", 30, levels=4)
    for a, b in itertools.product(measurements, repeat=2):
        assert not (wanted.better(a, b) and wanted.better(b, a))
        if wanted.better(a, b):
            assert all(wanted.better(a, c) for c in measurements if wanted.better(b, c))


def test_losses_and_violations_are_as_worked_by_hand() -> None:
    wanted = goal("accuracy:max", "params:min", constraints=["params<=100", "accuracy>=0.8", "loss<=-2"])
    m = measurement(0, {"accuracy": 0.6, "params": 150, "loss": -1})
    assert wanted.losses(m) == (-0.6, 150)
    assert wanted.violation(m) == pytest.approx(50 / 100 + 0.2 / 0.8 + 1 / 2)
    assert wanted.violation(measurement(1, {"accuracy": 0.8, "params": 100, "loss": -2})) == 0
    assert wanted.metrics == ("accuracy", "params", "params", "accuracy", "loss")
    assert goal("loss:min", constraints=["loss<=0"]).violation(m) == 0
    assert goal("loss:min", constraints=["loss>=0"]).violation(m) > 0


# The knee


def points(*values: tuple[float, float], first: str = "accuracy", second: str = "params") -> list[Measurement]:
    return [measurement(i, {first: x, second: y}) for i, (x, y) in enumerate(values)]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        # scaled distances (accuracy, log params): (0, 1), (0.25, 0.5), (1, 0)
        ([(0.9, 1e6), (0.8, 1e5), (0.5, 1e4)], 1),
        # logarithms are compared: plainly the second has 0.5² + 0.10² = 0.26 and the third 0.75² + 0.01² = 0.56,
        # by their logarithms 0.5² + 0.67² = 0.69 and 0.75² + 0.33² = 0.67
        ([(0.9, 1e6), (0.7, 1e5), (0.6, 1e4), (0.5, 1e3)], 2),
        # accuracies are compared as they are
        ([(0.99, 1e3), (0.5, 1e2), (0.01, 1e1)], 1),
        # both ends are equally far from the ideal: the first of them
        ([(0.9, 1e6), (0.5, 1e4)], 0),
        # only one member
        ([(0.9, 1e6)], 0),
        # an objective in which all agree says nothing
        ([(0.9, 1e5), (0.8, 1e5)], 0),
        ([(0.7, 1e5), (0.7, 1e4)], 1),
    ],
)
def test_the_knee_is_the_member_nearest_to_the_ideal(members: list[tuple[float, float]], expected: int) -> None:
    assert knee(goal("accuracy:max", "params:min"), points(*members)).id == expected


def test_the_knee_takes_values_that_can_be_zero_as_they_are() -> None:
    front = points((0.9, 100), (0.7, 10), (0.6, 1), (0.5, 0), second="latency_ms")
    # scaled: (0, 1), (0.5, 0.1), (0.75, 0.01), (1, 0)
    assert knee(goal("accuracy:max", "latency_ms:min"), front).id == 1


def test_the_knee_compares_a_maximised_count_as_it_is() -> None:
    front = points((1e6, 1), (1e5, 0.1), (1e3, 0), first="throughput", second="loss")
    # scaled: (0, 1), (0.9, 0.1), (1, 0); by logarithms the second would have (1/3, 0.1)
    assert knee(goal("throughput:max", "loss:min"), front).id == 1
    assert knee(goal("throughput:max", "loss:min"), [front[0], front[2]]).id == 0


def test_the_knee_compares_a_maximised_score_below_zero_as_it_is() -> None:
    front = points((-1.0, 1.0), (-60.0, 0.7), (-100.0, 0.0), first="score", second="loss")
    # scaled: (0, 1), (0.6, 0.7), (1, 0); by the logarithms of its amount the second would have (0.89, 0.7)
    assert knee(goal("score:max", "loss:min"), front).id == 1


def test_the_knee_of_three_objectives_weighs_all() -> None:
    values = [(0.9, 1e6, 30.0), (0.8, 1e5, 20.0), (0.85, 1e5, 90.0), (0.5, 1e4, 10.0)]
    front = [measurement(i, {"accuracy": a, "params": p, "latency_ms": t}) for i, (a, p, t) in enumerate(values)]
    # squared: 0 + 1 + 0.25, 0.0625 + 0.25 + 0.10, 0.016 + 0.25 + 1, 1 + 0 + 0
    assert knee(goal("accuracy:max", "params:min", "latency_ms:min"), front).id == 1


def test_an_empty_front_has_no_knee() -> None:
    with pytest.raises(InputError, match="empty front"):
        knee(goal("accuracy:max"), [])


# From small to large


def brute_force_bins(front: Sequence[Measurement], objectives: Sequence[str], number: int) -> list[int]:
    """The rule, spelt out range by range; what is best is found by going through all."""
    second = objectives[1].split(":")[0]

    def best(members: Sequence[Measurement]) -> Measurement:
        found = members[0]
        for m in members[1:]:
            for objective in objectives:
                name = objective.split(":")[0]
                if m.metrics[name] != found.metrics[name]:
                    found = m if no_worse(m, found, objective) else found
                    break
        return found

    sizes = [Fraction(m.metrics[second]) for m in front]
    low, high = min(sizes), max(sizes)
    wanted: dict[int, Measurement] = {}
    for i in range(number):
        lower, upper = low + (high - low) * i / number, low + (high - low) * (i + 1) / number
        within = [
            m for m, s in zip(front, sizes, strict=True) if lower <= s < upper or (i == number - 1 and s == upper)
        ]
        if within:
            wanted[best(within).id] = best(within)
    for end in (low, high):
        extreme = best([m for m, s in zip(front, sizes, strict=True) if s == end])
        wanted[extreme.id] = extreme
    return [m.id for m in sorted(wanted.values(), key=lambda m: (m.metrics[second], *goal(*objectives).losses(m)))]


@pytest.mark.parametrize("objectives", [("a:max", "b:min"), ("a:max", "b:max"), ("a:min", "b:min", "c:max")])
@pytest.mark.parametrize("levels", [None, 3, 40], ids=["continuous", "three levels", "forty levels"])
def test_the_bins_are_those_of_brute_force(objectives: tuple[str, ...], levels: int | None) -> None:
    wanted, beyond = goal(*objectives), set()
    for seed in range(10):
        front = wanted.front(drawn(seed, "abc", 12 * seed + 1, levels=levels))
        for number in (1, 2, 3, 4, 7, 50):
            found = bins(wanted, front, number)
            sizes = [m.metrics["b"] for m in found]
            assert [m.id for m in found] == brute_force_bins(front, objectives, number)
            assert sizes == sorted(sizes)
            assert {min(m.metrics["b"] for m in front), max(m.metrics["b"] for m in front)} <= set(sizes)
            assert len({m.id for m in found}) == len(found) <= len(front)
            beyond.add(len(found) - number)
    most = 1 if len(objectives) == 2 else 2
    assert max(beyond) == most or levels is not None, "the bound that the documentation names is reached"
    assert max(beyond) <= most


def test_an_empty_range_gives_nothing_rather_than_a_network_again() -> None:
    front = points((0.9, 100), (0.8, 90), (0.3, 10), (0.2, 0))
    # the ranges from 0, 25, 50 and 75 on: the two in the middle hold nothing
    assert [m.id for m in bins(goal("accuracy:max", "params:min"), front, 4)] == [3, 2, 0]


def test_the_smallest_is_in_the_first_range_and_the_largest_in_the_last() -> None:
    front = points((0.9, 30), (0.7, 20), (0.5, 10))
    wanted = goal("accuracy:max", "params:min")
    assert [m.id for m in bins(wanted, front, 2)] == [2, 0]  # 20 lies on the edge and so in the range above
    assert [m.id for m in bins(wanted, front, 3)] == [2, 1, 0]
    assert [m.id for m in bins(wanted, front, 1)] == [2, 0]


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_bins_of_a_single_member_or_of_one_size_are_that_member(number: int) -> None:
    assert [m.id for m in bins(goal("accuracy:max", "params:min"), points((0.9, 5)), number)] == [0]
    same = [measurement(i, {"a": i, "b": -2.5, "c": i}) for i in range(3)]
    assert [m.id for m in bins(goal("a:max", "b:min", "c:min"), same, number)] == [2]


def test_bins_take_sizes_below_zero_and_at_the_edge_of_what_numbers_can_be() -> None:
    wanted = goal("accuracy:max", "score:min")
    front = points((0.9, -1), (0.6, -5), (0.5, -6), (0.2, -9), second="score")
    assert [m.id for m in bins(wanted, front, 2)] == [3, 2, 0]  # the best from -9 on is 2, from -5 on 0
    extreme = points((0.9, 1.7e308), (0.5, 5e-324), (0.2, -1.7e308), second="score")
    assert [m.id for m in bins(wanted, extreme, 1000)] == [2, 1, 0]


def test_edges_are_exact() -> None:
    sizes = [i / 10 for i in range(11)]  # 3 · 0.1 is not 0.3 in floating point, and the front's is what counts
    front = points(*((size, size) for size in reversed(sizes)))
    objectives = ("accuracy:max", "params:min")
    for number in range(1, 30):
        assert [m.id for m in bins(goal(*objectives), front, number)] == brute_force_bins(front, objectives, number)


def test_bins_need_a_second_objective_a_range_and_a_front() -> None:
    with pytest.raises(
        InputError, match=r"bins are ranges of the second objective.*the only objective is accuracy:max"
    ):
        bins(goal("accuracy:max"), points((0.9, 1)), 2)
    with pytest.raises(InputError, match="at least 1, but got 0"):
        bins(goal("accuracy:max", "params:min"), points((0.9, 1)), 0)
    with pytest.raises(InputError, match="empty front"):
        bins(goal("accuracy:max", "params:min"), [], 2)


# Reading


@pytest.mark.parametrize(
    "text",
    [
        *("", "accuracy", "accuracy:", ":max", "accuracy:most", "accuracy:MAX", "accuracy=max", "max:accuracy"),
        *("accuracy:max,params:min", "1accuracy:max", "accuracy:max:min", "top-1:max", "accuracy::max", "a b:max"),
    ],
)
def test_what_is_no_objective_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InputError) as refused:
        Objective.parse(text)
    said = f"an objective must be METRIC:max or METRIC:min, such as accuracy:max, but got {text!r}"
    assert str(refused.value) == said


@pytest.mark.parametrize(
    "text",
    [
        *("", "params", "params<5", "params=5", "params==5", "params<=", "<=5", "params<=five", "params<=nan"),
        *("params>=inf", "params<=-inf", "params<=5 000", "params<=5M", "params=<5", "5e6>=params", "params<=1<=2"),
    ],
)
def test_what_is_no_constraint_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InputError) as refused:
        Constraint.parse(text)
    assert "METRIC<=NUMBER or METRIC>=NUMBER" in str(refused.value)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("accuracy:max", Objective("accuracy", True)),
        ("  params : min ", Objective("params", False)),
        ("psnr_db:max", Objective("psnr_db", True)),
        ("_x9:min", Objective("_x9", False)),
    ],
)
def test_objectives_are_read_and_written(text: str, objective: Objective) -> None:
    assert Objective.parse(text) == objective
    assert Objective.parse(str(objective)) == objective


@pytest.mark.parametrize(
    ("text", "constraint"),
    [
        ("params<=5e6", Constraint("params", True, 5e6)),
        (" accuracy >= 0.9 ", Constraint("accuracy", False, 0.9)),
        ("loss<=-1.5", Constraint("loss", True, -1.5)),
        ("latency_ms>=0", Constraint("latency_ms", False, 0.0)),
        ("params<=1234567", Constraint("params", True, 1234567.0)),
    ],
)
def test_constraints_are_read_and_written(text: str, constraint: Constraint) -> None:
    assert Constraint.parse(text) == constraint
    assert Constraint.parse(str(constraint)) == constraint


def test_a_goal_needs_objectives_and_each_metric_once() -> None:
    with pytest.raises(InputError, match="at least one objective"):
        Goal(())
    with pytest.raises(InputError, match="but params is given twice"):
        goal("params:min", "accuracy:max", "params:max")
    with pytest.raises(InputError, match="but accuracy, params is given twice"):
        goal("params:min", "accuracy:max", "params:max", "accuracy:max")
    assert goal("accuracy:max", constraints=["accuracy>=0.5", "accuracy<=0.9"]).constraints


def test_networks_in_the_middle_of_their_training_are_on_no_front() -> None:
    goal = Goal((Objective("accuracy", True), Objective("params", False)))

    def trained(number: int, fidelity: int, accuracy: float, params: float) -> Measurement:
        task = Evaluate(id=number, seed=0, architecture=Architecture("toy", f"{number}"), fidelity=fidelity)
        return Measurement(task=task, metrics={"accuracy": accuracy, "params": params})

    trials = [trained(0, 1, 0.99, 5), trained(1, 9, 0.8, 10), trained(2, 9, 0.7, 8), trained(3, 9, 0.6, 9)]
    assert [m.id for m in goal.front(trials)] == [1, 2]
    assert [m.id for m in goal.front(trials[:1])] == [0], "what is half trained is better than nothing"
    assert [m.id for m in goal.ranked(trials)] == [1, 2, 3, 0]
    assert goal.better_first(trials[3], trials[0]) and not goal.better_first(trials[0], trials[3])


@pytest.mark.parametrize("text", ["accuracy>=99", "test_accuracy<=1.5", "accuracy>=-0.1"])
def test_a_fraction_that_cannot_be_is_refused_with_what_was_meant(text: str) -> None:
    with pytest.raises(InputError, match="must be a fraction between 0 and 1, but got") as refused:
        Constraint.parse(text)
    assert "write " + text[: text.index("=") + 1] in str(refused.value)
    assert Constraint.parse("accuracy>=0.99").bound == 0.99 and Constraint.parse("accuracy>=1").bound == 1
