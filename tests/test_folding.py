"""The ONNX model has batch norm folded into the convolution before it, and still computes what torch does."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from numpy.random import default_rng
from torch import nn

from nasplat.architecture import IO
from nasplat.export import bundle
from nasplat.nn.ghost.shapes import PLAIN, Bottleneck, GhostShape, Operator
from nasplat.nn.ghost.supernet import GhostNetwork
from nasplat.nn.onnx import write_onnx
from nasplat.registry import SEARCH_SPACES

pytestmark = pytest.mark.exports

IMAGES = IO.image(3, 32, 10)


def member(space: str, **options: int) -> nn.Module:
    made = SEARCH_SPACES.get(space)(**options)
    return made.build(made.sample(default_rng(1)), IMAGES)


def ghost() -> nn.Module:
    """All kinds of layers that Ghost networks have."""
    blocks = {
        "first": Bottleneck(8, 16, 8),
        "second": Bottleneck(8, 13, 11, kernel=5, stride=2, squeeze=True, expand=Operator(3, 5), project=PLAIN),
    }
    return GhostNetwork(GhostShape(24, 8, 2, blocks, 16, 20), IMAGES)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ghost": ghost,
    "nasbench201": lambda: member("nasbench201", channels=4, cells=1),
    "darts": lambda: member("darts", channels=4, cells=3),
}


def as_if_trained(network: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that change what they are given."""
    generator = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(norm.bias, generator=generator)
    return network.eval()


def before_batch_norm(path: Path) -> Counter[str]:
    """What batch norms stand directly behind."""
    graph = onnx.load(path).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    return Counter(made_by.get(node.input[0], "input") for node in graph.node if node.op_type == "BatchNormalization")


@pytest.mark.sweep(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_batch_norm_remains_behind_a_convolution(name: str, tmp_path: Path) -> None:
    network = as_if_trained(NETWORKS[name]())
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    path = tmp_path / "model.onnx"
    write_onnx(network, IMAGES.input_shape, path)
    remaining = before_batch_norm(path)
    assert remaining["Conv"] == 0, remaining
    if name == "ghost":
        assert not remaining
    verification = bundle.verify(network, IMAGES, path)
    assert verification.largest_difference <= verification.allowed
    after = network.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in weights.items())


@pytest.mark.slow
def test_it_is_seen_where_batch_norm_is_not_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export: Callable[..., Any] = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: export(*args, **options | {"optimize": False}))
    network = as_if_trained(ghost())
    write_onnx(network, IMAGES.input_shape, tmp_path / "model.onnx")
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert before_batch_norm(tmp_path / "model.onnx") == {"Conv": norms}
