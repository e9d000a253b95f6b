"""Which decisions a model has, and when each one matters, found by making the model on the meta device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from nasplat.authoring.choices import Construction, Decision, Place
from nasplat.errors import InputError

Condition: TypeAlias = Mapping[str, frozenset[int]]
"""The options, by index, of other decisions with which a decision matters."""

MOST_CONSTRUCTIONS = 2000
"""How often a model is made at most to find its decisions."""


@dataclass(frozen=True)
class Discovery:
    """The decisions of a model.

    Args:
        decisions: The decisions by label, in the order in which the model asks.
        conditions: For each label, the conditions under which it matters: it does if all of any one of them is true.
        reached: For each label and condition, in the same order, the numbers with which it was found.
    """

    decisions: Mapping[str, Decision]
    conditions: Mapping[str, tuple[Condition, ...]]
    reached: Mapping[str, Mapping[str, int]]

    def active(self, taken: Mapping[str, int]) -> list[str]:
        """The labels of the decisions that matter when all have been taken."""
        return [
            label
            for label, conditions in self.conditions.items()
            if any(all(taken[other] in options for other, options in each.items()) for each in conditions)
        ]

    def covering(self) -> list[tuple[dict[str, int], frozenset[str]]]:
        """Decisions that together take every alternative of every choice, at every place, with the largest numbers.

        Each comes with the labels that it is about; the others may be decided in another way.
        """
        largest = {
            label: decision.options.index(max(decision.options)) if decision.numeric else 0
            for label, decision in self.decisions.items()
        }
        found = [(largest, frozenset[str]())]
        for label, decision in self.decisions.items():
            for condition in () if decision.numeric else self.conditions[label]:
                base = {**largest, **self.reached[label]}
                base |= {other: min(options) for other, options in condition.items() if base[other] not in options}
                about = frozenset([label, *condition, *self.reached[label]])
                found += [({**base, label: option}, about) for option in range(len(decision.options))]
        return found


def discover(make: Callable[[Construction], object]) -> Discovery:
    """Find all decisions of a model.

    A first construction takes the largest numbers and makes all alternatives of all choices. So a loop over a number of
    blocks runs to its end. Then each number takes its other values, one number at a time, which shows the decisions
    that depend on it.

    Args:
        make: Makes the model in a construction.

    Raises:
        InputError: The model has no decisions, or too many numbers.
    """
    runs: dict[tuple[tuple[str, int], ...], Construction] = {}

    def run(numbers: Mapping[str, int]) -> Construction:
        key = tuple(sorted(numbers.items()))
        if key not in runs:
            if len(runs) >= MOST_CONSTRUCTIONS:
                raise InputError(
                    f"the decisions of a model must be found by making it {MOST_CONSTRUCTIONS:,} times, but it has too "
                    "many numbers that other decisions depend on; write the space with genes and build"
                )
            runs[key] = Construction(numbers, explores=True)
            make(runs[key])
        return runs[key]

    decisions: dict[str, Decision] = {}
    reached: dict[str, Mapping[str, int]] = {}
    waiting: list[Mapping[str, int]] = [{}]
    while waiting:
        numbers = waiting.pop(0)
        for label, decision in run(numbers).decisions.items():
            if label not in decisions:
                decisions[label], reached[label] = decision, numbers
                if decision.numeric:
                    waiting += [{**numbers, label: option} for option in range(len(decision.options))]
            elif decisions[label] != decision:
                raise InputError(
                    f"the options of {label!r} must always be the same, but they are {decisions[label].options} and "
                    f"then {decision.options}; give the second one another label"
                )
    if not decisions:
        raise InputError(
            "a model must ask for at least one decision, by nasplat.choice or nasplat.number in its constructor, but "
            "this one asks for none"
        )
    conditions = {}
    for label in decisions:
        base = reached[label]
        at = run(base)
        numeric: dict[str, frozenset[int]] = {}
        for other, decision in at.decisions.items():
            if decision.numeric and other != label:
                options = range(len(decision.options))
                with_it = frozenset(i for i in options if label in run({**base, other: i}).decisions)
                if len(with_it) < len(options):
                    numeric[other] = with_it
        conditions[label] = tuple(
            {str(key): value for key, value in each}
            for each in dict.fromkeys(
                tuple((_inside(place) | numeric).items()) for place in at.places if place.label == label
            )
        )
    return Discovery(decisions, conditions, reached)


def _inside(place: Place) -> dict[str, frozenset[int]]:
    """The alternatives that a place is in."""
    found: dict[str, frozenset[int]] = {}
    inside = place.inside
    while inside is not None:
        outer, option = inside
        found[outer.label] = frozenset([option])
        inside = outer.inside
    return found
