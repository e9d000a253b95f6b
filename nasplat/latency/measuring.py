"""Measurement of the latency of a network for a batch."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, TypeAlias

from nasplat.architecture import IO
from nasplat.errors import InputError
from nasplat.latency.conditions import Engine
from nasplat.nn.onnx import write_onnx
from nasplat.storage.files import scratch_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

Passes: TypeAlias = Callable[[int], list[float]]
"""Runs a number of forward passes, and returns the milliseconds of each."""

SECONDS = 0.5
"""The minimum duration of a measurement in seconds, after the warm-up."""
LEAST_SECONDS = 0.2
"""The duration of the passes that are timed one by one for the least, where torch's timer times blocks of them."""
BLOCKS = 5
"""The minimum number of timed blocks, so the interquartile range can be computed."""
WARM_UP = 3
"""The number of untimed warm-up passes, where torch's timer does not do the warm-up."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one forward pass in evaluation mode, without gradients. Inputs are already on the device.

    Args:
        median_ms: The median of the timed blocks, milliseconds for each pass.
        iqr_ms: Their interquartile range.
        least_ms: The shortest single pass, which a latency table predicts: nothing but other work makes a pass longer.
            On the CPU it is measured after the blocks, so on a busy machine it may be longer than their median.
        runs: The number of timed passes.
        batch: The number of images in each pass.
        threads: The number of threads of the engine on the CPU.
        device: ``cpu`` or ``cuda``.
        engine: The engine that ran the network.
    """

    median_ms: float
    iqr_ms: float
    least_ms: float
    runs: int
    batch: int
    threads: int
    device: str
    engine: Engine = "torch"


def measure_latency(
    model: "nn.Module", io: IO, *, batch: int, threads: int, device: str, engine: Engine = "torch"
) -> Latency:
    """Measure a network with random images. Nothing else may use the device meanwhile.

    On the CPU, torch's own timer warms up and chooses the number of passes in a timed block. Everything else is timed
    pass by pass. The model stays on the device, and its training or evaluation mode is restored.

    Args:
        model: The network. Its weights do not affect latency.
        io: The input shape.
        batch: The number of images in each pass.
        threads: The number of threads of the engine on the CPU.
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
    return Latency(median(times), upper - lower, min(times), len(times), batch, threads, device, engine)


def onnx_latency(network: bytes, input_shape: tuple[int, ...], *, batch: int, threads: int) -> Latency:
    """Measure an ONNX file on the CPU as `measure_latency` measures a network.

    Args:
        network: The contents of the file.
        input_shape: The shape of one example.
        batch: The number of examples in each pass.
        threads: The number of threads of onnxruntime.
    """
    times = _timed(onnx_passes(network, batch=batch, threads=threads, device="cpu", input_shape=input_shape))
    lower, _, upper = quantiles(times, n=4, method="inclusive")
    return Latency(median(times), upper - lower, min(times), len(times), batch, threads, "cpu", "onnxruntime")


def _timed(timed: Passes, seconds: float = SECONDS) -> list[float]:
    """The milliseconds of the passes of a measurement, after the warm-up."""
    times: list[float] = []
    timed(WARM_UP)
    ends = time.perf_counter() + seconds
    while len(times) < BLOCKS or time.perf_counter() < ends:
        times += timed(1)
    return times


@contextmanager
def passes(
    model: "nn.Module", input_shape: tuple[int, ...], *, batch: int, threads: int, device: str, engine: Engine = "torch"
) -> Iterator[Passes]:
    """A function that times forward passes one by one inside this context. Each pass begins after the previous one
    ended.

    The model stays on the device. Its training or evaluation mode and torch's number of threads are restored.

    Args:
        model: The network, with any weights.
        input_shape: The shape of one input example.
        batch: The number of random examples in each pass.
        threads: The number of threads of the engine on the CPU.
        device: ``cpu`` or ``cuda``.
        engine: The engine that runs the model.

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
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        write_onnx(model, input_shape, path)
        return path.read_bytes()


def onnx_passes(
    network: bytes, *, batch: int, threads: int, device: str, input_shape: tuple[int, ...] | None = None
) -> Passes:
    """A function that times forward passes of an ONNX file in onnxruntime. Inputs and outputs stay on the device.

    Args:
        network: The contents of the file.
        batch: The number of random examples in each pass.
        threads: The number of threads of the engine on the CPU.
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
    options.log_severity_level = 3  # errors only; onnxruntime warns of folded shapes
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
        InputError: onnxruntime is not built for the device.
    """
    import onnxruntime

    if _provider(device) not in onnxruntime.get_available_providers():
        raise InputError(
            f"onnxruntime needs its {_provider(device)} to run networks on {device}, but the installed onnxruntime has "
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
        # The device itself timestamps events. An idle device timestamps the first event as soon as it is recorded.
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
    logger.setLevel(logging.ERROR)  # its import warns of compilers, which are not needed here
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
    with passes(model, io.input_shape, batch=batch, threads=threads, device="cpu") as timed:
        least = min(_timed(timed, LEAST_SECONDS))  # a block is longer than its shortest pass
    return Latency(
        median_ms=merged.median * 1e3,
        iqr_ms=merged.iqr * 1e3,
        least_ms=least,
        runs=sum(len(block.times) * block.number_per_run for block in blocks),
        batch=batch,
        threads=threads,
        device="cpu",
    )
