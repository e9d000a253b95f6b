"""A fitted calibrator as a JSON document and tensors, which `served` reads and computes without this package."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from sklearn.metrics.pairwise import rbf_kernel

from nasplat.calibration.operational import Operational, Process
from nasplat.calibration.outputs import Calibrator, Floats
from nasplat.calibration.rivals import Isotonic, Platt, Temperature
from nasplat.calibration.served import FORMAT
from nasplat.calibration.truncated import NODES

CALIBRATOR, TENSORS, SERVED = "calibrator.json", "calibrator.safetensors", "calibrator.py"
"""The files: the document, the tensors, and the source of `served`."""

Tensors = Mapping[str, NDArray[np.float64]]


def stored(name: str, calibrator: Calibrator) -> tuple[dict[str, Any], Tensors]:
    """The document and the tensors of a calibrator.

    Args:
        name: Its name.
        calibrator: The calibrator, as from `calibrators.fit`.
    """
    numbers: dict[str, Any] = {}
    tensors: dict[str, Floats] = {}
    match calibrator:
        case Temperature():
            numbers = {"temperature": calibrator.value}
        case Platt():
            numbers = {"slope": calibrator.slope, "intercept": calibrator.intercept}
        case Isotonic():
            tensors = {"places": calibrator.places, "values": calibrator.values}
        case Operational():
            numbers, tensors = _operational(calibrator)
    return {"format": FORMAT, "calibrator": name, "numbers": numbers}, {
        name: np.ascontiguousarray(each, np.float64) for name, each in tensors.items()
    }


def _operational(calibrator: Operational) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Distances are of features from which those of the first medoid are subtracted, so that few digits cancel."""
    centre = calibrator.medoids[0]
    places, weights = np.polynomial.legendre.leggauss(NODES)
    tensors = {
        "centre": centre,
        "medoids": calibrator.medoids - centre,
        "nodes": (1 + places) / 2,
        "weights": weights,
    }
    processes = []
    for number, process in enumerate(calibrator.processes):
        tensors |= {f"{name}.{number}": each for name, each in _solved(process, centre).items()}
        processes.append({"variance": process.variance, "length": process.length})
    sigmoid = calibrator.sigmoid
    return {
        "temperature": calibrator.temperature.value,
        "processes": processes,
        "sigmoid": None if sigmoid is None else [sigmoid.slope, sigmoid.intercept],
    }, tensors


def _solved(process: Process, centre: Floats) -> dict[str, Floats]:
    """The features of labelled pictures, and what the posterior multiplies kernels with."""
    count = len(process.features)
    if not count:  # one picture that explains nothing, since runtimes differ in products of empty matrices
        return {"features": np.zeros((1, len(centre))), "weights": np.zeros(1), "root": np.zeros((1, 1))}
    kernel = process.variance * rbf_kernel(process.features, gamma=0.5 / process.length**2)
    root = solve_triangular(cholesky(kernel + process.noise * np.eye(count), lower=True), np.eye(count), lower=True)
    return {"features": process.features - centre, "weights": root.T @ (root @ process.corrections), "root": root}
