"""Search spaces made of genes and a function, or of a subclass with genes and `build` alone."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from nasplat.architecture import IO, Architecture
from nasplat.authoring.space import FunctionSpace, space
from nasplat.cost import OTHER, counted_macs, counted_params
from nasplat.errors import InputError, TrialFailed
from nasplat.nn.counting import built, check_macs
from nasplat.search_space import Gene, GeneSpace, SearchSpace
from nasplat.testing import SEARCH_SPACE_CHECKS

IMAGES = IO.image(channels=1, side=4, outputs=3)
SHAPES: dict[str, Any] = {"input_shape": (1, 4, 4), "outputs": 3}
UNSHARED = [c for c in SEARCH_SPACE_CHECKS if not c.__name__.startswith("supernet") and "blocks" not in c.__name__]


def perceptron(
    depth: int, first: int, second: int, gate: str, input_shape: tuple[int, ...], outputs: int
) -> nn.Sequential:
    """Perceptrons with one or two hidden layers."""
    widths = [math.prod(input_shape), *(first, second)[:depth], outputs]
    gates = {"relu": nn.ReLU, "gelu": nn.GELU}
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), gates[gate]())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def active(depth: int) -> list[str]:
    return ["depth", "gate", *("first", "second")[:depth]]


def never_wider(first: int, second: int) -> bool | str:
    return second <= first or f"{first} becomes {second}"


GENES: dict[str, tuple[int | str, ...]] = {
    "depth": (1, 2),
    "first": (2, 3, 4, 6),
    "second": (2, 3, 4),
    "gate": ("relu", "gelu"),
}
PERCEPTRONS = space(GENES, perceptron, active=active, allowed=never_wider, **SHAPES)


class Convolutions(GeneSpace):
    """What a subclass must say at least."""

    genes: ClassVar[tuple[Gene, ...]] = (Gene("width", ("1", "2", "3")), Gene("kernel", ("1", "3")))

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        chosen = self.chosen(architecture)
        width, kernel = int(chosen["width"]), int(chosen["kernel"])
        convolution = nn.Conv2d(io.input_shape[0], width, kernel, padding=kernel // 2)
        return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, io.outputs))


@pytest.mark.parametrize("wrong", [{"width": (1, 2)}, (), ("width",), {Gene("width", ("1", "2"))}], ids=repr)
def test_genes_that_are_none_are_refused(wrong: Any) -> None:
    class Wrong(GeneSpace):
        genes = wrong

        def build(self, architecture: Architecture, io: IO) -> nn.Module:
            raise NotImplementedError

    for use in (lambda: Wrong().sample(default_rng(0)), lambda: Wrong().parse("0"), Wrong().members):
        with pytest.raises(
            InputError, match=r"the genes of a space must be a tuple of Gene\(name, choices\), .* Wrong"
        ):
            use()


@pytest.mark.parametrize("check", UNSHARED, ids=lambda check: check.__name__)
@pytest.mark.parametrize("made", [PERCEPTRONS, Convolutions()], ids=["function", "subclass"])
def test_such_spaces_keep_the_contract(made: GeneSpace, check: Callable[[SearchSpace, IO], None]) -> None:
    check(made, IMAGES)


def test_a_space_is_named_after_what_it_is_made_of() -> None:
    assert (PERCEPTRONS.name, Convolutions.name, Convolutions().name) == ("perceptron", "Convolutions", "Convolutions")
    assert type(PERCEPTRONS).__doc__ == "Perceptrons with one or two hidden layers."
    assert isinstance(PERCEPTRONS, FunctionSpace) and type(PERCEPTRONS)().name == "perceptron"
    assert space({"depth": (1, 2)}, lambda depth: nn.Identity(), name="my/own").name == "my/own"


def test_a_cost_is_that_of_the_layers_by_hand() -> None:
    wide = PERCEPTRONS.cost(PERCEPTRONS.parse("1320"), IMAGES)
    macs = 16 * 6 + 6 * 4 + 4 * 3
    assert (wide.macs, wide.params) == (macs, macs + 6 + 4 + 3)
    assert wide.memory_bits == 32 * wide.params
    assert wide.parts["1"].macs == 16 * 6 and sum(part.params for part in wide.parts.values()) == wide.params
    convolution = Convolutions().cost(Convolutions().parse("21"), IMAGES)
    assert convolution.macs == 3 * 9 * 16 + 3 * 3


def test_a_cost_is_what_is_checked_when_a_network_is_built_and_exported() -> None:
    architecture = PERCEPTRONS.parse("1320")
    network = built(PERCEPTRONS, architecture, IMAGES)
    check_macs(network, PERCEPTRONS, architecture, IMAGES)
    assert PERCEPTRONS.cost(architecture, IMAGES).macs == counted_macs(network, IMAGES)


def test_nothing_is_allocated_and_no_generator_moves_to_count() -> None:
    devices = []

    def build(width: int) -> nn.Module:
        layer = nn.Linear(16, width)
        devices.append(layer.weight.device.type)
        return nn.Sequential(nn.Flatten(), layer, nn.Dropout(), nn.Linear(width, 3))

    made = space({"width": (10**9, 2 * 10**9)}, build, **SHAPES)
    before = torch.get_rng_state()
    costs = [made.cost(made.parse(code), IMAGES).params for code in "0101"]
    assert costs == [20 * 10**9 + 3, 40 * 10**9 + 3] * 2
    assert devices == ["meta"] * 2, "counted more than once"
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(TrialFailed, match="GB of memory"):
        built(made, made.parse("1"), IO(IMAGES.input_shape, 3))


class Looks(nn.Module):
    """Looks at values, for which the meta device has none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rates = torch.linspace(0, 1, 3).tolist()
        self.hidden, self.head = nn.Linear(16, width), nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.hidden(images.flatten(1))
        result: Tensor = self.head(hidden if hidden.sum().item() < math.inf else -hidden)
        return result


def test_a_network_that_looks_at_values_is_counted_on_the_cpu() -> None:
    made = space({"width": (2, 3)}, Looks, **SHAPES)
    before = torch.get_rng_state()
    made.check_io(IMAGES)
    cost = made.cost(made.parse("1"), IMAGES)
    assert (cost.macs, cost.params) == (16 * 3 + 3 * 3, 16 * 3 + 3 + 3 * 3 + 3)
    assert torch.equal(before, torch.get_rng_state())


class Attends(nn.Module):
    """Attention over four tokens of four numbers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(4, heads, dim_feedforward=5, batch_first=True)
        self.scale = nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(self.scale * self.attention(images.flatten(1, 2)).flatten(1))
        return result


def test_attention_is_counted_and_so_is_what_no_child_has() -> None:
    made = space({"heads": (1, 2)}, Attends, **SHAPES)
    cost = made.cost(made.parse("1"), IMAGES)
    projections, products, feed = 4 * 4 * 4 * 4, 2 * 4 * 4 * 4, 2 * 4 * 4 * 5
    assert cost.macs == projections + products + feed + 16 * 3
    assert cost.parts[OTHER].params == 16
    network = made.build(made.parse("1"), IMAGES)
    assert cost.params == counted_params(network) and counted_macs(network, IMAGES) == cost.macs
    next(check for check in UNSHARED if check.__name__ == "cost_is_what_is_built")(made, IMAGES)


def test_lazy_layers_get_their_sizes_from_the_data() -> None:
    made = space(
        {"width": (2, 3)}, lambda width, outputs: nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, 3))
    )
    network = made.build(made.parse("1"), IMAGES)
    assert network.training and made.cost(made.parse("1"), IMAGES).params == 16 * 3 + 3 + 3 * 3 + 3
    assert counted_params(network) == made.cost(made.parse("1"), IMAGES).params


def test_inactive_genes_change_neither_network_nor_key() -> None:
    one, other = PERCEPTRONS.parse("0100"), PERCEPTRONS.parse("0110")
    assert PERCEPTRONS.canonical_key(one) == PERCEPTRONS.canonical_key(other) == "0100"
    assert PERCEPTRONS.canonical_key(PERCEPTRONS.parse("1110")) == "1110"
    assert PERCEPTRONS.active_genes(other) == [0, 1, 3]
    assert PERCEPTRONS.chosen(other) == {"depth": 1, "first": 3, "second": 2, "gate": "relu"}
    assert not any(neighbor.code[2] != "0" for neighbor in PERCEPTRONS.neighbors(one))
    graph = PERCEPTRONS.graphs([other])
    assert graph.types[0, 3] == -1 and graph.adjacency[0, 2, 4] and not graph.adjacency[0, 2, 3]


def test_a_forbidden_combination_is_refused_with_its_reason() -> None:
    with pytest.raises(InputError, match="perceptron code '1020' is not allowed: 2 becomes 4"):
        PERCEPTRONS.parse("1020")
    plain = space({"a": (1, 2), "b": (1, 2)}, lambda a, b: nn.Identity(), allowed=lambda a, b: a != b)
    with pytest.raises(InputError, match=r"code '11' is not allowed: 11 \(a=2, b=2\)"):
        plain.parse("11")
    assert [member.code for member in plain.members() or ()] == ["01", "10"]
    assert all(np.isfinite(plain.features(member)).all() for member in plain.members() or ())


def test_values_are_plain_and_limits_and_shapes_are_the_spaces() -> None:
    seen: list[object] = []

    def build(width: int, size: tuple[int, int], bias: bool, norm: str | None, io: IO) -> nn.Module:
        seen.append((width, size, bias, norm, io))
        return nn.Identity()

    made = space(
        {"width": list(np.array([4, 8])), "size": ((1, 2), (2, 1)), "bias": (True, False), "norm": (None, "batch")},
        build,
        limits=("params<=10",),
        **SHAPES,
    )
    made.build(made.parse("1001"), IMAGES)
    assert seen == [(8, (1, 2), True, "batch", IMAGES)] and type(seen[0][0]) is int  # type: ignore[index]
    assert made.limits == ("params<=10",) and made.reference_io == IMAGES


def nothing(**values: object) -> Any:
    return "no network"


def positional(width: int, /) -> nn.Module:
    return nn.Identity()


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: space({"width": (1,)}, nothing), "at least two values, but 'width' has .1,.; leave it out"),
    (lambda: space({"width": (1, 1.0)}, nothing), "must differ, but 'width' has 1 and 1.0; remove one"),
    (lambda: space({"width": (1, "1")}, nothing), "must differ, but 'width' has 1 and '1'"),
    (lambda: space({"width": "12"}, nothing), "must have a tuple of values, but got '12'"),
    (lambda: space({"width": (1, math.nan)}, nothing), "number, text, .* but 'width' has nan"),
    (lambda: space({"act": (nn.ReLU, nn.GELU)}, nothing), "look the name up in build"),  # type: ignore[dict-item]
    (lambda: space({}, nothing), "genes must be a mapping"),
    (lambda: space({"io": (1, 2)}, nothing), "other than io, input_shape, outputs, but got 'io'"),
    (lambda: space({"width": (1, 2)}), "needs genes and build, or model"),
    (lambda: space({"width": (1, 2)}, lambda widht: nn.Identity()), "'widht'; did you mean 'width'"),
    (lambda: space({"width": (1, 2), "b": (1, 2)}, lambda width: nn.Identity()), "none for 'b'; add it, or leave"),
    (lambda: space({"width": (1, 2)}, positional), "'width' is positional-only"),
    (lambda: space({"width": (1, 2)}, "build"), "must be a function with readable parameters"),  # type: ignore[arg-type]
    (lambda: space({"a": (1, 2)}, nothing, allowed=lambda b: True), "allowed has the parameter 'b'"),
    (lambda: space({"a": (1, 2)}, nothing, allowed=lambda a: False), "no member of nothing was found"),
    (lambda: space({"a": (1, 2)}, nothing, allowed=lambda a: None), "True, False, or a text .* it returned None"),  # type: ignore[arg-type, return-value]
    (
        lambda: space({"a": (1, 2)}, nothing, allowed=lambda a: bool(1 / 0)),
        "but for . .a=.. it raised ZeroDivisionError",
    ),
    (lambda: space({"a": (1, 2)}, nothing, active=lambda a: ["b"]), "active returned 'b': no gene is named 'b'"),
    (lambda: space({"a": (1, 2)}, nothing, active=lambda a: []), "at least one, but for .* returned "),
    (lambda: space({"a": (1, 2)}, nothing, active=lambda a: "a"), "returned 'a'"),
    (lambda: space({"a": (1, 2)}, nothing, name="my space"), "letters, digits .* but got 'my space'"),
    (lambda: space({"a": (1, 2)}, nothing, input_shape=(3, 0)), "input_shape must be .* but got .3, 0. and 10"),
    (lambda: space({"a": (1, 2)}, nothing, limits="params<=1"), "limits must be a sequence"),
    (lambda: space({"a": (1, 2)}, nothing, limits=("params",)), "params"),
]


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_wrong_declaration_is_one_clear_error(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (nothing, r"the network of . \(a=.\) of nothing cannot be used: build must return a torch.nn.Module"),
        (lambda a: nn.Conv2d(1, a, 1), r"the output must have the shape \(1, 3\), but it has \(1, ., 4, 4\)"),
        (lambda a: nn.LSTM(4, a), "cannot be used: ValueError: LSTM"),
        (lambda a: nn.Sequential(nn.Flatten(0, 2), nn.LSTM(4, a)), "one tensor, but it returned a tuple"),
        (lambda a: nn.Linear(a, a / "b"), "cannot be used: TypeError"),
    ],
    ids=["no module", "outputs", "inputs", "a tuple", "no network"],
)
def test_a_wrong_network_is_refused_before_a_search(build: Callable[..., nn.Module], said: str) -> None:
    with pytest.raises(InputError, match=said):
        space({"a": (1, 2)}, build, **SHAPES).check_io(IMAGES)


def by_python(a: int) -> nn.Module:
    width = random.randrange(1, 100)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, 3))


def by_torch(a: int) -> nn.Module:
    width = int(torch.randint(1, 100, ()).item())
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, 3))


@pytest.mark.parametrize("build", [by_python, by_torch])
def test_a_network_that_is_no_function_of_its_code_is_refused(build: Callable[..., nn.Module]) -> None:
    made = space({"a": (1, 2)}, build, **SHAPES)
    with pytest.raises(InputError, match=r"nothing but the choices of its genes, but .* make every random decision"):
        made.check_io(IMAGES)
    with pytest.raises(TrialFailed, match=r"first had .* parameters and then .*; make every random") as failure:
        for seed in range(5):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                built(made, made.parse("0"), IMAGES)
    assert failure.value.kind == "not reproducible"


def test_a_gene_that_decides_nothing_is_a_warning_of_the_checks() -> None:
    check = next(check for check in SEARCH_SPACE_CHECKS if check.__name__ == "genes_have_an_effect")
    made = space(GENES, lambda gate, **others: perceptron(2, 2, 2, gate, (1, 4, 4), 3), name="idle", **SHAPES)
    with pytest.warns(UserWarning, match="networks of idle changes with '(depth|first|second)'") as warned:
        check(made, IMAGES)
    assert len(warned) == 3


def test_a_gene_that_is_never_active_is_a_warning_with_another_remedy() -> None:
    check = next(check for check in SEARCH_SPACE_CHECKS if check.__name__ == "genes_have_an_effect")
    made = space(GENES, perceptron, active=lambda depth: ["depth", "gate", "first"], name="forgetful", **SHAPES)
    with pytest.warns(UserWarning, match="'second' is active in none of 30 samples of forgetful; name it in active"):
        check(made, IMAGES)


def test_the_oldest_counted_costs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from nasplat import search_space

    monkeypatch.setattr(search_space, "COUNTED", 2)
    made = Convolutions()
    for code in ("00", "10", "00", "20"):
        made.cost(made.parse(code), IMAGES)
    assert [architecture.code for architecture, _ in made._counted_costs] == ["00", "20"]


def test_a_sample_of_a_space_is_built() -> None:
    architecture = PERCEPTRONS.sample(default_rng(0))
    assert PERCEPTRONS.build(architecture, IMAGES)(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
