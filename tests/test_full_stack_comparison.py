"""The comparison of full-stack filters with thinned networks and Ghost: its arms, its rows, and its verdicts."""

from pathlib import Path

import pytest
import torch
from fronts import Gain
from full_stack import (
    ABOVE,
    ARMS,
    PAIRS,
    WIDTHS,
    Plain,
    Settings,
    draw,
    job,
    mask_figures,
    show,
    summed,
    thinned,
    verdict,
    work,
)

from nasplat.architecture import IO
from nasplat.cost import count

DIGITS, CLOTHES = IO((1, 16, 16), 10), IO((1, 28, 28), 10)
TINY = Settings(subset=200, epochs=3, split="validation")


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [2, 64])
def test_a_thinned_network_has_the_memory_of_individual_masks(ratio: int) -> None:
    wanted = count(lambda: ARMS[f"individual {ratio}"].network(DIGITS), DIGITS).memory_bits
    widths = thinned(DIGITS, ratio)
    assert widths[0] == WIDTHS[0] and all(less < full for less, full in zip(widths[1:], WIDTHS[1:], strict=True))
    memory = [count(lambda w=each: Plain(DIGITS, w), DIGITS).memory_bits for each in (widths, _wider(widths))]  # type: ignore[misc]
    assert 0.9 * wanted < memory[0] <= (1 + ABOVE) * wanted < memory[1]


def _wider(widths: tuple[int, ...]) -> tuple[int, ...]:
    return (widths[0], *(width + 1 for width in widths[1:]))


@pytest.mark.parametrize("io", [DIGITS, CLOTHES])
def test_all_networks_are_for_images_of_both_sizes(io: IO) -> None:
    for arm in ("plain", "individual 64", "shared 4", "thinned 16", "ghost 4"):
        assert ARMS[arm].network(io)(torch.zeros(2, *io.input_shape)).shape == (2, 10)


@pytest.mark.slow
def test_fitted_filters_are_of_the_plain_network_of_the_seed_and_a_row_is_repeated() -> None:
    first, again = (work(job("digits", ARMS["fitted 4"], TINY), 100) for _ in range(2))
    other = work(job("digits", ARMS["fitted 4"], TINY), 101)
    assert {key: first[key] for key in first if key != "seconds"} == {
        key: again[key] for key in again if key != "seconds"
    }
    assert first["squared"] != other["squared"] and 0 <= first["changed"] < 0.1
    assert all(0 <= first[key] <= 1 for key in ("fitted", "recalibrated", "accuracy"))


@pytest.mark.slow
def test_arms_of_a_seed_differ_in_what_they_say() -> None:
    rows = {arm: work(job("digits", ARMS[arm], TINY), 100) for arm in ("plain", "individual 4", "shared 4")}
    assert "squared" not in rows["plain"]
    assert rows["individual 4"]["squared"] != rows["shared 4"]["squared"]


def test_what_concerns_fine_tuning_is_no_setting_of_other_trainings() -> None:
    plain, fitted = (
        [job("hard_digits", ARMS[arm], Settings(rate=rate)) for rate in (0.1, 0.2)] for arm in ("plain", "fitted 4")
    )
    assert plain[0] == plain[1] and fitted[0] != fitted[1]


def test_figures_of_masks_by_hand() -> None:
    equal, opposite = torch.ones(2, 4), torch.tensor([[1.0, 1, 1, 1], [-1, -1, 1, 1]])
    assert mask_figures([equal], [equal]) == {"squared": 0.5, "absolute": 1.0, "changed": 0.0}
    assert mask_figures([equal], [opposite]) == {"squared": 0.0, "absolute": 0.0, "changed": 0.25}
    assert mask_figures([], []) == {}


def test_a_verdict_is_of_the_whole_interval() -> None:
    def said(low: float, high: float, allowed: float) -> str:
        return verdict(Gain((low + high) / 2, low, high, 0.9), allowed)

    assert said(0.001, 0.01, 0) == "better"
    assert said(-0.01, 0.01, 0.015) == "holds"
    assert said(-0.01, 0.01, 0) == "not decided"
    assert said(-0.02, -0.01, 0) == "fails"


@pytest.mark.slow
def test_tables_and_picture_are_of_all_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = {"absolute": 0.1, "changed": 0.02, "seconds": 1.0}
    rows = {
        arm: [
            {"accuracy": 0.5 + 0.01 * number + each * (number + 1), "squared": 0.01 + each * number, **others}
            for each in (-0.001, 0.001)
        ]
        for number, arm in enumerate(ARMS)
    }
    for row, accuracy in zip(rows["fitted 4"], (0.3, 0.4), strict=True):
        row.update(fitted=accuracy, recalibrated=2 * accuracy)
    found = {"hard_digits": summed(DIGITS, rows)}
    show(found)
    lines = capsys.readouterr().out.splitlines()
    assert "fitted 35.00 (" in next(line for line in lines if line.startswith("fitted 4"))
    assert {line[:19].strip() for line in lines} >= set(ARMS)
    for pair in PAIRS:
        one, other = (list(ARMS).index(arm) for arm in pair.split(" less "))
        assert f" {one - other:+d}.00 (" in next(line for line in lines if line.startswith(pair))
    draw(found, tmp_path / "drawn.svg")
    assert all(each in (tmp_path / "drawn.svg").read_text() for each in ("individual masks", "Ghost", "hard_digits"))
