"""The convolutions of networks by formula: their sizes at odd and unequal sides, and what costs are made of them."""

from typing import Any

import pytest
import torch
from numpy.random import default_rng
from torch import nn

from nasplat.architecture import IO
from nasplat.convolution import Convolution, ConvolutionShape, found_by_running, square
from nasplat.errors import InputError
from nasplat.nn.full_stack import Masks
from nasplat.nn.rewriting import LayerTransform
from nasplat.registry import SEARCH_SPACES
from nasplat.testing.costs import convolutions_are_what_is_built
from nasplat.transforms.full_stack import FullStackFilters

UNEQUAL = IO((3, 5, 8), outputs=5)
ODD = IO.image(channels=3, side=13, outputs=5)
CASES: list[tuple[str, dict[str, Any], IO]] = [
    ("nasbench101", {"channels": 8, "cells": 1}, UNEQUAL),
    ("nasbench201", {"channels": 4, "cells": 1}, UNEQUAL),
    ("darts", {"channels": 2, "cells": 4}, UNEQUAL),
    ("ghost/cifar", {}, ODD),
    ("ghost/small", {}, ODD),
    ("esrn/small", {}, IO.upscaled(5, 8, 3)),
    ("esrn/small", {}, IO.upscaled(4, 7, 4)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "io"), CASES, ids=lambda each: each if isinstance(each, str) else "")
def test_convolutions_are_those_of_the_network_at_odd_and_unequal_sides(
    name: str, options: dict[str, Any], io: IO
) -> None:
    convolutions_are_what_is_built(SEARCH_SPACES.get(name)(**options), io)


class Recurrent(nn.Module):
    """One convolution is used three times, and another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.idle = nn.Conv2d(4, 4, 1, bias=False)
        self.last = nn.Conv2d(4, 2, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.again(self.again(x)))
        return torch.flatten(self.last(x).mean((2, 3)), 1)


def test_calls_are_counted_and_what_is_not_used_is_not_found() -> None:
    assert found_by_running(Recurrent(), IO((4, 6, 7), outputs=2)) == [
        Convolution("again", square(4, 4, 3, (6, 7)), calls=3),
        Convolution("last", square(4, 2, 1, (6, 7), stride=2), last=True),
    ]


def told() -> list[Convolution]:
    return [
        Convolution("stem", square(3, 4, 3, (6, 6))),
        Convolution("again", square(4, 4, 3, (6, 6)), calls=3),
        Convolution("idle", square(4, 4, 1, (6, 6)), calls=0),
        Convolution("last", square(4, 4, 1, (6, 6)), last=True),
    ]


def test_each_call_costs_and_parameters_are_stored_once() -> None:
    transform = FullStackFilters(filters=2)
    assert transform.eligible_of(told()) == ["again", "idle"]
    again, idle = (transform.added_cost(told(), [name]) for name in ("again", "idle"))
    # Half of 144 weights are real, and each of all 144 has a latent value, stored in a bit.
    assert (again.params, again.memory_bits) == (72, 144 - 32 * 72)
    assert (again.macs, again.multiplications, again.additions) == (0, -3 * 36 * 72, 0)
    assert (idle.params, idle.memory_bits) == (8, 16 - 32 * 8)
    assert (idle.macs, idle.multiplications, idle.additions) == (0, 0, 0)
    assert transform.added_cost(told()).memory_bits == again.memory_bits + idle.memory_bits


def test_the_cost_of_what_cannot_be_rewritten_is_refused_with_the_reason() -> None:
    transform = FullStackFilters()
    with pytest.raises(InputError, match=r"'stem' cannot be rewritten.*again, idle"):
        transform.added_cost(told(), ["again", "stem"])
    with pytest.raises(InputError, match=r"stem: it is the first convolution; .* last: it is the classifier"):
        transform.added_cost([each for each in told() if each.name in ("stem", "last")])


def drawn_shapes(number: int) -> list[ConvolutionShape]:
    rng = default_rng(0)

    def pair(low: int, high: int) -> tuple[int, int]:
        first, second = rng.integers(low, high, size=2).tolist()
        return first, second

    shapes = []
    for _ in range(number):
        paddings: list[str | tuple[int, int]] = [pair(0, 3), "same", "valid"]
        padding = paddings[int(rng.integers(3))]
        shapes.append(
            ConvolutionShape(
                inputs=2 * int(rng.integers(1, 4)),
                outputs=2 * int(rng.integers(1, 9)),
                sides=pair(7, 12),
                kernel=pair(1, 4),
                stride=(1, 1) if padding == "same" else pair(1, 4),
                padding=padding,
                dilation=pair(1, 3),
                groups=int(rng.integers(1, 3)),
                bias=bool(rng.integers(2)),
            )
        )
    return shapes


def test_sides_and_elements_are_those_that_torch_has() -> None:
    for shape in drawn_shapes(40):
        layer = shape.make()
        assert layer(torch.zeros(1, shape.inputs, *shape.sides)).shape[2:] == shape.output_sides
        assert layer.weight[0].numel() == shape.elements


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["individual", "shared"])
def test_macs_and_what_full_stack_filters_add_are_what_is_counted(masks: Masks) -> None:
    for ratio, shape in enumerate(drawn_shapes(8), 2):
        transform = FullStackFilters(filters=ratio, masks=masks)
        assert shape.cost(lambda layer: layer).macs == shape.macs
        assert transform.added(shape).metrics() == LayerTransform.added(transform, shape).metrics()
