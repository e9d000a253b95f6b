"""Every contract check fails on a plug-in with exactly the defect it looks for."""

import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeAlias, cast
from unittest import SkipTest

import numpy as np
import pytest
import torch
from nasplat_demo.predictor import Ridge
from nasplat_demo.space import Perceptron
from nasplat_demo.strategy import Generations
from nasplat_demo.supernet import SharedFormula
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, Handle
from nasplat.block_space import Block
from nasplat.convolution import Convolution, square
from nasplat.cost import Cost, Operations
from nasplat.errors import InputError
from nasplat.graph import Graphs, Operation, Role
from nasplat.nn.full_stack import FullStack, FullStackConv2d, PackedFullStackConv2d
from nasplat.nn.supernet import Part, Supernet
from nasplat.predictor import FittedState
from nasplat.problem import Problem
from nasplat.search_space import GeneSpace, Prior
from nasplat.search_spaces.nasbench101 import NASBench101
from nasplat.strategies.local_search import LocalSearch
from nasplat.strategies.random_search import RandomSearch
from nasplat.strategies.regularized_evolution import RegularizedEvolution
from nasplat.strategy import Strategy
from nasplat.task import Evaluate, Failure, Measurement, Outcome, Task, Trained, TrainSupernet
from nasplat.testing import (
    BENCHMARK_CHECKS,
    PREDICTOR_CHECKS,
    SEARCH_SPACE_CHECKS,
    STRATEGY_CHECKS,
    SUPERNET_CHECKS,
    TRANSFORM_CHECKS,
    ToyBenchmark,
    ToySpace,
)
from nasplat.transform import Candidate, Rewriting
from nasplat.transforms.full_stack import FullStackFilters
from nasplat.transforms.ghost import Ghost

IMAGES = IO.image(channels=1, side=4, outputs=3)
Methods: TypeAlias = Mapping[str, Any]


def broken(base: type, **methods: Any) -> Any:
    """A subclass of a sound plug-in with one thing done wrong."""
    return type(f"Broken{base.__name__}", (base,), {"__doc__": "Does one thing wrong.", **methods})


def undocumented_positional(self: Any, first: Any = None, option: int = 1) -> None:
    """A constructor that takes its option by position and stores it under another name."""


# Search spaces ------------------------------------------------------------------------------------------------


def sample_stranger(self: ToySpace, rng: Generator) -> Architecture:
    return Architecture("another space", ToySpace.sample(self, rng).code)


class WhiteSpace(ToySpace):
    """Its codes have blanks in them."""

    def sample(self, rng: Generator) -> Architecture:
        return Architecture(self.name, " ".join(super().sample(rng).code))

    def parse(self, code: str) -> Architecture:
        return Architecture(self.name, " ".join(super().parse(code.replace(" ", "")).code))


def sample_globally(self: ToySpace, rng: Generator) -> Architecture:
    return self.member([random.randrange(4) for _ in range(4)])


def parse_anything(self: ToySpace, code: str) -> Architecture:
    return Architecture(self.name, code)


def mutate_sometimes(self: ToySpace, a: Architecture, rng: Generator, prior: Prior | None = None) -> Architecture:
    return a if rng.random() < 0.3 else ToySpace.mutate(self, a, rng, prior)


def crossover_concatenating(self: ToySpace, a: Architecture, b: Architecture, rng: Generator) -> Architecture:
    return Architecture(self.name, a.code + b.code)


def neighbors_one_way(self: ToySpace, a: Architecture) -> list[Architecture]:
    return [n for n in ToySpace.neighbors(self, a) if n.code > a.code] or [self.parse("0000")]


def features_growing(self: ToySpace, a: Architecture) -> NDArray[np.float64]:
    return np.ones(1 + int(a.code[0]))


def graphs_backwards(self: ToySpace, architectures: Sequence[Architecture]) -> Graphs:
    graphs = ToySpace.graphs(self, architectures)
    return replace(graphs, adjacency=graphs.adjacency.transpose(0, 2, 1))


def graphs_of_the_first(self: ToySpace, architectures: Sequence[Architecture]) -> Graphs:
    return ToySpace.graphs(self, architectures[:1])


def graphs_by_rank(self: ToySpace, architectures: Sequence[Architecture]) -> Graphs:
    graphs = ToySpace.graphs(self, architectures)
    return replace(graphs, macs=graphs.macs + np.arange(len(graphs))[:, None])


def graphs_of_operations_met(self: ToySpace, architectures: Sequence[Architecture]) -> Graphs:
    graphs = ToySpace.graphs(self, architectures)
    return replace(graphs, operations=(*graphs.operations, Operation(architectures[-1].code, Role.OTHER)))


def graphs_without_output(self: ToySpace, architectures: Sequence[Architecture]) -> Graphs:
    graphs = ToySpace.graphs(self, architectures)
    types = graphs.types.copy()
    types[:, -1] = 1
    return replace(graphs, types=types)


def graphs_that_cost_more(self: ToySpace, architectures: Sequence[Architecture]) -> Graphs:
    graphs = ToySpace.graphs(self, architectures)
    whole = [self.cost(a, self.reference_io).params for a in architectures]
    return replace(graphs, params=graphs.params + np.array(whole)[:, None])


def tensors_of_what_is_there(self: ToySpace, architectures: Sequence[Architecture]) -> Any:
    tensors = ToySpace.tensors(self, architectures)
    return tensors / tensors.sum()


def tensors_both_ways(self: ToySpace, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
    tensors = ToySpace.tensors(self, architectures)
    return tensors + tensors.swapaxes(2, 3)


def tensors_in_detail(self: ToySpace, architectures: Sequence[Architecture]) -> Any:
    return ToySpace.tensors(self, architectures).astype(np.float64)


def tensors_flat(self: ToySpace, architectures: Sequence[Architecture]) -> Any:
    return ToySpace.tensors(self, architectures).sum(axis=1)


def tensors_with_holes(self: ToySpace, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
    tensors = ToySpace.tensors(self, architectures)
    return np.where(tensors == tensors.max(), np.float32(np.nan), tensors)


def cost_without_bias(self: ToySpace, a: Architecture, io: IO) -> Cost:
    cost = ToySpace.cost(self, a, io)
    return replace(cost, params=cost.params - io.outputs)


def build_for_ten(self: ToySpace, a: Architecture, io: IO) -> nn.Module:
    return ToySpace.build(self, a, IO(io.input_shape, 10))


class RandomScale(nn.Module):
    """Multiplies by a figure that is drawn when it is made and is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def build_with_hidden_choice(self: ToySpace, a: Architecture, io: IO) -> nn.Module:
    return nn.Sequential(ToySpace.build(self, a, io), RandomScale())


class Backwards(ToySpace):
    """Its supernet reads a code from the other end than `build`."""

    def supernet(self, io: IO) -> Supernet:
        def assemble(architecture: Architecture, part: Part, /) -> nn.Module:
            return self._assembled(Architecture(self.name, architecture.code[::-1]), part, io)

        return Supernet(assemble, self._all())

    def _all(self) -> list[Architecture]:
        return [self.member(choices) for choices in itertools.product(range(4), repeat=4)]


class Lonely(Backwards):
    """Its supernet has weights for each architecture apart."""

    def supernet(self, io: IO) -> Supernet:
        def assemble(architecture: Architecture, part: Part, /) -> nn.Module:
            return self._assembled(
                architecture, lambda name, make, largest=None: part(f"{architecture.code} {name}", make), io
            )

        return Supernet(assemble, self._all())


class Ballast(Backwards):
    """Its supernet has a part that no path has."""

    def supernet(self, io: IO) -> Supernet:
        supernet = ToySpace.supernet(self, io)
        supernet.parts["ballast"] = nn.Linear(1, 1)
        return supernet


class Clinging(Supernet):
    """Extracts what still belongs to it."""

    def extract(self, architecture: Architecture) -> nn.Module:
        return self.path(architecture)


def supernet_clinging(self: ToySpace, io: IO) -> Supernet:
    supernet = ToySpace.supernet(self, io)
    supernet.__class__ = Clinging
    return supernet


def blocks_without_the_last(self: ToySpace, a: Architecture, io: IO) -> list[Block]:
    return ToySpace.blocks(self, a, io)[:-1]


def blocks_in_any_order(self: ToySpace, a: Architecture, io: IO) -> list[Block]:
    return random.SystemRandom().sample(found := ToySpace.blocks(self, a, io), len(found))


def blocks_of_what_comes_out(self: ToySpace, a: Architecture, io: IO) -> list[Block]:
    return [replace(block, input_shape=(block.widths[1] + 1,)) for block in ToySpace.blocks(self, a, io)]


def blocks_by_output_alone(self: ToySpace, a: Architecture, io: IO) -> list[Block]:
    return [replace(block, widths=block.widths[1:]) for block in ToySpace.blocks(self, a, io)]


def blocks_without_widths(self: ToySpace, a: Architecture, io: IO) -> list[Block]:
    return [replace(block, widths=()) for block in ToySpace.blocks(self, a, io)]


def build_without_the_last_gene(self: ToySpace, a: Architecture, io: IO) -> nn.Module:
    return ToySpace.build(self, Architecture(a.space, f"{a.code[:-1]}0"), io)


SPACES: dict[str, Any] = {
    "samples_are_members": broken(ToySpace, sample=sample_stranger),
    "codes_are_short_printable_text": WhiteSpace,
    "same_generator_same_samples": broken(ToySpace, sample=sample_globally),
    "samples_differ": broken(ToySpace, sample=lambda self, rng: self.parse("0123")),
    "strangers_are_refused": broken(ToySpace, parse=parse_anything),
    "mutants_are_other_members": broken(ToySpace, mutate=mutate_sometimes),
    "crossover_stays_between_its_parents": broken(ToySpace, crossover=crossover_concatenating),
    "neighbors_are_mutual": broken(ToySpace, neighbors=neighbors_one_way),
    "canonical_keys_are_stable_text": broken(ToySpace, canonical_key=lambda self, a: "same"),
    "features_have_one_shape": broken(ToySpace, features=features_growing),
    "graphs_are_well_formed": broken(ToySpace, graphs=graphs_backwards),
    "tensors_have_one_shape": broken(ToySpace, tensors=tensors_of_what_is_there),
    "cost_is_what_is_built": broken(ToySpace, cost=cost_without_bias),
    "convolutions_are_what_is_built": broken(
        ToySpace, convolutions_of=lambda self, a, io: [Convolution("0", square(1, 2, 1, (4, 4)))]
    ),
    "genes_have_an_effect": broken(ToySpace, cost=GeneSpace.cost, build=build_without_the_last_gene),
    "networks_fit_their_io": broken(ToySpace, build=build_for_ten),
    "other_data_is_refused": broken(ToySpace, check_io=lambda self, io: None),
    "same_weights_same_outputs": broken(ToySpace, build=build_with_hidden_choice),
    "supernet_paths_are_what_is_built": Backwards,
    "supernet_shares_its_weights": Lonely,
    "supernet_extracts_copies": broken(ToySpace, supernet=supernet_clinging),
    "supernet_has_no_dead_weight": Ballast,
    "blocks_are_what_is_built": broken(ToySpace, blocks=blocks_without_the_last),
    "options_are_configuration": broken(ToySpace, __init__=undocumented_positional),
}
OTHER_GRAPHS: dict[str, Any] = {
    "have 1 graphs": graphs_of_the_first,
    "the macs of .* differ between": graphs_by_rank,
    "the operations of .* differ between": graphs_of_operations_met,
    "has no output": graphs_without_output,
    "the nodes of .* params": graphs_that_cost_more,
}
"""What else may be wrong with graphs, by what is said of it."""
OTHER_TENSORS: dict[str, Any] = {
    "on or below the diagonal": tensors_both_ways,
    "not float32": tensors_in_detail,
    "have the shape": tensors_flat,
    "not finite": tensors_with_holes,
}
"""And with tensors."""
OTHER_BLOCKS: dict[str, Any] = {
    "and then": blocks_in_any_order,
    "does not take": blocks_of_what_comes_out,
    "two different blocks": blocks_by_output_alone,
    "whole numbers above 0": blocks_without_widths,
}
"""And with blocks."""


# Strategies ---------------------------------------------------------------------------------------------------


def ask_nothing(self: Strategy, n: int) -> list[Task]:
    return []


def ask_double(self: RandomSearch, n: int) -> list[Task]:
    return RandomSearch.ask(self, 2 * n)


def ask_renumbered(self: RandomSearch, n: int) -> list[Task]:
    return [replace(task, id=task.id + 1) for task in RandomSearch.ask(self, n)]


def ask_with_system_randomness(self: RandomSearch, n: int) -> list[Task]:
    system = random.SystemRandom()
    return [
        self.problem.evaluate(Architecture("toy", "".join(str(system.randrange(4)) for _ in range(4))))
        for _ in range(n)
    ]


def ask_with_global_randomness(self: RandomSearch, n: int) -> list[Task]:
    random.random()
    return RandomSearch.ask(self, n)


def ask_the_infeasible(self: RandomSearch, n: int) -> list[Task]:
    return [self.problem.evaluate(self.problem.space.sample(self.problem.rng)) for _ in range(n)]


def ask_for_ever(self: RandomSearch, n: int) -> list[Task]:
    tasks: list[Task] = []
    while len(tasks) < n:
        architecture = self.problem.space.sample(self.problem.rng)
        if self.problem.feasible(architecture) and self._duplicates.new(architecture):
            tasks.append(self._duplicates.task(architecture))
    return tasks


def ask_any_member(self: Strategy, n: int) -> list[Task]:
    return [self.problem.evaluate(self.problem.space.sample(self.problem.rng)) for _ in range(n)]


def tell_measurements_only(self: Strategy, outcome: Outcome) -> None:
    assert not isinstance(outcome, Failure), "nobody thought of failures"


class Hoarder(RandomSearch):
    """Continues from a state that it does not name, though it keeps it."""

    _hoarded: Handle | None = None

    def ask(self, n: int) -> list[Task]:
        if self._hoarded is None:
            return super().ask(n)
        return [self.problem.evaluate(self.problem.sample(), continues=self._hoarded)]

    def tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Measurement):
            self._hoarded = outcome.artifacts["state"]

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"hoarded": self._hoarded and self._hoarded.digest}


class InOrder(RandomSearch):
    """Believes that outcomes come in the order of asking."""

    def tell(self, outcome: Outcome) -> None:
        expected = getattr(self, "_expected", 0)
        if outcome.id != expected:
            raise RuntimeError(f"expected {expected}")
        self._expected = expected + 1


def forgets_its_population(self: RegularizedEvolution, state: dict[str, Any]) -> None:
    self._asked = state["asked"]


def alias_state(self: LocalSearch) -> dict[str, Any]:
    return {"climbs": [{"untried": climb.untried} for climb in self._climbs]}


class Resurrected(RandomSearch):
    """Says that it has finished, and goes on."""

    def ask(self, n: int) -> list[Task]:
        asked = super().ask(n)
        self._pauses = 0 if asked else getattr(self, "_pauses", 0) + 1
        return [self.problem.evaluate(self.problem.sample())] if self._pauses > 1 else asked


class FirstComes(Generations):
    """Keeps whoever comes in first, though it claims to be generational."""

    def tell(self, outcome: Outcome) -> None:
        super().tell(outcome)
        if len(self._told) == self.size and not self._parents:
            self._parents = [o for o in self._told[:2] if isinstance(o, Measurement)]

    def _next_generation(self) -> None:
        self._told, self._asked = [], []


class Positional(RandomSearch):
    """Takes its option by position."""

    def __init__(self, problem: Problem, chance: float = 0.5) -> None:
        super().__init__(problem)


STRATEGIES: dict[str, Any] = {
    "proposes_at_all": broken(RandomSearch, ask=ask_nothing),
    "never_gives_more_than_asked_for": broken(RandomSearch, ask=ask_double),
    "tasks_come_from_the_problem": broken(RandomSearch, ask=ask_renumbered),
    "same_seed_same_proposals": broken(RandomSearch, ask=ask_with_system_randomness),
    "global_generators_are_left_alone": broken(RandomSearch, ask=ask_with_global_randomness),
    "proposals_are_feasible_members": broken(RandomSearch, ask=ask_the_infeasible),
    "narrow_constraints_do_not_hang_it": broken(RandomSearch, ask=ask_for_ever),
    "a_partial_table_is_kept_to": broken(RandomSearch, ask=ask_any_member),
    "failures_do_not_stop_it": broken(RandomSearch, tell=tell_measurements_only),
    "late_and_shuffled_outcomes_are_fine": InOrder,
    "state_goes_on_exactly": broken(RegularizedEvolution, set_state=forgets_its_population),
    "state_is_a_copy": broken(LocalSearch, get_state=alias_state),
    "handles_are_named": Hoarder,
    "finished_is_finished": Resurrected,
    "a_plan_is_carried_out": broken(RandomSearch, progress=0.5),
    "order_within_a_generation_is_free": FirstComes,
    "options_are_configuration": Positional,
}


# Benchmarks ---------------------------------------------------------------------------------------------------


def measure_percent(self: ToyBenchmark, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
    return Measurement(task=task, metrics={"accuracy": 93.0})


def measure_another(self: ToyBenchmark, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
    return Measurement(task=replace(task, id=task.id + 1), metrics={"accuracy": 0.5})


def measure_by_chance(self: ToyBenchmark, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
    return Measurement(task=task, metrics={"accuracy": random.SystemRandom().random()})


def measure_with_memory(self: Any, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
    self.count = getattr(self, "count", 0) + 1
    return Measurement(task=task, metrics={"accuracy": 1 / self.count})


def measure_with_global_randomness(
    self: ToyBenchmark, task: Evaluate, *, device: str, artifacts: Artifacts
) -> Measurement:
    torch.manual_seed(task.seed)
    return ToyBenchmark.measure(self, task, device=device, artifacts=artifacts)


def final_on_validation(
    self: ToyBenchmark, measurement: Measurement, *, device: str, artifacts: Artifacts
) -> Measurement:
    return measurement


def measure_without_keeping(self: ToyBenchmark, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
    return Measurement(task=task, metrics={"accuracy": 0.5}, artifacts={"weights": Handle.of(b"lost")})


def prepare_counting(self: Any) -> None:
    self.prepared = getattr(self, "prepared", 0) + 1


def measure_prepared(self: Any, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
    return Measurement(task=task, metrics={"accuracy": 1 / self.prepared})


class Forgetful(ToyBenchmark):
    """Leaves a state, and starts from scratch all the same."""

    fidelity = 3

    def measure(self, task: Evaluate, *, device: str, artifacts: Artifacts) -> Measurement:
        if task.fidelity == self.fidelity:
            return Measurement(task=task, metrics={"accuracy": task.seed % 1000 / 1000})
        return Measurement(task=task, metrics={"accuracy": 0.5}, artifacts={"state": artifacts.put(b"half done")})


def know_by_symbol(self: ToyBenchmark, architecture: Architecture) -> dict[str, float]:
    return {f"latency_{architecture.code[0]}_ms": 1.0}


def know_by_chance(self: ToyBenchmark, architecture: Architecture) -> dict[str, float]:
    return {"latency_ms": random.SystemRandom().random()}


def know_nothing_of_some(self: ToyBenchmark, architecture: Architecture) -> dict[str, float]:
    return {"latency_ms": float("nan") if architecture.code[0] == "0" else 1.0}


SOME = (ToySpace().members() or [])[::2]


def everything(self: ToyBenchmark, architecture: Architecture) -> bool:
    return True


def begins_with_nothing(self: ToyBenchmark, architecture: Architecture) -> bool:
    return architecture in SOME and architecture.code[0] == "1"


BENCHMARKS: dict[str, Any] = {
    "measures_what_it_declares": broken(ToyBenchmark, measure=measure_percent),
    "carries_the_task": broken(ToyBenchmark, measure=measure_another),
    "same_task_same_measurement": broken(ToyBenchmark, measure=measure_by_chance),
    "earlier_tasks_leave_no_trace": broken(ToyBenchmark, measure=measure_with_memory),
    "global_generators_are_left_alone": broken(ToyBenchmark, measure=measure_with_global_randomness),
    "final_is_on_the_test_split": broken(ToyBenchmark, final=final_on_validation),
    "weights_belong_to_the_network": broken(ToyBenchmark, measure=measure_without_keeping),
    "networks_fit_its_data": broken(ToyBenchmark, fidelity=0),
    "preparing_again_is_harmless": broken(ToyBenchmark, prepare=prepare_counting, measure=measure_prepared),
    "continued_equals_uninterrupted": Forgetful,
    "analytic_metrics_are_consistent": broken(ToyBenchmark, analytic_metrics=know_by_symbol),
    "listed_members_are_what_can_be_measured": broken(ToyBenchmark, enumerable_members=SOME, feasible=everything),
    "options_are_configuration": broken(ToyBenchmark, __doc__=""),
}
OTHER_LISTS: dict[str, Any] = {
    "is feasible, but not listed": broken(ToyBenchmark, enumerable_members=SOME, feasible=everything),
    "is listed, but not feasible": broken(ToyBenchmark, enumerable_members=SOME, feasible=begins_with_nothing),
    "2 members are listed more than once": broken(ToyBenchmark, enumerable_members=[*SOME, *SOME[:2]]),
    "'9999'|is no member": broken(ToyBenchmark, enumerable_members=[*SOME[:3], Architecture("toy", "9999")]),
}
"""What may be wrong with a list of members, by what is said of it."""
OTHER_KNOWLEDGE: dict[str, Any] = {" change: ": know_by_chance, "not finite": know_nothing_of_some}
"""Further defects of analytic metrics, by what the check says of each."""


def train_by_chance(self: SharedFormula, task: TrainSupernet, *, artifacts: Artifacts, **others: Any) -> Trained:
    seed = random.SystemRandom().getrandbits(40)
    return SharedFormula.train(self, replace(task, seed=seed), artifacts=artifacts, **others)


def train_afresh(self: SharedFormula, task: TrainSupernet, *, artifacts: Artifacts, **others: Any) -> Trained:
    return SharedFormula.train(self, replace(task, weights=None), artifacts=artifacts, **others)


def train_and_remember(self: Any, task: Evaluate, *, artifacts: Artifacts, **others: Any) -> Measurement:
    self.times = getattr(self, "times", 0) + 1
    measurement = SharedFormula.measure(self, task, artifacts=artifacts, **others)
    return replace(measurement, metrics={"accuracy": measurement.metrics["accuracy"] / self.times})


def give_shared_weights(self: Any, measurement: Measurement, *, artifacts: Artifacts) -> dict[str, torch.Tensor]:
    assert measurement.task.weights is not None
    return artifacts.get_tensors(measurement.task.weights)


def tune_from_the_start(self: Any, task: Evaluate, *, artifacts: Artifacts, **others: Any) -> Measurement:
    return SharedFormula.measure(self, replace(task, continues=None), artifacts=artifacts, **others)


SUPERNETS: dict[str, Any] = {
    "same_training_same_weights": broken(SharedFormula, train=train_by_chance),
    "training_goes_on_where_it_was_left": broken(SharedFormula, train=train_afresh),
    "shared_weights_are_measured_as_they_are": broken(SharedFormula, measure=train_and_remember),
    "what_shared_weights_measured_can_be_had": broken(SharedFormula, state_dict=give_shared_weights),
    "fine_tuning_begins_with_shared_weights_and_goes_on": broken(SharedFormula, measure=tune_from_the_start),
}


# Predictors ---------------------------------------------------------------------------------------------------


def fit_silently(self: Ridge, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Any:
    Ridge.fit(self, architectures, scores)


def predict_zeros(self: Ridge, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    return np.zeros(len(architectures))


def predict_column(self: Ridge, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    return Ridge.predict(self, architectures)[:, None]


def predict_ranks(self: Ridge, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    return Ridge.predict(self, architectures).argsort().argsort().astype(float)


def predict_against(self: Ridge, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    return -Ridge.predict(self, architectures)


def fit_standardized(self: Ridge, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Ridge:
    return Ridge.fit(self, architectures, (scores - scores.mean()) / scores.std())


def fit_exaggerating(self: Ridge, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Ridge:
    return Ridge.fit(self, architectures, scores + 4 * (scores - scores.mean()))


def fit_with_noise(self: Ridge, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Ridge:
    return Ridge.fit(self, architectures, scores + [random.SystemRandom().random() for _ in scores])


def save_pickled(self: Ridge, folder: Path) -> None:
    import pickle

    Ridge.save(self, folder)
    (folder / "model.json").write_bytes(pickle.dumps(self.alpha))


class Sparing(Ridge):
    """Says something of the examples that it left out, and nothing of the others."""

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        super().fit(architectures[10:], scores[10:])
        self.left_out_ = self.predict(architectures[:10])
        return self

    def out_of_fold(self) -> NDArray[np.float64] | None:
        return getattr(self, "left_out_", None)


class Gappy(Sparing):
    """Marks what it cannot say by what is no number."""

    def fit(self, architectures: Sequence[Architecture], scores: NDArray[np.float64]) -> Self:
        super().fit(architectures, scores)
        self.left_out_ = np.append(self.left_out_, np.full(len(scores) - 10, np.nan))
        return self


class Early(Ridge):
    """Holds out before it has learnt."""

    def out_of_fold(self) -> NDArray[np.float64] | None:
        return np.zeros(0)


class Credulous(Ridge):
    """Loads whatever it is given."""

    @classmethod
    def load(cls, folder: Path, space: Any) -> Self:
        predictor = cls(space)
        predictor.weights_ = np.zeros(17)
        return predictor


class Trusting(Ridge):
    """Takes whatever array comes first for its weights, or else none."""

    def set_state(self, state: FittedState) -> None:
        self.weights_ = np.resize(next(iter(state.arrays.values()), np.zeros(1)), 17)


PREDICTORS: dict[str, Any] = {
    "fit_returns_itself": broken(Ridge, fit=fit_silently),
    "unfitted_is_refused": broken(Ridge, predict=predict_zeros),
    "one_finite_score_each": broken(Ridge, predict=predict_column),
    "out_of_fold_predictions_are_finite": Sparing,
    "scores_do_not_depend_on_company": broken(Ridge, predict=predict_ranks),
    "estimates_follow_the_unit_of_the_scores": broken(Ridge, fit=fit_standardized),
    "estimates_lie_among_the_scores": broken(Ridge, fit=fit_exaggerating),
    "learns_to_rank": broken(Ridge, predict=predict_against),
    "same_data_same_predictions": broken(Ridge, fit=fit_with_noise),
    "saved_is_loaded": broken(Ridge, save=save_pickled),
    "damaged_is_refused": Credulous,
    "strangers_are_not_restored": Trusting,
    "options_are_configuration": broken(Ridge, __doc__=""),
}
OTHER_HELD_OUT: dict[str, Any] = {"not fitted": Early, "not finite": Gappy}
"""What else may be wrong with what is held out, by what is said of it."""


# Transforms ---------------------------------------------------------------------------------------------------


def candidates_by_every_name(network: nn.Module) -> list[Candidate]:
    """The candidates under every name that the network has for them."""
    names = {name: module for name, module in network.named_modules(remove_duplicate=False)}
    return [Candidate(name, each.out_channels) for name, each in names.items() if isinstance(each, nn.Conv2d)]


class InTraining(FullStackFilters):
    """Leaves the new network in training."""

    def apply(self, network: nn.Module, names: Collection[str] | None = None, *, fitted: bool = False) -> Rewriting:
        found = super().apply(network, names, fitted=fitted)
        return Rewriting(found.network.train(), found.errors)


class InPlace(FullStackFilters):
    """Shares the layers that are not rewritten."""

    def apply(self, network: nn.Module, names: Collection[str] | None = None, *, fitted: bool = False) -> Rewriting:
        found = super().apply(network, names, fitted=fitted)
        setattr(found.network, "norm", network.get_submodule("norm"))  # noqa: B010  mypy: a module's attribute
        return found


class Greedy(FullStackFilters):
    """Rewrites all layers, whichever are named."""

    def apply(self, network: nn.Module, names: Collection[str] | None = None, *, fitted: bool = False) -> Rewriting:
        return super().apply(network, None, fitted=fitted)


class Unseeded(FullStackFilters):
    """Draws from a generator of its own."""

    def replacement(self, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        with torch.random.fork_rng():
            torch.default_generator.seed()
            return super().replacement(layer, fitted=fitted)


def replacing(made: type[FullStackConv2d]) -> Any:
    """A transform whose layers are of another class."""

    def replacement(self: FullStackFilters, layer: nn.Conv2d, *, fitted: bool) -> nn.Module:
        return made(layer, FullStack(self.filters, self.masks), fitted=fitted)

    return broken(FullStackFilters, replacement=replacement)


class PackedOther(FullStackConv2d):
    """What is packed has no bias."""

    def packed(self) -> PackedFullStackConv2d:
        made = super().packed()
        made.bias = None
        return made


def spoil(self: FullStackConv2d) -> None:
    """A step that leaves no numbers behind."""
    with torch.no_grad():
        self.filters.fill_(float("nan"))


TRANSFORMS: dict[str, Any] = {
    "options_are_configuration": broken(FullStackFilters, __doc__=""),
    "candidates_are_layers_listed_once": broken(
        FullStackFilters, candidates=lambda self, network: candidates_by_every_name(network)
    ),
    "networks_keep_their_form": InTraining,
    "what_is_given_is_unchanged": InPlace,
    "only_what_is_named_is_rewritten": Greedy,
    "strangers_are_refused": Greedy,
    "same_generator_same_weights": Unseeded,
    "fitted_weights_are_nearer_than_drawn": broken(
        FullStackFilters,
        replacement=lambda self, layer, *, fitted: FullStackFilters.replacement(self, layer, fitted=False),
    ),
    "errors_are_those_of_the_layers": broken(FullStackFilters, error=lambda self, layer, replacement: 0.5),
    "packed_layers_compute_the_same": replacing(PackedOther),
    "unpacked_layers_compute_the_same": replacing(broken(FullStackConv2d, unpack=lambda self, packed: None)),
    "stored_bits_are_those_that_are_packed": replacing(broken(FullStackConv2d, stored_bits=lambda self: 1000)),
    "operations_are_at_most_the_multiply_accumulates": replacing(
        broken(FullStackConv2d, operations=lambda self, macs: Operations(macs, macs + 1))
    ),
    "formulas_are_what_is_counted": broken(FullStackFilters, added=lambda self, shape: Cost(params=1)),
    "steps_keep_outputs_finite": replacing(broken(FullStackConv2d, after_step=spoil)),
    "undecayed_parameters_exist": replacing(broken(FullStackConv2d, undecayed=frozenset({"masks"}))),
    "excluded_transforms_are_known": broken(FullStackFilters, excludes=frozenset({"pruning"})),
}
NUMBERS = itertools.count()
OTHER_TRANSFORMS: dict[str, tuple[str, Any]] = {
    "candidates change": (
        "candidates_are_layers_listed_once",
        broken(FullStackFilters, candidates=lambda self, network: [Candidate("again", 32, str(next(NUMBERS)))]),
    ),
    "first of its names": (
        "candidates_are_layers_listed_once",
        broken(FullStackFilters, candidates=lambda self, network: [Candidate("same", 32)]),
    ),
    "finite scalar": (
        "steps_keep_outputs_finite",
        replacing(broken(FullStackConv2d, penalty=lambda self: self.filters.sum((1, 2, 3)))),
    ),
    "shares weights": (
        "packed_layers_compute_the_same",
        replacing(broken(FullStackConv2d, packed=lambda self: self)),
    ),
    "by their sizes": (
        "formulas_are_what_is_counted",
        broken(FullStackFilters, eligible_of=lambda self, convolutions: ["stem"]),
    ),
    "excludes itself": (
        "excluded_transforms_are_known",
        broken(FullStackFilters, excludes=frozenset({"full_stack"})),
    ),
}
"""What else may be wrong with a transform, by what is said of it: the check that says it, and the transform."""


def named(checks: Sequence[Callable[..., None]]) -> dict[str, Callable[..., None]]:
    """The checks by name."""
    return {check.__name__: check for check in checks}


@pytest.mark.parametrize(
    ("checks", "examples"),
    [
        (SEARCH_SPACE_CHECKS, SPACES),
        (STRATEGY_CHECKS, STRATEGIES),
        (BENCHMARK_CHECKS, BENCHMARKS),
        (SUPERNET_CHECKS, SUPERNETS),
        (PREDICTOR_CHECKS, PREDICTORS),
        (TRANSFORM_CHECKS, TRANSFORMS),
    ],
    ids=["spaces", "strategies", "benchmarks", "supernets", "predictors", "transforms"],
)
def test_every_check_has_a_plugin_that_it_fails(
    checks: Sequence[Callable[..., None]], examples: dict[str, Any]
) -> None:
    assert set(named(checks)) == set(examples)


LACKING: list[tuple[Sequence[Callable[..., None]], str, Sequence[Any]]] = [
    *(
        (SEARCH_SPACE_CHECKS, name, (NASBench101(), IMAGES))
        for name in SPACES
        if name.startswith("supernet_") or name == "blocks_are_what_is_built"
    ),
    *(
        (STRATEGY_CHECKS, name, (RandomSearch,))
        for name in ("a_plan_is_carried_out", "order_within_a_generation_is_free")
    ),
    *(
        (TRANSFORM_CHECKS, name, (Ghost,))
        for name in (
            "fitted_weights_are_nearer_than_drawn",
            "stored_bits_are_those_that_are_packed",
            "formulas_are_what_is_counted",
        )
    ),
    (BENCHMARK_CHECKS, "continued_equals_uninterrupted", (lambda: ToyBenchmark(ToySpace()),)),
    (
        SUPERNET_CHECKS,
        "fine_tuning_begins_with_shared_weights_and_goes_on",
        (lambda: broken(SharedFormula, fine_tunes=False)(Perceptron()),),
    ),
]
"""Checks, and a plug-in that lacks what each of them is about."""


@pytest.mark.parametrize(("checks", "name", "given"), LACKING, ids=[name for _, name, _ in LACKING])
def test_a_check_of_what_a_plugin_lacks_is_skipped_and_not_passed(
    checks: Sequence[Callable[..., None]], name: str, given: Sequence[Any]
) -> None:
    with pytest.raises(
        SkipTest,
        match=r"nasbench101 has no|RandomSearch has no|ToyBenchmark leaves no|does not fine-tune"
        r"|Ghost fits no|are stored as ordinary|do not tell what",
    ):
        named(checks)[name](*given)


@pytest.mark.parametrize("name", SPACES)
def test_a_broken_space_is_found_out(name: str) -> None:
    with pytest.raises(UserWarning if name == "genes_have_an_effect" else AssertionError):
        named(SEARCH_SPACE_CHECKS)[name](SPACES[name](), IMAGES)


@pytest.mark.parametrize("said", OTHER_GRAPHS)
def test_whatever_is_wrong_with_graphs_is_said(said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        named(SEARCH_SPACE_CHECKS)["graphs_are_well_formed"](broken(ToySpace, graphs=OTHER_GRAPHS[said])(), IMAGES)


@pytest.mark.parametrize("said", OTHER_TENSORS)
def test_whatever_is_wrong_with_tensors_is_said(said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        named(SEARCH_SPACE_CHECKS)["tensors_have_one_shape"](broken(ToySpace, tensors=OTHER_TENSORS[said])(), IMAGES)


@pytest.mark.parametrize("said", OTHER_BLOCKS)
def test_whatever_is_wrong_with_blocks_is_said(said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        named(SEARCH_SPACE_CHECKS)["blocks_are_what_is_built"](broken(ToySpace, blocks=OTHER_BLOCKS[said])(), IMAGES)


# What a broken strategy may raise by itself before a check can say anything about it.
OWN_ERRORS = {"late_and_shuffled_outcomes_are_fine": RuntimeError}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_broken_strategy_is_found_out(name: str) -> None:
    with pytest.raises(OWN_ERRORS.get(name, AssertionError)):
        named(STRATEGY_CHECKS)[name](STRATEGIES[name])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_broken_benchmark_is_found_out(name: str) -> None:
    from nasplat.errors import RunError

    with pytest.raises((AssertionError, RunError)):
        named(BENCHMARK_CHECKS)[name](lambda: BENCHMARKS[name](ToySpace()))


@pytest.mark.parametrize("said", OTHER_KNOWLEDGE)
def test_each_defect_of_analytic_metrics_is_named(said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        named(BENCHMARK_CHECKS)["analytic_metrics_are_consistent"](
            lambda: broken(ToyBenchmark, analytic_metrics=OTHER_KNOWLEDGE[said])(ToySpace())
        )


@pytest.mark.parametrize("said", OTHER_LISTS)
def test_each_defect_of_a_list_of_members_is_named(said: str) -> None:
    with pytest.raises((AssertionError, InputError), match=said):
        named(BENCHMARK_CHECKS)["listed_members_are_what_can_be_measured"](lambda: OTHER_LISTS[said](ToySpace()))


def test_what_is_listed_is_what_is_feasible_by_default() -> None:
    benchmark = broken(ToyBenchmark, enumerable_members=SOME)(ToySpace())
    assert [member for member in ToySpace().members() or [] if benchmark.feasible(member)] == SOME
    assert ToyBenchmark(ToySpace()).feasible(SOME[0])
    named(BENCHMARK_CHECKS)["listed_members_are_what_can_be_measured"](lambda: benchmark)


@pytest.mark.parametrize("name", SUPERNETS)
def test_a_broken_supernet_benchmark_is_found_out(name: str) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        named(SUPERNET_CHECKS)[name](lambda: SUPERNETS[name](Perceptron()))
    named(SUPERNET_CHECKS)[name](lambda: SharedFormula(Perceptron()))


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_broken_predictor_is_found_out(name: str) -> None:
    with pytest.raises(AssertionError):
        named(PREDICTOR_CHECKS)[name](PREDICTORS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_broken_transform_is_found_out(name: str) -> None:
    with pytest.raises(AssertionError):
        named(TRANSFORM_CHECKS)[name](TRANSFORMS[name])


@pytest.mark.parametrize("said", OTHER_TRANSFORMS)
def test_whatever_is_wrong_with_a_transform_is_said(said: str) -> None:
    name, transform = OTHER_TRANSFORMS[said]
    with pytest.raises(AssertionError, match=said):
        named(TRANSFORM_CHECKS)[name](transform)


@pytest.mark.parametrize("said", OTHER_HELD_OUT)
def test_whatever_is_wrong_with_what_is_held_out_is_said(said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        named(PREDICTOR_CHECKS)["out_of_fold_predictions_are_finite"](OTHER_HELD_OUT[said])


def test_shared_training_is_answered_in_the_checks_too() -> None:
    from nasplat.testing.strategies import answer, toy_problem

    problem = toy_problem()
    task = problem.train_supernet((problem.sample(),), epochs=1)
    outcome = answer(problem, task)
    assert cast(TrainSupernet, outcome.task) is task
