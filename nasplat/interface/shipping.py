"""The files and the latency of networks of a compression, before and after, measured here."""

from dataclasses import replace

from nasplat.architecture import Architecture
from nasplat.artifact import Artifacts, Handle
from nasplat.benchmark import Benchmark
from nasplat.export.timing import conditions_of, measured
from nasplat.nn.onnx import write_onnx
from nasplat.run.compressed import ORIGINAL, TUNED, Compressed, Compression, Shipped
from nasplat.run.directory import RunDirectory
from nasplat.storage.files import scratch_folder
from nasplat.transform import Transforming


def with_files(run: RunDirectory, compression: Compression) -> Compression:
    """The compression with the files and the latency of each original and of each fine-tuned network.

    Several seeds of one network take as many bytes; those of the best are measured. Nothing else should use the device
    meanwhile.

    Args:
        run: The run.
        compression: Its compression.
    """
    benchmark, originals = run.benchmark(), run.config.strategy.options["originals"]
    assert isinstance(benchmark.space, Transforming)
    members = []
    for member in compression.members:
        if member.best is None:
            members.append(member)
            continue
        original = benchmark.space.base(member.architecture)
        before = shipped(benchmark, original, Handle(originals[member.architecture.code]), run.artifacts)
        after = shipped(benchmark, member.architecture, member.best.artifacts["weights"], run.artifacts)
        members.append(_with(member, before, after))
    return replace(compression, members=tuple(members))


def shipped(benchmark: Benchmark, architecture: Architecture, weights: Handle, artifacts: Artifacts) -> Shipped:
    """The files and the latency of one network.

    Args:
        benchmark: The benchmark, with the space of the architecture or one that transforms it.
        architecture: The architecture.
        weights: The artifact with its weights.
        artifacts: The store of the artifact.
    """
    from safetensors.torch import save

    from nasplat.nn.packing import packed
    from nasplat.training.states import trained_network

    io = benchmark.io
    network = trained_network(benchmark.space, architecture, weights, io, artifacts).eval()
    small = packed(network).eval()
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        write_onnx(small, io.input_shape, path, purpose=io.purpose)
        latency = measured(small, io, conditions_of(benchmark), path)
        return Shipped(len(save(small.state_dict())), path.stat().st_size, latency.median_ms)


def _with(member: Compressed, before: Shipped, after: Shipped) -> Compressed:
    files = {ORIGINAL: before, TUNED: after}
    return replace(member, states=tuple(replace(each, shipped=files.get(each.name)) for each in member.states))
