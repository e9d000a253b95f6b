"""The table of all networks of esrn/tiny."""

import itertools
import os
import runpy
from pathlib import Path

import pytest

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmarks.super_resolution_table import SuperResolutionTable
from nasplat.errors import InputError, TrialFailed
from nasplat.search_spaces.esrn import ESRNSmall, ESRNTiny
from nasplat.task import Evaluate

SPACE = ESRNTiny()
SCRIPT = Path(__file__).parents[1] / "performance" / "super_resolution_table.py"


def task_for(architecture: Architecture, fidelity: int = 1) -> Evaluate:
    """The task of measuring it."""
    return Evaluate(id=0, seed=0, architecture=architecture, fidelity=fidelity)


def test_every_network_of_the_space_is_in_it() -> None:
    benchmark, seen = SuperResolutionTable(SPACE), set()
    for slots in itertools.product(range(-1, 5), repeat=3):
        if max(slots) < 0:
            continue
        architecture = SPACE.member([gene for block in slots for gene in (int(block >= 0), max(block, 0))])
        metrics = benchmark.measure(task_for(architecture), device="cpu", artifacts=MemoryArtifacts()).metrics
        assert 25 < metrics["psnr_db"] < 40 and 0.8 < metrics["ssim"] < 1 and 0 < metrics["gain_db"] < 3
        seen.add((SPACE.canonical_key(architecture), metrics["psnr_db"]))
    assert len(seen) == len({key for key, _ in seen}) == 5 + 5**2 + 5**3


def test_the_final_figures_are_of_other_pictures() -> None:
    benchmark = SuperResolutionTable(SPACE)
    measurement = benchmark.measure(task_for(SPACE.of(["S_4_8_16"] * 3)), device="cpu", artifacts=MemoryArtifacts())
    final = benchmark.final(measurement, device="cpu", artifacts=MemoryArtifacts())
    assert measurement.split == "validation" and final.split == "test"
    assert final.metrics["psnr_db"] > measurement.metrics["psnr_db"] + 2  # Set5 is easier than photographs


def test_another_space_or_fidelity_is_refused() -> None:
    with pytest.raises(InputError, match="only for the search space esrn/tiny, but got esrn/small; train with"):
        SuperResolutionTable(ESRNSmall()).check()
    with pytest.raises(TrialFailed, match="ask for fidelity 1"):
        SuperResolutionTable(SPACE).measure(
            task_for(SPACE.of(["S_1_8_16"]), 2), device="cpu", artifacts=MemoryArtifacts()
        )


@pytest.mark.slow
def test_training_a_network_again_gives_its_row() -> None:
    for folder in ("BSDS500", "Set5"):
        path = Path(os.environ.get("NASPLAT_DATA", ""), "images", "sr", folder)
        if not path.is_dir():
            pytest.skip(f"{path} is missing; set NASPLAT_DATA to the folder above images/sr/{folder}/")
    script = runpy.run_path(str(SCRIPT))
    number, blocks = script["plan"]()[0]
    line = script["Trainer"]()(number, blocks)
    benchmark, architecture = SuperResolutionTable(SPACE), SPACE.parse(blocks)
    looked_up = benchmark.measure(task_for(architecture), device="cpu", artifacts=MemoryArtifacts())
    # Other versions of torch, and other processors, round otherwise; seeds alone are some .02 dB apart.
    assert line["psnr_db"] == pytest.approx(looked_up.metrics["psnr_db"], abs=0.05)
    assert line["set5_psnr_db"] == pytest.approx(
        benchmark.final(looked_up, device="cpu", artifacts=MemoryArtifacts()).metrics["psnr_db"], abs=0.3
    )
