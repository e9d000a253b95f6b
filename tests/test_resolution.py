"""Shrinking and comparing pictures, against references of their own; and the figures that the literature has."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import convolve2d

from nasplat.data.picture_sets import picture_set, read_picture
from nasplat.data.resolution import (
    MOST_DB,
    agreement,
    as_tensor,
    bicubic_agreement,
    compared,
    luma,
    shrunk,
    upscaled,
    whole,
)
from nasplat.errors import InputError

Plane = NDArray[np.float64]


def set5(*part: str) -> Path:
    """A folder of Set5 with what was handed on beside it."""
    folder = Path(os.environ.get("NASPLAT_DATA", ""), "images", "sr", "Set5", *part)
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing; set NASPLAT_DATA to the folder above images/sr/Set5/")
    return folder


# References


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.5."""
    x = abs(distance)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def resized_row(row: list[float], length: int) -> list[float]:
    """One row as MATLAB's imresize makes it, but for its mirrored edges: pixel by pixel, from the definition.

    Weights beyond an edge are left out, and the rest is scaled to add up to 1, as torch and Pillow do.
    """
    step = len(row) / length
    widening = max(step, 1.0)
    result = []
    for place in range(length):
        center = (place + 0.5) * step - 0.5
        weights = [cubic((i - center) / widening) for i in range(len(row))]
        result.append(sum(w * v for w, v in zip(weights, row, strict=True)) / sum(weights))
    return result


def resized(plane: Plane, height: int, width: int) -> Plane:
    across = np.array([resized_row(row, width) for row in plane.tolist()])
    return np.array([resized_row(column, height) for column in across.T.tolist()]).T


def reference_ssim(one: Plane, other: Plane) -> float:
    """Mean SSIM by its formula: moments under an 11 x 11 Gaussian window that lies wholly inside."""
    x = np.arange(-5, 6)
    bell = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2

    def mean(plane: Plane) -> Plane:
        moments: Plane = convolve2d(plane, window, mode="valid")
        return moments

    a, b = mean(one), mean(other)
    aa, bb, ab = mean(one * one) - a * a, mean(other * other) - b * b, mean(one * other) - a * b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))).mean())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


# Shrinking and upscaling


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrinking_is_antialiased_bicubic_of_the_definition(scale: int) -> None:
    picture = noise(3, 12 * scale, 7 * scale, seed=scale)
    small = shrunk(picture, scale).numpy()
    for plane, original in zip(small, picture.numpy(), strict=True):
        assert plane == pytest.approx(resized(original.astype(np.float64), 12, 7), abs=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upscaling_is_bicubic_of_the_definition(scale: int) -> None:
    picture = noise(2, 9, 11, seed=scale)
    large = upscaled(picture, scale).numpy()
    for plane, original in zip(large, picture.numpy(), strict=True):
        assert plane == pytest.approx(resized(original.astype(np.float64), 9 * scale, 11 * scale), abs=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pictures_are_cropped_at_their_ends(scale: int) -> None:
    picture = noise(3, 29, 23)
    cropped = whole(picture, scale)
    height, width = cropped.shape[1:]
    assert (height % scale, width % scale) == (0, 0)
    assert (29 - height < scale, 23 - width < scale) == (True, True)
    assert torch.equal(cropped, picture[:, :height, :width])


# Luma


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_luma_is_that_of_bt_601(color: tuple[int, int, int]) -> None:
    red, green, blue = color
    given_ = torch.tensor(color, dtype=torch.uint8)[:, None, None]
    value = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    assert abs(luma(given_).item() - value) <= 0.5 + 1e-9
    assert luma(given_).item() == int(luma(given_).item())


def test_black_and_white_are_the_ends_of_luma() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2)
    assert luma(ends).tolist() == [[16, 235]]


def test_grey_as_grey_is_the_values_themselves() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    assert torch.equal(luma(every.expand(3, -1, -1), grey=True), every[0].to(torch.float64))


def test_a_grey_file_has_three_equal_channels() -> None:
    grey, color = np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    picture, is_grey = as_tensor(grey)
    assert is_grey
    assert torch.equal(picture, torch.tensor(grey).expand(3, 2, 3))
    picture, is_grey = as_tensor(color)
    assert not is_grey
    assert picture[1].tolist() == color[:, :, 1].tolist()


# Comparing


def test_figures_are_those_of_the_formulas_within_the_shaved_border() -> None:
    one, other = (noise(40, 33, seed=seed).to(torch.float64) for seed in (1, 2))
    near = (0.8 * one + 0.2 * other).round()
    found = compared(one, near, 3)
    a, b = one.numpy()[3:-3, 3:-3], near.numpy()[3:-3, 3:-3]
    assert found["psnr_db"] == pytest.approx(20 * math.log10(255 / math.sqrt(((a - b) ** 2).mean())), abs=1e-9)
    assert found["ssim"] == pytest.approx(reference_ssim(a, b), abs=1e-9)


def test_the_border_does_not_count() -> None:
    picture = noise(3, 30, 30)
    spoilt = picture.clone()
    spoilt[:, :2] = spoilt[:, -2:] = 0
    spoilt[:, :, :2] = spoilt[:, :, -2:] = 255
    assert agreement(spoilt / 255, picture, 2) == {"psnr_db": MOST_DB, "ssim": 1.0}
    assert agreement(spoilt / 255, picture, 1)["psnr_db"] < 30


def test_what_comes_out_is_clamped_and_rounded_to_8_bits() -> None:
    picture = noise(3, 24, 24).clone()
    picture[:, 8:12] = 255
    picture[:, 12:16] = 0
    result = picture / 255
    result[:, 8:12] += 0.7
    result[:, 12:16] -= 0.7
    result[:, 16:] += 0.3 / 255
    assert agreement(result, picture, 2)["psnr_db"] == MOST_DB


def test_what_is_not_a_number_has_no_figures() -> None:
    picture = noise(3, 24, 24)
    result = picture / 255
    result[0, 3, 3] = math.nan
    assert all(map(math.isnan, agreement(result, picture, 2).values()))


def test_a_picture_too_small_for_the_window_is_refused() -> None:
    assert bicubic_agreement(noise(3, 16, 16), 2)["psnr_db"] > 0
    with pytest.raises(InputError, match=r"at least 15 pixels a side.*14 x 16"):
        bicubic_agreement(noise(3, 16, 14), 2)


def test_bicubic_works_on_the_rounded_luma_alone() -> None:
    picture = noise(3, 24, 28)
    plane = luma(picture).numpy()
    result = resized(resized(plane, 12, 14), 24, 28).round().clip(0, 255)
    a, b = plane[2:-2, 2:-2], result[2:-2, 2:-2]
    found = bicubic_agreement(picture, 2)
    assert found["psnr_db"] == pytest.approx(10 * math.log10(255**2 / ((a - b) ** 2).mean()), abs=1e-6)
    assert found["ssim"] == pytest.approx(reference_ssim(a, b), abs=1e-6)


# The literature's figures


@pytest.mark.parametrize(("scale", "psnr_db", "ssim"), [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)])
def test_bicubic_on_set5_is_as_published(scale: int, psnr_db: float, ssim: float) -> None:
    set5("HR")
    found = []
    for picture in picture_set("set5").test:
        original, grey = as_tensor(picture.read())
        found.append(bicubic_agreement(whole(original, scale), scale, grey=grey))
    assert np.mean([each["psnr_db"] for each in found]) == pytest.approx(psnr_db, abs=0.01)
    assert np.mean([each["ssim"] for each in found]) == pytest.approx(ssim, abs=0.0005)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrunk_pictures_are_those_that_are_handed_on_with_set5(scale: int) -> None:
    folder = set5(f"LR_bicubic_X{scale}")
    differences, found = [], []
    for picture in picture_set("set5").test:
        large = whole(as_tensor(picture.read())[0], scale)
        small, _ = as_tensor(read_picture(folder / f"{Path(picture.name).stem}x{scale}.png"))
        differences.append((shrunk(large, scale).round().clamp(0, 255) - small).abs().mean().item())
        result = upscaled(small, scale).round().clamp(0, 255).to(torch.uint8)
        found.append(compared(luma(result), luma(large), scale))
    assert np.mean(differences) <= 0.2  # grey levels
    if scale == 2:
        assert np.mean([each["psnr_db"] for each in found]) == pytest.approx(33.645, abs=0.01)
        assert np.mean([each["ssim"] for each in found]) == pytest.approx(0.9293, abs=0.0005)
