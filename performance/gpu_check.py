"""Everything that a GPU is for, exercised on one, and what it makes of it.

    python performance/gpu_check.py [--device cpu --tiny] [--only STEP …] [--folder runs/gpu-check] [--json]

About twenty minutes on a GPU. Each step is kept as soon as it has ended, with the device's name, and a second call goes
on with those that are missing. With `--tiny` the steps are so small that a processor does them in a minute or two:
their figures mean nothing, but that everything runs. What a step lacks, such as Ray or a data set, is told.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng

import nasplat.transforms
from nasplat.architecture import IO
from nasplat.artifact import MemoryArtifacts
from nasplat.config import Workload
from nasplat.cost import counted_macs
from nasplat.data.datasets import dataset
from nasplat.data.picture_sets import picture_set
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.latency.measuring import measure_latency
from nasplat.problem import Problem
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SupernetSpace
from nasplat.storage.files import write_atomically
from nasplat.task import Measurement
from nasplat.training.seeding import seeded

Figures = dict[str, Any]


class Lacking(Exception):
    """A step cannot be carried out here, for the reason given."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where steps are carried out.

    Args:
        device: ``cuda`` or ``cpu``.
        tiny: Whether steps are only to run through.
        folder: Where runs lie.
    """

    device: str
    tiny: bool
    folder: Path

    def nasplat(self, *arguments: str) -> str:
        """What a command of the platform prints; it is run as users run it.

        Raises:
            RuntimeError: It failed.
        """
        done = subprocess.run([sys.executable, "-m", "nasplat", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nasplat {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def run(self, name: str, *arguments: str) -> tuple[Path, Figures]:
        """A run by its name, made by a command or gone on with, and what that says of it."""
        folder = self.folder / name
        command = ["resume", str(folder)] if folder.exists() else [*arguments, "--out", str(folder)]
        return folder, json.loads(self.nasplat(*command, "--json"))

    @property
    def pictures(self) -> str:
        """The data set that classifiers learn."""
        if self.tiny:
            return "digits"
        try:
            dataset("cifar10_jpeg").check()
        except InputError as error:
            raise Lacking(str(error)) from None
        return "cifar10_jpeg"


# Watching the device --------------------------------------------------------------------------------------------


@contextmanager
def watched(device: str) -> Iterator[Figures]:
    """How busy the device is meanwhile: the mean of samples, in percent, as the driver tells it."""
    told: Figures = {}
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            said = subprocess.run(command, capture_output=True, text=True)
            if said.returncode == 0:
                samples.append(float(said.stdout.splitlines()[0]))

    thread = threading.Thread(target=watch, daemon=True)
    began, processor = time.perf_counter(), time.process_time()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        thread.start()
    try:
        yield told
    finally:
        over.set()
        told["seconds"] = time.perf_counter() - began
        if device == "cuda":
            thread.join()
            told["utilization_percent"] = mean(samples) if samples else None
            told["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        else:
            told["processor_seconds"] = time.process_time() - processor


# Steps ----------------------------------------------------------------------------------------------------------


def throughput(bench: Bench) -> Figures:
    """Training by itself, in float32 and bfloat16: pictures a second, and how busy the device is."""
    name = "nasbench201"
    space = {"channels": 4, "cells": 1} if bench.tiny else {"channels": 16, "cells": 5}
    found: Figures = {}
    for precision in ("float32", "bfloat16"):
        options = {"dataset": bench.pictures, "epochs": 4, "batch_size": 256, "precision": precision}
        benchmark = Workload(name, "classification", space, options).make()
        benchmark.prepare()
        goal = _goal("accuracy:max")
        problem = Problem(benchmark.space, goal, io=benchmark.io, fidelity=benchmark.fidelity, seed=0)
        task = problem.evaluate(benchmark.space.parse("333333"))
        warm = problem.evaluate(benchmark.space.parse("333333"), fidelity=1)
        perform(warm, benchmark, device=bench.device, artifacts=MemoryArtifacts())
        with watched(bench.device) as told:
            outcome = perform(task, benchmark, device=bench.device, artifacts=MemoryArtifacts())
        assert isinstance(outcome, Measurement), outcome
        found[precision] = {
            "pictures_per_second": outcome.spent.images / told["seconds"],
            "accuracy": outcome.metrics["accuracy"],
            **told,
        }
    return found


def supernet_step(bench: Bench) -> Figures:
    """A training step of a supernet beside the same step of the extracted network: the ratio of times."""
    spaces: dict[str, dict[str, int]] = (
        {"nasbench201": {"channels": 4, "cells": 1}}
        if bench.tiny
        else {"nasbench201": {"channels": 16, "cells": 5}, "darts": {"channels": 16, "cells": 8}, "ghost/cifar": {}}
    )
    number, repetitions = (2, 3) if bench.tiny else (10, 20)
    found: Figures = {}
    for name, options in spaces.items():
        space = SEARCH_SPACES.get(name)(**options)
        assert isinstance(space, SupernetSpace)
        with seeded(0):
            supernet = space.supernet(IO.image(3, 32, 10)).to(bench.device)
        rng, ratios = default_rng(0), []
        for _ in range(number):
            architecture = space.sample(rng)
            alone = supernet.extract(architecture)
            steps = [
                _step(alone, alone, bench.device),
                _step(partial(supernet, architecture=architecture), supernet, bench.device),
            ]
            times: list[list[float]] = [[], []]
            for repetition in range(repetitions + 1):
                for kind, step in enumerate(steps):
                    seconds = step()
                    if repetition:
                        times[kind].append(seconds)
            ratios.append(min(times[1]) / min(times[0]))
        found[name] = {"median_ratio": median(ratios), "largest_ratio": max(ratios)}
    return found


def _step(forward: Callable[..., torch.Tensor], network: torch.nn.Module, device: str) -> Callable[[], float]:
    """A training step with SGD on fixed pictures, which gives the seconds that it took."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(10, (64,), generator=generator).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> float:
        _settled(device)
        began = time.perf_counter()
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(forward(images), labels))
        optimizer.step()
        _settled(device)
        return time.perf_counter() - began

    return step


def _settled(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def workers(bench: Bench) -> Figures:
    """Several workers on one device through Ray, each with a fraction of it: trials a minute beside one worker's."""
    if importlib.util.find_spec("ray") is None:
        raise Lacking("ray is not installed")
    number = 2 if bench.tiny else 4
    found: Figures = {}
    for count in (1, number):
        share = f"{1 / count:g}" if bench.device == "cuda" else "0"
        began = time.perf_counter()
        _, shown = bench.run(
            f"workers-{count}", "search", "--space", "nasbench201", "--set", "space.channels=8",
            "--set", f"space.cells={1 if bench.tiny else 3}", "--benchmark", "classification",
            "--set", f"benchmark.dataset={bench.pictures}", "--set", "benchmark.epochs=1",
            "--strategy", "random_search", "--objective", "accuracy:max", "--evaluations", str(2 * number),
            "--executor", "ray", "--workers", str(count), "--gpus-per-worker", share,
        )  # fmt: skip
        outcomes = shown["outcomes"]
        if outcomes["failed"]:
            raise RuntimeError(f"{outcomes['failed']} trials failed with {count} workers")
        found[f"{count} workers"] = {
            "trials": outcomes["measured"],
            "trials_per_minute": 60 * outcomes["measured"] / shown["seconds"],
            "seconds_with_start": time.perf_counter() - began,
        }
    return found


def cars(bench: Bench) -> Figures:
    """A search by CARS with a final race, its front retrained, tested and exported: the whole way."""
    sizes = (
        [
            *("space.channels=4", "space.cells=1", "benchmark.epochs=3"),
            *("strategy.population=4", "strategy.warmup=1", "strategy.race.epochs=6", "strategy.race.finalists=2"),
        ]
        if bench.tiny
        else ["space.channels=16", "space.cells=3", "benchmark.epochs=60", "benchmark.batch_size=256"]
    )
    began = time.perf_counter()
    run, shown = bench.run(
        "cars", "search", "--space", "nasbench201", "--benchmark", "classification", "--strategy", "cars",
        "--objective", "accuracy:max", "--objective", "params:min",
        "--set", f"benchmark.dataset={bench.pictures}", "--set", "benchmark.gradient_norm=5",
        "--set", "strategy.finish=race",
        *(part for size in sizes for part in ("--set", size)),
    )  # fmt: skip
    searched = time.perf_counter() - began
    retrained, again = bench.run(
        "retrained", "retrain", str(run), "--pick", "bins:2" if bench.tiny else "bins:4",
        "--epochs", "2" if bench.tiny else "30",
    )  # fmt: skip
    tested = json.loads(bench.nasplat("test", str(retrained), "--json"))
    exported = bench.folder / "exported"
    if not exported.exists():
        bench.nasplat("export", str(retrained), "--format", "all", "--out", str(exported))
    return {
        "search_seconds": searched,
        "front": len(shown["front"]),
        "retrained": again.get("retrained"),
        "tested": tested["tested"],
        "verified": json.loads((exported / "verify.json").read_text()),
    }


def super_resolution(bench: Bench) -> Figures:
    """A residual dense network in training on photographs: patches a second, and decibels."""
    wanted = "photos" if bench.tiny else "bsds500"
    try:
        picture_set(wanted)
    except InputError as error:
        raise Lacking(str(error)) from None
    space, code = ("esrn/tiny", None) if bench.tiny else ("esrn/light", None)
    options: Figures = {"dataset": wanted, "epochs": 2 if bench.tiny else 20, "steps": 2 if bench.tiny else 250}
    benchmark = Workload(space, "super_resolution", {}, options).make()
    benchmark.prepare()
    problem = Problem(benchmark.space, _goal("psnr_db:max"), io=benchmark.io, fidelity=benchmark.fidelity, seed=0)
    member = benchmark.space.parse(code) if code else problem.space.sample(default_rng(0))
    with watched(bench.device) as told:
        outcome = perform(problem.evaluate(member), benchmark, device=bench.device, artifacts=MemoryArtifacts())
    assert isinstance(outcome, Measurement), outcome
    return {
        "space": space,
        "code": member.code,
        "patches_per_second": outcome.spent.images / told["seconds"],
        **{name: outcome.metrics[name] for name in ("psnr_db", "gain_db")},
        **told,
    }


def latency(bench: Bench) -> Figures:
    """The time of a forward pass by the device's own events, of small and large members, in batches of 1 and 64."""
    found: Figures = {}
    names = ("nasbench201", "ghost/small") if bench.tiny else ("nasbench201", "darts", "ghost/cifar", "ghost/imagenet")
    for name in names:
        space = SEARCH_SPACES.get(name)()
        side = 224 if name == "ghost/imagenet" else 32
        io = IO.image(3, side, 10)
        member = space.sample(default_rng(0))
        with seeded(0):
            network = space.build(member, io)
        for batch in (1,) if bench.tiny else (1, 64):
            measured = measure_latency(network, io, batch=batch, threads=1, device=bench.device)
            found[f"{name} {member.code} x{batch}"] = {"median_ms": measured.median_ms, "iqr_ms": measured.iqr_ms}
    return found


def full_stack(bench: Bench) -> Figures:
    """Full-stack filters on the device."""
    return _rewritten(bench, "full_stack", filters=4)


def balanced_binary(bench: Bench) -> Figures:
    """Binary convolutions on the device."""
    return _rewritten(bench, "balanced_binary")


def instance_pruning(bench: Bench) -> Figures:
    """Channels left out by image on the device: thresholds calibrated there, and the part of the MACs on the CPU."""
    from nasplat.nn.thresholds import pruned_layers, set_thresholds, spent

    found = _rewritten(bench, "instance_pruning")
    io = IO.image(3, 32, 10)
    with seeded(0):
        plain = SEARCH_SPACES.get("nasbench201")(**({"channels": 4, "cells": 1} if bench.tiny else {}))
        network = nasplat.transforms.apply(plain.build(plain.parse("333333"), io), "instance_pruning").network.eval()
        images = torch.randn(8 if bench.tiny else 64, *io.input_shape)
    dense = counted_macs(network, io)
    there = network.to(bench.device)
    share = set_thresholds(there, [images.to(bench.device)], dense, 0.7, names=[*pruned_layers(network)]).share
    return {**found, "share": share, "share_on_the_cpu": spent(there.to("cpu"), [images], dense).share}


def picking(bench: Bench) -> Figures:
    """Features that a picker sees, on the device and on the CPU, and a step of the robust distillation."""
    from nasplat.picking.feature_maps import FeatureMaps
    from nasplat.training.distillation import Distillation, Perturbations

    io = IO.image(3, 32, 10)
    with seeded(0):
        plain = SEARCH_SPACES.get("nasbench201")(**({"channels": 4, "cells": 1} if bench.tiny else {}))
        network = plain.build(plain.parse("333333"), io).eval()
        images = torch.randn(16 if bench.tiny else 1024, *io.input_shape)
    _, wanted = FeatureMaps(network, None, io.input_shape)(images)
    there = FeatureMaps(network, None, io.input_shape, bench.device)
    there(images)
    clock = time.perf_counter()
    logits, features = there(images)
    seconds = time.perf_counter() - clock
    on_device = images.to(bench.device)
    teaching = Distillation(there.network, 1.0, 4.0, perturbations=Perturbations(1, 0.1))
    teaching = teaching.drawn([on_device], torch.Generator().manual_seed(0))
    loss = teaching.loss(on_device, torch.zeros_like(logits).to(bench.device), torch.zeros((), device=bench.device))
    return {
        "largest_difference": float(((features - wanted).abs() / (1 + wanted.abs())).max()),
        "pictures_per_second": len(images) / seconds,
        "loss": float(loss),
    }


def calibration(bench: Bench) -> Figures:
    """Calibrated confidence as it ships, on the device and by the calibrator itself."""
    from nasplat.calibration.calibrators import fit
    from nasplat.calibration.outputs import Outputs
    from nasplat.calibration.served import confidence_of
    from nasplat.calibration.stored import stored

    rng = np.random.default_rng(0)
    count, labelled = (200, 40) if bench.tiny else (20_000, 500)
    features = rng.normal(0, 1, (count, 64))
    logits = 3 * features @ rng.normal(0, 1, (64, 10)) / 8
    labels = np.where(features[:, 0] > 0.5, rng.integers(10, size=count), logits.argmax(1))
    outputs = Outputs(logits, features)
    calibrator = fit("operational", outputs.take(np.arange(labelled)), labels[:labelled])
    document, tensors = stored("operational", calibrator)
    module = confidence_of(document, {name: torch.from_numpy(each) for name, each in tensors.items()}).to(bench.device)
    given = [torch.from_numpy(each).float().to(bench.device) for each in (logits, features)]
    with torch.no_grad():
        module(*given)
        clock = time.perf_counter()
        found = module(*given).cpu().numpy()
        seconds = time.perf_counter() - clock
    wanted = calibrator(Outputs(*(each.cpu().numpy() for each in given)))
    return {"largest_difference": float(np.abs(found - wanted).max()), "pictures_per_second": count / seconds}


def generation(bench: Bench) -> Figures:
    """A generator with importance sampling: seconds of training, and Jacobian norms on the device and on the CPU."""
    from nasplat.benchmarks.generation import Generation
    from nasplat.sampling.scores import jacobian_norms

    steps = 20 if bench.tiny else 500
    options = {
        "dataset": "digits",
        "epochs": 1,
        "recipe": {"steps": steps},
        "sampler": {"name": "importance", "warmup": 5, "interval": 10 if bench.tiny else 100},
    }
    benchmark = Workload("generator", "generation", {}, options).make()
    assert isinstance(benchmark, Generation)
    benchmark.prepare()
    training = benchmark.training(benchmark.space.parse("2111101"), device=bench.device, seed=0)
    clock = time.perf_counter()
    training.until(steps)
    seconds = time.perf_counter() - clock
    metrics = benchmark.current(training, 0)
    latents = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    generator, norms = training.generator.double().eval(), []
    for device in (bench.device, "cpu"):
        random = torch.Generator().manual_seed(1)
        norms.append(jacobian_norms(generator.to(device), latents.double().to(device), 1, random).cpu())
    difference = float(((norms[0] - norms[1]).abs() / norms[1]).max())
    return {"steps_per_second": steps / seconds, "largest_relative_difference": difference, **metrics}


def _rewritten(bench: Bench, transform: str, **options: Any) -> Figures:
    """A transformed network: fitted as on the CPU, packed without a change, and the time of a step."""
    from nasplat.nn.packing import packed

    with seeded(0):
        plain = SEARCH_SPACES.get("nasbench201")(**({"channels": 4, "cells": 1} if bench.tiny else {}))
        network = plain.build(plain.parse("333333"), IO.image(3, 32, 10))
    rewriting = [
        nasplat.transforms.apply(network.to(device), transform, fitted=True, **options)
        for device in ("cpu", bench.device)
    ]
    errors = [abs(rewriting[1].errors[name] - error) for name, error in rewriting[0].errors.items()]
    alone, small = network.to(bench.device), rewriting[1].network
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(bench.device)
    with torch.no_grad():
        same = torch.equal(packed(small).eval()(images), small.eval()(images))
    steps = [_step(each.train(), each, bench.device) for each in (alone, small)]
    times: list[list[float]] = [[], []]
    for repetition in range(4 if bench.tiny else 21):
        for kind, step in enumerate(steps):
            seconds = step()
            if repetition:
                times[kind].append(seconds)
    return {
        "largest_difference_of_errors": max(errors),
        "packed_is_equal": same,
        "step_ratio": min(times[1]) / min(times[0]),
    }


STEPS: dict[str, Callable[[Bench], Figures]] = {
    step.__name__: step
    for step in (
        throughput,
        supernet_step,
        workers,
        latency,
        cars,
        super_resolution,
        full_stack,
        balanced_binary,
        instance_pruning,
        picking,
        calibration,
        generation,
    )
}


def _goal(objective: str) -> Any:
    from nasplat.objective import Goal, Objective

    return Goal((Objective.parse(objective),))


# The record -----------------------------------------------------------------------------------------------------


def device_name(device: str) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"


def carried_out(bench: Bench, steps: Sequence[str], file: Path) -> Figures:
    """All that is known, after the steps that the file lacks."""
    where = {
        "device": device_name(bench.device),
        "tiny": bench.tiny,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    known: Figures = json.loads(file.read_text()) if file.exists() else {"where": where, "steps": {}}
    if known["where"] != where:
        raise InputError(f"{file} is of {known['where']}, but here is {where}; give another --folder")
    for name in steps:
        if known["steps"].get(name, {}).get("passed"):
            continue
        print(f"{name} …", file=sys.stderr)
        began = time.perf_counter()
        try:
            row: Figures = {"passed": True, "figures": STEPS[name](bench)}
        except Lacking as lack:
            row = {"passed": False, "lacks": str(lack)}
        except Exception as error:  # noqa: BLE001  the other steps are to be carried out all the same
            row = {"passed": False, "failed": f"{type(error).__name__}: {error}"}
        row |= {"seconds": time.perf_counter() - began, "date": time.strftime("%Y-%m-%d")}
        known["steps"][name] = row
        write_atomically(file, json.dumps(known, indent=1) + "\n")
    return known


def main() -> None:
    """Carry out what is missing, and print what came of each step; exit 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="only run everything through")
    parser.add_argument("--only", nargs="+", choices=tuple(STEPS), default=list(STEPS))
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu-check"), help="runs, and results.json")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no CUDA device; give --device cpu --tiny to see everything run without one")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.device, arguments.tiny, arguments.folder)
    known = carried_out(bench, arguments.only, arguments.folder / "results.json")
    if arguments.json:
        print(json.dumps(known, indent=1))
    else:
        print(", ".join(f"{key} {value}" for key, value in known["where"].items()))
        for name in arguments.only:
            row = known["steps"][name]
            said = "passed" if row["passed"] else f"lacks {row['lacks']}" if "lacks" in row else row["failed"]
            print(f"{name:18} {row['seconds']:7.1f} s  {said}")
    if any("failed" in known["steps"][name] for name in arguments.only):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
