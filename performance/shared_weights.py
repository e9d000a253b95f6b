"""How well shared weights rank architectures, beside what each reaches when it is trained alone.

    python performance/shared_weights.py [--setting nasbench201/digits] [--part truth] [--part supernet] [--part table]
        [--images 30000 100000] [--supernets 2] [--set benchmark.shared_weights.paths=2] [--file FILE] [--json]

The truth is a table in performance/truth/: a fixed sample of architectures, each trained alone with several seeds.
Every training is a row of it, every measurement with shared weights a line of the file, as soon as it is made, and a
second call goes on where the first was interrupted. A file is written by one process at a time; the truths of several
settings, which are files of their own, can be made at once. The table compares all that the file has of the setting.
"""

import argparse
import csv
import io
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import default_rng
from smoothing import smoothed

from nasplat.architecture import Architecture
from nasplat.artifact import MemoryArtifacts
from nasplat.benchmark import SupernetBenchmark
from nasplat.cli.predicting import assigned
from nasplat.config import Workload
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.options import merged, nested
from nasplat.task import Evaluate, FineTuning, Measurement, Task, Trained, TrainSupernet, derive_seed
from rank_agreement import (
    Ceiling,
    Estimate,
    Floats,
    Pairs,
    Statistic,
    above,
    among_best,
    ceiling,
    every,
    mean_tau,
    partial_tau,
    single,
    tau,
    within_strata,
)

TRUTHS = Path(__file__).parent / "truth"
COLUMNS = ("code", "seed", "accuracy", "loss", "params", "macs")
ARCHITECTURES = 60
SAMPLE = 1000
"""The seed of the sample."""
SUPERNETS = 2000
"""The seed of the first supernet: no training of a supernet shares its seed with one of the truth."""
PARTS = ("truth", "supernet", "table")
VIEWS = ("overall", "strata", "best")


@dataclass(frozen=True, slots=True)
class Setting:
    """A space, its data, and how architectures are trained alone.

    Args:
        space: The registered name of the space.
        space_options: Its options.
        training: Options of the benchmark by dotted name, for trainings alone and of supernets.
        epochs: The length of a training alone.
        seeds: The number of trainings of each architecture.
    """

    space: str
    space_options: dict[str, Any]
    training: dict[str, Any]
    epochs: int
    seeds: int

    def benchmark(self, epochs: int, options: dict[str, Any] | None = None) -> SupernetBenchmark:
        """The benchmark, prepared, with other options of the training if they are given."""
        given: dict[str, Any] = {"epochs": epochs}
        for name, value in (self.training if options is None else options).items():
            given = merged(given, nested(name, value))
        made = Workload(self.space, "classification", self.space_options, given).make()
        assert isinstance(made, SupernetBenchmark)
        made.check()
        made.check_supernet()
        made.prepare()
        return made


SETTINGS = {
    "nasbench201/digits": Setting(
        "nasbench201", {"channels": 4, "cells": 1}, {"dataset": "digits", "recipe.gradient_norm": 5}, epochs=10, seeds=5
    ),
    "nasbench201/hard_digits": Setting(
        "nasbench201",
        {"channels": 4, "cells": 1},
        {"dataset": "hard_digits", "data.subset": 3000, "recipe.gradient_norm": 5},
        epochs=10,
        seeds=4,
    ),
    "nasbench201/fashion_mnist": Setting(
        "nasbench201",
        {"channels": 4, "cells": 1},
        {"dataset": "fashion_mnist", "data.subset": 6000, "recipe.gradient_norm": 5},
        epochs=6,
        seeds=3,
    ),
    "ghost/small": Setting(
        "ghost/small",
        {},
        {
            "dataset": "hard_digits",
            "data.subset": 3000,
            "recipe.gradient_norm": 5,
            "shared_weights.calibration": 256,
        },
        epochs=5,
        seeds=2,
    ),
    "darts/digits": Setting(
        "darts", {"channels": 4, "cells": 3}, {"dataset": "digits", "recipe.gradient_norm": 5}, epochs=10, seeds=3
    ),
}


def sample(benchmark: SupernetBenchmark) -> list[Architecture]:
    """Drawn uniformly, no two of one canonical key."""
    rng, chosen = default_rng(SAMPLE), dict[str, Architecture]()
    while len(chosen) < ARCHITECTURES:
        architecture = benchmark.space.sample(rng)
        chosen.setdefault(benchmark.space.canonical_key(architecture), architecture)
    return list(chosen.values())


class Lines:
    """The complete lines of a text file, which grows by one at a time.

    What an interruption left of a last line is cut off when the file is opened.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(file, len(whole))
        self.known = whole.decode().splitlines()

    def add(self, line: str) -> None:
        """One more line, at once."""
        self.known.append(line)
        with self.file.open("a") as end:
            end.write(f"{line}\n")


class Truth:
    """The table of a setting: what each architecture reaches when it is trained alone, for each seed.

    Its first line is a comment with the setting. Metrics are those of the validation split; the cost is of one image.

    Raises:
        InputError: The table is of another setting.
    """

    def __init__(self, name: str) -> None:
        self.setting = SETTINGS[name]
        self._lines = Lines(TRUTHS / f"{name.replace('/', '-')}.csv")
        # More seeds may be added to a table.
        setting = {field: value for field, value in asdict(self.setting).items() if field != "seeds"}
        self._header = [f"# {json.dumps(setting)}", ",".join(COLUMNS)]
        begins = self._lines.known[:2]
        if begins != self._header[: len(begins)]:
            raise InputError(
                f"{self._lines.file} must begin with {' and '.join(self._header)}, but begins with "
                f"{' and '.join(begins)}; move it away to make the truth anew"
            )

    @property
    def rows(self) -> list[dict[str, str]]:
        """All rows."""
        return list(csv.DictReader(self._lines.known[2:], COLUMNS))

    def complete(self, seeds: int) -> None:
        """Train what is missing, seed by seed, so that whatever is interrupted has the seeds before."""
        for line in self._header[len(self._lines.known) :]:
            self._lines.add(line)
        benchmark = self.setting.benchmark(self.setting.epochs)
        have = {(row["code"], int(row["seed"])) for row in self.rows}
        for seed in range(seeds):
            for number, architecture in enumerate(sample(benchmark)):
                if (architecture.code, seed) in have:
                    continue
                task = Evaluate(
                    id=number,
                    seed=derive_seed(seed, number),
                    architecture=architecture,
                    fidelity=self.setting.epochs,
                    replicate=seed,
                )
                found = measured(task, benchmark, MemoryArtifacts()).metrics
                cost = benchmark.space.cost(architecture, benchmark.io)
                self._add(architecture.code, seed, found["accuracy"], found["loss"], cost.params, cost.macs)
            print(f"seed {seed} of the truth is complete", file=sys.stderr)

    def _add(self, *values: Any) -> None:
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(values)
        self._lines.add(row.getvalue())

    def figures(self, metric: str) -> tuple[list[str], Floats, Floats, Floats]:
        """Codes, metric `[seeds, n]` of the seeds that all of them have, higher is better, parameters and MACs.

        Raises:
            InputError: No seed is complete.
        """
        rows = self.rows
        codes = list(dict.fromkeys(row["code"] for row in rows))
        found = {(int(row["seed"]), row["code"]): sign(metric) * float(row[metric]) for row in rows}
        seeds = [seed for seed in sorted({seed for seed, _ in found}) if all((seed, code) in found for code in codes)]
        if len(codes) < ARCHITECTURES or not seeds:
            raise InputError(
                f"the truth must have all of {ARCHITECTURES} architectures with one seed at least, but "
                f"{self._lines.file} has {len(rows)} trainings; make it with --part truth"
            )
        costs = {row["code"]: (float(row["params"]), float(row["macs"])) for row in rows}
        params, macs = np.array([costs[code] for code in codes]).T
        return codes, np.array([[found[seed, code] for code in codes] for seed in seeds]), params, macs


def sign(metric: str) -> int:
    """1 if more of a metric is better, else -1."""
    return -1 if metric == "loss" else 1


def measured(task: Evaluate, benchmark: SupernetBenchmark, artifacts: MemoryArtifacts) -> Measurement:
    """The measurement, which is not to fail."""
    outcome = done(task, benchmark, artifacts)
    assert isinstance(outcome, Measurement)
    return outcome


def done(task: Task, benchmark: SupernetBenchmark, artifacts: MemoryArtifacts) -> Measurement | Trained:
    """What comes of a task.

    Raises:
        InputError: It fails.
    """
    outcome = perform(task, benchmark, device="cpu", artifacts=artifacts)
    if not isinstance(outcome, Measurement | Trained):
        raise InputError(f"every task must succeed, but one failed ({outcome.kind}): {outcome.message}")
    return outcome


def train(benchmark: SupernetBenchmark, seed: int, epochs: int, artifacts: MemoryArtifacts) -> Trained:
    """A supernet, trained on the whole space."""
    task = TrainSupernet(id=0, seed=derive_seed(SUPERNETS + seed, 0), architectures=(), epochs=epochs)
    outcome = done(task, benchmark, artifacts)
    assert isinstance(outcome, Trained)
    return outcome


def with_shared_weights(
    benchmark: SupernetBenchmark, supernet: int, chosen: Sequence[Architecture], tuned: int
) -> Iterator[dict[str, Any]]:
    """What the chosen architectures reach with the weights of one supernet, of as many epochs as the benchmark has.

    The schedule of the learning rate spans the training, so that a supernet of another budget is another training.
    With `tuned` epochs, each architecture is fine-tuned from the shared weights for so long before it is measured.
    """
    artifacts = MemoryArtifacts()
    trained = train(benchmark, supernet, benchmark.fidelity, artifacts)
    for number, architecture in enumerate(chosen, start=1):
        task = Evaluate(
            id=number,
            seed=derive_seed(SUPERNETS + supernet, number),
            architecture=architecture,
            fidelity=benchmark.fidelity,
            weights=trained.weights,
            replicate=supernet,
        )
        if tuned:
            tuning = FineTuning(weights=trained.weights, begun=benchmark.fidelity, epochs=tuned)
            task = replace(task, weights=None, tuning=tuning, fidelity=tuning.end)
        outcome = measured(task, benchmark, artifacts)
        yield {
            "trained_images": trained.spent.images,
            "training_seconds": trained.spent.seconds,
            "code": architecture.code,
            "accuracy": outcome.metrics["accuracy"],
            "loss": outcome.metrics["loss"],
            "seconds": outcome.spent.seconds,
        }


def briefly(benchmark: SupernetBenchmark, seed: int, chosen: Sequence[Architecture]) -> Iterator[dict[str, Any]]:
    """What the chosen architectures reach when each is trained alone, for as many epochs as the benchmark has."""
    for number, architecture in enumerate(chosen, start=1):
        task = Evaluate(
            id=number,
            seed=derive_seed(SUPERNETS + seed, number),
            architecture=architecture,
            fidelity=benchmark.fidelity,
            replicate=seed,
        )
        outcome = measured(task, benchmark, MemoryArtifacts())
        yield {
            "trained_images": 0,
            "training_seconds": 0.0,
            "code": architecture.code,
            "accuracy": outcome.metrics["accuracy"],
            "loss": outcome.metrics["loss"],
            "seconds": outcome.spent.seconds,
        }


def supernets(
    name: str, changed: dict[str, Any], budgets: Sequence[int], number: int, tuned: int, lines: Lines
) -> None:
    """Add what the file lacks of so many supernets for each budget, which is rounded to epochs, at least one.

    With `tuned` epochs, what fine-tuning for so long gives; without any images before it, a training from scratch.
    """
    setting = SETTINGS[name]
    options = {**setting.training, **changed}
    probe = setting.benchmark(1, options)
    chosen = sample(probe)
    # How many images an epoch takes depends on the options, such as how many paths train on each batch.
    epoch = train(probe, 0, 1, MemoryArtifacts()).spent.images
    for supernet in range(number):
        for images in budgets:
            key = {
                "setting": name,
                "space": setting.space_options,
                "options": options,
                "images": images,
                "supernet": supernet,
                **({"tuned": tuned} if tuned else {}),
            }
            known = [json.loads(line) for line in lines.known]
            have = {row["code"] for row in known if of(row) == key}
            if missing := [architecture for architecture in chosen if architecture.code not in have]:
                if not images:
                    found = briefly(setting.benchmark(tuned, options), supernet, missing)
                else:
                    benchmark = setting.benchmark(max(round(images / epoch), 1), options)
                    found = with_shared_weights(benchmark, supernet, missing, tuned)
                for row in found:
                    lines.add(json.dumps(key | row))
            print(f"supernet {supernet} of {images:,} images is measured", file=sys.stderr)


KEY = ("setting", "space", "options", "images", "supernet", "tuned")


def of(row: dict[str, Any]) -> dict[str, Any]:
    """What a measurement is of, besides its architecture."""
    return {part: row[part] for part in KEY if part in row}


def summary(name: str, lines: Lines, metric: str, predictor: str | None = None) -> dict[str, Any]:
    """All correlations of a setting: of supernets by options and images, of parameters alone, and their ceilings."""
    setting = SETTINGS[name]
    codes, seeds, params, macs = Truth(name).figures(metric)
    truth = seeds.mean(axis=0)
    views: dict[str, Callable[[Floats], Pairs]] = {
        "overall": lambda _: every(len(codes)),
        "strata": lambda _: within_strata(macs),
        "best": among_best,
    }
    pairs = {view: of(truth) for view, of in views.items()}
    rows = [row for row in map(json.loads, lines.known) if row["setting"] == name]
    rows = [row for row in rows if row["space"] == setting.space_options]
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        options = {k: v for k, v in row["options"].items() if k not in setting.training or setting.training[k] != v}
        groups.setdefault((json.dumps(options, sort_keys=True), row["images"], row.get("tuned", 0)), []).append(row)

    def agreement(figures: Floats) -> dict[str, Any]:
        """Of figures `[supernets, n]`."""
        given = figures, params, truth, pairs["overall"]
        return {
            **{view: estimate(mean_tau(figures, truth, pairs[view])) for view in views},
            "partial": estimate(partial_tau(*given)),
            "less_parameters": estimate(above(*given)),
        }

    def figures(cells: dict[tuple[int, str], dict[str, Any]], numbers: list[int]) -> dict[str, Floats]:
        found = {
            figure: np.array([[sign(figure) * cells[i, code][figure] for code in codes] for i in numbers])
            for figure in ("loss", "accuracy")
        }
        if predictor is not None:
            space = setting.benchmark(1).space
            sample = [space.parse(code) for code in codes]
            found["loss, smoothed"] = np.array([smoothed(space, sample, row, predictor) for row in found["loss"]])
        return found

    def estimate(statistic: Statistic) -> dict[str, float]:
        return asdict(Estimate.of(statistic, len(codes)))

    found = []
    for (changed, _, tuned), group in sorted(groups.items(), key=lambda group: (group[0][0] != "{}", group[0])):
        cells = {(row["supernet"], row["code"]): row for row in group}
        complete = [i for i in sorted({row["supernet"] for row in group}) if all((i, code) in cells for code in codes)]
        if not complete:
            continue
        found.append(
            {
                "options": json.loads(changed),
                "tuned": tuned,
                "images": round(np.mean([row["trained_images"] for row in group])),
                "seconds": float(np.mean([cells[i, codes[0]]["training_seconds"] for i in complete])),
                "supernets": len(complete),
                **{figure: agreement(values) for figure, values in figures(cells, complete).items()},
            }
        )
    none = Ceiling(math.nan, math.nan)
    return {
        "setting": name,
        "truth": {
            "metric": metric,
            "architectures": len(codes),
            "seeds": len(seeds),
            "quartiles": [float(value) for value in np.quantile(sign(metric) * truth, [0, 0.25, 0.5, 0.75, 1])],
        },
        # The others, which it is compared with, would choose the best as well.
        "single": {
            view: single(seeds, of) if len(seeds) > 1 and view != "best" else math.nan for view, of in views.items()
        },
        "ceiling": {view: asdict(ceiling(seeds, of) if len(seeds) > 1 else none) for view, of in views.items()},
        "parameters": {view: estimate(tau(params, truth, pairs[view])) for view in views},
        "shared_weights": found,
    }


def text(found: dict[str, Any]) -> str:
    """A table for a person."""

    def spelt(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)

    def with_interval(figure: dict[str, float]) -> str:
        return f"{spelt(figure['value'])} ({spelt(figure['low'])} to {spelt(figure['high'])})"

    truth = found["truth"]
    quartiles = " · ".join(f"{value:.3f}" for value in truth["quartiles"])
    lines = [
        f"{found['setting']}: {truth['architectures']} architectures, {truth['seeds']} trainings alone of each; their "
        f"{truth['metric']}, quartiles: {quartiles}",
        "",
        "| options | images | s | supernets | figure | overall | strata | best quarter | partial | less parameters |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["shared_weights"]:
        options = ", ".join(f"{name}={value}" for name, value in row["options"].items()) or "defaults"
        if row["tuned"]:
            options += f"; then {row['tuned']} epochs each"
        for figure in (name for name in ("loss", "accuracy", "loss, smoothed") if name in row):
            cells = [with_interval(row[figure][part]) for part in (*VIEWS, "partial", "less_parameters")]
            head = [options, f"{row['images']:,}", f"{row['seconds']:.0f}", str(row["supernets"]), figure]
            lines.append(f"| {' | '.join([*head, *cells])} |")
    cells = [with_interval(found["parameters"][view]) for view in VIEWS]
    lines.append(f"| parameters alone | | | | | {' | '.join(cells)} | | |")
    cells = [spelt(found["single"][view]) for view in VIEWS]
    lines.append(f"| one training alone, with the others | | | | | {' | '.join(cells)} | | |")
    for what, label in (("reach", "noise ceiling"), ("between", "between groups of seeds")):
        cells = [spelt(found["ceiling"][view][what]) for view in VIEWS]
        lines.append(f"| {label} | | | | | {' | '.join(cells)} | | |")
    lines += ["", f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread"]
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and say how the rankings agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--setting", choices=SETTINGS, default="nasbench201/digits")
    parser.add_argument("--part", choices=PARTS, action="append", help="repeatable; all by default")
    parser.add_argument("--seeds", type=int, help="trainings alone of each architecture, by default the setting's")
    parser.add_argument("--images", type=int, nargs="+", default=[30_000, 100_000, 300_000], help="of each supernet")
    parser.add_argument("--supernets", type=int, default=2)
    parser.add_argument(
        "--tuned", type=int, default=0, metavar="EPOCHS", help="fine-tune each, or train it, for --images 0"
    )
    parser.add_argument("--set", action="append", help="benchmark.OPTION=VALUE of the supernets; repeatable")
    parser.add_argument("--truth", choices=("accuracy", "loss"), default="accuracy", help="the metric of the truth")
    parser.add_argument("--smoothed", metavar="PREDICTOR", help="also rank by losses that a predictor has smoothed")
    parser.add_argument("--file", type=Path, default=Path("runs/shared-weights.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts, name = arguments.part or PARTS, arguments.setting
    changed = assigned(arguments.set, ["benchmark"])["benchmark"]
    if "truth" in parts:
        Truth(name).complete(arguments.seeds or SETTINGS[name].seeds)
    if not arguments.tuned and not all(arguments.images):
        raise InputError("without images there is no supernet to measure with, but got --images 0; add --tuned EPOCHS")
    if "supernet" in parts:
        supernets(name, changed, arguments.images, arguments.supernets, arguments.tuned, Lines(arguments.file))
    if "table" in parts:
        found = summary(name, Lines(arguments.file), arguments.truth, arguments.smoothed)
        print(json.dumps(found, indent=2) if arguments.json else text(found))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    except InputError as error:
        sys.exit(f"error: {error}")
