"""Calibrated confidence of a network's predictions; it needs torch and safetensors, and two files beside it.

`load_confidence()` reads calibrator.json and calibrator.safetensors. What it returns takes logits and features, the
input of the network's last linear layer, and gives the confidence of the predicted class. `load()` joins it to the
network of network.py. The predicted class stays as it is.
"""

import json
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FORMAT = 1
LEAST_DEVIATION = 1e-12
SUREST = 1e-6
FARTHEST = 9.0


class Softmax(nn.Module):
    """The largest softmax of logits that are divided by a temperature."""

    temperature: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("temperature", number(temperature))

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        return torch.softmax(logits.double() / self.temperature, dim=1).amax(1)


class Sigmoid(nn.Module):
    """A sigmoid of the log odds of the largest softmax."""

    slope: Tensor
    intercept: Tensor

    def __init__(self, slope: float, intercept: float) -> None:
        super().__init__()
        self.register_buffer("slope", number(slope))
        self.register_buffer("intercept", number(intercept))

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        return self.of(log_odds(logits))

    def of(self, odds: Tensor) -> Tensor:
        """The confidence of log odds."""
        return torch.sigmoid(self.slope * odds + self.intercept)


class Steps(nn.Module):
    """A function of the log odds of the largest softmax: linear between places, constant beyond them."""

    places: Tensor
    values: Tensor

    def __init__(self, places: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places)
        self.register_buffer("values", values)

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        inside = torch.minimum(torch.maximum(log_odds(logits), self.places[0]), self.places[-1])
        right = (inside[:, None] > self.places).sum(1).clamp(1, len(self.places) - 1)
        left = right - 1
        width = (self.places[right] - self.places[left]).clamp_min(1e-300)
        part = (inside - self.places[left]) / width
        return self.values[left] + part * (self.values[right] - self.values[left])


class Process(nn.Module):
    """The posterior of a Gaussian process with an RBF kernel, given labelled pictures."""

    features: Tensor
    weights: Tensor
    root: Tensor
    variance: Tensor
    length: Tensor

    def __init__(self, features: Tensor, weights: Tensor, root: Tensor, variance: float, length: float) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.register_buffer("weights", weights)
        self.register_buffer("root", root)
        self.register_buffer("variance", number(variance))
        self.register_buffer("length", number(length))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the variance of the correction of each picture."""
        near = self.variance * (squared_distances(features, self.features) / (-2 * self.length * self.length)).exp()
        explained = (near @ self.root.T).square().sum(1)
        return near @ self.weights, (self.variance - explained).clamp_min(0)


class Operational(nn.Module):
    """The largest softmax plus the correction of the nearest medoid's process, truncated to [0, 1]."""

    centre: Tensor
    medoids: Tensor
    nodes: Tensor
    weights: Tensor

    def __init__(
        self, softmax: Softmax, processes: list[Process], tensors: Mapping[str, Tensor], sigmoid: Sigmoid | None
    ) -> None:
        super().__init__()
        self.softmax, self.processes, self.sigmoid = softmax, nn.ModuleList(processes), sigmoid
        for name in ("centre", "medoids", "nodes", "weights"):
            self.register_buffer(name, tensors[name])

    def forward(self, logits: Tensor, features: Tensor) -> Tensor:
        features = features.double() - self.centre
        cluster = squared_distances(features, self.medoids).argmin(1)[:, None]
        means, variances = zip(*(process(features) for process in self.processes), strict=True)
        mean = self.softmax(logits, features) + torch.stack(means, 1).gather(1, cluster)[:, 0]
        deviation = torch.stack(variances, 1).gather(1, cluster)[:, 0].sqrt()
        confidence = self.truncated(mean, deviation)
        if self.sigmoid is None:
            return confidence
        inside = confidence.clamp(SUREST, 1 - SUREST)
        return self.sigmoid.of((inside / (1 - inside)).log())

    def truncated(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """The mean of a normal distribution that is truncated to [0, 1], by a Gauss-Legendre rule."""
        mirrored = mean > 0.5
        centre = torch.where(mirrored, 1 - mean, mean)
        unit = deviation.clamp_min(LEAST_DEVIATION)
        mode = centre.clamp_min(0)
        slope = (-centre).clamp_min(0) / unit
        end = FARTHEST**2 / (slope + (slope * slope + FARTHEST**2).sqrt())
        low = (-mode / unit).clamp_min(-FARTHEST)
        width = torch.minimum((1 - mode) / unit, end) - low
        z = low[:, None] + width[:, None] * self.nodes
        density = self.weights * (-z * (z / 2 + slope[:, None])).exp()
        place = (density * self.nodes).sum(1) / density.sum(1)
        found = (mode + unit * (low + width * place)).clamp(0, 1)
        return torch.where(mirrored, 1 - found, found)


class CalibratedNetwork(nn.Module):
    """A network that also gives the calibrated confidence of its predictions: logits `[n, classes]`, confidence `[n]`.

    Args:
        network: A classifier whose last linear layer takes the features.
        confidence: As from `load_confidence`.
    """

    def __init__(self, network: nn.Module, confidence: nn.Module) -> None:
        super().__init__()
        self.network, self.confidence = network, confidence

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        layers = [each for each in self.network.modules() if isinstance(each, nn.Linear)]
        hooks = [each.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for each in layers]
        try:
            logits = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, self.confidence(logits, seen[-1])


def number(value: float) -> Tensor:
    """A number in full precision, also where an exporter would write it as float32."""
    return torch.tensor(value, dtype=torch.float64)


def log_odds(logits: Tensor) -> Tensor:
    """The logarithm of confidence / (1 - confidence) `[n]` of the predicted class."""
    logits = logits.double()
    predicted = torch.arange(logits.shape[1], device=logits.device) == logits.argmax(1)[:, None]
    others = torch.where(predicted, -torch.inf, logits)
    second = others.amax(1)
    return logits.amax(1) - second - (others - second[:, None]).exp().sum(1).log()


def squared_distances(these: Tensor, others: Tensor) -> Tensor:
    """The squares of the Euclidean distances `[n, m]` of vectors `[n, d]` from others `[m, d]`."""
    lengths = these.square().sum(1)[:, None] + others.square().sum(1)
    return (lengths - 2 * these @ others.T).clamp_min(0)


def confidence_of(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that gives the confidence, in evaluation mode.

    Args:
        document: What calibrator.json says.
        tensors: Those of calibrator.safetensors, float64.

    Raises:
        KeyError, TypeError, ValueError: They are no calibrator of this version.
    """
    kind, numbers = document["calibrator"], document["numbers"]
    if document["format"] != FORMAT:
        raise ValueError(f"the calibrator has format {document['format']!r}, but this reads {FORMAT}")
    module: nn.Module
    if kind in ("none", "temperature"):
        module = Softmax(float(numbers.get("temperature", 1.0)))
    elif kind == "platt":
        module = Sigmoid(float(numbers["slope"]), float(numbers["intercept"]))
    elif kind == "isotonic":
        module = Steps(tensors["places"], tensors["values"])
    elif kind == "operational":
        processes = []
        for place, each in enumerate(numbers["processes"]):
            features, weights, root = (tensors[f"{part}.{place}"] for part in ("features", "weights", "root"))
            processes.append(Process(features, weights, root, float(each["variance"]), float(each["length"])))
        sigmoid = None if numbers["sigmoid"] is None else Sigmoid(*map(float, numbers["sigmoid"]))
        module = Operational(Softmax(float(numbers["temperature"])), processes, tensors, sigmoid)
    else:
        raise ValueError(f"no calibrator is named {kind!r}")
    return module.eval()


def load_confidence(folder: str | Path = Path(__file__).parent) -> nn.Module:
    """The module that takes logits `[n, classes]` and features `[n, d]` and gives the confidence `[n]`."""
    document = json.loads(Path(folder, "calibrator.json").read_text(encoding="utf-8"))
    return confidence_of(document, load_file(Path(folder, "calibrator.safetensors")))


def load(folder: str | Path = Path(__file__).parent) -> CalibratedNetwork:
    """The network of network.py with its calibrated confidence, in evaluation mode."""
    path = Path(folder, "network.py")
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; export the network as source too (nasplat export --format all; format='all')"
        )
    spec = spec_from_file_location("network", path)
    assert spec is not None and spec.loader is not None
    source = module_from_spec(spec)
    spec.loader.exec_module(source)
    return CalibratedNetwork(source.load(), load_confidence(folder)).eval()
