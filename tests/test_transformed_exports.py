"""Transformed networks of every search space in every exported form, with the figures that exports are held to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import default_rng
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18

from nasplat import transforms
from nasplat.architecture import IO
from nasplat.export.formats import Format, verified, write_source
from nasplat.export.opening import WEIGHTS
from nasplat.nn.onnx import write_onnx
from nasplat.nn.packing import packed, unpack
from nasplat.nn.program import write_program
from nasplat.nn.rewritten import calibrate
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.training.seeding import seeded

CASES: dict[str, dict[str, Any]] = {
    "nasbench201+full_stack": {"channels": 4, "cells": 1},
    "nasbench101+full_stack": {"channels": 16, "stacks": 2, "cells": 1},
    "darts+full_stack": {"channels": 4, "cells": 3},
    "ghost/small+full_stack": {},
    "esrn/tiny+full_stack": {},
    "nasbench201+balanced_binary": {"channels": 4, "cells": 1},
    "nasbench101+balanced_binary": {"channels": 16, "stacks": 2, "cells": 1},
    "darts+balanced_binary": {"channels": 4, "cells": 3},
    "ghost/small+balanced_binary": {},
    "esrn/tiny+balanced_binary": {},
    "nasbench201+instance_pruning": {"channels": 4, "cells": 1},
    "ghost/small+instance_pruning": {"transform": {"macs": 0.8}},
    "esrn/tiny+instance_pruning": {},
    "nasbench201+ghost": {"channels": 4, "cells": 1},
    "esrn/tiny+ghost": {},
}


def transformed(name: str) -> tuple[SearchSpace, IO]:
    made: SearchSpace = construct("space", SEARCH_SPACES.get(name), **CASES[name])
    scaled = made.reference_io.scale is not None
    return made, IO.upscaled(8, 8, 2) if scaled else IO.image(channels=3, side=16, outputs=4)


def written(network: nn.Module, io: IO, folder: Path, *forms: Format) -> None:
    """Forms of a network, each compared with torch."""
    small = packed(network).eval()
    save_file(small.state_dict(), folder / WEIGHTS)
    upscales = io.scale is not None
    for form in forms:
        path = folder / form.value
        if form is Format.ONNX:
            write_onnx(small, io.input_shape, path, purpose=io.purpose)
        elif form is Format.PT2:
            write_program(small, io.input_shape, path, upscales=upscales)
        else:
            write_source(small, io, path, ["A network."])
        checks = verified(form, network, io, path, None)
        assert checks["random"]["largest_difference"] <= checks["random"]["allowed"]


@pytest.mark.slow
@pytest.mark.exports
@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", CASES)
def test_all_forms_of_a_transformed_member_agree_with_torch_and_are_as_small_as_it_is_stored(
    name: str, tmp_path: Path
) -> None:
    space, io = transformed(name)
    with seeded(0):
        architecture = space.sample(default_rng(3))
        network = space.build(architecture, io).eval()
        calibrate(network, lambda _: [torch.randn(8, *io.input_shape)])
    written(network, io, tmp_path, *Format)
    bits = space.cost(architecture, io).memory_bits
    stored = load_file(tmp_path / WEIGHTS)
    real = sum(8 * tensor.numel() * tensor.element_size() for tensor in stored.values() if tensor.dtype != torch.int64)
    assert bits <= real < bits + 8 * len(stored)  # masks end with whole bytes; counters of batch norm are no weights
    again = space.build(architecture, io).eval()
    unpack(again, stored)
    images = torch.randn(2, *io.input_shape)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


@pytest.mark.slow
@pytest.mark.exports
@pytest.mark.sweep(0)
@pytest.mark.parametrize("form", Format, ids=str)
def test_a_form_of_a_binary_resnet_18_agrees_with_torch(form: Format, tmp_path: Path) -> None:
    with seeded(0):
        network = transforms.apply(resnet18(), "balanced_binary", fitted=True).network.train()
        with torch.no_grad():  # statistics of batch norm, so that thresholds are not all zero
            for _ in range(3):
                network(torch.randn(4, 3, 64, 64))
    written(network.eval(), IO.image(channels=3, side=224, outputs=1000), tmp_path, form)
    bits = transforms.cost(network, (3, 224, 224)).memory_bits
    assert bits / 8 < (tmp_path / WEIGHTS).stat().st_size < 1.01 * bits / 8
