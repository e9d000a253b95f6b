"""What the name of a metric says, and what it refuses."""

import pytest

from nasplat.errors import InputError
from nasplat.metric import Metric, parse_metric, spelt
from nasplat.objective import Objective
from nasplat.units import figure


@pytest.mark.parametrize(
    ("name", "maximize", "unit"),
    [
        ("accuracy", True, "fraction"),
        ("accuracy_seed3", True, "fraction"),
        ("val_acc_108ep_mean", True, "fraction"),
        ("Validation_Accuracy", True, "fraction"),
        ("top1_error", False, "fraction"),
        ("error_rate", False, "fraction"),
        ("loss_1seed", False, ""),
        ("set5_psnr_db", True, "dB"),
        ("gain_db", True, "dB"),
        ("ssim", True, ""),
        ("latency_ms", False, "ms"),
        ("latency_pixel3_ms", False, "ms"),
        ("train_seconds", False, "s"),
        ("table_macs", False, "multiply-accumulates"),
        ("params", False, "parameters"),
        ("score", True, ""),
    ],
)
def test_a_known_name_has_a_direction_and_a_unit(name: str, maximize: bool, unit: str) -> None:
    metric = Metric.of(name)
    assert (metric.name, metric.maximize, metric.unit) == (name, maximize, unit)
    assert Metric.of(name, maximize) == metric
    assert Metric.of_json(metric.as_json()) == metric
    with pytest.raises(InputError, match=f"{metric.comparative} {name} is better, but got {name}:"):
        Metric.of(name, not maximize)


@pytest.mark.parametrize(
    "name", ["top1", "accuracy_deviation", "inaccuracy", "nwot", "losses", "fid_score", "c10_test_200"]
)
def test_an_unknown_name_asks_for_its_direction(name: str) -> None:
    with pytest.raises(InputError, match=f"write {name}:max if higher is, or {name}:min if lower is"):
        Metric.of(name)
    assert [Metric.of(name, maximize).sign for maximize in (True, False)] == [1.0, -1.0]
    Metric.of(name, True).check(-1e9)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("accuracy", [0.0, 0.9, 1.0], [-0.1, 1.001, 93.6]),
        ("loss", [0.0, 7.5], [-1e-9]),
        ("latency_ms", [1e-3, 4e4], [0.0, -1.0]),
        ("ssim", [-1.0, 1.0], [96.1]),
        ("psnr_db", [-3.0, 38.0], []),
    ],
)
def test_values_are_checked_by_range(name: str, right: list[float], wrong: list[float]) -> None:
    for value in right:
        Metric.of(name).check(value)
    for value in wrong:
        with pytest.raises(InputError, match=rf"{name} must be .*but got {value:.15g}; "):
            Metric.of(name).check(value)


@pytest.mark.parametrize("text", ["loss:max", "accuracy:min", "psnr_db:min", "latency_ms:max"])
def test_a_new_search_is_not_for_the_worst(text: str) -> None:
    wrong = Objective.parse(text)  # runs that exist still open
    right = Objective(wrong.metric, not wrong.maximize)
    with pytest.raises(InputError, match=f"is better, but the objective is {text}; write {right}"):
        wrong.check_direction()
    for objective in (right, Objective("params", True), Objective("nwot", True), Objective("nwot", False)):
        objective.check_direction()


def test_a_run_says_its_own_direction() -> None:
    assert Metric.sought("params", True).maximize
    assert not Metric.sought("regret", False).maximize


@pytest.mark.parametrize(
    ("text", "read"),
    [("loss", ("loss", None)), ("top1:max", ("top1", True)), ("a:b:min", ("a:b", False))],
)
def test_a_direction_stands_behind_the_name(text: str, read: tuple[str, bool | None]) -> None:
    assert parse_metric(text) == read


@pytest.mark.parametrize("text", ["loss:", "loss:less", ":max"])
def test_another_word_behind_the_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME:max or NAME:min"):
        parse_metric(text)


def test_what_earlier_versions_wrote_is_text() -> None:
    assert Metric.of_json("loss:min") is None
    assert Metric.of_json({"name": "loss", "direction": "up", "unit": None}) is None
    assert [spelt("loss:min"), spelt(None)] == ["loss:min", "score"]
    assert spelt(Metric.of("accuracy").as_json()) == "accuracy (a fraction of 0 to 1, higher is better)"


def test_accuracies_of_every_name_are_printed_in_percent() -> None:
    assert [figure(name, 0.9) for name in ("accuracy", "accuracy_seed3", "error", "top1")] == ["90.00 %"] * 2 + [
        "0.9"
    ] * 2
