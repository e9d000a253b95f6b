"""A network and a training of one's own, from the search to the exported file, without a class of the platform."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import nasplat

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SEARCH = """
import sys
import nasplat
from own_training import evaluate, space

nasplat.search(space=space, benchmark=evaluate, objectives=["accuracy:max", "params:min"], evaluations=8,
               strategy="random_search", executor="ray", workers=2, ray_address=sys.argv[1],
               options={"benchmark.epochs": 2}, out="run")
"""


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def check_answers(folder: Path, network: torch.nn.Module) -> None:
    """The exported ONNX model answers as the network does."""
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (answer,) = session.run(None, {session.get_inputs()[0].name: images})
    with torch.no_grad():
        assert np.allclose(answer, network(torch.from_numpy(images)).numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.exports
def test_a_search_on_ray_is_killed_resumed_and_shipped(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(EXAMPLES / "own_training.py", tmp_path)
    words = [sys.executable, "-c", SEARCH, cluster.address]
    begun = subprocess.Popen(words, cwd=tmp_path, env=cluster.scripts.environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and begun.poll() is None:
        if (tmp_path / "run").exists() and len(nasplat.open_run(tmp_path / "run").trials()) >= 2:
            break
        time.sleep(0.1)
    begun.send_signal(signal.SIGKILL)
    _, said = begun.communicate()
    monkeypatch.chdir(tmp_path)  # where workers look for modules of one's own
    module = example("own_training", monkeypatch)
    with pytest.raises(nasplat.InputError, match=r"own_training:space.*nasplat\.open_run"):
        nasplat.open_run(tmp_path / "run").resume(ray_address=cluster.address)
    run = nasplat.open_run(tmp_path / "run", space=module.space, benchmark=module.evaluate)
    assert run.status == "interrupted" and run.config.executor.workers == 2, said
    before = [outcome.id for outcome in run.trials()]
    resumed = run.resume(ray_address=cluster.address, progress=False)
    assert {outcome.id for outcome in resumed.trials()} >= {*before, *range(8)}
    table = run.to_dataframe()
    assert len(table) == 8 and {"depth", "width", "accuracy", "params"} <= set(table.columns)
    folder = run.export(out=tmp_path / "network", latency=False)
    network = nasplat.load(folder, space=module.space)
    assert sum(each.numel() for each in network.parameters()) == run.best.metrics["params"]
    check_answers(folder, network)
    (final,) = run.test()
    assert final.split == "test" and 0 < final.metrics["accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.exports
def test_choices_in_a_network_are_searched_with_shared_weights_and_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("choices", monkeypatch)
    run = nasplat.search(
        space=module.Net,
        benchmark={"name": "classification", "dataset": "digits", "epochs": 2},
        strategy={"name": "cars", "population": 4},
        objectives=["accuracy:max", "params:min"],
        evaluations=8,
        out=tmp_path / "run",
        progress=False,
    )
    assert run.config.space.name == "choices:Net" and run.front()
    folder = run.export(out=tmp_path / "network", latency=False)
    check_answers(folder, nasplat.load(folder, space=module.Net))
    assert (
        json.loads((folder / "architecture.json").read_text())["measured"]["accuracy"] == run.best.metrics["accuracy"]
    )
