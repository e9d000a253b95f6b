"""A function of a user's own as a benchmark: it trains and measures a network, and returns its metrics."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar, get_type_hints

from pydantic import Field

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts
from nasplat.authoring.reporting import Reporter, TrialStopped, numbers
from nasplat.benchmark import Benchmark
from nasplat.errors import ArtifactError, InputError, StorageError, TrialFailed
from nasplat.executors.executor import failure_kind
from nasplat.options import Options, options_model
from nasplat.search_space import GeneSpace, SearchSpace
from nasplat.task import STATE, Evaluate, Measurement, Spent, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasplat.authoring.checkpoint import Checkpoint

Function: TypeAlias = Callable[..., Mapping[str, Any]]
F = TypeVar("F", bound=Function)

PLAIN = (bool, int, float, str)
"""The types of defaults that make an option also without an annotation."""
SUBJECTS = ("network", "architecture", "choices")
"""What a function may have as its first parameter."""
GIVEN = ("epochs", "seed", "device", "checkpoint", "report", "split")
"""The further parameters that are given a value in each call, if the function has them."""
_DECLARED = "__nasplat_measures__"


def measures(*metrics: str, code_metrics: Sequence[str] = ()) -> Callable[[F], F]:
    """Declare the metrics that a function returns, so that a wrong objective is refused before a search begins.

    Without it, the objectives and constraints of a search decide what must be returned.

    >>> @measures("accuracy", "latency_ms", code_metrics=["latency_ms"])
    ... def evaluate(network, *, epochs=1): ...

    Args:
        metrics: All metrics that it always returns.
        code_metrics: Those that depend on how the network is written, such as a latency, not only on the function that
            it computes. If a search is for one of them, no architecture is answered by the measurement of an equal one.

    Raises:
        InputError: No metric is given, or a metric of the code is not among the metrics.
    """
    if not metrics or not set(code_metrics) <= set(metrics):
        raise InputError(
            "measures must be given the names of all metrics, and those of code_metrics among them, but got "
            f"{metrics} and code_metrics={list(code_metrics)}"
        )

    def mark(function: F) -> F:
        setattr(function, _DECLARED, (metrics, frozenset(code_metrics)))
        return function

    return mark


class FunctionBenchmark(Benchmark):
    """A benchmark that calls a function; `function_benchmark` makes the subclass of a function.

    Args:
        space: The search space.
        epochs: The epochs of a full measurement.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    reports: ClassVar[bool] = False

    function: ClassVar[Function]
    """The function."""

    subject: ClassVar[str]
    """Its first parameter, one of `SUBJECTS`."""

    given: ClassVar[frozenset[str]]
    """Those of `GIVEN` that it has."""

    own_options: ClassVar[tuple[str, ...]]
    """Its further parameters, which are options."""

    @property
    def protocol(self) -> str:
        return f"Measured by the function {self._name}."

    @property
    def io(self) -> IO:
        return self.space.reference_io

    @property
    def fidelity(self) -> int:
        epochs: int = self.epochs if "epochs" in self.given else 1  # type: ignore[attr-defined]  # an option
        return epochs

    def check(self) -> None:
        if self.subject == "choices" and not isinstance(self.space, GeneSpace):
            raise InputError(
                f"{self._name}(choices) is given the value of each gene, but {self.space.name} has no genes; name the "
                "first parameter `network` or `architecture`"
            )

    def prepare(self) -> None:
        pass  # the function loads its data itself

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        if task.weights is not None:
            raise TrialFailed("no shared weights", f"{self._name} trains networks alone, not by shared weights")
        if not 1 <= task.fidelity <= self.fidelity:
            raise TrialFailed(
                "no such fidelity", f"the fidelity must be 1 to {self.fidelity} epochs, but is {task.fidelity}"
            )
        reporter = Reporter(self._name, task.stop, epochs=task.fidelity if "epochs" in self.given else None)
        checkpoint = self._checkpoint(task, device, artifacts)
        seed = task.seed if checkpoint is None else checkpoint.seed
        left = {}
        with self._seeded(seed, device):
            subject = self._subject(task.architecture, device)
            before = _shapes(subject)
            further = {
                "epochs": task.fidelity,
                "checkpoint": checkpoint,
                "report": reporter,
            }
            metrics = self._reported(reporter, lambda: self._called(subject, seed, device, "validation", further))
            if self.trains:
                left["weights"] = artifacts.put_tensors(self._unchanged(subject, before).state_dict())
        if checkpoint is not None and (state := checkpoint.put(task.architecture, artifacts)) is not None:
            left[STATE] = state
        return Measurement(
            task=task, metrics=metrics, artifacts=left, spent=Spent(images=reporter.images), curve=reporter.curve
        )

    def final(self, measurement: Measurement, *, device: str, artifacts: Artifacts) -> Measurement:
        if "split" not in self.given:
            raise InputError(
                f"{self._name} cannot measure on the test split; give it a parameter `split`: it is called with "
                "split='test', epochs=0 and the trained network, and must measure that network on the test data"
            )
        task = measurement.task
        weights = self.state_dict(measurement, artifacts=artifacts) if self.trains else {}
        further: dict[str, Any] = {"epochs": 0, "checkpoint": None, "report": Reporter(self._name)}
        if "checkpoint" in self.given:
            from nasplat.authoring.checkpoint import Checkpoint

            further["checkpoint"] = Checkpoint(task.seed, task.fidelity, keep=False, device=device)
        with self._seeded(task.seed, device):
            subject = self._subject(task.architecture, device)
            if self.trains:
                subject.load_state_dict(weights)
                subject.eval()
            metrics = self._called(subject, task.seed, device, "test", further)
            if self.trains and not _equal(subject.state_dict(), weights):
                raise InputError(
                    f"{self._name} must only measure when it is called with split='test' and epochs=0, but it changed "
                    "the network; train in `for epoch in range(epochs)`, and measure after network.eval()"
                )
        return Measurement(task=task, metrics=metrics, split="test", artifacts=measurement.artifacts)

    @property
    def _name(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def _seeded(self, seed: int, device: str) -> Any:
        from nasplat.training.seeding import all_seeded

        return all_seeded(seed, device)

    def _checkpoint(self, task: Evaluate, device: str, artifacts: Artifacts) -> "Checkpoint | None":
        if "checkpoint" not in self.given:
            return None
        from nasplat.authoring.checkpoint import Checkpoint

        checkpoint = Checkpoint(task.seed, task.fidelity, keep=task.fidelity < self.fidelity, device=device)
        if task.continues is not None:
            checkpoint.resume(task.continues, task.architecture, artifacts)
        return checkpoint

    def _subject(self, architecture: Architecture, device: str) -> Any:
        """What the function is given first."""
        if self.subject == "architecture":
            return architecture
        if self.subject == "choices":
            assert isinstance(self.space, GeneSpace)
            return dict(self.space.chosen(architecture))
        from nasplat.nn.counting import built

        return built(self.space, architecture, self.io).to(device)

    def _called(
        self, subject: Any, seed: int, device: str, split: Split, further: Mapping[str, Any]
    ) -> dict[str, float]:
        """The metrics that the function returns."""
        values = {**further, "seed": seed % 2**31, "device": device, "split": split}  # a seed for any library
        arguments = {name: values[name] for name in self.given}
        arguments |= {name: getattr(self, name) for name in self.own_options}
        metrics = numbers(type(self).function(subject, **arguments), self._name, "return")
        if missing := [name for name in self.metrics if name not in metrics]:
            raise TrialFailed(
                "no metric",
                f"{self._name} must return all metrics that it declares by `measures`, but {', '.join(missing)} is not "
                f"among {', '.join(metrics) or 'none'}",
            )
        return metrics

    def _reported(self, reporter: Reporter, call: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The result of a call; if it fails, what was reported before is kept with the failure."""
        try:
            metrics = call()
        except TrialStopped:
            metrics = {}
        except (ArtifactError, StorageError):
            raise
        except Exception as error:
            if not reporter.curve:
                raise
            raise TrialFailed(failure_kind(error), str(error), curve=reporter.curve) from error
        if reporter.stopped:  # even if the function caught the exception
            raise TrialFailed("stopped", reporter.stopped, curve=reporter.curve)
        return metrics

    def _unchanged(self, network: "nn.Module", before: Mapping[str, Any]) -> "nn.Module":
        """The network, whose weights an export loads into a newly built one.

        Raises:
            TrialFailed: The function has changed its parameters.
        """
        after = _shapes(network)
        if after != before:
            changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise TrialFailed(
                "another network",
                f"{self._name} must leave the network with the names, shapes and types of its state_dict(), since its "
                f"weights are exported with the space's network, but it changed {', '.join(changed[:3])}{more}; change "
                "the network in the search space's build, and remove prunings and parametrizations before returning",
            )
        return network


def function_benchmark(function: Function) -> type[FunctionBenchmark]:
    """The benchmark of a function that measures one architecture.

    >>> def evaluate(network, *, epochs=5, seed, device, learning_rate: float = 0.1):
    ...     '''Train by gradient descent.'''
    ...     return {"accuracy": 0.9}
    >>> function_benchmark(evaluate)(space, epochs=10, learning_rate=0.2)  # doctest: +SKIP

    Its first parameter says what it is given:

    - ``network``: the new `torch.nn.Module` of the architecture, on the device. The function trains it in place; the
      weights that it has at the end are kept, tested and exported.
    - ``architecture``: the `Architecture` itself, and nothing is built. Nothing can be exported then.
    - ``choices``: the chosen value of each gene, by the gene's name, and nothing is built.

    Of these parameters, it is given those that it has:

    - ``epochs``: the epochs to train for in all. Its default is the full measurement's, 1 if it has none. A function
      without ``epochs`` has one fidelity.
    - ``seed``: a whole number below 2**31. The global generators of torch, numpy and Python are seeded before each
      call, and restored after it, so a function that draws only from them repeats without any seed.
    - ``device``: ``cpu`` or ``cuda``.
    - ``checkpoint``: a `Checkpoint`, to continue the training of a lower fidelity. Without it, or if the function saves
      nothing, a higher fidelity trains from the start.
    - ``report``: a `Reporter`: call ``report(epoch, metrics, images=0)`` after each epoch. What it is told is kept with
      the trial, and a search that stops trials decides by it: the call then does not return.
    - ``split``: ``validation``, or ``test`` for a final measurement: it is then called with ``epochs=0`` and the
      trained network in evaluation mode, which it must not change.

    A further parameter with an annotation and a default that is JSON becomes an option of the benchmark, as in
    ``--set benchmark.learning_rate=.2``; other ones keep their default.

    It returns its metrics by name: numbers, or tensors and numpy arrays without dimensions. ``accuracy`` is a fraction.
    Higher is better, or lower, as the name says (see `nasplat.metric`) or the objective.

    Args:
        function: A function; classes and generators are refused.

    Returns:
        A benchmark, whose module and name are the function's. Its options are ``epochs`` and those above.

    Raises:
        InputError: The function has another form.
    """
    name = _name_of(function)
    parameters = list(inspect.signature(function).parameters.values())
    subject = parameters[0].name if parameters and not _is_variable(parameters[0]) else ""
    if subject not in SUBJECTS:
        raise InputError(
            f"the first parameter of a function that measures must be `network` (the network to train), "
            f"`architecture` or `choices`, but is {subject or 'missing'!r} in {name}{inspect.signature(function)}; "
            "rename it"
        )
    hints = _hints(function, name)
    given = frozenset(parameter.name for parameter in parameters[1:]).intersection(GIVEN)
    options = {}
    for parameter in parameters[1:]:
        if parameter.name == "epochs":
            options["epochs"] = _epochs(parameter, name)
        elif parameter.name not in given and (option := _option(parameter, hints, name)) is not None:
            options[parameter.name] = option
    declared, code_metrics = getattr(function, _DECLARED, ((), frozenset()))
    made = type(
        function.__name__,
        (FunctionBenchmark,),
        {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": inspect.getdoc(function) or f"Measures by the function {name}.",
            "__init__": _constructor(options),
            "function": staticmethod(function),
            "subject": subject,
            "given": given,
            "own_options": tuple(option for option in options if option != "epochs"),
            "metrics": declared,
            "code_metrics": code_metrics,
            "reports": "report" in given,
            "trains": subject == "network",
        },
    )
    options_model(made)  # an annotation that is no type of an option is refused here
    assert issubclass(made, FunctionBenchmark)
    return made


def _name_of(function: Function) -> str:
    """The function's dotted name.

    Raises:
        InputError: It is no function.
    """
    wanted = "a function that measures must be written with `def`, return its metrics once, and not be `async`"
    if not inspect.isfunction(function):
        raise InputError(f"{wanted}, but got {function!r}; write a function that calls it")
    name = f"{function.__module__}.{function.__qualname__}"
    for refused, kind in ((inspect.isgeneratorfunction, "yields"), (inspect.iscoroutinefunction, "is async")):
        if refused(function):
            raise InputError(
                f"{wanted}, but {name} {kind}; return a dictionary, and use `report` for figures on the way"
            )
    return name


def _hints(function: Function, name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise InputError(
            f"the annotations of {name} cannot be read: {error}; import what they name outside of TYPE_CHECKING"
        ) from None


def _is_variable(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _epochs(parameter: inspect.Parameter, name: str) -> inspect.Parameter:
    """The option `epochs`, whose default is the function's."""
    default = 1 if parameter.default is inspect.Parameter.empty else parameter.default
    if not isinstance(default, int) or isinstance(default, bool) or default < 1:
        raise InputError(f"epochs must be a whole number of at least 1, but its default in {name} is {default!r}")
    return inspect.Parameter(
        "epochs", inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[int, Field(ge=1)]
    )


def _option(parameter: inspect.Parameter, hints: Mapping[str, Any], name: str) -> inspect.Parameter | None:
    """A further parameter as an option; None for one that always has its default.

    Raises:
        InputError: It has no default, or it cannot have its name.
    """
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return None
    if parameter.default is inspect.Parameter.empty or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise InputError(
            f"after the first, a parameter of a function that measures must be one of {', '.join(GIVEN)}, or have a "
            f"default, but {parameter.name} of {name} has none; give it one"
        )
    kind = hints.get(parameter.name, type(parameter.default) if isinstance(parameter.default, PLAIN) else None)
    if kind is None or not _is_json(parameter.default):
        return None
    if parameter.name == "space" or hasattr(FunctionBenchmark, parameter.name):
        raise InputError(
            f"an option cannot be called {parameter.name!r}, which benchmarks use for something else; rename this "
            f"parameter of {name}"
        )
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)


def _is_json(value: Any) -> bool:
    if isinstance(value, Options):
        return True
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _constructor(options: Mapping[str, inspect.Parameter]) -> Callable[..., None]:
    """The constructor of the benchmark of a function, with the options in its signature."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter("self", kind),
            inspect.Parameter("space", kind, annotation=SearchSpace),
            *options.values(),
        ]
    )

    def construct(self: FunctionBenchmark, space: SearchSpace, **given: Any) -> None:
        bound = signature.bind(self, space, **given)
        bound.apply_defaults()
        FunctionBenchmark.__init__(self, space)
        for name in options:
            setattr(self, name, bound.arguments[name])

    construct.__name__ = construct.__qualname__ = "__init__"
    construct.__annotations__ = {name: each.annotation for name, each in signature.parameters.items() if name != "self"}
    construct.__annotations__["return"] = type(None)
    construct.__dict__["__signature__"] = signature
    return construct


def _shapes(subject: Any) -> dict[str, Any]:
    """The shape and type of every tensor of a network's state; empty for what is no network."""
    if not hasattr(subject, "state_dict"):
        return {}
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in subject.state_dict().items()}


def _equal(state: "Mapping[str, Tensor]", weights: "Mapping[str, Tensor]") -> bool:
    return state.keys() == weights.keys() and all(
        bool(((tensor == weights[name].to(tensor.device)) | (tensor != tensor)).all()) for name, tensor in state.items()
    )
