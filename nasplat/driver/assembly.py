"""The parts of a search, made from its configuration."""

from dataclasses import dataclass, replace
from typing import Any, Self

from nasplat.benchmark import Benchmark, SupernetBenchmark
from nasplat.config import PluginConfig, SearchConfig, Workload
from nasplat.driver.automatic import Choice, choose
from nasplat.driver.budget import Budget
from nasplat.driver.stopping import MedianStopping
from nasplat.errors import InputError
from nasplat.options import construct
from nasplat.problem import Problem
from nasplat.registry import AUTO, BENCHMARKS, SEARCH_SPACES
from nasplat.retraining import RETRAINING
from nasplat.search_space import SupernetSpace
from nasplat.strategy import Strategy


@dataclass(frozen=True)
class Assembly:
    """The parts of a search, made from its configuration.

    Args:
        config: The resolved configuration.
        workload: The benchmark and space, in the form that is sent to workers.
        benchmark: The driver's benchmark; it is not prepared.
        problem: The strategy's problem.
        strategy: The strategy, in its initial state.
        budget: When to stop.
        choice: The automatic choice of the strategy with its reasons, if the configuration left the strategy open.
        stopping: The rules by which trials end early, if there are any.
    """

    config: SearchConfig
    workload: Workload
    benchmark: Benchmark
    problem: Problem
    strategy: Strategy
    budget: Budget
    choice: Choice | None = None
    stopping: MedianStopping | None = None

    @classmethod
    def of(
        cls,
        config: SearchConfig,
        data: dict[str, Any] | None = None,
        *,
        code_metrics: frozenset[str] | None = None,
        offline: bool = False,
    ) -> Self:
        """Make the parts, and choose the strategy if the configuration leaves it open; nothing is created on disk.

        Args:
            config: The configuration.
            data: What an earlier run recorded of its data, which must be unchanged; None for new data.
            code_metrics: The metrics that the search began with as those of the code, if it goes on; by default the
                benchmark's.
            offline: Whether nothing is downloaded although the configuration says so.

        Raises:
            InputError: An error that can be detected before the search begins.
        """
        config = config.resolved()
        budget = Budget(**config.budget.model_dump())
        goal = config.goal
        workload = replace(config.workload.offline() if offline else config.workload, data=data)
        _check_supernet(config)
        benchmark = workload.make()
        _check_alone(benchmark, config)
        if benchmark.trains and not benchmark.space.builds:
            raise InputError(
                f"the benchmark {config.benchmark.name} trains networks, but those of {config.space.name} cannot be "
                "built; choose the benchmark that was made with the space, or another space"
            )
        benchmark.check()
        benchmark.space.check_io(benchmark.io)
        problem = Problem.of(benchmark, goal, code_metrics=code_metrics, seed=config.seed)
        problem.check_metrics(benchmark.metrics)
        problem.check_feasible()
        choice = choose(benchmark, problem, budget) if config.strategy.name == AUTO else None
        if choice is not None:
            chosen = PluginConfig(name=choice.strategy, **choice.options)
            config = config.model_copy(update={"strategy": chosen}).resolved()
        strategy = construct("strategy", config.strategy_class, problem, **config.strategy.options)
        if strategy.shares_weights and isinstance(benchmark, SupernetBenchmark):
            benchmark.check_supernet()
        if strategy.tunes and not benchmark.fine_tunes:
            raise InputError(
                f"the strategy {config.strategy.name} is to fine-tune networks from shared weights, but the benchmark "
                f"{config.benchmark.name} cannot; leave out the option that asks for it, such as strategy.finish=race"
            )
        options = config.strategy.options if config.kind == RETRAINING else {}
        originals, taught = options.get("originals"), options.get("teacher")
        if originals and not benchmark.fits_originals:
            raise InputError(
                f"the benchmark {config.benchmark.name} fits no network to an original; choose another benchmark, such "
                "as --benchmark classification (benchmark='classification')"
            )
        if taught and not benchmark.distills:
            raise InputError(
                f"the retraining uses a teacher, but the benchmark {config.benchmark.name} is not configured for "
                "distillation; set its option for distillation, if it has one, or leave out the teacher"
            )
        if benchmark.distills and not (taught or originals or benchmark.has_teacher):
            lacks = "the retraining has no strategy.teacher" if config.kind == RETRAINING else "a search has no teacher"
            raise InputError(
                f"the benchmark {config.benchmark.name} is configured for distillation, but {lacks}; leave the "
                "benchmark's option for distillation out or set it to 0; to distill, retrain several networks with "
                "--distill (distill=True)"
            )
        if strategy.progress is None and not budget.ends:
            raise InputError(
                "a search needs a budget that is certain to end it, but got neither --evaluations N "
                "(evaluations=N) nor --seconds N (seconds=N)"
            )
        stopping = MedianStopping.of(config.stopping, goal, benchmark, free=problem.free_metrics)
        return cls(config, workload, benchmark, problem, strategy, budget, choice, stopping)

    def with_data(self) -> Self:
        """The same search, with a record of its data, which is read for that.

        Raises:
            InputError: The data is missing or damaged.
        """
        recorded = self.benchmark.record_data()
        self.benchmark.recorded = recorded
        return replace(self, workload=replace(self.workload, data=recorded))


def _check_alone(benchmark: Benchmark, config: SearchConfig) -> None:
    """Refuse to share a device between measurements that need exclusive use of it."""
    if not benchmark.alone or config.executor.name == "inline":
        return
    needs = f"the benchmark {config.benchmark.name} needs exclusive use of the device, as for latency"
    if config.executor.workers > 1:
        raise InputError(f"{needs}, but there are {config.executor.workers} workers; give --workers 1 (workers=1)")
    if 0 < config.executor.gpus_per_worker < 1:
        raise InputError(
            f"{needs}, but a worker has only {config.executor.gpus_per_worker:g} of a GPU; "
            "give --gpus-per-worker 1 (gpus_per_worker=1)"
        )


def _check_supernet(config: SearchConfig) -> None:
    """Refuse a weight-sharing strategy if the benchmark cannot train a supernet; this check comes first."""
    if config.strategy.name == AUTO:
        return  # it sees what there is
    trains = issubclass(BENCHMARKS.get(config.benchmark.name), SupernetBenchmark)
    if not config.strategy_class.shares_weights or trains:
        return
    remedy = "choose a benchmark that does, such as --benchmark classification (benchmark='classification')"
    if not issubclass(SEARCH_SPACES.get(config.space.name), SupernetSpace):
        why = SEARCH_SPACES.get(config.space.name).no_supernet
        remedy = (
            f"the search space {config.space.name} has no supernet either{f' ({why})' * bool(why)}; choose another "
            "strategy, such as nsga2"
        )
    raise InputError(
        f"the strategy {config.strategy.name} needs a supernet, but the benchmark {config.benchmark.name} "
        f"does not train one; {remedy}"
    )
