"""Measurement of a latency table: the choice and order of blocks, and the accuracy of its predictions."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from nasplat.architecture import IO, Architecture
from nasplat.block_space import Block, BlockSpace
from nasplat.errors import InputError
from nasplat.latency.conditions import Engine, processor
from nasplat.latency.measuring import WARM_UP, Passes, check_onnxruntime, exported, onnx_passes, passes
from nasplat.latency.table import BlockTable, Row, described, write_table
from nasplat.search_space import SearchSpace
from nasplat.storage.files import is_taken, refusal, scratch_folder, write_atomically

if TYPE_CHECKING:
    from torch import nn

SURVEYED = 2000
"""The number of random architectures whose blocks are collected, to find the kinds and widths of the space."""
VISIT_MS = 30.0
"""The target duration of a visit, in milliseconds."""
FEWEST, MOST = 3, 20
"""The minimum and maximum numbers of passes in a visit."""
NETWORK_VISITS = 3
"""Visits of each whole network in a round. Slow phases of the machine affect a network more easily than a block."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings for measuring a table.

    Args:
        device: ``cpu`` or ``cuda``.
        engine: The engine that runs blocks and networks.
        threads: The number of threads of the engine on the CPU.
        batch: The number of images in each pass.
        points: The largest number of widths that are measured for each kind of block.
        rounds: The number of rounds, each of which visits everything; at least 2.
        calibration: The number of random architectures that are measured whole, to fit the two coefficients that
            blocks alone cannot give; at least 2.
        checked: The number of other random architectures, for the reported prediction error.
        seed: The seed of all random choices.
    """

    device: str = "cpu"
    engine: Engine = "torch"
    threads: int = 1
    batch: int = 1
    points: int = 12
    rounds: int = 4
    calibration: int = 30
    checked: int = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The agreement of predicted with measured latencies of the same networks.

    Args:
        spearman: The rank correlation; None where one side is constant.
        median_relative_error: The median of |predicted / measured - 1|.
    """

    spearman: float | None
    median_relative_error: float

    @classmethod
    def of(cls, figures: Sequence[float], measured: Sequence[float]) -> "Accuracy":
        """Compare predictions with measurements, pair by pair."""
        from scipy.stats import spearmanr

        off = np.abs(np.array(figures) / np.array(measured) - 1)
        varied = len(set(figures)) > 1 < len(set(measured))
        return cls(float(spearmanr(figures, measured).statistic) if varied else None, float(np.median(off)))


@dataclass(frozen=True, slots=True)
class Built:
    """The result of building a table.

    Args:
        path: The table.
        blocks: The number of blocks in the table.
        kinds: The number of kinds of blocks.
        networks: The number of networks for `predicted` and `repeated`. None of them was used for the table.
        seconds: The measuring time in seconds since the build was started or last resumed.
        predicted: The accuracy of the table's predictions against the measured latency.
        repeated: The accuracy of A second measurement of the same networks, against the first.
    """

    path: Path
    blocks: int
    kinds: int
    networks: int
    seconds: float
    predicted: Accuracy
    repeated: Accuracy


def build_table(
    space: SearchSpace,
    io: IO,
    plan: Plan,
    path: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> Built:
    """Measure blocks and networks of a space, and write the table. Nothing else may use the device meanwhile.

    For every kind of block in random architectures, widths far apart are measured, with the largest and smallest among
    them. Everything is visited once in every round, in a random order, so a slow phase of the machine affects all
    items alike. The minimum over all visits counts. The latency of a network is a + b times the sum of its blocks.
    Here a and b are fitted robustly (Theil-Sen) on some networks. Other networks are for the report. Their blocks are
    not used for the choice of blocks, except for kinds that occur nowhere else. The minimum of every other visit is
    compared with the prediction, and with the minimum of the remaining visits.

    Measurements are saved in a file beside the table. After an interruption, the same call resumes from this file.

    Args:
        space: The search space of the networks.
        io: The input and output shapes of the data.
        plan: The settings of the measurement.
        path: The table to write.
        progress: Receives after every visit the number of finished visits and the total.

    Raises:
        InputError: The space has no blocks, the file exists or cannot be written, the engine cannot run on the device,
            or an unfinished build with another plan exists there.
        StorageError: The disk is full.
        TrialFailed: A network has other parameters than its space computes.
    """
    if not isinstance(space, BlockSpace):
        raise InputError(
            f"a latency table needs blocks, but the search space {space.name} has none; take a space with blocks, such "
            "as ghost/cifar"
        )
    _check(plan)
    if is_taken(path):
        raise InputError(f"{path} exists; choose another --out")
    calibration, checked, nodes = _chosen(space, io, plan)
    networks = [*calibration, *checked]
    began = time.monotonic()
    visited = _visited(space, io, plan, [*nodes, *networks * NETWORK_VISITS], path, progress)
    of_blocks, of_networks = visited[:, : len(nodes)], visited[:, len(nodes) :].reshape(-1, len(networks))
    rows = [
        Row(block.kind, block.widths, float(least), float(spread))
        for block, least, spread in zip(nodes, of_blocks.min(axis=0), np.ptp(of_blocks, axis=0), strict=True)
    ]
    whole = dict(zip(networks, of_networks.min(axis=0).tolist(), strict=True))
    offset, scale = _line(BlockTable(path, rows, space, io), [(a, whole[a]) for a in calibration])
    table = BlockTable(path, rows, space, io, offset_ms=offset, scale=scale)
    predictions = [table.latency_ms(a) for a in checked]
    first, second = (of_networks[start::2, len(calibration) :].min(axis=0).tolist() for start in (0, 1))
    built = Built(
        path=path,
        blocks=len(rows),
        kinds=len({row.kind for row in rows}),
        networks=len(checked),
        seconds=time.monotonic() - began,
        predicted=Accuracy.of(predictions, first),
        repeated=Accuracy.of(second, first),
    )
    facts = {
        **_request(space, io, plan),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "calibration": {"a_ms": offset, "b": scale, "networks": len(calibration)},
        "error": {"networks": len(checked), "predicted": asdict(built.predicted), "repeated": asdict(built.repeated)},
        "networks": [
            {"architecture": a.code, "predicted_ms": p, "measured_ms": m, "repeated_ms": r}
            for a, p, m, r in zip(checked, predictions, first, second, strict=True)
        ],
    }
    try:
        write_table(path, facts, rows)
    except OSError as error:
        raise refusal(path, "written", error) from error
    _partial(path).unlink(missing_ok=True)
    return built


def evenly_spaced(points: Sequence[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
    """A farthest-point selection: the largest point first, then each time the point farthest from the selected ones.

    Args:
        points: Distinct points of one length. Each axis is scaled by its range.
        most: The maximum number of selected points.
    """
    at = np.array(sorted(points), dtype=np.float64)
    at /= np.where(np.ptp(at, axis=0) > 0, np.ptp(at, axis=0), 1.0)
    found = [int(at.sum(axis=1).argmax())]
    distances = np.full(len(at), np.inf)
    while len(found) < min(most, len(at)):
        distances = np.minimum(distances, np.linalg.norm(at - at[found[-1]], axis=1))
        found.append(int(distances.argmax()))
    return [sorted(points)[place] for place in sorted(found)]


def _check(plan: Plan) -> None:
    if plan.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("torch finds no CUDA device; give --device cpu, or run the command on a machine with one")
    if plan.engine == "onnxruntime":
        check_onnxruntime(plan.device)


def _chosen(space: BlockSpace, io: IO, plan: Plan) -> tuple[list[Architecture], list[Architecture], list[Block]]:
    """The architectures for calibration, those for checking, and the blocks to measure."""
    rng = default_rng([plan.seed, 0])
    wanted = plan.calibration + plan.checked
    members = _different(space, rng, wanted)
    calibration, checked = members[: plan.calibration], members[plan.calibration :]
    found: dict[str, dict[tuple[int, ...], Block]] = {}
    for architecture in (*calibration, *(space.sample(rng) for _ in range(SURVEYED))):
        if architecture not in checked:
            for block in space.blocks(architecture, io):
                found.setdefault(block.kind, {}).setdefault(block.widths, block)
    for architecture in checked:
        for block in space.blocks(architecture, io):
            found.setdefault(block.kind, {block.widths: block})
    nodes = [found[kind][widths] for kind in sorted(found) for widths in evenly_spaced(list(found[kind]), plan.points)]
    return calibration, checked, nodes


def _different(space: SearchSpace, rng: Generator, wanted: int) -> list[Architecture]:
    found: dict[Architecture, None] = {}
    for _ in range(100 * wanted):
        found[space.sample(rng)] = None
        if len(found) == wanted:
            return list(found)
    raise InputError(
        f"{wanted} different members of {space.name} are needed, but {100 * wanted} draws gave only {len(found)}; "
        "measure fewer for calibration or for the report"
    )


def _line(table: BlockTable, measured: Sequence[tuple[Architecture, float]]) -> tuple[float, float]:
    """a and b of measured = a + b times the sum of blocks. The fit is robust to networks measured in a slow phase."""
    from scipy.stats import theilslopes

    sums = [table.latency_ms(architecture) for architecture, _ in measured]
    if len(set(sums)) < 2:
        return 0.0, 1.0
    found = theilslopes([whole for _, whole in measured], sums)
    if found.slope <= 0:  # more blocks would take less time: noise, or too few networks
        return 0.0, float(np.median([whole / alone for (_, whole), alone in zip(measured, sums, strict=True)]))
    return float(found.intercept), float(found.slope)


def _visited(
    space: BlockSpace,
    io: IO,
    plan: Plan,
    items: Sequence[Block | Architecture],
    path: Path,
    progress: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """The minimum milliseconds of every visit, `[rounds, items]`."""
    found = np.full((plan.rounds, len(items)), np.nan)
    notes = _Notes(_partial(path), {**_request(space, io, plan), "items": len(items)})
    with notes, scratch_folder() as folder:
        stopwatch = _Stopwatch(space, io, plan, folder)
        for round_, item, value in notes.before:
            if 0 <= round_ < plan.rounds and 0 <= item < len(items) and value > 0:
                found[round_, item] = value
        done = int(np.isfinite(found).sum())
        for round_ in range(plan.rounds):
            for item in default_rng([plan.seed, 1, round_]).permutation(len(items)).tolist():
                if np.isnan(found[round_, item]):
                    found[round_, item] = stopwatch.least(items[item])
                    notes.add(round_, item, found[round_, item])
                    done += 1
                    progress(done, found.size)
    return found


class _Stopwatch:
    """Times blocks and networks. ONNX exports, which take a second each, are cached in a folder."""

    def __init__(self, space: BlockSpace, io: IO, plan: Plan, folder: Path) -> None:
        self.space = space
        self.io = io
        self.plan = plan
        self.folder = folder
        self._exported: dict[Block | Architecture, Path] = {}

    def least(self, item: Block | Architecture) -> float:
        """The minimum milliseconds of a pass in this visit."""
        plan = self.plan
        shape = item.input_shape if isinstance(item, Block) else self.io.input_shape
        if plan.engine == "onnxruntime":
            if item not in self._exported:
                path = self.folder / f"{len(self._exported)}.onnx"
                path.write_bytes(exported(self._network(item).eval(), shape))
                self._exported[item] = path
            network = self._exported[item].read_bytes()
            return _least(onnx_passes(network, batch=plan.batch, threads=plan.threads, device=plan.device))
        with passes(self._network(item), shape, batch=plan.batch, threads=plan.threads, device=plan.device) as timed:
            return _least(timed)

    def _network(self, item: Block | Architecture) -> "nn.Module":
        from nasplat.nn.counting import built
        from nasplat.training.seeding import seeded

        with seeded(0):  # weights do not affect latency
            return item.make() if isinstance(item, Block) else built(self.space, item, self.io)


def _least(timed: Passes) -> float:
    timed(WARM_UP)
    (first,) = timed(1)
    return min(first, *timed(int(np.clip(VISIT_MS / first, FEWEST, MOST))))


class _Notes:
    """The measurements so far, one line each, from which a build resumes. The first line identifies the build."""

    def __init__(self, path: Path, heading: dict[str, Any]) -> None:
        self.path = path
        self._heading = json.dumps(heading)
        self.before = list(self._read())

    def __enter__(self) -> "_Notes":
        try:
            # The last build may have left an incomplete line; the next line must not be appended to it.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, "".join(f"{line}\n" for line in (self._heading, *map(json.dumps, self.before))))
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise refusal(self.path, "written", error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, round_: int, item: int, value: float) -> None:
        """Save one visit."""
        try:
            self._file.write(json.dumps([round_, item, value]) + "\n")
        except OSError as error:
            raise refusal(self.path, "written", error) from error

    def _read(self) -> Iterator[tuple[int, int, float]]:
        try:
            heading, *lines = self.path.read_text(encoding="utf-8").split("\n")
        except (FileNotFoundError, NotADirectoryError):  # the latter is reported on writing
            return
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read: {error}; delete it to start again") from error
        if heading != self._heading:
            raise InputError(
                f"{self.path} belongs to a build with other options, on another machine or with other versions; repeat "
                "the command that started that build, or delete the file to start again"
            )
        for line in lines:
            with suppress(ValueError, TypeError, OverflowError):  # the last line may be incomplete
                round_, item, value = json.loads(line)
                yield int(round_), int(item), float(value)


def _partial(path: Path) -> Path:
    """The file with the measurements of an unfinished build."""
    return path.with_name(path.name + ".partial")


def _request(space: SearchSpace, io: IO, plan: Plan) -> dict[str, Any]:
    """The identification of a build: what is measured, how, and on which hardware."""
    versions = {name: version(name) for name in ("nasplat", "torch", "onnxruntime")}
    return {
        **described(space, io),
        "plan": asdict(plan),
        "machine": {"processor": processor(plan.device), "platform": platform.platform(), "versions": versions},
    }
