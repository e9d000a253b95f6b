"""A compression: trained networks, transformed, fitted to their weights and fine-tuned, in a run of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from nasplat.architecture import Architecture
from nasplat.artifact import Handle, MemoryArtifacts
from nasplat.benchmark import Benchmark
from nasplat.config import PluginConfig, SearchConfig
from nasplat.data.manifest import DataChanged
from nasplat.driver.assembly import Assembly
from nasplat.errors import InputError, TrialFailed
from nasplat.executors.executor import cuda_is_available
from nasplat.interface.adoption import opened
from nasplat.interface.configuring import assign, check_given_once, choose, enter, merge, place, rewrite
from nasplat.interface.retraining import (
    DISTILLATION,
    kept_data,
    measured_objectives,
    picked,
    recipe_options,
    share_option,
)
from nasplat.interface.running import Searched, check_measures, data_of, refuse_existing, run_search
from nasplat.options import grouped, nested
from nasplat.registry import BENCHMARKS, JOINED
from nasplat.retraining import RETRAINING
from nasplat.run.directory import RunDirectory, next_free
from nasplat.run.source import Origin, Source
from nasplat.run.trust import check_trusted
from nasplat.task import Evaluate, FineTuning
from nasplat.transform import Transforming

PART = 3
"""By default a fine-tuning has one epoch for three of the training before."""
EXPORTED = "exported"
"""The strategy that is recorded as the source of an exported network."""


@dataclass(frozen=True, slots=True)
class Original:
    """A trained network to compress.

    Args:
        weights: Its weights, as safetensors.
        trial: The number of its trial.
        fidelity: The fidelity of its trial, in epochs.
    """

    weights: bytes
    trial: int
    fidelity: int


@dataclass(frozen=True, slots=True)
class Origins:
    """The trained networks to compress, and where they come from.

    Args:
        folder: The run or the exported folder.
        tree: The configuration of the run; of an exported network its space.
        originals: The networks by code.
        run: The run; None for an exported network.
    """

    folder: Path
    tree: dict[str, Any]
    originals: dict[str, Original]
    run: RunDirectory | None = None


def compress(
    origins: Origins,
    console: Console,
    *,
    transform: Any,
    recipe: Path | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    checkpoints: int = 10,
    benchmark: Any = None,
    objectives: Sequence[str] | None = None,
    seed: int | None = None,
    executor: str | None = None,
    placing: Mapping[str, Any] | None = None,
    assignments: Sequence[tuple[str, Any]] = (),
    out: Path | None = None,
    trust: bool = False,
    accept_changed_data: bool = False,
    log_to: Sequence[str] = (),
) -> Searched:
    """Transform trained networks, fit them to their weights, measure and fine-tune them, in a new run.

    They learn from the originals besides the labels, where the benchmark can distill.

    Args:
        origins: The networks, from `of_run` or `of_export`.
        console: Where notes and progress are printed.
        transform: The name of a transform, several names, or a mapping with `name` and options.
        recipe: Options of the benchmark, or a YAML file with them.
        epochs: Epochs of the fine-tuning; by default a third of those of the run's benchmark.
        seeds: Number of fine-tunings of each network.
        checkpoints: Number of checkpoints of a fine-tuning.
        benchmark: The benchmark that fine-tunes, in a form that `adopt` takes; by default the run's.
        objectives: ``METRIC:max`` or ``METRIC:min``.
        seed: The random seed.
        executor: ``inline`` or ``ray``.
        placing: The options of the executor.
        assignments: Further options, as pairs of ``SECTION.OPTION`` and value.
        out: The run directory to create; by default ``FOLDER-compressed-N``.
        trust: Whether modules, clusters and folders that only the run names may be used, and missing data downloaded if
            it says so.
        accept_changed_data: Whether to go on although the data has changed.
        log_to: As in `run_search`.

    Returns:
        The new run, at its end.

    Raises:
        InputError: A value does not fit, no layer can be rewritten, or a transform is missing.
        Interrupted, Stopped, RunError: As in `run_search`.
    """
    tree = {**origins.tree, "kind": RETRAINING}
    if "benchmark" in tree:  # of the run; what the user gives comes after it
        _shorten(tree)
        _distill(tree)
    if benchmark is not None:
        choose(tree, "benchmark", benchmark)
    if "benchmark" not in tree:
        raise InputError(
            "an exported network has no data; name the benchmark that fine-tunes it, such as --benchmark "
            "classification --set benchmark.dataset=cifar10 (benchmark='classification', options={…})"
        )
    _distill(tree, missing=True)
    enter(tree, "benchmark", recipe_options(recipe))
    merge(tree, "benchmark", {"epochs": epochs})
    if not transform:
        raise InputError("a compression needs a transform; give --transform full_stack (transform='full_stack')")
    rewrite(tree, transform)
    artifacts = MemoryArtifacts()
    handles = {code: artifacts.put(original.weights) for code, original in origins.originals.items()}
    tree["strategy"] = {
        "name": RETRAINING,
        "members": list(handles),
        "seeds": seeds,
        "checkpoints": checkpoints,
        "originals": {code: handle.digest for code, handle in handles.items()},
    }
    if executor is not None:
        place(tree, executor)
    merge(tree, "executor", placing or {})
    if seed is not None:
        tree["seed"] = seed
    for path, value in assignments:
        assign(tree, path, value)
    check_given_once(
        tree,
        [
            ("benchmark", {**(benchmark if isinstance(benchmark, Mapping) else {}), "epochs": epochs}),
            ("executor", {"name": executor, **(placing or {})}),
        ],
        assignments,
    )
    code = next(iter(handles))
    if objectives:
        tree["objectives"] = list(objectives)
    elif "objectives" in tree:
        tree["objectives"] = measured_objectives(tree, code, console)
    else:
        tree["objectives"] = _usual_objectives(tree)
    completed = SearchConfig.read(tree)
    _check_whole(completed)
    assembly = _assembled(origins, completed, console, placing, assignments, trust, accept_changed_data)
    named = origins.folder if origins.folder.name not in ("", "..") else origins.folder.resolve()
    folder = out or next_free(named.parent, f"{named.name}-compressed")
    refuse_existing(folder)
    source = _source(origins, assembly, handles, artifacts, console)
    weights = [original.weights for original in origins.originals.values()]
    return run_search(assembly, folder, console, create=True, source=source, artifacts=weights, log_to=log_to)


def origins(
    folder: Path, pick: Sequence[str] | None = None, *, trust: bool = False, accept_changed_code: bool = False
) -> Origins:
    """The networks of a run, or of an exported folder.

    Args:
        folder: The run or the exported folder.
        pick: Networks of a run, as `History.picks` takes them; by default ``best``.
        trust: Whether what the run names may be used.
        accept_changed_code: Whether to go on although the user's own plug-ins of the run have changed.

    Raises:
        InputError: As in `of_run` and `of_export`.
    """
    from nasplat.export.opening import ARCHITECTURE

    if not (folder / ARCHITECTURE).exists():
        return of_run(opened(folder, trust=trust, accept_changed_code=accept_changed_code), pick, trust=trust)
    if pick:
        raise InputError(
            f"{folder} is an exported network, so that there is nothing to pick; leave out --pick (pick=…)"
        )
    return of_export(folder)


def of_run(run: RunDirectory, pick: Sequence[str] | None = None, *, trust: bool = False) -> Origins:
    """The picked networks of a run, ``best`` by default.

    Raises:
        InputError: A pick is invalid, the run is at work, or a network left no weights.
    """
    from nasplat.export.bundle import trained_weights

    history = run.history()
    if history.status == "running":
        raise InputError(f"{run.folder} is being searched by another process; wait for it, or interrupt it")
    check_measures(run, "compressed", "export a network, and compress that")
    if JOINED in run.config.space.name:
        raise InputError(
            f"the networks of {run.folder} are transformed already ({run.config.space.name}); compress those of a run "
            "without a transform"
        )
    members = picked(history, pick or ["best"])
    benchmark = run.benchmark()
    known = run.config if trust else run.config.offline()  # a download is then asked for by the user alone
    tree = known.model_dump(mode="json", exclude={"strategy", "constraints", "budget", "stopping"})
    originals = {
        code: Original(trained_weights(run, each, benchmark, untrained=False), each.id, each.task.fidelity)
        for code, each in members.items()
    }
    return Origins(run.folder, tree, originals, run)


def of_export(folder: Path) -> Origins:
    """The network of an exported folder.

    Raises:
        InputError: A file is missing or damaged, or belongs to another version.
    """
    from nasplat.export.opening import opened as read

    exported = read(folder)
    if JOINED in exported.space:
        raise InputError(
            f"the network in {folder} is transformed already ({exported.space}); compress one without a transform"
        )
    artifacts = MemoryArtifacts()
    weights = artifacts.get(artifacts.put_tensors(exported.network.state_dict()))
    tree = {"space": {"name": exported.space, **exported.options}}
    original = Original(weights, exported.trial, exported.fidelity)
    return Origins(folder, tree, {exported.architecture.code: original})


def _assembled(
    origins: Origins,
    completed: SearchConfig,
    console: Console,
    placing: Mapping[str, Any] | None,
    assignments: Sequence[tuple[str, Any]],
    trust: bool,
    accept_changed_data: bool,
) -> Assembly:
    """The parts of the new run, with the data of the run that the networks are from, if it is used."""
    if origins.run is None:
        return Assembly.of(completed)
    ours = (placing or {}).get("address") is not None or any(path == "executor.address" for path, _ in assignments)
    check_trusted(origins.run, completed, named=ours, trusted=trust)
    data = kept_data(data_of(origins.run, console, accept=False), origins.run.config, completed)
    if accept_changed_data and data:
        data |= replace(completed.resolved().workload, data=data).make().accept_data()
    try:
        return Assembly.of(completed, data)
    except DataChanged as error:
        if error.kept:
            raise
        console.print("[yellow]other data than that of the run[/]: the compression splits it anew")
        return Assembly.of(completed)


def _shorten(tree: dict[str, Any]) -> None:
    """Take a third of the epochs of the benchmark, if it has such an option and the run says how many."""
    now = tree["benchmark"]
    epochs = now.get("epochs") if isinstance(now, Mapping) else None
    if isinstance(epochs, int):
        merge(tree, "benchmark", {"epochs": max(1, round(epochs / PART))})


def _distill(tree: dict[str, Any], *, missing: bool = False) -> None:
    """Have the originals teach, unless the options of the benchmark say how much of the loss is theirs.

    Args:
        tree: The configuration.
        missing: Whether the options are the user's, where 0 means none; a run says 0 by default.
    """
    name = tree["benchmark"]["name"] if isinstance(tree["benchmark"], Mapping) else tree["benchmark"]
    if (share := share_option(name)) is None:
        return
    value: Any = grouped(BENCHMARKS.get(name), tree["benchmark"]) if isinstance(tree["benchmark"], Mapping) else {}
    for part in share.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None if missing else not value:
        enter(tree, "benchmark", nested(share, DISTILLATION))


def _usual_objectives(tree: dict[str, Any]) -> list[str]:
    name = tree["benchmark"]["name"] if isinstance(tree["benchmark"], Mapping) else tree["benchmark"]
    metrics = BENCHMARKS.get(name).metrics
    return [f"{metrics[0] if metrics else 'accuracy'}:max", "memory_bits:min"]


def _check_whole(config: SearchConfig) -> None:
    """Check that the whole network is transformed.

    Raises:
        InputError: Each stage has a choice.
    """
    options = config.resolved().space.options["transform"]
    if options["per"] != "network":
        raise InputError(
            "a compression transforms the whole network, but transform.per is stage; leave it out, or search the "
            "choices of the stages by nasplat search --transform NAME (transform='NAME')"
        )


def _source(
    origins: Origins, assembly: Assembly, handles: Mapping[str, Handle], artifacts: MemoryArtifacts, console: Console
) -> Source:
    """Where the networks come from, measured as they are by the benchmark of the compression.

    Raises:
        InputError: A network cannot be transformed, or cannot be measured.
    """
    benchmark, config = assembly.benchmark, assembly.config
    fitted = {code: _fitted(benchmark, code, handle, artifacts) for code, handle in handles.items()}
    for code, errors in fitted.items():
        if errors:
            least, most = min(errors.values()), max(errors.values())
            console.print(
                f"{escape(code)}: {len(errors)} layers fitted, relative squared errors {least:.3f} to {most:.3f}"
            )
    if console.is_terminal:
        console.print("[dim]measuring the originals …[/]")
    measuring = assembly.workload.make()  # with the data of the run, if it has a record; a new one reads all of it
    measuring.prepare()
    members = {}
    for code, handle in handles.items():
        original = origins.originals[code]
        members[code] = Origin(
            trial=original.trial,
            metrics=_measured(measuring, code, handle, artifacts),
            fidelity=original.fidelity,
            errors=fitted[code],
        )
    if origins.run is None:
        searched, evaluations, seed = config.model_copy(update={"strategy": PluginConfig(name=EXPORTED)}), 0, 0
    else:
        searched, seed = origins.run.config, origins.run.config.seed
        evaluations = origins.run.history().spending.evaluations
    return Source(
        run=str(origins.folder),
        strategy=searched.strategy,
        space=searched.space if origins.run is not None else _below(config),
        benchmark=searched.benchmark,
        objectives=config.objectives,
        evaluations=evaluations,
        seed=seed,
        members=members,
    )


def _below(config: SearchConfig) -> PluginConfig:
    """The space below, with its options."""
    options = {name: value for name, value in config.space.options.items() if name != "transform"}
    return PluginConfig(name=config.space.name.partition(JOINED)[0], **options)


def _fitted(benchmark: Benchmark, code: str, handle: Handle, artifacts: MemoryArtifacts) -> dict[str, float]:
    """The errors of the layers of a network that is transformed and fitted to the original.

    Raises:
        InputError: No layer can be rewritten, or the options do not fit the network.
    """
    from nasplat.nn.rewritten import check
    from nasplat.training.states import trained_network

    space = benchmark.space
    assert isinstance(space, Transforming)
    architecture = space.parse(code)
    try:
        original = trained_network(space, space.base(architecture), handle, benchmark.io, artifacts)
    except TrialFailed as error:
        raise InputError(f"{error}; keep the options of the space, and data of the same shape and classes") from error
    fitted = space.fitted(architecture, original)
    try:
        check(fitted.network, benchmark.io)
    except TrialFailed as error:
        raise InputError(f"the network {code} cannot be transformed so: {error}") from error
    return fitted.errors


def _measured(benchmark: Benchmark, code: str, handle: Handle, artifacts: MemoryArtifacts) -> dict[str, float]:
    """The metrics of an original on validation data, and its costs."""
    space = benchmark.space
    assert isinstance(space, Transforming)
    original: Architecture = space.base(space.parse(code))
    tuning = FineTuning(weights=handle, begun=0, epochs=benchmark.fidelity, original=original)
    task = Evaluate(id=0, seed=0, architecture=original, fidelity=0, tuning=tuning)
    device = "cuda" if cuda_is_available() else "cpu"
    try:
        metrics = benchmark.measure(task, device=device, artifacts=artifacts).metrics
    except TrialFailed as error:
        raise InputError(f"the original network {code} cannot be measured: {error}") from error
    return {**metrics, **space.below.cost(original, benchmark.io).metrics()}
