"""Networks that learn to upscale images: what they learn from, what repeats, and who sees which pictures."""

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nasplat.architecture import IO, Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.super_resolution import SuperResolution
from nasplat.config import SearchConfig
from nasplat.cost import Cost
from nasplat.data.picture_files import Pixels
from nasplat.data.picture_sets import PICTURE_SETS, Entry, Picture, PictureSet
from nasplat.data.resolution import agreement, bicubic_agreement, luma, shrunk, whole
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, TrialFailed
from nasplat.nn import costs
from nasplat.options import complete, construct
from nasplat.search_space import Gene, GeneSpace
from nasplat.task import Evaluate, Measurement
from nasplat.training.recipe import HALVINGS, Recipe
from nasplat.training.seeding import seeded
from nasplat.training.super_resolution import SYMMETRIES, Pair, Patches, SuperResolutionTraining, evaluate, symmetric

WIDTHS = ("4", "8", "12")


class Upscalers(GeneSpace):
    """Networks of three convolutions that add something to the nearest pixel."""

    name: ClassVar[str] = "upscalers"
    genes: ClassVar[tuple[Gene, ...]] = (Gene("first", WIDTHS), Gene("second", WIDTHS))
    reference_io: ClassVar[IO] = IO.upscaled(16, 16, 2)

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """The convolutions', in order."""
        _, height, width = io.input_shape
        pairs = pairwise(self._widths(architecture, io))
        layers = [costs.conv2d(*pair, 3, height * width, bias=True) for pair in pairs]
        return Cost.total({f"layer {i}": layer for i, layer in enumerate(layers)})

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        """The network."""
        assert io.scale is not None
        return Upscaler(self._widths(architecture, io), io.scale)

    def _widths(self, architecture: Architecture, io: IO) -> list[int]:
        assert io.scale is not None
        return [3, *(int(WIDTHS[choice]) for choice in self.choices(architecture)), 3 * io.scale**2]


class Upscaler(nn.Module):
    """What an architecture of `Upscalers` becomes."""

    def __init__(self, widths: list[int], scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for pair in pairwise(widths):
            layers += [nn.Conv2d(*pair, 3, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers[:-1])
        self.scale = scale

    def forward(self, small: Tensor) -> Tensor:
        """Pictures `[batch, 3, height, width]`, upscaled."""
        nearest = functional.interpolate(small, scale_factor=self.scale, mode="nearest")
        return nearest + functional.pixel_shuffle(self.body(small), self.scale)


Command = Callable[..., "subprocess.CompletedProcess[str]"]

SPACE = Upscalers()
CODE = "12"
FAST: dict[str, Any] = {"epochs": 2, "steps": 4, "batch_size": 2, "patch": 12, "width": 32, "height": 32}


def scene(seed: int, height: int = 48, width: int = 60) -> Pixels:
    """A picture with edges: overlapping rectangles."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), rng.integers(0, 256, 3), dtype=np.uint8)
    for _ in range(20):
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        pixels[top : top + rng.integers(3, 20), left : left + rng.integers(3, 20)] = rng.integers(0, 256, 3)
    return pixels


class Reads:
    """A set of pictures that takes down which of its parts are read."""

    def __init__(self) -> None:
        self.parts: set[str] = set()
        self.pixels = {"training": [*map(scene, range(4))], "validation": [scene(10)], "test": [scene(20), scene(21)]}

    def open(self, name: str) -> PictureSet:
        return PictureSet(name, *(tuple(self._pictures(part)) for part in self.pixels))

    def _pictures(self, part: str) -> Iterator[Picture]:
        for number, pixels in enumerate(self.pixels[part]):

            def read(pixels: Pixels = pixels) -> Pixels:
                self.parts.add(part)
                return pixels

            yield Picture(f"{part} {number}", read)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The data set `scenes`, and who read of it."""
    found = Reads()
    monkeypatch.setitem(PICTURE_SETS, "scenes", Entry("scenes", "made up", lambda places: found.open("scenes")))
    return found


def prepared(**options: Any) -> SuperResolution:
    benchmark = construct("benchmark", SuperResolution, SPACE, **({"dataset": "scenes"} | FAST | options))
    benchmark.check()
    benchmark.prepare()
    return benchmark


def task_for(seed: int = 7, *, code: str = CODE, fidelity: int = 2, **options: Any) -> Evaluate:
    return Evaluate(id=3, seed=seed, architecture=SPACE.parse(code), fidelity=fidelity, **options)


def measure(benchmark: SuperResolution, task: Evaluate, store: MemoryArtifacts) -> Measurement:
    return benchmark.measure(task, device="cpu", artifacts=store)


# Patches


def numbered(name: str, height: int, width: int, scale: int) -> Pair:
    """A pair whose pixels tell where they are: the large one's are those of the small one, repeated."""
    small = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width).expand(3, -1, -1)
    large = small.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Pair(name, small, (large % 256).to(torch.uint8), grey=False)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.integers(1, 7), st.booleans(), st.integers(0, 2**32))
def test_both_patches_are_of_one_place_and_turned_alike(scale: int, side: int, augment: bool, seed: int) -> None:
    pairs = [numbered("a", 7, 12, scale), numbered("b", 20, 8, scale)]
    patches = Patches(pairs, scale=scale, side=side, augment=augment)
    small, large = patches.draw(8, torch.Generator().manual_seed(seed))
    assert small.shape == (8, 3, side, side)
    assert large.shape == (8, 3, scale * side, scale * side)
    repeated = small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(large, (repeated % 256).to(torch.uint8).to(torch.float32) / 255)


def test_the_symmetries_are_the_eight_of_a_square() -> None:
    picture = torch.arange(9).reshape(1, 3, 3)
    seen = {tuple(symmetric(picture, number).flatten().tolist()) for number in range(SYMMETRIES)}
    # By hand: the rows of the picture and of its transpose, each as it is and backwards in either direction.
    rows = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    by_hand = set()
    for square in (rows, [list(column) for column in zip(*rows, strict=True)]):
        for down in (square, square[::-1]):
            for across in (down, [row[::-1] for row in down]):
                by_hand.add(tuple(number for row in across for number in row))
    assert seen == by_hand
    assert len(seen) == SYMMETRIES


def test_patches_come_from_everywhere_in_every_symmetry() -> None:
    pairs = [numbered("a", 3, 4, 2), numbered("b", 3, 4, 2)]
    pairs[1] = replace(pairs[1], small=pairs[1].small + 100)
    small, _ = Patches(pairs, scale=2, side=2, augment=True).draw(3000, torch.Generator().manual_seed(0))
    corners = small[:, 0].flatten(1).to(torch.int64).tolist()
    assert len(set(map(tuple, corners))) == 2 * (2 * 3) * SYMMETRIES  # pictures, places, symmetries
    still, _ = Patches(pairs, scale=2, side=2, augment=False).draw(500, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, still[:, 0].flatten(1).to(torch.int64).tolist()))) == 2 * (2 * 3)


def test_a_patch_is_cut_from_the_picture_that_was_shrunk_whole() -> None:
    pair = Pair.of(Picture("scene", lambda: scene(0)), 2)
    small, large = Patches([pair], scale=2, side=10, augment=False).draw(20, torch.Generator().manual_seed(1))
    whole_small = shrunk(torch.tensor(scene(0)).permute(2, 0, 1), 2).to(torch.float32) / 255
    places = whole_small.unfold(1, 10, 1).unfold(2, 10, 1)  # [3, rows, columns, 10, 10]
    originals = torch.tensor(scene(0)).permute(2, 0, 1).unfold(1, 20, 2).unfold(2, 20, 2)
    for patch, its_large in zip(small, large, strict=True):
        found = (places.permute(1, 2, 0, 3, 4) - patch).abs().amax((2, 3, 4)) < 1e-6
        row, column = found.nonzero()[0].tolist()
        assert torch.equal(originals[:, row, column].to(torch.float32) / 255, its_large)


def test_pictures_smaller_than_a_patch_are_named(reads: Reads) -> None:
    with pytest.raises(InputError, match=r"training 0, downscaled by 2, has 30 x 24 pixels, .*smaller benchmark"):
        prepared(patch=25)
    reads.pixels["training"] = [np.zeros((1, 9, 3), dtype=np.uint8)]
    with pytest.raises(InputError, match="training 0 has fewer than 2 pixels a side"):
        prepared()


# Evaluation


class Nearest(nn.Module):
    """Repeats pixels."""

    def forward(self, small: Tensor) -> Tensor:
        """Pictures `[batch, 3, height, width]`, twice as high and wide."""
        return small.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_figures_are_means_over_pictures_and_gain_is_over_bicubic() -> None:
    pictures = [Picture("color", lambda: scene(1)), Picture("grey", lambda: scene(2, 41, 37)[:, :, 0])]
    found = evaluate(Nearest(), [Pair.of(each, 2) for each in pictures], 2, "cpu")
    singles = []
    for picture in pictures:
        pixels = picture.read()
        grey = pixels.ndim == 2
        array = np.stack([pixels] * 3, 2) if grey else pixels
        original = whole(torch.tensor(array).permute(2, 0, 1), 2)
        result = Nearest()((shrunk(original, 2) / 255)[None])[0]
        one = agreement(result, original, 2, grey=grey)
        gain_db = one["psnr_db"] - bicubic_agreement(original, 2, grey=grey)["psnr_db"]
        singles.append([one["psnr_db"], one["ssim"], gain_db])
    assert list(found.values()) == pytest.approx(np.mean(singles, axis=0).tolist(), abs=1e-3)
    assert list(found) == ["psnr_db", "ssim", "gain_db"]
    assert found["gain_db"] < 0


def test_a_picture_too_small_to_be_compared_is_named(reads: Reads) -> None:
    reads.pixels["validation"] = [scene(0, 14, 14)]
    with pytest.raises(InputError, match=r"at least 15 pixels a side .* but validation 0 has 14 x 14; remove it"):
        prepared()


def test_the_middle_of_large_validation_pictures_is_taken(reads: Reads) -> None:
    reads.pixels["validation"] = [scene(0, 300, 500)]
    (pair,) = prepared().validation
    assert pair.large.shape == (3, 256, 256)
    assert torch.equal(pair.large, torch.tensor(scene(0, 300, 500)[22:278, 122:378]).permute(2, 0, 1))


# Measuring


@pytest.mark.slow
def test_training_raises_the_psnr(reads: Reads) -> None:
    benchmark = prepared(epochs=4, steps=50, batch_size=8, learning_rate=0.01)
    store = MemoryArtifacts()
    first = measure(benchmark, task_for(code="22", fidelity=1), store)
    last = measure(benchmark, task_for(code="22", fidelity=4, continues=first.artifacts["state"]), store)
    assert last.metrics["psnr_db"] > first.metrics["psnr_db"] + 0.1
    assert (first.spent.images, last.spent.images) == (1 * 50 * 8, 3 * 50 * 8)


def test_the_same_seed_gives_the_same_and_another_seed_other_weights(reads: Reads) -> None:
    store = MemoryArtifacts()
    benchmark = prepared()
    first, other = measure(benchmark, task_for(7), store), measure(benchmark, task_for(8), store)
    again = measure(prepared(), task_for(7), store)
    assert again == first
    assert other.artifacts["weights"] != first.artifacts["weights"]


@pytest.mark.parametrize(("schedule", "ema"), [("one_cycle", 0.0), ("cosine", 0.0), ("halving", 0.0), ("halving", 0.9)])
def test_continued_training_is_uninterrupted_training_to_the_bit(schedule: str, ema: float, reads: Reads) -> None:
    options = {"epochs": 5, "schedule": schedule, "ema": ema}
    store = MemoryArtifacts()
    uninterrupted = measure(prepared(**options), task_for(fidelity=5), store)
    part: Measurement | None = None
    for fidelity in (1, 3, 5):
        continues = part.artifacts["state"] if part else None
        part = measure(prepared(**options), task_for(fidelity * 100, fidelity=fidelity, continues=continues)
                       if part else task_for(fidelity=fidelity), store)  # fmt: skip
    assert part is not None
    assert part.artifacts == uninterrupted.artifacts
    assert part.metrics == uninterrupted.metrics
    assert "state" not in uninterrupted.artifacts


def test_what_is_measured_and_kept_is_the_moving_average_if_wanted(reads: Reads) -> None:
    store = MemoryArtifacts()
    averaged, plain = (measure(prepared(epochs=2, ema=ema), task_for(fidelity=1), store) for ema in (0.9, 0.0))
    state = store.get_tensors(averaged.artifacts["state"])
    kept, trained = (store.get_tensors(each.artifacts["weights"]) for each in (averaged, plain))
    assert all(torch.equal(state[f"average.{name}"], tensor) for name, tensor in kept.items())
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in trained.items())
    assert averaged.metrics != plain.metrics


def test_a_halving_schedule_halves_where_the_paper_does() -> None:
    steps, rates = 150, []
    model = nn.Conv2d(3, 12, 3, padding=1)
    recipe = Recipe(1, 0.8, 0, 0, schedule="halving", optimizer="adam")
    patches = Patches([Pair.of(Picture("a", lambda: scene(0)), 2)], scale=2, side=4, augment=False)
    training = SuperResolutionTraining(
        nn.Sequential(model, nn.PixelShuffle(2)), patches, recipe, device="cpu", epochs=steps, steps=1, seed=0
    )
    for epoch in range(1, steps + 1):
        training.until(epoch)
        rates.append(training.state()["learning_rate"].item())
    changes = [epoch for epoch in range(1, steps) if rates[epoch] != rates[epoch - 1]]
    assert [change + 1 for change in changes] == [round(part * steps) for part in HALVINGS] == [80, 120, 135, 145]
    assert rates[-1] == pytest.approx(0.8 / 16)


def test_adam_is_that_of_its_paper_and_goes_on_with_its_moments() -> None:
    """Three steps by the formulas of Kingma and Ba (2015), alg. 1, in float64, with a break after the first."""

    def training() -> SuperResolutionTraining:
        with seeded(0):
            network = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2))
        recipe = Recipe(2, 0.01, 0, 0, schedule="halving", optimizer="adam")
        return SuperResolutionTraining(network, patches, recipe, device="cpu", epochs=100, steps=1, seed=5)

    patches = Patches([Pair.of(Picture("a", lambda: scene(0)), 2)], scale=2, side=4, augment=True)
    whole_training = training()
    weight = whole_training.model[0].weight.detach().double().clone()  # type: ignore[index]
    reference = training()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in (1, 2, 3):
        if step == 2:  # another process goes on
            state, whole_training = whole_training.state(), training()
            whole_training.restore(state)
        small, large = next(reference.batches())
        reference.model.load_state_dict(whole_training.model.state_dict())
        reference.model.zero_grad()
        reference.backward(small, large)
        gradient = reference.model[0].weight.grad.double()  # type: ignore[index]
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        weight -= 0.01 * mean / (square.sqrt() + 1e-8)
        whole_training.until(step)
        after = whole_training.model[0].weight.detach()  # type: ignore[index]
        assert after.double().numpy() == pytest.approx(weight.numpy(), abs=1e-6)


def test_a_state_that_does_not_fit_is_refused(reads: Reads) -> None:
    store = MemoryArtifacts()
    state = measure(prepared(), task_for(fidelity=1), store).artifacts["state"]
    for options, task, kind in (
        ({}, task_for(code="00", continues=state), "another network"),
        ({"steps": 5}, task_for(continues=state), "another plan"),
        ({"epochs": 3}, task_for(continues=state), "another plan"),
        ({}, task_for(fidelity=1, continues=state), "already past it"),
        ({}, task_for(fidelity=3), "no such fidelity"),
        ({}, task_for(weights=state), "no shared weights"),
    ):
        with pytest.raises(TrialFailed) as raised:
            measure(prepared(**options), task, store)
        assert raised.value.kind == kind
    weights = measure(prepared(), task_for(), store).artifacts["weights"]
    with pytest.raises(TrialFailed, match="not a training state"):
        measure(prepared(), task_for(continues=weights), store)


def test_training_that_diverges_is_a_failed_trial(reads: Reads) -> None:
    with pytest.raises(TrialFailed) as raised:
        measure(prepared(learning_rate=1e30, steps=20), task_for(), MemoryArtifacts())
    assert raised.value.kind == "diverged"


def test_weights_that_went_astray_in_the_last_step_are_a_failed_trial(reads: Reads) -> None:
    benchmark = prepared(epochs=1, steps=1, schedule="cosine", learning_rate=3e38)
    with pytest.raises(TrialFailed, match="validation PSNR is nan"):
        measure(benchmark, task_for(fidelity=1), MemoryArtifacts())


# Who sees what


def test_test_pictures_are_read_by_the_final_measurement_and_nothing_else(reads: Reads) -> None:
    store = MemoryArtifacts()
    benchmark = prepared()
    assert reads.parts == {"training", "validation"}
    measurement = measure(benchmark, task_for(), store)
    assert reads.parts == {"training", "validation"}
    reads.parts.clear()
    fresh = construct("benchmark", SuperResolution, SPACE, dataset="scenes", **FAST)
    final = fresh.final(measurement, device="cpu", artifacts=store)
    assert reads.parts == {"test"}
    assert (final.split, final.task, final.artifacts) == ("test", measurement.task, measurement.artifacts)


def test_the_final_figures_are_of_the_stored_weights(reads: Reads) -> None:
    store = MemoryArtifacts()
    benchmark = prepared()
    measurement = measure(benchmark, task_for(), store)
    network = SPACE.build(measurement.architecture, benchmark.io)
    network.load_state_dict(store.get_tensors(measurement.artifacts["weights"]))
    psnrs = []
    for pixels in reads.pixels["test"]:
        original = torch.tensor(pixels).permute(2, 0, 1)
        with torch.no_grad():
            result = network(shrunk(original, 2)[None].float() / 255)[0]
        plane = luma((result * 255).round().clamp(0, 255).to(torch.uint8))[2:-2, 2:-2]
        error = ((plane - luma(original)[2:-2, 2:-2]) ** 2).mean().item()
        psnrs.append(10 * math.log10(255**2 / error))
    final = benchmark.final(measurement, device="cpu", artifacts=store)
    assert final.metrics["psnr_db"] == pytest.approx(np.mean(psnrs), abs=1e-3)


def test_validation_pictures_guide_but_do_not_train(reads: Reads) -> None:
    store = MemoryArtifacts()
    clean = measure(prepared(), task_for(), store)
    reads.pixels["validation"] = [scene(99)]
    other = measure(prepared(), task_for(), store)
    assert other.artifacts == clean.artifacts
    assert other.metrics != clean.metrics
    reads.pixels["training"] = [scene(98)]
    assert measure(prepared(), task_for(), store).artifacts != clean.artifacts


def test_pictures_are_taken_from_all_over_the_set(reads: Reads) -> None:
    reads.pixels["training"] = [*map(scene, range(10))]
    reads.pixels["validation"] = [*map(scene, range(4))]
    benchmark = prepared(training_pictures=3, validation_pictures=2)
    assert [pair.name for pair in benchmark._patches.pairs] == ["training 0", "training 3", "training 6"]
    assert [pair.name for pair in benchmark.validation] == ["validation 0", "validation 2"]
    assert len(prepared(training_pictures=99)._patches.pairs) == 10


def test_further_sets_are_tested_on_by_name(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    others = (Picture("other", lambda: scene(30)),)
    monkeypatch.setitem(PICTURE_SETS, "set5", Entry("set5", "", lambda places: PictureSet("set5", (), (), others)))
    store = MemoryArtifacts()
    benchmark = prepared(tests=("set5",))
    measurement = measure(benchmark, task_for(), store)
    figures = benchmark.final(measurement, device="cpu", artifacts=store).metrics
    own = prepared().final(measurement, device="cpu", artifacts=store).metrics
    assert {name: figures[name] for name in own} == own
    assert set(figures) == {*own, *(f"set5_{name}" for name in own)}
    assert figures["set5_psnr_db"] != figures["psnr_db"]
    reads.pixels["test"] = []
    alone = prepared(tests=("set5",)).final(measurement, device="cpu", artifacts=store).metrics
    assert alone["psnr_db"] == alone["set5_psnr_db"] == figures["set5_psnr_db"]


# What is refused


def test_a_data_set_that_does_not_suffice_is_refused(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    reads.pixels["test"] = []
    with pytest.raises(InputError, match=r"scenes has no test images; name a set with test images"):
        prepared()
    monkeypatch.setitem(PICTURE_SETS, "more", Entry("more", "", lambda places: reads.open("more")))
    with pytest.raises(InputError, match=r"more has no test images, but is named in benchmark\.data\.tests"):
        prepared(tests=("more",))
    reads.pixels["training"] = []
    with pytest.raises(InputError, match="scenes is a test set and has no training images"):
        prepared()
    with pytest.raises(InputError, match=r"no set of images is named 'sett5'.*'set5'"):
        prepared(dataset="sett5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 5}, "benchmark.scale"),
        ({"patch": 0}, "benchmark.recipe.patch"),
        ({"schedule": "step"}, "benchmark.recipe.schedule"),
        ({"learning_rate": 0}, "benchmark.recipe.learning_rate"),
        ({"shuffle": True}, "no option of benchmark is named 'shuffle'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete("benchmark", SuperResolution, options)


def test_a_space_of_classifiers_is_refused() -> None:
    config = {
        "space": "nasbench201",
        "benchmark": "super_resolution",
        "strategy": "random_search",
        "objectives": ["psnr_db:max"],
        "budget": {"evaluations": 1},
    }
    with pytest.raises(InputError, match="nasbench201 classify images, but the data is for super-resolution"):
        Assembly.of(SearchConfig.read(config))


def test_costs_are_of_an_upscaled_picture_of_the_stated_size() -> None:
    assert SuperResolution(SPACE).io == IO.upscaled(360, 640, 2)
    assert SuperResolution(SPACE, scale=3).io == IO.upscaled(240, 426, 3)
    assert SuperResolution(SPACE, scale=4).io.output_shape == (3, 720, 1280)


def test_latency_is_known_by_a_table(reads: Reads, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("architecture,latency_ms\n12,4.5\n00,1.5\n")
    benchmark = prepared(latency_table=str(tmp_path / "table.csv"))
    assert benchmark.analytic_metrics(SPACE.parse("12")) == {"latency_ms": 4.5}
    assert benchmark.enumerable_members == [SPACE.parse("12"), SPACE.parse("00")]
    assert [benchmark.feasible(SPACE.parse(code)) for code in ("00", "01")] == [True, False]
    assert (dict(prepared().analytic_metrics(SPACE.parse("12"))), prepared().enumerable_members) == ({}, None)
    with pytest.raises(InputError, match="absent.csv cannot be read"):  # noqa: RUF043
        prepared(latency_table=str(tmp_path / "absent.csv"))


def test_the_protocol_names_what_a_reader_needs() -> None:
    protocol = SuperResolution(SPACE, scale=3).protocol
    assert "\n" not in protocol
    for words in ("x3", "BT.601 luma", "antialiasing", "without rounding", "3 pixels are cropped", "256 pixels"):
        assert words in protocol
    assert protocol != SuperResolution(SPACE, scale=2).protocol


# A search by the command line


SEARCH = [
    "search", "--space", "esrn/tiny", "--strategy", "asha", "--set", "strategy.eta=2", "--executor", "inline",
    "--benchmark", "super_resolution", "--objective", "psnr_db:max", "--objective", "macs:min",
    "--set", "benchmark.steps=2", "--set", "benchmark.epochs=2", "--set", "benchmark.batch_size=2",
    "--set", "benchmark.patch=8", "--set", "benchmark.width=32", "--set", "benchmark.height=24",
    "--set", "benchmark.training_pictures=2", "--set", "benchmark.validation_pictures=1",
    "--evaluations", "3", "--out", "run",
]  # fmt: skip


@pytest.mark.slow
def test_a_search_goes_through_the_command_line_and_names_its_protocol(command: Command) -> None:
    done = command(*SEARCH)
    assert done.returncode == 0, done.stderr
    assert "BT.601 luma" in " ".join(command("show", "run").stdout.split())
    shown = json.loads(command("show", "run", "--json").stdout)
    assert shown["protocol"].startswith("Upscaled x2: PSNR")
    assert command("report", "run").returncode == 0
    assert "BT.601 luma" in Path("run/report.html").read_text()
    done = command("export", "run", "--pick", "best", "--test", "--out", "exported")
    assert done.returncode == 0, done.stderr
    description = json.loads(Path("exported/architecture.json").read_text())
    assert description["scale"] == 2
    assert description["final"]["split"] == "test"
    assert {"psnr_db", "ssim", "gain_db"} <= set(description["final"])
    assert description["protocol"] == shown["protocol"]


def test_a_missing_set_is_refused_before_the_search_begins(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASPLAT_DATA", str(tmp_path))
    done = command(*SEARCH, "--set", "benchmark.dataset=bsds500")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the images of bsds500 are missing")
    assert not Path("run").exists()
    done = command(*SEARCH, "--set", "benchmark.tests=[set5]")
    assert done.returncode == 2
    assert "the images of set5 are missing" in done.stderr
