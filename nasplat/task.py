"""Tasks and their outcomes: frozen data that is sent between processes and recorded in the log."""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, assert_never, get_args

import numpy as np

from nasplat.architecture import Architecture
from nasplat.artifact import Handle
from nasplat.curve import Curve, StopRule, decode_curve, decode_rule, encode_curve, encode_rule
from nasplat.errors import InputError
from nasplat.storage.decoding import count, number, text, typed

Split: TypeAlias = Literal["validation", "test"]
Action: TypeAlias = Literal["tried again", "failed", "replaced", "given up"]
Json: TypeAlias = dict[str, Any]

STATE = "state"
"""The role of an artifact that is only used to continue from; it may be deleted once no later task can name it."""
LAYERS = "layers"
"""The role of an artifact with the statistics of the layers of a network that was calibrated, as ``LAYER.NAME``."""
MOST_ASKED = 10_000
"""The largest number of tasks that a strategy is asked for at once, and so of workers: a log must not ask for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A trained network whose outputs another network learns from (Hinton et al., 2015, "Distilling the knowledge").

    Args:
        architecture: The architecture of the teacher, of the same space.
        weights: The artifact with the role ``weights`` that the teacher's measurement left.
    """

    architecture: Architecture
    weights: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """A training that begins with trained weights, and has a schedule of its own.

    Args:
        weights: Shared weights, or those of the original network.
        begun: The number of epochs that shared weights were trained for; 0 for those of an original.
        epochs: The number of epochs of the whole fine-tuning, which its schedule spans.
        original: The architecture whose trained network is transformed; fidelity 0 measures it as it is fitted.
    """

    weights: Handle
    begun: int
    epochs: int
    original: Architecture | None = None

    @property
    def end(self) -> int:
        """The fidelity of the whole fine-tuning: the epochs with shared weights and those after."""
        return self.begun + self.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Measure one architecture.

    Two evaluations are the same work only if canonical key, fidelity and replicate agree and neither uses
    shared weights or a teacher. If the goal names a metric of the code, such as a latency, the code must agree too.

    Args:
        id: The task's number, rising in the order of asking.
        seed: All randomness of the work comes from it.
        architecture: The architecture to measure.
        fidelity: The fidelity, in epochs; in a fine-tuning, those of the shared weights count too.
        weights: Shared weights to measure with instead of training, for benchmarks that support it.
        replicate: Distinguishes repeated measurements of one architecture.
        continues: The state that an earlier evaluation of the same architecture at lower fidelity left.
        teacher: The network to learn from in addition to the data, for benchmarks that support it.
        stop: When to end the trial early, for benchmarks that report while they train.
        tuning: The fine-tuning to measure instead of a training from scratch, for benchmarks that support it.
    """

    id: int
    seed: int
    architecture: Architecture
    fidelity: int
    weights: Handle | None = None
    replicate: int = 0
    continues: Handle | None = None
    teacher: Teacher | None = None
    stop: StopRule | None = None
    tuning: FineTuning | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSupernet:
    """Train shared weights on the paths of the given architectures.

    Args:
        id: The task's number, rising in the order of asking.
        seed: All randomness of the work comes from it.
        architectures: The paths to train, sampled uniformly; empty means every path of the space.
        epochs: Passes over the training data, in addition to those that `weights` were trained for.
        weights: The weights to start from; None starts from new weights.
    """

    id: int
    seed: int
    architectures: tuple[Architecture, ...]
    epochs: int
    weights: Handle | None = None


Task: TypeAlias = Evaluate | TrainSupernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The cost of a task's work, and where it ran.

    Args:
        seconds: Wall-clock time of the work itself, on one device; if several devices shared it, the sum over them.
        images: Training images processed.
        device: ``cpu`` or ``cuda``.
        worker: The process that did it, as ``host:pid``.
        started: Seconds since 1970 when the work began.

    Raises:
        InputError: The number of images is no whole number, or negative.
    """

    seconds: float = 0.0
    images: int = 0
    device: str = ""
    worker: str = ""
    started: float = 0.0

    def __post_init__(self) -> None:
        if not (self.images >= 0 and self.images % 1 == 0):  # a log with anything else could not be read again
            raise InputError(f"images must be a whole number, 0 or more, but got {self.images!r}; count them anew")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """An evaluation's metrics, with the split they were measured on.

    Args:
        task: The task.
        metrics: Values by metric name, with the unit in the name; ``accuracy`` is a fraction. The loop adds the
            analytic (free) metrics, so that one mapping has every objective.
        split: ``validation`` guides the search; ``test`` only appears in an explicit final measurement.
        artifacts: Handles by role: ``weights``, ``state`` …
        spent: The cost of the work.
        cached_from: For a cache hit, the id of the task whose measurement is the answer; a cache hit costs nothing.
        curve: What was reported while it trained; a cache hit has none.
    """

    task: Evaluate
    metrics: Mapping[str, float]
    split: Split = "validation"
    artifacts: Mapping[str, Handle] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    cached_from: int | None = None
    curve: Curve = field(default_factory=dict)

    @property
    def id(self) -> int:
        return self.task.id

    @property
    def architecture(self) -> Architecture:
        return self.task.architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Shared weights after training.

    Args:
        task: The task.
        weights: The trained weights.
        spent: The cost of the work.
    """

    task: TrainSupernet
    weights: Handle
    spent: Spent = field(default_factory=Spent)

    @property
    def id(self) -> int:
        return self.task.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A task without a result: it is recorded and reported, and does not end the search.

    Args:
        task: The task.
        kind: A short name to count by: ``diverged``, ``stopped``, ``worker died``, or the exception's name.
        message: What happened, in one line.
        traceback: The traceback, if there was an exception.
        spent: The cost of the work.
        curve: What was reported before.
    """

    task: Task
    kind: str
    message: str
    traceback: str = ""
    spent: Spent = field(default_factory=Spent)
    curve: Curve = field(default_factory=dict)

    @property
    def id(self) -> int:
        return self.task.id


Outcome: TypeAlias = Measurement | Trained | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A problem outside the work of a task, such as a worker failure: recorded, reported, and most often handled.

    Args:
        kind: A short name to count by: ``worker died``, ``out of memory``, ``time limit``, ``node lost``.
        message: The cause, as far as it is known, in one line.
        action: The reaction: the trial was ``tried again`` or ``failed``, the worker was ``replaced``, or its slot
            was ``given up``.
        trial: The id of the task that was in work, if there was one.
        worker: The process that failed, as ``host:pid``; empty if it never started.
        seconds: Lost device time; that of a failed trial is in its outcome instead.
    """

    kind: str
    message: str
    action: Action
    trial: int | None = None
    worker: str = ""
    seconds: float = 0.0


def derive_seed(run_seed: int, task_id: int) -> int:
    """A task's seed: 63 bits, independent between tasks and between runs."""
    return int(np.random.SeedSequence([run_seed, task_id]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def needed_by(task: Task) -> set[str]:
    """The digests of the artifacts that a task needs at its start."""
    handles = [task.weights]
    if isinstance(task, Evaluate):
        handles += [task.continues, task.teacher.weights if task.teacher is not None else None]
        if task.tuning is not None and task.continues is None:  # a state has the weights
            handles.append(task.tuning.weights)
    return {handle.digest for handle in handles if handle is not None}


def encode_task(task: Task) -> Json:
    """Encode a task as JSON; `decode_task` is the inverse."""
    match task:
        case Evaluate():
            body: Json = {
                "evaluate": task.architecture.code,
                "space": task.architecture.space,
                "id": task.id,
                "seed": task.seed,
                "fidelity": task.fidelity,
            }
            if task.weights is not None:
                body["weights"] = task.weights.digest
            if task.replicate:
                body["replicate"] = task.replicate
            if task.continues is not None:
                body["continues"] = task.continues.digest
            if (teacher := task.teacher) is not None:
                body["teacher"] = [teacher.architecture.space, teacher.architecture.code, teacher.weights.digest]
            if (stop := task.stop) is not None:
                body["stop"] = encode_rule(stop)
            if (tuning := task.tuning) is not None:
                of = [] if tuning.original is None else [tuning.original.space, tuning.original.code]
                body["tuning"] = [tuning.weights.digest, tuning.begun, tuning.epochs, *of]
            return body
        case TrainSupernet():
            return {
                "train": [[a.space, a.code] for a in task.architectures],
                "id": task.id,
                "seed": task.seed,
                "epochs": task.epochs,
                "weights": task.weights and task.weights.digest,
            }
    assert_never(task)


def decode_task(body: Json) -> Task:
    """Decode a task from the result of `encode_task`.

    Raises:
        KeyError, TypeError, ValueError: The body is not an encoded task.
    """
    if not isinstance(body, dict):
        raise TypeError(f"a task must be a JSON object, but this is {type(body).__name__}")
    weights = _handle(body, "weights")
    number, seed = count(body, "id"), count(body, "seed", most=2**64 - 1)
    if "train" in body:
        return TrainSupernet(
            id=number,
            seed=seed,
            architectures=tuple(
                Architecture(text(pair, 0), text(pair, 1)) for pair in typed(body, "train", list, "a list")
            ),
            epochs=count(body, "epochs"),
            weights=weights,
        )
    return Evaluate(
        id=number,
        seed=seed,
        architecture=Architecture(text(body, "space"), text(body, "evaluate")),
        fidelity=count(body, "fidelity"),
        weights=weights,
        replicate=count(body, "replicate") if "replicate" in body else 0,
        continues=_handle(body, "continues"),
        teacher=_teacher(body["teacher"]) if "teacher" in body else None,
        stop=decode_rule(body["stop"]) if "stop" in body else None,
        tuning=_tuning(body["tuning"]) if "tuning" in body else None,
    )


def encode_outcome(outcome: Outcome, *, with_task: bool = True) -> Json:
    """Encode an outcome as JSON; without the task it has only the task's id, as in the log."""
    body: Json = {"task": encode_task(outcome.task)} if with_task else {"id": outcome.id}
    body["spent"] = asdict(outcome.spent)
    match outcome:
        case Measurement():
            body |= {"metrics": dict(outcome.metrics), "split": outcome.split}
            if outcome.artifacts:
                body["artifacts"] = {role: handle.digest for role, handle in outcome.artifacts.items()}
            if outcome.cached_from is not None:
                body["cached_from"] = outcome.cached_from
        case Trained():
            body["trained"] = outcome.weights.digest
        case Failure():
            body |= {"failure": outcome.kind, "message": outcome.message, "traceback": outcome.traceback}
        case _:
            assert_never(outcome)
    if not isinstance(outcome, Trained) and outcome.curve:
        body["curve"] = encode_curve(outcome.curve)
    return body


def decode_measurement(body: Json) -> Measurement:
    """Decode a measurement from the result of `encode_outcome`.

    Raises:
        KeyError, TypeError, ValueError: The body is not an encoded measurement.
    """
    outcome = decode_outcome(body)
    if not isinstance(outcome, Measurement):
        raise ValueError(f"task {outcome.id} has no measurement")
    return outcome


def decode_outcome(body: Json, task: Task | None = None) -> Outcome:
    """Decode an outcome from the result of `encode_outcome`; `task` is needed if the body has only the task's id.

    Raises:
        KeyError, TypeError, ValueError: The body is not an encoded outcome.
    """
    if not isinstance(body, dict):
        raise TypeError(f"an outcome must be a JSON object, but this is {type(body).__name__}")
    if task is None:
        task = decode_task(body["task"])
    spending = typed(body, "spent", dict, "an object")
    spent = Spent(
        seconds=number(spending, "seconds"),
        images=count(spending, "images"),
        device=text(spending, "device"),
        worker=text(spending, "worker"),
        started=number(spending, "started"),
    )
    if "failure" in body:
        return Failure(
            task=task,
            kind=text(body, "failure"),
            message=text(body, "message"),
            traceback=text(body, "traceback"),
            spent=spent,
            curve=decode_curve(body["curve"]) if "curve" in body else {},
        )
    if "trained" in body:
        if not isinstance(task, TrainSupernet):
            raise ValueError(f"task {task.id} has trained weights as its outcome, but is not a supernet training")
        return Trained(task=task, weights=Handle(text(body, "trained")), spent=spent)
    if not isinstance(task, Evaluate):
        raise ValueError(f"task {task.id} has metrics as its outcome, but is not an evaluation")
    metrics = typed(body, "metrics", dict, "an object")
    artifacts = typed(body, "artifacts", dict, "an object") if "artifacts" in body else {}
    split = body["split"]
    if split not in ("validation", "test"):
        raise ValueError(f"a split must be validation or test, but task {task.id} was measured on {split!r}")
    cached = "remembered" if "remembered" in body else "cached_from"  # the former is what old logs have
    return Measurement(
        task=task,
        metrics={name: number(metrics, name) for name in metrics},
        split=split,
        artifacts={role: Handle(text(artifacts, role)) for role in artifacts},
        spent=spent,
        cached_from=None if body.get(cached) is None else count(body, cached),
        curve=decode_curve(body["curve"]) if "curve" in body else {},
    )


def encode_incident(incident: Incident) -> Json:
    """Encode an incident as JSON; `decode_incident` is the inverse."""
    return asdict(incident)


def decode_incident(body: Json) -> Incident:
    """Decode an incident from the result of `encode_incident`.

    Raises:
        KeyError, TypeError, ValueError: The body is not an encoded incident.
    """
    action = body["action"]
    if action not in get_args(Action):
        raise ValueError(
            f"an incident's action must be one of {', '.join(get_args(Action))}, but is {reprlib.repr(action)}"
        )
    return Incident(
        kind=text(body, "kind"),
        message=text(body, "message"),
        action=action,
        trial=count(body, "trial") if body.get("trial") is not None else None,
        worker=text(body, "worker"),
        seconds=number(body, "seconds"),
    )


def _handle(body: Json, key: str) -> Handle | None:
    return Handle(text(body, key)) if body.get(key) else None


def _tuning(body: Any) -> FineTuning:
    original = Architecture(text(body, 3), text(body, 4)) if len(body) > 3 else None
    return FineTuning(weights=Handle(text(body, 0)), begun=count(body, 1), epochs=count(body, 2), original=original)


def _teacher(body: Any) -> Teacher:
    return Teacher(architecture=Architecture(text(body, 0), text(body, 1)), weights=Handle(text(body, 2)))
