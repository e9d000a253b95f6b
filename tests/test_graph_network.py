"""Graph networks compute what their description says, learn what they are shown alone, and rank real cells."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray

from nasplat.architecture import Architecture
from nasplat.errors import InputError
from nasplat.nn.graph_network import GraphBatch, GraphNetworks, masked_pairwise, summed_up, train, wired
from nasplat.options import complete
from nasplat.predictor import Predictor, UncertainPredictor
from nasplat.registry import BENCHMARKS, PREDICTORS, SEARCH_SPACES
from nasplat.search_space import SearchSpace
from nasplat.surrogates.ranking_metrics import kendall_tau
from nasplat.testing.toy import ToySpace, toy_accuracy
from nasplat.training.seeding import seeded

MEMBERS = 3


def make_predictor(space: SearchSpace, **options: Any) -> UncertainPredictor:
    """One for a space."""
    make: Callable[..., Predictor] = PREDICTORS.get("graph_network")
    made = make(space, **options)
    assert isinstance(made, UncertainPredictor)
    return made


def predictor(space: SearchSpace | None = None, **options: Any) -> UncertainPredictor:
    """A small one, for the toy space."""
    return make_predictor(space or ToySpace(), **{"members": MEMBERS, "epochs": 30, "width": 8, "layers": 2, **options})


def examples(n: int = 40, seed: int = 0) -> tuple[list[Architecture], NDArray[np.float64]]:
    """Members of the toy space with what is to be learnt."""
    space, rng = ToySpace(), default_rng(seed)
    architectures = [space.sample(rng) for _ in range(n)]
    return architectures, np.array([toy_accuracy(a) for a in architectures])


class Plain(NamedTuple):
    """Which nodes live `[n, nodes]`, how many edges join two `[n, nodes, nodes]`, which are outputs `[n, nodes]`."""

    live: NDArray[np.bool_]
    edges: NDArray[np.int64]
    ends: NDArray[np.bool_]


def graphs(n: int = 9, nodes: int = 5, seed: int = 0) -> tuple[GraphBatch, Plain]:
    """Graphs of random nodes, some dead, with edges of which some count more than once."""
    rng = default_rng(seed)
    live = rng.random((n, nodes)) < 0.8
    live[0] = False
    edges = np.triu(rng.integers(0, 4, size=(n, nodes, nodes)), 1) * live[:, :, None] * live[:, None, :]
    ends = live & (rng.random((n, nodes)) < 0.4)
    features = rng.normal(size=(n, nodes, 4)) * live[:, :, None]
    inputs, whole = torch.tensor(features).float(), torch.tensor(rng.normal(size=(n, 6))).float()
    sums = summed_up(torch.tensor(live).float(), torch.tensor(ends).float())
    return GraphBatch(inputs, wired(torch.tensor(edges).float()), sums, whole), Plain(live, edges, ends)


def networks(**options: Any) -> GraphNetworks:
    """Small networks, none of whose weights is at its start."""
    sizes = {"members": MEMBERS, "features": 4, "whole": 6, "width": 5, "layers": 2, "head": 7, "rate": 0.0, **options}
    with seeded(3), torch.no_grad():
        made = GraphNetworks(**sizes)
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


def by_hand(network: GraphNetworks, member: int, batch: GraphBatch, plain: Plain, i: int) -> float:
    """The score of one graph by one member: loops over nodes and edges in double precision."""
    w = {name: tensor[member].double().numpy().squeeze() for name, tensor in network.state_dict().items()}
    features, whole = batch.nodes[i].double().numpy(), batch.whole[i].double().numpy()
    live, edges, ends = (each[i] for each in plain)
    places = range(len(live))
    h = [np.maximum(features[v] @ w["enter.weight"] + w["enter.bias"], 0) for v in places]
    width = len(h[0])
    for r in range(len(network.rounds)):
        a, b, c = np.split(w[f"rounds.{r}.words"], 3, axis=1)
        new = []
        for v in places:
            z = h[v] @ a
            for u in places:
                z = z + edges[u, v] * (h[u] @ b) + edges[v, u] * (h[u] @ c)
            z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
            new.append(h[v] + np.maximum(z * w[f"rounds.{r}.gain"] + w[f"rounds.{r}.shift"], 0))
        h = new
    total = sum((h[v] * live[v] for v in places), np.zeros(width))
    out = sum((h[v] * ends[v] for v in places), np.zeros(width))
    seen = np.concatenate([out, total / max(live.sum(), 1), total / 4, whole])
    for layer in ("first", "second"):
        seen = np.maximum(seen @ w[f"{layer}.weight"] + w[f"{layer}.bias"], 0)
    return float(seen @ w["score.weight"] + w["score.bias"])


def test_scores_are_those_of_loops_over_nodes_and_edges() -> None:
    batch, plain = graphs()
    network = networks()
    with torch.no_grad():
        found = network(batch).numpy()
    expected = [[by_hand(network, m, batch, plain, i) for i in range(len(batch))] for m in range(MEMBERS)]
    assert np.std(expected, axis=1).min() > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_over_the_pairs_that_a_member_sees() -> None:
    rng = default_rng(0)
    scores, labels = rng.normal(size=(MEMBERS, 15)), rng.integers(5, size=15)
    mask = rng.random((MEMBERS, 15)) < 0.6
    mask[-1] = labels == labels[0]
    expected = []
    for said, seen in zip(scores, mask, strict=True):
        pairs = [(i, j) for i, j in product(np.flatnonzero(seen), repeat=2) if labels[i] > labels[j]]
        expected.append(sum(np.log1p(np.exp(said[j] - said[i])) for i, j in pairs) / max(len(pairs), 1))
    assert expected[-1] == 0 < min(expected[:-1])
    found = masked_pairwise(*(torch.tensor(each, dtype=torch.float64) for each in (scores, labels, mask)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_members_learn_nothing_from_what_only_others_see() -> None:
    batch, _ = graphs(40)
    labels = torch.randn(40, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(MEMBERS, 40)
    mask[0, :10] = 0
    learnt = []
    for first in (labels[0].item(), 100.0):
        network, changed = networks(rate=0.2), labels.clone()
        changed[0] = first
        with seeded(1):
            train(network, batch, changed, mask, epochs=20, batches=2, learning_rate=0.05, decay=0.01)
        with torch.no_grad():
            learnt.append(network(batch))
    assert torch.equal(learnt[0][0], learnt[1][0])
    assert not torch.allclose(learnt[0][1], learnt[1][1], rtol=0.01)


@pytest.mark.slow
def test_what_is_held_out_is_unseen() -> None:
    architectures, scores = examples()
    first = predictor().fit(architectures, scores)
    held_out = first.out_of_fold()
    assert held_out is not None and held_out.shape == (40,)
    best = int(np.argmax(scores))
    scores[best] = -1.0
    second = predictor().fit(architectures, scores)
    again = second.out_of_fold()
    assert again is not None and again[best] == held_out[best]
    moved = np.abs(again - held_out) > 1e-3
    assert moved.sum() > 20
    assert abs(second.predict([architectures[best]]) - first.predict([architectures[best]])) > 0.1
    assert predictor(members=1).fit(architectures, scores).out_of_fold() is None


@pytest.mark.slow
def test_held_out_scores_tell_what_is_known_of_the_unseen() -> None:
    architectures, scores = examples(90)
    fresh, truth = examples(200, seed=1)
    fitted = predictor(epochs=100).fit(architectures, scores)
    held_out = fitted.out_of_fold()
    assert held_out is not None
    seen, unseen = kendall_tau(fitted.predict(architectures), scores), kendall_tau(fitted.predict(fresh), truth)
    told = kendall_tau(held_out, scores)
    assert seen > told > 0.5
    assert abs(told - unseen) < 0.12


def test_predictions_are_the_mean_and_deviation_of_members_in_one_unit() -> None:
    architectures, scores = examples()
    fitted = predictor().fit(architectures, scores)
    mean, deviation = fitted.predict_with_deviation(architectures)
    assert np.array_equal(fitted.predict(architectures), mean)
    assert abs(mean.mean()) < 1e-6 and 0.8 < mean.std() <= 1 + 1e-6
    assert (deviation > 0).all() and deviation.mean() < 1
    alone, floor = predictor(members=1).fit(architectures, scores).predict_with_deviation(architectures)
    assert alone.std() == pytest.approx(1, rel=1e-4)
    assert (floor > 0).all() and np.ptp(floor) == 0
    assert fitted.predict([]).shape == (0,)


@pytest.mark.parametrize("epochs", [1, 4, 5, 6])
def test_any_number_of_steps_will_do(epochs: int) -> None:
    architectures, scores = examples(20)
    assert np.isfinite(predictor(epochs=epochs).fit(architectures, scores).predict(architectures)).all()


def test_only_the_order_of_scores_matters() -> None:
    architectures, scores = examples()
    plain, bent = predictor().fit(architectures, scores), predictor().fit(architectures, np.exp(30 * scores))
    assert np.array_equal(plain.predict(architectures), bent.predict(architectures))


@pytest.mark.slow
def test_another_seed_is_another_predictor_and_more_examples_are_seen_less_often() -> None:
    architectures, scores = examples()
    first, second = (predictor(seed=seed).fit(architectures, scores).predict(architectures) for seed in (0, 1))
    assert not np.allclose(first, second)
    seen = []
    for n in (40, 600, 1200):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "nasplat.nn.graph_network.train", lambda *_, epochs, batches, **__: seen.append((epochs, batches))
            )
            predictor(epochs=None).fit(*examples(n))
    assert seen == [(300, 1), (285, 1), (226, 2)]


def test_too_few_or_equal_scores_break_nothing() -> None:
    architectures, _ = examples(5)
    with pytest.raises(InputError, match="at least 2"):
        predictor().fit(architectures[:1], np.ones(1))
    with pytest.raises(InputError, match="not fitted"):
        predictor().predict(architectures)
    equal = predictor().fit(architectures, np.ones(5))
    assert np.ptp(equal.predict(architectures)) == 0
    two = predictor(members=8).fit([ToySpace().parse("0000"), ToySpace().parse("3333")], np.arange(2.0))
    low, high = two.predict([ToySpace().parse("0000"), ToySpace().parse("3333")])
    assert low < high
    with pytest.raises(InputError, match="members"):
        complete("predictor", type(two), {"members": 0})


def test_a_loaded_predictor_predicts_exactly_the_same(tmp_path: Path) -> None:
    architectures, scores = examples()
    fitted = predictor().fit(architectures, scores)
    fitted.save(tmp_path / "saved")
    loaded = type(fitted).load(tmp_path / "saved", ToySpace())
    for a, b in zip(
        loaded.predict_with_deviation(architectures), fitted.predict_with_deviation(architectures), strict=True
    ):
        assert np.array_equal(a, b)
    assert loaded.out_of_fold() is None


def exchanged(matrix: NDArray[np.int64], operations: list[str], v: int) -> str | None:
    """An official specification in which two inner vertices that follow each other have changed places, if they may."""
    if matrix[v, v + 1]:
        return None
    order = [*range(v), v + 1, v, *range(v + 2, len(matrix))]
    return json.dumps({"matrix": matrix[np.ix_(order, order)].tolist(), "ops": [operations[u] for u in order]})


def test_isomorphic_cells_get_one_score() -> None:
    make_space: Callable[..., SearchSpace] = SEARCH_SPACES.get("nasbench101")
    space = make_space(channels=60)  # which any number of vertices shares without a rest
    rng = default_rng(0)
    names = ["conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"]
    cells: list[Architecture] = []
    others: list[Architecture] = []
    while len(others) < 60:
        matrix = np.diag(np.ones(6, dtype=np.int64), 1)
        v = int(rng.integers(1, 5))
        matrix[v, v + 1], matrix[v - 1, v + 1], matrix[v, v + 2] = 0, 1, 1  # two vertices beside each other
        matrix[0, int(rng.integers(2, 7))] = 1
        operations = ["input", *rng.choice(names, 5).tolist(), "output"]
        other = exchanged(matrix, operations, v)
        if other is None:
            continue
        cells.append(space.parse(json.dumps({"matrix": matrix.tolist(), "ops": operations})))
        others.append(space.parse(other))
    assert sum(a != b for a, b in zip(cells, others, strict=True)) > 30
    fitted = predictor(space).fit(cells, rng.normal(size=60))
    np.testing.assert_allclose(fitted.predict(cells), fitted.predict(others), atol=1e-4)
    assert np.std(fitted.predict(cells)) > 0.3


@pytest.mark.slow
def test_real_cells_are_ranked(table: Path) -> None:
    space = SEARCH_SPACES.get("nasbench201")()
    make_benchmark: Callable[..., Any] = BENCHMARKS.get("nasbench201")
    benchmark = make_benchmark(space, search_column="test")
    benchmark.prepare()
    codes = [np.base_repr(i, 5).zfill(6) for i in default_rng(0).permutation(5**6)[:2156]]
    cells = [space.parse(code) for code in codes]
    scores = np.array([benchmark._rows[cell.code]["search", 200] for cell in cells])
    fitted = make_predictor(space, members=3).fit(cells[:156], scores[:156])
    assert kendall_tau(fitted.predict(cells[156:]), scores[156:]) > 0.83
    held_out = fitted.out_of_fold()
    assert held_out is not None and kendall_tau(held_out, scores[:156]) > 0.75
