"""Sixteen clients of `nasplat serve`, and what the predictor alone would do in the same process.

    python performance/serve.py [--predictor DIR] [--seconds 300]

Without a saved predictor, `--fit auto` learns 424 cells of NAS-Bench-201 of the table. The throughput of direct calls
is measured before and after the load, with batches of the same size; the better of the two counts.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from numpy.random import default_rng

from nasplat.architecture import Architecture
from nasplat.registry import BENCHMARKS
from nasplat.surrogates.predictor_store import StoredPredictor, make_predictor, make_space, open_predictor, scored
from nasplat.task import Evaluate

CLIENTS, BATCH, LEARNT = 16, 64, 424
JSON = {"Content-Type": "application/json"}


def fitted(name: str, folder: Path) -> Path:
    """A predictor of CIFAR-10 validation accuracy, learnt from random cells of the table."""
    from nasplat.storage.artifact_store import ArtifactStore

    space = make_space("nasbench201")
    table = BENCHMARKS.get("nasbench201")(space)
    table.prepare()
    rng = default_rng(0)
    cells: dict[Architecture, float] = {}
    while len(cells) < LEARNT:
        cell = space.sample(rng)
        if table.feasible(cell):
            task = Evaluate(id=0, seed=0, architecture=cell, fidelity=table.fidelity)
            cells[cell] = table.measure(task, device="cpu", artifacts=ArtifactStore(folder)).metrics["accuracy"]
    import numpy as np

    predictor = make_predictor(name, space).fit(list(cells), np.array(list(cells.values())))
    predictor.save(folder / "predictor", {"count": LEARNT, "metric": "accuracy"})
    return folder / "predictor"


def direct(saved: StoredPredictor, batches: list[list[Architecture]], seconds: float = 5.0) -> float:
    """Architectures per second of calls one after another."""
    scored(saved.predictor, batches[0])
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        scored(saved.predictor, batches[calls % len(batches)])
        calls += 1
    return BATCH * calls / (time.perf_counter() - began)


def resident(process: int) -> float:
    """The memory that a process has, in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def ask(port: int, bodies: list[str], until: float, times: list[float], errors: list[int]) -> None:
    """One client: a request after another over one connection."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        number = 0
        while time.perf_counter() < until:
            began = time.perf_counter()
            connection.request("POST", "/v1/predict", bodies[number % len(bodies)], JSON)
            response = connection.getresponse()
            data = response.read()
            times.append(time.perf_counter() - began)
            if response.status != 200 or data.count(b'"error":null') != BATCH:
                errors.append(response.status)
            number += 1


def crowd(port: int, bodies: list[str], seconds: float) -> tuple[list[float], list[int], float]:
    """All clients at once: the seconds of every request, the errors, and how long it took."""
    times: list[float] = []
    errors: list[int] = []
    began = time.perf_counter()
    clients = [
        threading.Thread(target=ask, args=(port, bodies[i:] + bodies[:i], began + seconds, times, errors))
        for i in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return times, errors, time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictor", type=Path)
    parser.add_argument("--fit", default="auto")
    parser.add_argument("--seconds", type=float, default=300.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.predictor or fitted(given.fit, Path(scratch))
        saved = open_predictor(folder)
        rng = default_rng(1)
        batches = [[saved.space.sample(rng) for _ in range(BATCH)] for _ in range(100)]
        bodies = [json.dumps({"architectures": [each.code for each in batch]}) for batch in batches]
        alone = [direct(saved, batches)]
        command = [sys.executable, "-m", "nasplat", "serve", "--predictor", str(folder), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                port = next(int(found[1]) for line in server.stdout if (found := re.search(r"//.*:(\d+)", line)))
                crowd(port, bodies, 3)
                before = resident(server.pid)
                times, errors, passed = crowd(port, bodies, given.seconds)
                after = resident(server.pid)
            finally:
                server.terminate()
        alone.append(direct(saved, batches))
    served = BATCH * len(times) / passed
    cuts = statistics.quantiles(times, n=100)
    print(f"predictor            {saved.predictor.name} of {saved.space.name}")
    print(f"clients x batch      {CLIENTS} x {BATCH}, {passed:.0f} s, {len(times)} requests, {len(errors)} errors")
    print(f"p50 / p99            {1000 * cuts[49]:.1f} / {1000 * cuts[98]:.1f} ms")
    print(f"served               {served:.0f} architectures/s")
    print(f"direct, before/after {alone[0]:.0f} / {alone[1]:.0f} architectures/s")
    print(f"served / direct      {served / max(alone):.2f}")
    print(f"memory               {before:.1f} to {after:.1f} MiB")
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
