"""Which paths of a supernet are trained: fair draws by brute force, the ends of a sandwich, and what it learns."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from numpy.random import default_rng
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmarks.classification import Classification
from nasplat.cost import Cost
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples
from nasplat.errors import InputError
from nasplat.options import construct
from nasplat.search_space import Gene, GeneSpace, SearchSpace
from nasplat.search_spaces.darts import DARTS
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, TrainSupernet
from nasplat.testing import ToySpace
from nasplat.training.fit import evaluate
from nasplat.training.path_sampling import FairChoices, FairPaths, largest_and_smallest, sampler
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded
from nasplat.training.supernet import SupernetTraining

SPACE = NASBench201(channels=2, cells=1)
DIGITS = IO.image(1, 8, 10)
PATHS = tuple(map(SPACE.parse, ("333333", "104103", "211312")))


class Uneven(ToySpace):
    """Genes with different numbers of choices."""

    name: ClassVar[str] = "uneven"
    genes: ClassVar[tuple[Gene, ...]] = tuple(Gene(str(k), tuple("abcdefgh"[:k])) for k in (2, 3, 5))

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """A sum over the genes. The second gene has no MACs, and most parameters for its first choice."""
        first, second, third = self.choices(architecture)
        return Cost(macs=7 * first + (third - 1) ** 2, params=9 - second)


class Unequal(Uneven):
    """Neighboring genes have different choices."""

    name: ClassVar[str] = "unequal"

    def violation(self, choices: Sequence[int]) -> str | None:
        return "repeats" if any(a == b for a, b in pairwise(choices)) else None


class Stuck(Uneven):
    """The last choice of the last gene is in no member."""

    name: ClassVar[str] = "stuck"

    def violation(self, choices: Sequence[int]) -> str | None:
        return "is stuck" if choices[2] == 4 else None


class Bare(SearchSpace):
    """A space without genes."""

    name: ClassVar[str] = "bare"


def used(space: GeneSpace, paths: Sequence[Architecture]) -> list[Counter[int]]:
    """How often each choice of each gene was used where the gene is active."""
    counts = [Counter(dict.fromkeys(range(len(gene.choices)), 0)) for gene in space.genes]
    for path in paths:
        choices = space.choices(path)
        for gene in space.active_genes(path):
            counts[gene][choices[gene]] += 1
    return counts


# Fair draws


@pytest.mark.parametrize("seed", range(3))
def test_each_round_uses_each_choice_of_each_gene_once(seed: int) -> None:
    rng = default_rng(seed)
    draw = sampler("fair", SPACE, ())
    for _ in range(4):
        taken = [draw(int(each)) for each in rng.integers(2**62, size=5)]
        assert [set(column) for column in zip(*map(SPACE.choices, taken), strict=True)] == [set(range(5))] * 6


@pytest.mark.parametrize("space", [Uneven(), GhostSmall()], ids=lambda space: space.name)
def test_no_choice_is_used_twice_more_than_another_at_any_time(space: GeneSpace) -> None:
    draw = FairChoices(space)
    paths = [draw(seed) for seed in range(60)]
    for number in range(1, 61):
        for counts in used(space, paths[:number]):
            assert max(counts.values()) - min(counts.values()) <= 1
    if isinstance(space, Uneven):
        assert [set(counts.values()) for counts in used(space, paths)] == [{30}, {20}, {12}]
    for path in paths:
        assert space.parse(path.code) == path


def test_genes_are_drawn_independently_of_each_other() -> None:
    firsts: Counter[str] = Counter()
    for seed in range(1_200):
        firsts[FairChoices(Uneven())(seed).code[:2]] += 1
    assert len(firsts) == 6
    assert all(150 < times < 250 for times in firsts.values()), firsts  # 200 expected, with a deviation of 13


def test_paths_that_are_no_members_are_replaced_and_made_up_for() -> None:
    space = Unequal()
    draw = FairChoices(space)
    paths = [draw(seed) for seed in range(300)]
    assert all(space.violation(space.choices(path)) is None for path in paths)
    for number in range(30, 301, 30):
        for counts in used(space, paths[:number]):
            assert max(counts.values()) - min(counts.values()) <= 2
    uniform = used(space, [space.sample(default_rng(seed)) for seed in range(300)])
    assert max(max(counts.values()) - min(counts.values()) for counts in uniform) > 10


def test_a_choice_that_no_member_has_ends_no_draw() -> None:
    space = Stuck()
    draw = FairChoices(space)
    counts = used(space, [draw(seed) for seed in range(24)])
    assert counts[2][4] == 0 and sum(counts[2].values()) == 24


@pytest.mark.parametrize("seed", range(3))
def test_each_round_uses_each_given_path_once(seed: int) -> None:
    rng = default_rng(seed)
    draw = FairPaths(PATHS)
    rounds = [tuple(draw(int(each)) for each in rng.integers(2**62, size=3)) for _ in range(20)]
    assert all(set(taken) == set(PATHS) for taken in rounds)
    assert len(set(rounds)) > 3  # in all orders


@pytest.mark.parametrize("given", [(), PATHS], ids=["whole space", "given"])
def test_uniform_draws_are_those_that_they_always_were(given: tuple[Architecture, ...]) -> None:
    draw = sampler("uniform", SPACE, given)
    for seed in range(20):
        rng = default_rng(seed)
        assert draw(seed) == (given[int(rng.integers(len(given)))] if given else SPACE.sample(rng))


# The ends of a sandwich


def test_the_ends_of_given_paths_are_those_of_most_and_fewest_macs() -> None:
    sizes = {path: SPACE.cost(path, DIGITS).macs for path in PATHS}
    largest, smallest = largest_and_smallest(SPACE, DIGITS, PATHS)
    assert (sizes[largest], sizes[smallest]) == (max(sizes.values()), min(sizes.values()))


@pytest.mark.slow
@pytest.mark.parametrize("space", [SPACE, DARTS(channels=2, cells=3), GhostSmall(), ToySpace()], ids=lambda s: s.name)
def test_the_ends_of_a_space_are_beyond_all_that_are_drawn(space: GeneSpace) -> None:
    def size(path: Architecture) -> tuple[int, int]:
        cost = space.cost(path, DIGITS)
        return cost.macs, cost.params

    largest, smallest = largest_and_smallest(space, DIGITS, ())
    rng = default_rng(0)
    others = [space.sample(rng) for _ in range(100)] + space.neighbors(largest) + space.neighbors(smallest)
    assert size(smallest) == min(map(size, [smallest, *others]))
    assert size(largest) == max(map(size, [largest, *others]))
    if isinstance(space, NASBench201):
        assert (largest.code, smallest.code) == ("333333", "444444")  # of equal costs the last, not `none`


@pytest.mark.parametrize("space", [Uneven(), Unequal()], ids=lambda space: space.name)
def test_the_ends_are_those_of_all_members(space: GeneSpace) -> None:
    sizes = {path: (space.cost(path, DIGITS).macs, space.cost(path, DIGITS).params) for path in space.members() or ()}
    largest, smallest = largest_and_smallest(space, DIGITS, ())
    assert (sizes[largest], sizes[smallest]) == (max(sizes.values()), min(sizes.values()))


# What a sandwich learns


def test_others_learn_from_the_largest_and_it_learns_from_labels() -> None:
    training = dataset("digits").load().training
    images, labels = training.images[:16].double(), training.labels[:16]
    with seeded(0):
        supernet = SPACE.supernet(DIGITS).double()
    largest, smallest, other = PATHS
    recipe = Recipe(batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    sandwich = SupernetTraining(
        supernet,
        Examples(images, labels),
        recipe,
        draw=lambda seed: other,
        paths=3,
        epochs=1,
        seed=0,
        ends=(largest, smallest),
    )
    passes: list[Architecture] = []
    for path in PATHS:
        supernet.path(path).register_forward_hook(lambda *_, path=path: passes.append(path))
    loss = float(sandwich.backward(images, labels))
    assert passes == [largest, smallest, other], "a step takes one pass of each path"
    given = {name: p.grad for name, p in supernet.named_parameters()}

    supernet.zero_grad()
    wanted = supernet(images, largest).detach().softmax(1)
    labelled = functional.one_hot(labels, 10).double()
    losses = []
    for path, target in ((largest, labelled), (smallest, wanted), (other, wanted)):
        logits = supernet(images, path)
        # The gradient of the mean cross-entropy with fixed soft labels.
        logits.backward((logits.detach().softmax(1) - target) / 16 / 3)
        entropy = torch.special.entr(target).sum(1)
        losses.append(float((-(target * logits.detach().log_softmax(1)).sum(1) - entropy).mean()))
    assert loss == pytest.approx(sum(losses) / 3, abs=1e-6)  # summed in float32
    for name, parameter in supernet.named_parameters():
        expected, found = parameter.grad, given[name]
        assert (expected is None) is (found is None), name
        assert expected is None or torch.allclose(found, expected, rtol=0, atol=1e-12), name  # type: ignore[arg-type]


# In the benchmark


def prepared(**options: Any) -> Classification:
    benchmark = construct("benchmark", Classification, SPACE, epochs=4, subset=512, batch_size=128, **options)
    benchmark.prepare()
    return benchmark


def trained(benchmark: Classification, paths: tuple[Architecture, ...], store: MemoryArtifacts, **more: Any) -> Handle:
    task = TrainSupernet(**{"id": 1, "seed": 11, "architectures": paths, "epochs": 1, **more})
    return benchmark.train(task, device="cpu", artifacts=store).weights


@pytest.mark.slow
@pytest.mark.parametrize("given", [(), PATHS], ids=["whole space", "given"])
def test_a_training_depends_on_its_task_alone(given: tuple[Architecture, ...]) -> None:
    options: dict[str, Any] = {"paths": 3, "sampling": "fair", "sandwich": True}
    store = MemoryArtifacts()
    used = prepared(**options)
    first = trained(used, given, store)
    second = trained(used, given, store, id=2, seed=12, weights=first)
    elsewhere = prepared(**options)  # as after an interruption
    assert trained(elsewhere, given, store, id=2, seed=12, weights=first) == second
    others: list[dict[str, Any]] = [{"paths": 3}, {"paths": 3, "sampling": "fair"}, {"paths": 3, "sandwich": True}]
    assert len({first, *(trained(prepared(**each), given, store) for each in others)}) == 4


@pytest.mark.slow
def test_what_is_measured_after_a_fair_sandwich_is_what_is_left() -> None:
    store, benchmark = MemoryArtifacts(), prepared(paths=2, sampling="fair", sandwich=True)
    weights = trained(benchmark, (), store)
    task = Evaluate(id=2, seed=5, architecture=PATHS[0], fidelity=1, weights=weights)
    measurement = benchmark.measure(task, device="cpu", artifacts=store)
    with seeded(123):
        network = SPACE.build(PATHS[0], DIGITS)
    network.load_state_dict(prepared().state_dict(measurement, artifacts=store))
    found = evaluate(network, benchmark._splits("cpu").validation)
    assert found == {name: measurement.metrics[name] for name in found}


@pytest.mark.slow
def test_a_sandwich_trains_as_many_paths_on_the_whole_space() -> None:
    benchmark = prepared(paths=3, sandwich=True)
    task = TrainSupernet(id=1, seed=11, architectures=(), epochs=1)
    alone = prepared(paths=3).train(task, device="cpu", artifacts=MemoryArtifacts()).spent.images
    assert benchmark.train(task, device="cpu", artifacts=MemoryArtifacts()).spent.images == 3 * alone


def test_a_sandwich_of_one_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"paths must be at least 2, but got 1; .*shared_weights.paths=3"):
        construct("benchmark", Classification, SPACE, sandwich=True).check_supernet()
    construct("benchmark", Classification, SPACE, sandwich=True, paths=2).check_supernet()


def test_a_space_without_genes_is_refused() -> None:
    bare: Any = type("Bare", (Bare,), dict.fromkeys(Bare.__abstractmethods__))()
    for refused in (lambda: sampler("fair", bare, ()), lambda: largest_and_smallest(bare, DIGITS, ())):
        with pytest.raises(InputError, match=r"product of genes .* bare is none; leave benchmark.shared_weights"):
            refused()
    assert sampler("fair", bare, PATHS)(0) in PATHS
