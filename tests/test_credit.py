"""Credit of building blocks, against cases worked by hand and against brute force."""

import itertools
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.cost import Cost
from nasplat.evolution.credit import Terms, difference, founding, preference, regression
from nasplat.search_space import Gene, GeneSpace
from nasplat.testing import ToySpace

KINDS = tuple(f"{kind}_{width}" for kind in "SG" for width in (8, 16, 24))


class Blocks(GeneSpace):
    """Two slots of six blocks made of two parts, each behind a switch, and one gene of another kind."""

    name: ClassVar[str] = "blocks"
    genes: ClassVar[tuple[Gene, ...]] = (
        Gene("slot 1", ("off", "on")),
        Gene("block 1", KINDS, ("type", "width")),
        Gene("slot 2", ("off", "on")),
        Gene("block 2", KINDS, ("type", "width")),
    )

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        switches = self.choices(architecture)[::2]
        return [0, *([1] if switches[0] else []), 2, *([3] if switches[1] else [])]

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        return Cost.total({})

    def build(self, architecture: Architecture, io: IO) -> None:  # type: ignore[override]
        raise NotImplementedError


SPACE = Blocks()
EVERY_KIND = tuple(itertools.product(("position", "global"), (False, True)))


def choices(text: str) -> Architecture:
    """``on S_8 off G_16`` as an architecture."""
    return SPACE.member([gene.choices.index(word) for gene, word in zip(SPACE.genes, text.split(), strict=True)])


def credited(terms: Terms, credits: NDArray[np.float64]) -> list[dict[str, float]]:
    """By gene and choice what is not zero."""
    return [
        {choice: float(round(value, 9)) for choice, value in zip(gene.choices, row, strict=True) if value}
        for gene, row in zip(SPACE.genes, terms.by_choice(credits), strict=True)
    ]


@pytest.mark.parametrize(
    ("scope", "factorized", "number"),
    [("position", False, 16), ("global", False, 8), ("position", True, 2 * (2 + 5)), ("global", True, 7)],
)
def test_terms_are_choices_or_their_parts_for_each_gene_or_for_all(scope: str, factorized: bool, number: int) -> None:
    assert Terms(SPACE, scope=scope, factorized=factorized).number == number  # type: ignore[arg-type]


def test_genes_that_decide_nothing_have_no_terms() -> None:
    terms = Terms(SPACE, scope="position", factorized=False)
    assert [len(found) for found in terms.of(choices("off S_8 on G_16"))] == [1, 0, 1, 1]
    same = terms.counts([choices("off S_8 on G_16"), choices("off G_24 on G_16")])
    assert (same[0] == same[1]).all()


def test_counts_add_up_over_the_genes_that_share_a_term() -> None:
    terms = Terms(SPACE, scope="global", factorized=True)
    counts = terms.counts([choices("on S_8 on S_16"), choices("off S_8 on S_16")])
    by_name = credited(terms, counts[0])  # every choice shows the sum of its terms
    assert (
        by_name[1]["S_8"] == 2 + 1 and by_name[1]["S_24"] == 2 and by_name[1]["G_16"] == 1 and "G_24" not in by_name[1]
    )
    assert by_name[0] == {"on": 2.0} and by_name[1] == by_name[3]
    assert counts.sum(axis=1).tolist() == [2 + 4, 2 + 2]


def test_a_gain_is_shared_by_the_genes_that_changed() -> None:
    terms = Terms(SPACE, scope="position", factorized=False)
    one, other = terms.of(choices("on S_8 on G_16")), terms.of(choices("on S_24 on G_8"))
    earned = difference(np.zeros(terms.number), one, other, 1.0, decay=0.9)
    assert credited(terms, earned) == [{}, {"S_24": 0.05, "S_8": -0.05}, {}, {"G_8": 0.05, "G_16": -0.05}]
    again = difference(earned, other, one, 0.4, decay=0.9)  # back again, better still
    assert credited(terms, again)[1] == {"S_24": 0.9 * 0.05 - 0.1 * 0.2, "S_8": round(-0.9 * 0.05 + 0.1 * 0.2, 9)}
    assert earned[earned != 0].size == 4, "the old credits were changed"


def test_a_gene_that_comes_to_decide_something_counts_as_changed() -> None:
    terms = Terms(SPACE, scope="position", factorized=False)
    gain = difference(
        np.zeros(terms.number),
        terms.of(choices("off S_8 on G_16")),
        terms.of(choices("on S_8 on G_16")),
        1.0,
        decay=0.5,
    )
    assert credited(terms, gain) == [{"on": 0.25, "off": -0.25}, {"S_8": 0.25}, {}, {}]


def test_of_a_factorized_choice_the_parts_that_changed_share() -> None:
    terms = Terms(SPACE, scope="position", factorized=True)
    before, width, both = (terms.of(choices(f"on {block} on G_16")) for block in ("S_8", "S_16", "G_24"))
    alone = credited(terms, difference(np.zeros(terms.number), before, width, 1.0, decay=0.0))[1]
    assert alone == {"S_16": 1.0, "G_16": 1.0, "S_8": -1.0, "G_8": -1.0}  # the width's; the type stayed
    shared = credited(terms, difference(np.zeros(terms.number), before, both, 1.0, decay=0.0))[1]
    assert shared == {"G_24": 1.0, "S_8": -1.0, "G_16": 0.5, "S_16": -0.5}  # S_24 and G_8 have won and lost a half


def test_what_moved_to_another_place_earns_nothing_on_balance_where_places_do_not_count() -> None:
    terms = Terms(SPACE, scope="global", factorized=False)
    one, other = terms.of(choices("on S_8 on G_16")), terms.of(choices("on G_16 on S_8"))
    earned = difference(np.zeros(terms.number), one, other, 1.0, decay=0.9)
    assert np.abs(earned).max() < 0.01, "a swap was taken for a gain of either"


@pytest.mark.parametrize(("scope", "factorized"), EVERY_KIND)
def test_differences_agree_with_loops_over_genes(scope: str, factorized: bool) -> None:
    terms, rng = Terms(SPACE, scope=scope, factorized=factorized), default_rng(3)  # type: ignore[arg-type]
    found, expected = np.zeros(terms.number), dict[tuple[object, ...], float]()

    def named(architecture: Architecture) -> list[set[tuple[object, ...]]]:
        chosen = SPACE.choices(architecture)
        sets: list[set[tuple[object, ...]]] = []
        for place, gene in enumerate(SPACE.genes):
            pool = place if scope == "position" else place % 2
            name = gene.choices[chosen[place]]
            whole = [(pool, name)] if not factorized else [(pool, *p) for p in enumerate(name.split("_"))]
            sets.append(set(whole) if place in SPACE.active_genes(architecture) else set())
        return sets

    for _ in range(200):
        parent, child, gain = SPACE.sample(rng), SPACE.sample(rng), float(rng.normal())
        found = difference(found, terms.of(parent), terms.of(child), gain, decay=0.8)
        pairs = [(a, b) for a, b in zip(named(parent), named(child), strict=True) if a != b]
        for gone, come in ((a - b, b - a) for a, b in pairs):
            for name in come | gone:
                share = gain / len(pairs) / max(len(come), len(gone)) * (1 if name in come else -1)
                expected[name] = 0.8 * expected.get(name, 0.0) + 0.2 * share
    for architecture in (SPACE.sample(rng) for _ in range(50)):
        ours = sum(found[term] for gene in terms.of(architecture) for term in gene)
        assert ours == pytest.approx(sum(expected.get(name, 0.0) for names in named(architecture) for name in names))


def test_founders_credit_a_choice_with_the_mean_of_those_that_have_it() -> None:
    terms = Terms(SPACE, scope="position", factorized=False)
    founders = [choices("off S_8 on G_16"), choices("on S_8 on G_16"), choices("on S_16 on G_8")]
    found = credited(terms, founding(terms.counts(founders), np.array([1.0, 2.0, 6.0])))
    assert found == [{"off": -2.0, "on": 1.0}, {"S_8": -1.0, "S_16": 3.0}, {}, {"G_16": -1.5, "G_8": 3.0}]


@pytest.mark.parametrize("n", [5, 40, 300])
@pytest.mark.parametrize(("scope", "factorized"), EVERY_KIND)
def test_regression_agrees_with_least_squares_on_rows_of_ridge(n: int, scope: str, factorized: bool) -> None:
    terms, rng = Terms(SPACE, scope=scope, factorized=factorized), default_rng(n)  # type: ignore[arg-type]
    counts, scores = terms.counts([SPACE.sample(rng) for _ in range(n)]), rng.normal(30, 2, n)
    # Ridge without a penalty on the intercept: a column of ones, and one row for each penalty.
    rows = np.vstack([np.hstack([np.ones((n, 1)), counts]), np.eye(terms.number + 1)[1:] * 2.5**0.5])
    expected = np.linalg.lstsq(rows, np.concatenate([scores, np.zeros(terms.number)]), rcond=None)[0][1:]
    np.testing.assert_allclose(regression(counts, scores, ridge=2.5), expected, atol=1e-9)


def test_regression_finds_what_blocks_are_worth() -> None:
    space, rng = ToySpace(), default_rng(0)
    truth = [rng.permutation([-1.5, -0.5, 0.5, 1.5]) for _ in space.genes]
    seen = [space.sample(rng) for _ in range(120)]
    scores = np.array([sum(t[c] for t, c in zip(truth, space.choices(a), strict=True)) for a in seen])
    terms = Terms(space, scope="position", factorized=False)
    found = terms.by_choice(regression(terms.counts(seen), scores + rng.normal(0, 0.3, 120), ridge=1.0))
    np.testing.assert_allclose(found, truth, atol=0.3)


def test_differences_find_which_blocks_are_worth_most() -> None:
    space, rng = ToySpace(), default_rng(1)
    truth = [rng.permutation([-1.5, -0.5, 0.5, 1.5]) for _ in space.genes]
    terms = Terms(space, scope="position", factorized=False)
    credits, parent = np.zeros(terms.number), space.sample(rng)

    def score(architecture: Architecture) -> float:
        return float(sum(t[c] for t, c in zip(truth, space.choices(architecture), strict=True)))

    for _ in range(600):
        child = space.mutate(parent, rng)
        gain = score(child) - score(parent) + float(rng.normal(0, 0.3))
        credits, parent = difference(credits, terms.of(parent), terms.of(child), gain, decay=0.9), child
    for found, true in zip(terms.by_choice(credits), truth, strict=True):
        assert found.argmax() == true.argmax() and found.argmin() == true.argmin()


def test_a_choice_that_has_never_been_seen_is_worth_nothing_either_way() -> None:
    terms = Terms(SPACE, scope="position", factorized=False)
    seen = [choices("on S_8 on G_16"), choices("on S_16 on G_16")]
    found = credited(terms, regression(terms.counts(seen), np.array([1.0, 3.0])))
    assert found == [{}, {"S_8": -0.5, "S_16": 0.5}, {}, {}]  # ±a where 2 (1 - a)² + ridge 2 a² is least


def test_preference_is_a_softmax_in_deviations_of_the_gene_over_a_floor() -> None:
    credit = np.array([0.0, 1.0, 2.0])
    weights = np.exp(credit / (0.5 * (2 / 3) ** 0.5))
    (found,) = preference([credit], temperature=0.5, floor=0.3)
    np.testing.assert_allclose(found, 0.7 * weights / weights.sum() + 0.1)
    (scaled,) = preference([1e-6 * credit + 7], temperature=0.5, floor=0.3)
    np.testing.assert_allclose(found, scaled, rtol=1e-6)  # neither unit nor level of the score matters


def test_great_temperature_or_a_whole_floor_is_uniform_and_the_floor_always_holds() -> None:
    rng = default_rng(0)
    for size in (2, 5, 90):
        credit = rng.normal(size=size)
        for options in ({"temperature": 1e9, "floor": 0.0}, {"temperature": 0.1, "floor": 1.0}):
            np.testing.assert_allclose(preference([credit], **options)[0], 1 / size, rtol=1e-6)
        for temperature, floor in itertools.product((0.01, 0.3, 3.0), (0.0, 0.1, 0.5)):
            (chances,) = preference([credit], temperature=temperature, floor=floor)
            assert chances.sum() == pytest.approx(1) and chances.min() >= floor / size * (1 - 1e-12)
            assert chances.argmax() == credit.argmax()
        equal = np.full(size, 3.0)
        for same in (equal, 0 * equal, equal + 1e-15 * credit):  # what only rounding tells apart is equal too
            np.testing.assert_allclose(preference([same], floor=0.0)[0], 1 / size, rtol=1e-12)


def test_credits_of_twenty_slots_of_ninety_blocks_take_no_time() -> None:
    names = tuple(f"{t}_{d}_{w}" for t in "SGC" for d in range(3) for w in range(10))

    class Slots(Blocks):
        genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(f"slot {i}", names, ("t", "d", "w")) for i in range(20))

        def active_genes(self, architecture: Architecture) -> Sequence[int]:
            return range(20)

    space, rng = Slots(), default_rng(0)
    seen, scores = [space.sample(rng) for _ in range(300)], rng.normal(size=300)
    terms = Terms(space, scope="position", factorized=False)
    times = []
    for _ in range(6):
        clock = time.process_time()
        preference(terms.by_choice(regression(terms.counts(seen), scores)))
        times.append(time.process_time() - clock)
    assert min(times) < 0.2  # about .01 s of processor time
