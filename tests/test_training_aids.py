"""What aids training from scratch, each against an oracle: cutout, drop-path, auxiliary head, average, distillation."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.benchmarks.classification import AIDS, Classification
from nasplat.data.datasets import dataset
from nasplat.data.examples import Examples, Scaling
from nasplat.errors import InputError, TrialFailed
from nasplat.executors.executor import perform
from nasplat.nn import cells, darts, nasbench101
from nasplat.nn.ghost import supernet as ghost
from nasplat.nn.ghost.shapes import Bottleneck
from nasplat.options import complete, construct
from nasplat.search_space import SearchSpace
from nasplat.search_spaces.darts import DARTS
from nasplat.search_spaces.ghost import GhostSmall
from nasplat.search_spaces.nasbench101 import NASBench101
from nasplat.search_spaces.nasbench201 import NASBench201
from nasplat.task import Evaluate, Failure, Measurement, Teacher
from nasplat.training.augmentation import CutoutEach, mean
from nasplat.training.auxiliary import Auxiliary, HasAuxiliaryPosition, head
from nasplat.training.averaging import Average
from nasplat.training.distillation import Distillation, divergence
from nasplat.training.drop_path import Branched, DropPath, dropped
from nasplat.training.fit import ClassifierTraining
from nasplat.training.recipe import Recipe
from nasplat.training.seeding import seeded

SPACE = NASBench201(channels=4, cells=1)
CODE = "211312"
DIGITS = IO.image(1, 8, 10)
EVERYTHING: dict[str, Any] = {
    "augment": True,
    "cutout": 3,
    "drop_path": 0.2,
    "auxiliary": 0.4,
    "ema": 0.95,
    "label_smoothing": 0.1,
    "distillation": 0.5,
    "gradient_norm": 5,
}
RECIPES = sorted((Path(__file__).parents[1] / "examples" / "recipes").glob("*.yaml"))


def spaces() -> list[SearchSpace]:
    return [SPACE, DARTS(channels=4, cells=3), NASBench101(channels=6, cells=1), GhostSmall()]


def prepared(space: SearchSpace = SPACE, **options: Any) -> Classification:
    benchmark = construct("benchmark", Classification, space, **options)
    benchmark.check()
    benchmark.prepare()
    return benchmark


def task_for(architecture: Architecture | str = CODE, *, fidelity: int = 1, **options: Any) -> Evaluate:
    if isinstance(architecture, str):
        architecture = SPACE.parse(architecture)
    return Evaluate(**{"id": 3, "seed": 7, "architecture": architecture, "fidelity": fidelity, **options})


def measured(benchmark: Benchmark, task: Evaluate, store: MemoryArtifacts) -> Measurement:
    outcome = perform(task, benchmark, device="cpu", artifacts=store)
    assert isinstance(outcome, Measurement), outcome
    return outcome


def failed(benchmark: Benchmark, task: Evaluate, store: MemoryArtifacts) -> Failure:
    outcome = perform(task, benchmark, device="cpu", artifacts=store)
    assert isinstance(outcome, Failure), outcome
    return outcome


def some_digits(count: int) -> Examples:
    training = dataset("digits").load().training
    return Examples(training.images[:count], training.labels[:count])


def training_of(network: nn.Module, recipe: Recipe, count: int = 64, **options: Any) -> ClassifierTraining:
    return ClassifierTraining(network, some_digits(count), recipe, seed=1, **{"epochs": 3, **options})


# Cutout


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_covers_what_a_square_around_a_center_in_the_image_covers(side: int) -> None:
    images = torch.randint(1, 256, (80, 3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fill = torch.tensor([0, 7, 9], dtype=torch.uint8)[:, None, None]
    cutout = CutoutEach(side, fill)
    with seeded(1):
        places = cutout.make_params([images])
    with seeded(1):
        changed = cutout(images)
    expected = images.clone()
    for image, row, column in zip(expected, places["row"].tolist(), places["column"].tolist(), strict=True):
        top, left = row - side // 2, column - side // 2
        for y, x in product(range(7), range(9)):
            if top <= y < top + side and left <= x < left + side:
                image[:, y, x] = torch.tensor([0, 7, 9])
    assert torch.equal(changed, expected)
    assert changed.dtype == torch.uint8
    assert (set(places["row"].tolist()), set(places["column"].tolist())) == (set(range(7)), set(range(9)))


def test_what_covers_is_the_mean_of_the_training_images_however_they_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 5, 5), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(40, dtype=torch.int64)
    kept = Examples(images, labels, Scaling.of(images))
    assert mean(kept).flatten().tolist() == np.round(images.numpy().mean((0, 2, 3), dtype=np.float64)).tolist()
    assert mean(kept).dtype == torch.uint8
    covered, _ = kept.batch(slice(0, 8), CutoutEach(99, mean(kept)))
    assert covered.abs().max().item() < 0.01  # half a step of 256, in deviations
    assert mean(some_digits(9)).tolist() == [[[0.0]]]


@pytest.mark.slow
def test_cutout_acts_with_and_without_augmentation() -> None:
    store = MemoryArtifacts()
    found = {
        measured(prepared(augment=augment, cutout=cutout), task_for(), store).artifacts["weights"]
        for augment, cutout in product((False, True), (0, 3))
    }
    assert len(found) == 4


# Drop-path


def test_a_dropped_term_is_zero_for_its_share_of_images_and_the_same_in_expectation() -> None:
    term = torch.rand(20_000, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    with seeded(4):
        result = dropped(term, 0.3)
    gone = (result == 0).flatten(1)
    assert torch.equal(gone.any(1), gone.all(1)), "an image loses all of a term or nothing"
    assert gone.all(1).double().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 20_000) ** 0.5)
    assert torch.allclose(result[~gone.all(1)], term[~gone.all(1)] / 0.7, rtol=1e-12)
    assert result.mean().item() == pytest.approx(term.mean().item(), rel=0.02)
    assert torch.equal(dropped(term, 0.0), term)


class Sum(nn.Module):
    """x + 1 + 2 · x, of which the last two terms may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.twice = nn.Linear(1, 1), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.one.weight)
        nn.init.ones_(self.one.bias)
        nn.init.constant_(self.twice.weight, 2)

    @property
    def drop_path_branches(self) -> list[nn.Module]:
        return [self.one, self.twice]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.one(x) + self.twice(x)
        return out


def test_every_term_has_a_chance_of_its_own_and_identities_stay() -> None:
    network, x = Sum(), torch.full((4_000, 1), 3.0)
    with seeded(5), DropPath(network, 0.5).acting(lambda: 1.0), torch.no_grad():
        outputs, counts = network(x).unique(return_counts=True)
    assert outputs.tolist() == [3.0, 5.0, 15.0, 17.0]  # what stays counts twice
    assert counts.tolist() == pytest.approx([1_000] * 4, abs=120)
    with torch.no_grad():
        assert network(x).unique().tolist() == [10.0]
    assert not network.one._forward_hooks


def test_the_probability_rises_linearly_over_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def watched(term: Tensor, probability: float) -> Tensor:
        seen.append(probability)
        return term

    monkeypatch.setattr("nasplat.training.drop_path.dropped", watched)
    with seeded(0):
        training = training_of(SPACE.build(SPACE.parse("000300"), DIGITS), Recipe(16, 0.1, 0, 0, drop_path=0.6))
        training.until(3)
    assert seen == pytest.approx([0.6 * step / 12 for step in range(12) for _ in range(3)])  # in each of three cells


def drop_path_branches(network: nn.Module) -> list[nn.Module]:
    return [each for module in network.modules() if isinstance(module, Branched) for each in module.drop_path_branches]


def test_branches_are_the_operations_that_are_no_identities() -> None:
    cell = cells.Cell([["skip_connect"], ["none", "nor_conv_1x1"], ["avg_pool_3x3", "skip_connect", "none"]], 4)
    edges = [list(node.children()) for node in cell.nodes]
    assert list(map(id, cell.drop_path_branches)) == [id(edges[1][1]), id(edges[2][0])]
    nodes = [[("skip_connect", 0), ("skip_connect", 1)], [("none", 0), ("skip_connect", 2)]]
    for reduction, expected in ((False, 0), (True, 2)):  # a skip connection that halves the image has weights
        assert (
            len(darts.Cell(nodes, 4, (4, 4), after_reduction=False, reduction=reduction).drop_path_branches) == expected
        )
    kept = ghost.GhostBottleneck(Bottleneck(8, 16, 8))
    assert kept.drop_path_branches == [kept.project]
    assert ghost.GhostBottleneck(Bottleneck(8, 16, 12)).drop_path_branches == []


def test_branches_of_nasbench101_are_what_leads_to_sums_alone() -> None:
    # 1 and 2 are added in 3; 2 is at the output as well, beside 3; the input is projected to 1, to 3 and to the output.
    edges = [(0, 1), (1, 2), (1, 3), (2, 3), (0, 3), (2, 4), (3, 4), (0, 4)]
    cell = nasbench101.Cell(edges, ["conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"], [4, 4, 4, 8], 6)
    assert cell.drop_path_branches == [cell.projections["3"], cell.projections["4"]]  # 1 leads to 2 by itself
    del edges[1]
    cell = nasbench101.Cell([*edges, (0, 2)], ["conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"], [4, 4, 4, 8], 6)
    assert cell.drop_path_branches == [cell.projections["3"], cell.projections["4"], cell.vertices[0]]


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_without_its_branches_a_network_still_runs_and_gives_something_else(space: SearchSpace) -> None:
    """All terms left out at once, which may happen to an image, leaves no shape or number undefined."""
    rng = np.random.default_rng(0)
    drawn = (space.sample(rng) for _ in range(50))
    images = some_digits(16).images
    with seeded(0):
        networks = (space.build(architecture, DIGITS) for architecture in drawn)
        network = next(each for each in networks if drop_path_branches(each))
        full = network(images)
        with DropPath(network, 1 - 1e-6).acting(lambda: 1.0):
            bare = network(images)
    assert bare.shape == full.shape
    assert torch.isfinite(bare).all()
    assert not torch.allclose(bare, full)


def test_a_network_that_names_no_branches_is_refused_and_one_that_has_none_is_trained_as_it_is() -> None:
    with pytest.raises(
        TrialFailed, match=r"no module of Linear has `drop_path_branches`.*leave out benchmark.recipe.drop_path"
    ):
        DropPath(nn.Linear(2, 2), 0.1)
    store = MemoryArtifacts()
    identities = task_for("110101")
    assert (
        measured(prepared(drop_path=0.5), identities, store).artifacts["weights"]
        == measured(prepared(), identities, store).artifacts["weights"]
    )


# Auxiliary head


def test_the_head_is_that_of_darts_where_features_have_8_pixels_a_side() -> None:
    # As published for 36 channels and 20 cells, whose features there have 576 channels; parameters by hand.
    modules = head(576, [8, 8], 10)
    assert sum(p.numel() for p in modules.parameters()) == 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10
    images = torch.rand(2, 576, 8, 8)
    windows = [images[:, :, y : y + 5, x : x + 5].relu().mean((2, 3)) for y in (0, 3) for x in (0, 3)]
    assert torch.allclose(modules[:2](images).flatten(2), torch.stack(windows, 2), atol=1e-6)
    for sides in ([2, 2], [1, 1], [7, 5]):
        assert head(6, sides, 10)(torch.rand(3, 6, *sides)).shape == (3, 10)


def test_features_are_taken_where_the_papers_networks_have_two_thirds_of_their_depth() -> None:
    io = IO.image(3, 32, 10)
    network: Any = DARTS(channels=4, cells=20).build(DARTS().sample(np.random.default_rng(0)), io)
    assert network.auxiliary_position is network.cells[13]  # as in the published code, for 20 cells
    network = NASBench201(channels=4, cells=5).build(SPACE.parse(CODE), io)
    reductions = [stage for stage in network.stages if isinstance(stage, cells.Reduction)]
    assert network.auxiliary_position is reductions[1]
    space = NASBench101(channels=6, cells=3)
    network = space.build(space.sample(np.random.default_rng(0)), io)
    assert isinstance(network.auxiliary_position, nn.MaxPool2d)
    assert network.auxiliary_position is [each for each in network.body if isinstance(each, nn.MaxPool2d)][1]


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_the_gradient_of_the_auxiliary_loss_reaches_the_trunk_and_nothing_behind_it(space: SearchSpace) -> None:
    with seeded(0):
        network = space.build(space.sample(np.random.default_rng(1)), DIGITS)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        auxiliary = Auxiliary(network, (1, 8, 8), torch.device("cpu"))
        assert network.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        with auxiliary.watching():
            network(some_digits(16).images)
            functional.cross_entropy(auxiliary.logits(), some_digits(16).labels).backward()  # type: ignore[no-untyped-call]
    assert isinstance(network, HasAuxiliaryPosition)
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert "stem" in reached
    assert not reached & {"head", "classifier", "features"}
    assert all(p.grad is not None and p.grad.any() for p in auxiliary.head.parameters())
    assert not network.auxiliary_position._forward_hooks


def test_a_network_without_an_auxiliary_position_is_refused() -> None:
    with pytest.raises(TrialFailed, match=r"Linear has no `auxiliary_position`.*leave out benchmark.recipe.auxiliary"):
        Auxiliary(nn.Linear(2, 2), (2,), torch.device("cpu"))


def test_the_loss_is_that_of_both_classifiers_with_smoothed_labels() -> None:
    recipe = Recipe(32, 0.1, 0.9, 0, label_smoothing=0.2, auxiliary=0.4)
    with seeded(0):
        training = training_of(SPACE.build(SPACE.parse(CODE), DIGITS), recipe)
    beside = training._beside
    assert beside is not None
    for module in (training.model, beside):
        module.double()
    images, labels = some_digits(32).images.double(), some_digits(32).labels
    features: list[Tensor] = []
    network: Any = training.model
    handle = network.auxiliary_position.register_forward_hook(lambda module, given, out: features.append(out))
    with training.aids():
        loss = training.loss(network, images, labels).item()
        main = network(images)
    handle.remove()
    early = beside(features[0])

    def smoothed(logits: Tensor) -> float:
        chances = logits.detach().numpy()
        chances = chances - np.log(np.exp(chances).sum(axis=1, keepdims=True))
        wanted = np.full(chances.shape, 0.2 / 10)
        wanted[np.arange(32), labels.numpy()] += 0.8
        return float(-(wanted * chances).sum(axis=1).mean())

    assert loss == pytest.approx(smoothed(main) + 0.4 * smoothed(early), rel=1e-10)


@pytest.mark.slow
def test_labels_are_smoothed_in_training_alone() -> None:
    store = MemoryArtifacts()
    benchmark = prepared(label_smoothing=0.3)
    measurement = measured(benchmark, task_for(), store)
    network = SPACE.build(measurement.architecture, DIGITS)
    network.load_state_dict(store.get_tensors(measurement.artifacts["weights"]))
    network.eval()
    validation = dataset("digits").load().validation
    with torch.no_grad():
        loss = functional.cross_entropy(network(validation.images), validation.labels)
    assert measurement.metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert measurement.artifacts != measured(prepared(), task_for(), store).artifacts


# Moving average


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_the_average_is_the_formula_of_all_weights_and_statistics(decay: float) -> None:
    recipe = Recipe(16, 0.1, 0.9, 5e-4, ema=decay)
    with seeded(0):
        training = training_of(SPACE.build(SPACE.parse(CODE), DIGITS), recipe)
        expected = {name: tensor.double().numpy().copy() for name, tensor in training.model.state_dict().items()}
        images, labels = some_digits(16).images, some_digits(16).labels
        for step in range(12):
            training._take(images, labels)
            kept = min(decay, (1 + step) / (10 + step))
            for name, tensor in training.model.state_dict().items():
                expected[name] = kept * expected[name] + (1 - kept) * tensor.double().numpy()
    for name, tensor in training.network.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.double().numpy() == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
        else:
            assert tensor.item() == training.model.state_dict()[name].item() == 12
    assert training.network is not training.model


def test_an_average_in_float64_is_exact_and_shares_nothing() -> None:
    network = nn.BatchNorm1d(2).double()
    average = Average(network, 0.5)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([3.0, 5.0]))
    average.update(100)
    assert average.network.get_parameter("weight").tolist() == [2.0, 3.0]
    assert not any(p.requires_grad for p in average.network.parameters())
    average.update(0)  # no more than a tenth of what was is kept at first
    assert average.network.get_parameter("weight").tolist() == pytest.approx([2.9, 4.8], rel=1e-15)


@pytest.mark.slow
def test_what_is_measured_and_kept_is_the_average() -> None:
    store = MemoryArtifacts()
    averaged, plain = (measured(prepared(ema=ema), task_for(), store) for ema in (0.9, 0.0))
    state = store.get_tensors(averaged.artifacts["state"])
    kept, trained = (store.get_tensors(each.artifacts["weights"]) for each in (averaged, plain))
    for name, tensor in kept.items():
        assert torch.equal(state[f"average.{name}"], tensor)
        assert torch.equal(state[f"model.{name}"], trained[name]), "the average acts on nothing"
    assert averaged.metrics != plain.metrics


# Distillation


def test_the_divergence_is_that_of_its_formula_and_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    given, wanted = torch.randn(2, 32, 10, dtype=torch.float64, generator=generator) * 3
    for temperature in (1.0, 4.0):
        p, q = (np.exp(each.numpy() / temperature) for each in (wanted, given))
        p, q = (each / each.sum(axis=1, keepdims=True) for each in (p, q))
        formula = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
        theirs = temperature**2 * functional.kl_div(
            (given / temperature).log_softmax(1), (wanted / temperature).softmax(1), reduction="batchmean"
        )
        found = divergence(given, wanted, temperature).item()
        assert found == pytest.approx(formula, rel=1e-12)
        assert found == pytest.approx(theirs.item(), rel=1e-12)
    assert divergence(wanted, wanted, 4.0).item() == pytest.approx(0, abs=1e-14)


def test_a_share_of_the_loss_is_the_teachers_who_is_shown_what_the_network_is_and_never_changes() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(64), nn.Linear(64, 10)).double()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    images = some_digits(32).images.double()
    logits = torch.randn(32, 10, dtype=torch.float64, requires_grad=True)
    labels_loss = functional.cross_entropy(logits, some_digits(32).labels)
    loss = Distillation(teacher, 0.7, 3.0).loss(images, logits, labels_loss)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        asked = teacher(images)
    assert loss.item() == pytest.approx((0.3 * labels_loss + 0.7 * divergence(logits, asked, 3.0)).item(), rel=1e-12)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def teacher_of(benchmark: Classification, store: MemoryArtifacts, code: str = "333333", fidelity: int = 1) -> Teacher:
    measurement = measured(benchmark, task_for(code, fidelity=fidelity), store)
    return Teacher(architecture=measurement.architecture, weights=measurement.artifacts["weights"])


@pytest.mark.slow
def test_a_network_learns_from_the_teacher_that_its_task_names() -> None:
    store, benchmark = MemoryArtifacts(), prepared(distillation=1.0, epochs=4)
    teacher = teacher_of(benchmark, store, fidelity=4)
    alone = measured(benchmark, task_for(fidelity=4), store)
    assert alone.artifacts == measured(prepared(epochs=4), task_for(fidelity=4), store).artifacts
    taught = measured(benchmark, task_for(fidelity=4, teacher=teacher), store)
    images = dataset("digits").load().validation.images
    answers = []
    for architecture, weights in (
        (teacher.architecture, teacher.weights),
        (taught.architecture, taught.artifacts["weights"]),
        (alone.architecture, alone.artifacts["weights"]),
    ):
        network = SPACE.build(architecture, DIGITS)
        network.load_state_dict(store.get_tensors(weights))
        with torch.no_grad():
            answers.append(network.eval()(images))
    wanted, by_teacher, by_labels = answers
    assert divergence(by_teacher, wanted, 4.0) < divergence(by_labels, wanted, 4.0)
    assert taught.metrics["accuracy"] > 0.7  # though it saw no label


@pytest.mark.slow
def test_a_teacher_is_refused_where_nothing_is_learnt_of_it_or_its_weights_do_not_fit() -> None:
    store, benchmark = MemoryArtifacts(), prepared(distillation=0.5)
    teacher = teacher_of(benchmark, store)
    assert (benchmark.distills, prepared().distills) == (True, False)
    assert failed(prepared(), task_for(teacher=teacher), store).kind == "no teacher"
    other = Teacher(architecture=SPACE.parse("000000"), weights=teacher.weights)
    failure = failed(benchmark, task_for(teacher=other), store)
    assert failure.kind == "another network"
    assert "the teacher's weights do not fit nasbench201:000000" in failure.message
    noise = Teacher(architecture=SPACE.parse(CODE), weights=store.put(b"no tensors"))
    assert failed(benchmark, task_for(teacher=noise), store).kind == "another network"
    gone = Teacher(architecture=SPACE.parse(CODE), weights=Handle("0" * 64))
    assert failed(benchmark, task_for(teacher=gone), store).kind == "artifact lost"


# All of them


@pytest.mark.slow
@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_with_all_aids_what_is_measured_is_what_the_space_builds(space: SearchSpace) -> None:
    store, benchmark = MemoryArtifacts(), prepared(space, epochs=1, **EVERYTHING)
    rng = np.random.default_rng(1)
    first = measured(benchmark, task_for(space.sample(rng)), store)
    teacher = Teacher(architecture=first.architecture, weights=first.artifacts["weights"])
    second = measured(benchmark, task_for(space.sample(rng), teacher=teacher), store)
    weights = benchmark.state_dict(second, artifacts=store)
    network = space.build(second.architecture, benchmark.io)
    assert set(weights) == set(network.state_dict())
    network.load_state_dict(weights)
    validation = dataset("digits").load().validation
    with torch.no_grad():
        right = (network.eval()(validation.images).argmax(1) == validation.labels).double().mean()
    assert second.metrics["accuracy"] == pytest.approx(right.item(), abs=1.5 / len(validation))
    assert set(second.artifacts) == {"weights"}


@pytest.mark.slow
def test_every_aid_changes_what_is_learnt() -> None:
    store = MemoryArtifacts()
    found = {"none": measured(prepared(), task_for(), store).artifacts["weights"]}
    teacher = teacher_of(prepared(), store)
    for name in AIDS:
        task = task_for(teacher=teacher if name == "distillation" else None)
        found[name] = measured(prepared(**{name: EVERYTHING[name]}), task, store).artifacts["weights"]
    assert len(set(found.values())) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auxiliary", "ema"])
def test_a_state_is_gone_on_from_by_the_recipe_that_it_was_begun_with(name: str) -> None:
    store = MemoryArtifacts()
    options: dict[str, Any] = {name: 0.4}
    plain, aided = prepared(), prepared(**options)
    for begun, gone_on in ((plain, aided), (aided, plain)):
        state = measured(begun, task_for(), store).artifacts["state"]
        failure = failed(gone_on, task_for(fidelity=2, continues=state), store)
        assert failure.kind == "another recipe"
        assert "continue with the recipe of the earlier training" in failure.message


@pytest.mark.parametrize("name", AIDS)
def test_shared_weights_refuse_what_would_not_act_on_them(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"recipe.{name} has no effect on shared weights.*but got .*leave out benchmark.recipe.{name}"
    ):
        construct("benchmark", Classification, SPACE, **{name: EVERYTHING[name]}).check_supernet()
    construct("benchmark", Classification, SPACE, augment=True, gradient_norm=5, optimizer="adam").check_supernet()


@pytest.mark.slow
def test_the_optimizer_is_the_one_that_is_asked_for() -> None:
    store = MemoryArtifacts()
    adam = measured(prepared(optimizer="adam", learning_rate=0.01, weight_decay=0), task_for(fidelity=3), store)
    names = store.get_tensors(adam.artifacts["state"])
    assert any(name.startswith("square.") for name in names)
    assert adam.metrics["accuracy"] > 0.5


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_mapping_of_options(recipe: Path) -> None:
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    options = complete("benchmark", Classification, given)
    assert options["epochs"] == given["epochs"]
    assert {name: options["recipe"][name] for name in given["recipe"]} == given["recipe"]


def test_there_are_recipes() -> None:
    assert {"darts", "short"} <= {recipe.stem for recipe in RECIPES}
