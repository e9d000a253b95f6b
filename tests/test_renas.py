"""ReNAS: its network against the paper's layers written out, and what its options do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.stats import kendalltau
from torch.nn import functional

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.predictor import FittedState
from nasplat.predictors.renas import ReNAS
from nasplat.registry import PREDICTORS, SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.testing import PREDICTOR_CHECKS
from nasplat.testing.toy import ToySpace

TrainingSet = NDArray[np.float64]


def space_of(name: str, **options: Any) -> SearchSpace:
    """A registered space."""
    make: Callable[..., SearchSpace] = SEARCH_SPACES.get(name)
    return make(**options)


def examples(space: SearchSpace, count: int, seed: int = 0) -> tuple[list[Architecture], TrainingSet]:
    """Architectures and a made-up truth: many parameters, and many edges in the graph, with diminishing returns."""
    rng = default_rng(seed)
    architectures = [space.sample(rng) for _ in range(count)]
    params = np.array([space.cost(a, space.reference_io).params for a in architectures], dtype=np.float64)
    edges = space.graphs(architectures).adjacency.sum(axis=(1, 2))
    return architectures, np.log(params) + 0.05 * edges


def tau(predicted: TrainingSet, truth: TrainingSet) -> float:
    """Kendall's."""
    return float(kendalltau(predicted, truth).statistic)


def network_features(arrays: dict[str, NDArray[Any]], maps: NDArray[Any]) -> torch.Tensor:
    """The 84 features by the paper's layers in float64, from stored arrays alone."""
    w = {name: torch.from_numpy(array).double() for name, array in arrays.items()}
    x = (torch.from_numpy(maps).double() - w["mean"]) / w["scale"]
    for conv, norm in (("body.0", "body.1"), ("body.3", "body.4")):
        x = functional.conv2d(x, w[f"network.{conv}.weight"], padding=1)
        mean, var, gain, bias = (
            w[f"network.{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp_min(0.0)
    x = x.flatten(1)
    for layer in ("body.7", "body.9"):
        x = (x @ w[f"network.{layer}.weight"].T + w[f"network.{layer}.bias"]).clamp_min(0.0)
    return x


@pytest.mark.slow
@pytest.mark.sweep(8)
@pytest.mark.parametrize("check", PREDICTOR_CHECKS, ids=lambda check: str(check.__name__))
@pytest.mark.parametrize("options", [{}, {"loss": "mse", "select": "best"}], ids=str)
def test_contract(options: dict[str, Any], check: Callable[..., None]) -> None:
    class Short(ReNAS):
        """With the options of the test, and fewer epochs."""

        def __init__(self, space: SearchSpace, *, epochs: int = 20, seed: int = 0) -> None:
            super().__init__(space, epochs=epochs, seed=seed, **options)

    check(Short)


def test_it_is_registered() -> None:
    assert PREDICTORS.get("renas") is ReNAS


@pytest.mark.parametrize(("name", "maps", "nodes"), [("nasbench101", 19, 7), ("nasbench201", 31, 4)])
def test_the_network_is_the_papers(name: str, maps: int, nodes: int) -> None:
    space = space_of(name)
    architectures, scores = examples(space, 40)
    predictor = ReNAS(space, epochs=3).fit(architectures, scores)
    arrays = dict(predictor.get_state().arrays)
    assert arrays["mean"].shape == (maps, nodes, nodes)
    trained = [array for key, array in arrays.items() if "network" in key and "running" not in key]
    convolutions = 9 * maps * 38 + 2 * 38 + 9 * 38 * 128 + 2 * 128
    linear = 128 * nodes * nodes * 120 + 120 + 120 * 84 + 84 + 84 + 1
    assert sum(array.size for array in trained) == convolutions + linear
    features = network_features(arrays, space.tensors(architectures))
    expected = features @ torch.from_numpy(arrays["network.head.weight"]).double()[0]
    expected += torch.from_numpy(arrays["network.head.bias"]).double()
    assert predictor.predict(architectures) == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_elements_are_standardized_by_the_examples_where_they_vary() -> None:
    space = space_of("nasbench201")
    architectures, scores = examples(space, 30)
    arrays = ReNAS(space, epochs=1).fit(architectures, scores).get_state().arrays
    tensors = space.tensors(architectures).astype(np.float64)
    varies = tensors.min(axis=0) < tensors.max(axis=0)
    assert varies.any() and not varies.all()
    assert arrays["mean"] == pytest.approx(tensors.mean(axis=0), rel=1e-6)
    assert arrays["scale"][varies] == pytest.approx(tensors.std(axis=0)[varies], rel=1e-6)
    assert (arrays["scale"][~varies] == 1.0).all()


@pytest.mark.slow
@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ["nasbench101", "nasbench201"])
@pytest.mark.parametrize("loss", ["logistic", "hinge", "mse"])
def test_it_ranks_what_it_has_not_seen(name: str, loss: Any) -> None:
    space = space_of(name)
    fresh, truth = examples(space, 200, seed=1)
    predictor = ReNAS(space, loss=loss, epochs=30).fit(*examples(space, 120))
    assert tau(predictor.predict(fresh), truth) > 0.6


@pytest.mark.slow
def test_only_the_order_of_scores_matters_to_ranking_losses() -> None:
    architectures, scores = examples(ToySpace(), 50)
    for loss, same in (("logistic", True), ("hinge", True), ("mse", False)):
        plain, bent = (
            ReNAS(ToySpace(), loss=loss, epochs=3).fit(architectures, labels).predict(architectures)  # type: ignore[arg-type]
            for labels in (scores, np.exp(scores))
        )
        assert np.array_equal(plain, bent) is same


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["minmax", "standard"])
def test_labels_of_mse_are_scaled_as_asked(labels: Any) -> None:
    architectures, scores = examples(ToySpace(), 60)
    predictor = ReNAS(ToySpace(), loss="mse", labels=labels, epochs=100).fit(architectures, 1000 + scores)
    offset, unit = (scores.min(), np.ptp(scores)) if labels == "minmax" else (scores.mean(), scores.std())
    predicted, expected = predictor.predict(architectures), (scores - offset) / unit
    assert predicted.mean() == pytest.approx(expected.mean(), abs=0.1)
    assert predicted.std() == pytest.approx(expected.std(), rel=0.3)


@pytest.mark.parametrize(("tensor", "blind"), [("type", True), ("full", False)])
def test_types_alone_are_blind_to_costs(tensor: Any, blind: bool) -> None:
    narrow, wide = space_of("nasbench201"), space_of("nasbench201", channels=32)
    architectures, scores = examples(narrow, 40)
    predictor = ReNAS(narrow, tensor=tensor, epochs=2).fit(architectures, scores)
    assert predictor.get_state().arrays["mean"].shape == (1 if blind else 31, 4, 4)
    predicted = predictor.predict(architectures)
    predictor.space = wide
    assert np.array_equal(predictor.predict(architectures), predicted) is blind


@pytest.mark.slow
def test_continuity_brings_distances_of_features_into_the_order_of_scores() -> None:
    space = space_of("nasbench201")
    architectures, scores = examples(space, 60)
    agreement = []
    for weight in (0.0, 3.0):
        state = ReNAS(space, continuity=weight).fit(architectures, scores).get_state()
        features = network_features(dict(state.arrays), space.tensors(architectures)).numpy()
        agreement.append(tau(pdist(features), pdist(scores[:, None])))
    assert agreement[1] > agreement[0] + 0.02


@pytest.mark.slow
def test_the_best_epoch_ranks_the_examples_best() -> None:
    architectures, scores = examples(ToySpace(), 60)

    def reached(epochs: int, select: Any) -> float:
        predictor = ReNAS(ToySpace(), epochs=epochs, select=select, learning_rate=0.03, schedule="constant")
        return tau(predictor.fit(architectures, scores).predict(architectures), scores)

    each = [reached(epochs, "last") for epochs in range(1, 11)]
    assert each[-1] < max(each), "the last is the best, so that there is nothing to choose"
    assert reached(10, "best") == max(each)


def test_held_out_examples_are_not_learnt_from() -> None:
    architectures, scores = examples(ToySpace(), 50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(7)).numpy()
    predicted = []
    for factor in (1.0, -1.0):
        changed = scores.copy()
        changed[order[:10]] *= factor  # the one epoch that there is is kept, whatever they say
        predictor = ReNAS(ToySpace(), select="validation", epochs=1, seed=7)
        predicted.append(predictor.fit(architectures, changed).predict(architectures))
    assert np.array_equal(predicted[0], predicted[1])


def test_seeds_matter() -> None:
    architectures, scores = examples(ToySpace(), 30)
    first, second = (ReNAS(ToySpace(), seed=s, epochs=2).fit(architectures, scores) for s in (0, 1))
    assert not np.array_equal(first.predict(architectures), second.predict(architectures))


def test_many_are_scored_in_batches_as_they_are_alone() -> None:
    space = space_of("nasbench201")
    predictor = ReNAS(space, epochs=2).fit(*examples(space, 30))
    architectures, _ = examples(space, 1_100, seed=2)
    scores = predictor.predict(architectures)
    chosen = [0, 511, 512, 1_023, 1_024, 1_099]
    alone = np.concatenate([predictor.predict([architectures[i]]) for i in chosen])
    assert scores[chosen] == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert predictor.predict([]).shape == (0,)


@pytest.mark.parametrize("loss", ["logistic", "mse"])
@pytest.mark.parametrize("select", ["last", "best", "validation"])
def test_equal_scores_are_survived(loss: Any, select: Any) -> None:
    architectures, _ = examples(ToySpace(), 12)
    predictor = ReNAS(ToySpace(), loss=loss, select=select, epochs=2).fit(architectures, np.full(12, 0.3))
    assert np.isfinite(predictor.predict(architectures)).all()


def test_too_little_is_refused() -> None:
    architectures, scores = examples(ToySpace(), 4)
    with pytest.raises(InputError, match="at least 2 architectures"):
        ReNAS(ToySpace()).fit(architectures[:1], scores[:1])
    with pytest.raises(InputError, match="at least 4 architectures"):
        ReNAS(ToySpace(), select="validation").fit(architectures[:3], scores[:3])
    ReNAS(ToySpace(), select="validation", epochs=1).fit(architectures, scores)
    with pytest.raises(InputError, match="score"):
        ReNAS(ToySpace()).fit(architectures, np.array([1.0, 2.0, np.nan, 3.0]))
    with pytest.raises(InputError, match="score"):
        ReNAS(ToySpace()).fit(architectures, scores[:3])


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"batch_size": 1025},
        {"learning_rate": 0.0},
        {"margin": -1.0},
        {"continuity": -0.1},
        {"weight_decay": -0.1},
    ],
    ids=str,
)
def test_options_without_meaning_are_refused(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name}={value}"):
        ReNAS(ToySpace(), **options)


def test_what_is_not_its_own_is_not_restored() -> None:
    architectures, scores = examples(ToySpace(), 12)
    arrays = dict(ReNAS(ToySpace(), epochs=1).fit(architectures, scores).get_state().arrays)
    cut = {**arrays, "network.head.weight": arrays["network.head.weight"][:, :-1]}
    for wrong in (cut, {**arrays, "scale": arrays["scale"][0]}):
        with pytest.raises(ValueError, match="shape"):
            ReNAS(ToySpace()).set_state(FittedState(arrays=wrong))
    with pytest.raises(KeyError):
        ReNAS(ToySpace()).set_state(FittedState(arrays={"mean": arrays["mean"], "scale": arrays["scale"]}))


@pytest.mark.slow
def test_the_cosine_begins_at_the_rate_and_ends_near_nothing() -> None:
    architectures, scores = examples(ToySpace(), 30)

    def weights(epochs: int, schedule: Any, learning_rate: float = 1e-2) -> TrainingSet:
        predictor = ReNAS(ToySpace(), epochs=epochs, schedule=schedule, learning_rate=learning_rate)
        return predictor.fit(architectures, scores).get_state().arrays["network.head.weight"].astype(np.float64)

    assert np.array_equal(weights(1, "cosine"), weights(1, "constant"))
    # Adam's steps are about as long as the rate, so that 20 epochs of a cosine go about as far as 10 at full rate.
    start = weights(1, "constant", 1e-12)
    assert 5e-2 < np.abs(weights(20, "cosine") - start).max() < 0.8 * np.abs(weights(20, "constant") - start).max()
