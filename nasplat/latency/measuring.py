"""How long a network takes for a batch, measured here and now."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Literal, TypeAlias

from nasplat.architecture import IO
from nasplat.errors import InputError
from nasplat.nn.onnx import write_onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

Engine: TypeAlias = Literal["torch", "onnxruntime"]
"""What runs a network."""
Passes: TypeAlias = Callable[[int], list[float]]
"""Runs so many forward passes, and gives the milliseconds that each took."""

SECONDS = 0.5
"""A measurement goes on for at least so long, after warming up."""
BLOCKS = 5
"""And takes at least so many timed blocks, for a spread to be seen."""
WARM_UP = 3
"""Passes that are not timed, where torch's timer does not see to it."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one forward pass in evaluation mode, without gradients; inputs lie on the device already.

    Args:
        median_ms: The median of the timed blocks, milliseconds for each pass.
        iqr_ms: Their interquartile range.
        runs: Passes that were timed.
        batch: Images in each pass.
        threads: Threads of the engine on the CPU.
        device: ``cpu`` or ``cuda``.
        engine: What ran the network.
    """

    median_ms: float
    iqr_ms: float
    runs: int
    batch: int
    threads: int
    device: str
    engine: Engine = "torch"


def measure_latency(
    model: "nn.Module", io: IO, *, batch: int, threads: int, device: str, engine: Engine = "torch"
) -> Latency:
    """Measure a network with random images; meaningful while nothing else uses the device.

    On the CPU, torch's own timer warms up and chooses how many passes to time at once. Everything else is timed
    pass by pass. The model is left on the device in the mode that it came in.

    Args:
        model: With any weights; they do not matter for time.
        io: What it takes.
        batch: Images in each pass.
        threads: Threads of the engine on the CPU.
        device: ``cpu`` or ``cuda``.
        engine: ``torch``, or ``onnxruntime`` for the network as it is exported.

    Raises:
        InputError: onnxruntime is not built for the device.
    """
    if engine == "torch" and device == "cpu":
        return _by_torchs_timer(model, io, batch=batch, threads=threads)
    with passes(model, io.input_shape, batch=batch, threads=threads, device=device, engine=engine) as timed:
        times = _timed(timed)
    lower, _, upper = quantiles(times, n=4, method="inclusive")
    return Latency(median(times), upper - lower, len(times), batch, threads, device, engine)


def onnx_latency(network: bytes, input_shape: tuple[int, ...], *, batch: int, threads: int) -> Latency:
    """Measure an ONNX file on the CPU as `measure_latency` measures a network.

    Args:
        network: What the file holds.
        input_shape: The shape of one example.
        batch: Examples in each pass.
        threads: Threads of onnxruntime.
    """
    times = _timed(onnx_passes(network, batch=batch, threads=threads, device="cpu", input_shape=input_shape))
    lower, _, upper = quantiles(times, n=4, method="inclusive")
    return Latency(median(times), upper - lower, len(times), batch, threads, "cpu", "onnxruntime")


def _timed(timed: Passes) -> list[float]:
    """The milliseconds of as many passes as a measurement takes, after some that warm up."""
    times: list[float] = []
    timed(WARM_UP)
    ends = time.perf_counter() + SECONDS
    while len(times) < BLOCKS or time.perf_counter() < ends:
        times += timed(1)
    return times


@contextmanager
def passes(
    model: "nn.Module", input_shape: tuple[int, ...], *, batch: int, threads: int, device: str, engine: Engine = "torch"
) -> Iterator[Passes]:
    """What times forward passes one by one while the block lasts; each begins when the one before has ended.

    The model is left on the device in the mode that it came in, and torch with as many threads as it had.

    Args:
        model: With any weights.
        input_shape: The shape of one example that it takes.
        batch: Examples in each pass, random ones.
        threads: Threads of the engine on the CPU.
        device: ``cpu`` or ``cuda``.
        engine: What runs it.

    Raises:
        InputError: onnxruntime is not built for the device.
    """
    import torch

    training, before = model.training, torch.get_num_threads()
    model.eval()
    try:
        if engine == "onnxruntime":
            yield onnx_passes(exported(model.cpu(), input_shape), batch=batch, threads=threads, device=device)
            return
        model.to(device)
        torch.set_num_threads(threads)
        with torch.no_grad():
            yield _torch_passes(model, _examples(batch, input_shape).to(device))
    finally:
        torch.set_num_threads(before)
        model.to(device).train(training)


def exported(model: "nn.Module", input_shape: tuple[int, ...]) -> bytes:
    """A network, in evaluation mode and on the CPU, as the bytes of an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, input_shape, path)
        return path.read_bytes()


def onnx_passes(
    network: bytes, *, batch: int, threads: int, device: str, input_shape: tuple[int, ...] | None = None
) -> Passes:
    """What times forward passes of an ONNX file in onnxruntime; in and outputs stay on the device.

    Args:
        network: What the file holds.
        batch: Examples in each pass, random ones.
        threads: Threads of the engine on the CPU.
        device: ``cpu`` or ``cuda``.
        input_shape: The shape of one example, if the file leaves it open.

    Raises:
        InputError: onnxruntime is not built for the device.
    """
    import onnxruntime

    check_onnxruntime(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; it remarks on shapes that it folds
    session = onnxruntime.InferenceSession(network, options, providers=[_provider(device)])
    (taken,) = session.get_inputs()
    examples = _examples(batch, input_shape or tuple(taken.shape[1:])).numpy()
    binding = session.io_binding()
    binding.bind_ortvalue_input(taken.name, onnxruntime.OrtValue.ortvalue_from_numpy(examples, device, 0))
    for given in session.get_outputs():
        binding.bind_output(given.name, device)

    def one() -> float:
        began = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return (time.perf_counter_ns() - began) / 1e6

    return lambda count: [one() for _ in range(count)]


def check_onnxruntime(device: str) -> None:
    """Refuse a device that onnxruntime is not built for.

    Raises:
        InputError: It is not.
    """
    import onnxruntime

    if _provider(device) not in onnxruntime.get_available_providers():
        raise InputError(
            f"onnxruntime runs networks on {device} by its {_provider(device)}, but this one has "
            f"{', '.join(onnxruntime.get_available_providers())}; install onnxruntime-gpu, or take the engine torch"
        )


def _provider(device: str) -> str:
    return f"{device.upper()}ExecutionProvider"


def _torch_passes(model: "nn.Module", examples: "Tensor") -> Passes:
    import torch

    def on_cpu() -> float:
        began = time.perf_counter_ns()
        model(examples)
        return (time.perf_counter_ns() - began) / 1e6

    def on_cuda() -> float:
        # Events are stamped by the device itself; an idle device stamps the first one as soon as it is recorded.
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        began.record()
        model(examples)
        ended.record()
        torch.cuda.synchronize()
        return float(began.elapsed_time(ended))

    one = on_cuda if examples.is_cuda else on_cpu
    return lambda count: [one() for _ in range(count)]


def _examples(batch: int, shape: tuple[int, ...]) -> "Tensor":
    import torch

    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))


def _by_torchs_timer(model: "nn.Module", io: IO, *, batch: int, threads: int) -> Latency:
    import torch

    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)  # on being imported it remarks on compilers, which this does not need
    try:
        from torch.utils.benchmark import Measurement, Timer
    finally:
        logger.setLevel(level)

    training = model.training
    model.cpu().eval()
    timer = Timer(
        "model(images)", globals={"model": model, "images": _examples(batch, io.input_shape)}, num_threads=threads
    )
    blocks: list[Measurement] = []
    with torch.no_grad():
        while sum(len(block.times) for block in blocks) < BLOCKS:
            blocks.append(timer.blocked_autorange(min_run_time=SECONDS))
    model.train(training)
    (merged,) = Measurement.merge(blocks)
    return Latency(
        median_ms=merged.median * 1e3,
        iqr_ms=merged.iqr * 1e3,
        runs=sum(len(block.times) * block.number_per_run for block in blocks),
        batch=batch,
        threads=threads,
        device="cpu",
    )
