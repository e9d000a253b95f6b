"""Gaussian processes are surer near examples; ensembles and `auto` are made of members, and know what they know."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState, Predictor, UncertainPredictor
from nasplat.predictors import auto as auto_module
from nasplat.predictors.ensembling import parts_of
from nasplat.predictors.graph_network import GraphNetwork
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES, Plugin
from nasplat.search_space import SearchSpace
from nasplat.surrogates.ranking_metrics import kendall_tau
from nasplat.testing.toy import ToySpace, toy_accuracy

Floats = NDArray[np.float64]
QUICK = ("gaussian_process", "gradient_boosting")


def make(name: str, space: SearchSpace | None = None, **options: Any) -> Any:
    """A predictor by name, for the toy space unless said otherwise."""
    kind: Callable[..., Predictor] = PREDICTORS.get(name)
    return kind(space or ToySpace(), **options)


def examples(n: int = 40, seed: int = 0) -> tuple[list[Architecture], Floats]:
    """Members of the toy space with what is to be learnt."""
    space, rng = ToySpace(), default_rng(seed)
    architectures = [space.sample(rng) for _ in range(n)]
    return architectures, np.array([toy_accuracy(a) for a in architectures])


class Oracle(UncertainPredictor):
    """Knows the truth, times a factor; learns nothing."""

    name: ClassVar[str] = "oracle"

    def __init__(self, space: SearchSpace, *, factor: float = 1.0) -> None:
        super().__init__(space)
        self.factor = factor

    def fit(self, architectures: Sequence[Architecture], scores: Floats) -> Self:
        return self

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        return self.factor * np.array([toy_accuracy(a) for a in architectures]), np.full(len(architectures), 0.5)

    def get_state(self) -> FittedState:
        return FittedState()

    def set_state(self, state: FittedState) -> None:
        pass


class Misled(Oracle):
    """Ranks everything the wrong way round."""

    name: ClassVar[str] = "misled"

    def predict_with_deviation(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        mean, deviation = super().predict_with_deviation(architectures)
        return -mean, deviation


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`oracle` and `misled` by name."""
    for kind in (Oracle, Misled):
        monkeypatch.setitem(PREDICTORS._plugins, kind.name, Plugin(kind.name, f"tests:{kind.name}", "tests"))
    found = PREDICTORS.get
    own = {kind.name: kind for kind in (Oracle, Misled)}
    monkeypatch.setattr(PREDICTORS, "get", lambda name: own.get(name) or found(name))


# The Gaussian process


def test_the_process_is_surer_near_its_examples() -> None:
    architectures, _ = examples(40)
    few = [a for a in architectures if a.code[0] == "0"]
    fitted = make("gaussian_process").fit(few, np.array([toy_accuracy(a) for a in few]))
    _, near = fitted.predict_with_deviation(few)
    _, far = fitted.predict_with_deviation([ToySpace().parse("3333")])
    assert near.mean() < far[0]


def test_log_targets_look_closely_at_the_best() -> None:
    from nasplat.target import LogDistance

    scores = np.array([0.1, 0.5, 0.90, 0.93, 0.94])
    target = LogDistance.of(scores, 0.5).targets(scores)
    assert (np.diff(target) > 0).all()
    assert (target[4] - target[3]) / 0.01 > 5 * (target[1] - target[0]) / 0.4
    assert target == pytest.approx(LogDistance.of(100 * scores - 7, 0.5).targets(100 * scores - 7)), (
        "the unit of scores matters"
    )


@pytest.mark.slow
@pytest.mark.parametrize("scores", [np.zeros(6), np.array([1.0, 1, 1, 1, 1, 2]), np.array([1e12, 0, 0, 0, 0, -1e12])])
@pytest.mark.parametrize("name", ["gaussian_process", "auto"])
def test_strange_scores_are_learnt_from(name: str, scores: Floats) -> None:
    architectures, _ = examples(6)
    options: dict[str, Any] = {"parts": QUICK} if name == "auto" else {}
    mean, deviation = make(name, **options).fit(architectures, scores).predict_with_deviation(examples(5, seed=2)[0])
    assert np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation >= 0).all()


# Ensembles


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_members_that_left_something_out() -> None:
    architectures, scores = examples(20)
    fresh, _ = examples(7, seed=1)
    ensemble = make("ensemble", predictor="gaussian_process", members=4, seed=3).fit(architectures, scores)
    part = parts_of(ToySpace(), architectures, 4, 3)
    said, own, held_out = [], [], np.zeros(20)
    for number in range(4):
        kept, left = np.flatnonzero(part != number), np.flatnonzero(part == number)
        alone = make("gaussian_process", seed=3 + number).fit([architectures[i] for i in kept], scores[kept])
        mean, deviation = alone.predict_with_deviation(fresh)
        said.append(mean)
        own.append(deviation)
        held_out[left] = alone.predict([architectures[i] for i in left])
    mean, deviation = ensemble.predict_with_deviation(fresh)
    assert mean == pytest.approx(np.mean(said, axis=0))
    between = sum((each - np.mean(said, axis=0)) ** 2 for each in said) / 4 * 3
    assert deviation**2 == pytest.approx(between + np.mean(np.square(own), axis=0))
    assert ensemble.out_of_fold() == pytest.approx(held_out)


@pytest.mark.slow
def test_an_ensemble_of_what_knows_no_uncertainty_has_one() -> None:
    architectures, scores = examples(40)
    ensemble = make("ensemble", predictor="gradient_boosting").fit(architectures, scores)
    assert ensemble.predict_with_deviation(examples(20, seed=1)[0])[1].max() > 0


@pytest.mark.slow
def test_a_held_out_prediction_has_not_seen_its_label() -> None:
    architectures, scores = examples(20)
    changed = scores.copy()
    changed[7] = 5.0
    first, second = (
        make("ensemble", predictor="gaussian_process", members=4).fit(architectures, labels).out_of_fold()
        for labels in (scores, changed)
    )
    assert first[7] == pytest.approx(second[7])
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"members": 1}, "at least 2 members"), ({"predictor": "ensemble"}, "must not be ensembles")],
)
def test_ensembles_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make("ensemble", **options)
    with pytest.raises(InputError, match="at least 10 architectures, but got 9"):
        make("ensemble").fit(*examples(9))


# auto


@pytest.mark.slow
def test_twins_are_held_out_together() -> None:
    space = SEARCH_SPACES.get("nasbench201")()
    rng = default_rng(0)
    found: dict[str, list[Architecture]] = {}
    for _ in range(4000):
        each = space.sample(rng)
        found.setdefault(space.canonical_key(each), []).append(each)
    twins = [pair[:2] for pair in found.values() if len(set(pair[:2])) == 2][:30]
    cells = [cell for pair in twins for cell in pair]
    part = parts_of(space, cells, 4, 0)
    assert (part[::2] == part[1::2]).all() and len(set(part)) == 4
    noise = np.repeat(default_rng(1).normal(size=len(twins)), 2)
    fitted = make("auto", space, parts=QUICK).fit(cells, noise)
    assert abs(fitted.cross_validated) < 0.45, "noise is learnt through twins"


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 6, 10, 12])
def test_no_part_speaks_louder_than_its_votes(n: int) -> None:
    architectures, scores = examples(n)
    fitted = make("auto", parts=QUICK).fit(architectures, scores)
    for each, scale in zip(fitted._members.values(), fitted._scales, strict=True):
        assert each.predict(architectures).std() < 2.5 * scale


@pytest.mark.parametrize("name", ["auto", "gaussian_process", "graph_network", "random_forest", "ensemble", "renas"])
@pytest.mark.parametrize(
    "scores",
    [
        np.full(12, np.nan),
        np.array([np.inf, *11 * [0.0]]),
        np.zeros(11),
        np.zeros(13),
        np.array([1e308, *11 * [-1e308]]),
    ],
    ids=["nan", "inf", "too few", "too many", "too large"],
)
def test_scores_that_teach_nothing_are_refused(name: str, scores: Floats) -> None:
    with pytest.raises(InputError, match="score"):
        make(name).fit(examples(12)[0], scores)


def test_votes_go_to_those_who_rank(registered: None) -> None:
    architectures, scores = examples(30)
    fitted = make("auto", parts=("oracle", "misled")).fit(architectures, scores)
    assert fitted.weights["oracle"] == pytest.approx(9 / 10)
    assert fitted.cross_validated == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5, 6])
def test_a_part_that_says_nothing_is_not_heard(n: int) -> None:
    for seed in range(4):
        architectures, scores = examples(n, seed)
        fitted = make("auto", parts=(*QUICK, "isotropic_gaussian_process")).fit(architectures, scores)
        mean, deviation = fitted.predict_with_deviation(examples(20, seed=9)[0])
        assert np.abs(mean - scores.mean()).max() <= 10 * np.ptp(scores)
        assert deviation.max() <= 100 * np.ptp(scores)


def test_first_votes_go_to_the_process_of_few_parameters_where_examples_are_few() -> None:
    parts = ["gaussian_process_log", "isotropic_gaussian_process", "gradient_boosting"]
    assert auto_module._prior_votes(parts, 32).tolist() == [6, 4 + 256 / 32, 1]
    assert auto_module._prior_votes(parts, 512).tolist() == [6, 4.5, 1]


@pytest.mark.slow
def test_graph_networks_that_would_take_long_are_fewer_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    architectures, scores = examples(20)
    parts = ("isotropic_gaussian_process", "graph_network")
    monkeypatch.setattr("nasplat.predictors.graph_network.EPOCHS", 2)
    size = 20, ToySpace().graphs(architectures).types.shape[1]
    default, fewer = GraphNetwork.passes(*size), GraphNetwork.passes(*size, auto_module.FEWER)
    for most, networks in ((default, 16), (default - 1, 4), (fewer, 4), (fewer - 1, 0)):
        monkeypatch.setattr(auto_module, "MOST_WORK", most)
        fitted = make("auto", parts=parts).fit(architectures, scores)
        assert tuple(fitted.weights) == parts[: 1 + bool(networks)]
        fitted.save(tmp_path / str(most))
        loaded = type(fitted).load(tmp_path / str(most), ToySpace())
        assert loaded.weights == fitted.weights
        np.testing.assert_array_equal(loaded.predict(architectures), fitted.predict(architectures))
        if networks:
            assert len(fitted._members["graph_network"].get_state().arrays["mean"]) == networks
    monkeypatch.setattr(auto_module, "MOST_WORK", 0)
    assert set(make("auto", parts=parts[1:]).fit(architectures, scores).weights) == {"graph_network"}


def test_the_work_of_graph_networks_is_what_they_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from nasplat.nn.graph_network import GraphNetworks

    architectures, scores = examples(12)
    seen, run = list[int](), GraphNetworks.forward
    monkeypatch.setattr("nasplat.predictors.graph_network.EPOCHS", 6)

    def counted(self: GraphNetworks, batch: Any) -> Any:
        if self.training:
            seen.append(self.members * batch.nodes.shape[0] * batch.nodes.shape[1])
        return run(self, batch)

    monkeypatch.setattr(GraphNetworks, "forward", counted)
    make("graph_network").fit(architectures, scores)
    nodes = ToySpace().graphs(architectures).types.shape[1]
    assert sum(seen) == GraphNetwork.passes(12, nodes)


def test_votes_are_the_greedy_choice() -> None:
    rng = default_rng(0)
    truth = rng.normal(size=60)
    said = np.stack([truth + rng.normal(size=60) * noise for noise in (0.5, 0.7, 3.0)])
    first = np.array([1.0, 4.5, 2.0])
    votes = first.copy()
    for _ in range(auto_module.ROUNDS):
        taus = []
        for part in range(3):
            more = votes.copy()
            more[part] += 1
            mean = sum(more[i] * said[i] for i in range(3))
            pairs = [(i, j) for i in range(60) for j in range(i)]
            taus.append(sum(np.sign((mean[i] - mean[j]) * (truth[i] - truth[j])) for i, j in pairs))
        votes[int(np.argmax(taus))] += 1
    assert auto_module._votes(said, truth, first).tolist() == votes.tolist()


@pytest.mark.slow
def test_scores_are_in_the_unit_of_what_was_learnt_from(registered: None) -> None:
    architectures, scores = examples(50)
    fresh, truth = examples(30, seed=1)
    fitted = make("auto", parts=("oracle",)).fit(architectures, 1000 * scores + 7)
    mean, deviation = fitted.predict_with_deviation(fresh)
    assert mean == pytest.approx(1000 * truth + 7, rel=1e-6)
    assert fitted.predict(fresh) == pytest.approx(mean)
    real = make("auto", parts=QUICK).fit(architectures, 1000 * scores + 7)
    mean, deviation = real.predict_with_deviation(fresh)
    missed = np.abs(mean - 1000 * truth - 7)
    assert missed.mean() < 100, "the unit is another"
    assert np.mean(missed < 2 * deviation) > 0.5, "the deviation has nothing to do with the errors"


@pytest.mark.slow
def test_auto_cross_validates_by_what_it_held_out() -> None:
    architectures, scores = examples(40)
    fitted = make("auto", parts=QUICK).fit(architectures, scores)
    assert fitted.cross_validated == kendall_tau(fitted.out_of_fold(), scores)
    inside = kendall_tau(fitted.predict(architectures), scores)
    assert fitted.cross_validated < inside, "what was held out is ranked as well as what was learnt"


@pytest.mark.slow
def test_a_saved_auto_is_the_same(tmp_path: Path) -> None:
    architectures, scores = examples(40)
    fitted = make("auto", parts=QUICK, seed=5).fit(architectures, scores)
    fitted.save(tmp_path / "auto")
    loaded = type(fitted).load(tmp_path / "auto", ToySpace())
    for mine, yours in zip(
        fitted.predict_with_deviation(architectures), loaded.predict_with_deviation(architectures), strict=True
    ):
        assert np.array_equal(mine, yours)
    assert (loaded.weights, loaded.cross_validated) == (fitted.weights, fitted.cross_validated)


@pytest.mark.parametrize("parts", [(), ("auto",), ("lightgbm", "lightgbm")])
def test_parts_that_cannot_be_are_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="parts of auto"):
        make("auto", parts=parts)


def test_unknown_parts_and_too_few_examples_are_refused() -> None:
    with pytest.raises(InputError, match="gausian"):
        make("auto", parts=("gausian",)).fit(*examples(10))
    with pytest.raises(InputError, match="at least 4 architectures, but got 3"):
        make("auto").fit(*examples(3))


@pytest.mark.slow
def test_auto_ranks_real_cells(table: Path) -> None:
    space = SEARCH_SPACES.get("nasbench201")()
    benchmark: Any = BENCHMARKS.get("nasbench201")(space)
    benchmark.prepare()
    rng = default_rng(0)
    cells = [space.sample(rng) for _ in range(1500)]
    scores = np.array([benchmark._rows[cell.code]["search", 200] for cell in cells])
    fitted = make("auto", space, parts=("gaussian_process", "gaussian_process_log", "gradient_boosting"))
    fitted.fit(cells[:150], scores[:150])
    assert kendall_tau(fitted.predict(cells[150:]), scores[150:]) > 0.82
