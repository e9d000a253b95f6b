"""Choices inside a model: its genes, its networks, and the weights that they share."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from nasplat.architecture import IO
from nasplat.artifact import MemoryArtifacts
from nasplat.authoring.choices import choice, number
from nasplat.authoring.model_space import ModelSpace, SharedModelSpace
from nasplat.authoring.space import space
from nasplat.benchmarks.classification import Classification
from nasplat.data.options import DataOptions
from nasplat.errors import InputError
from nasplat.executors.executor import perform
from nasplat.nn.counting import built
from nasplat.objective import Goal, Objective
from nasplat.problem import Problem
from nasplat.search_space import GeneSpace, SearchSpace
from nasplat.strategies.cars import CARS
from nasplat.task import Measurement
from nasplat.testing import SEARCH_SPACE_CHECKS
from nasplat.training.fit import evaluate
from nasplat.training.seeding import seeded

IMAGES = IO.image(channels=1, side=4, outputs=3)
SHAPES: dict[str, Any] = {"input_shape": (1, 4, 4), "outputs": 3}


class Plain(nn.Module):
    """Two layers that are chosen, one of them with a choice inside."""

    def __init__(self, input_shape: tuple[int, ...] = (1, 4, 4), outputs: int = 3) -> None:
        super().__init__()
        inputs = input_shape[0]
        self.first = choice(
            "first", {"conv3": nn.Conv2d(inputs, 4, 3, padding=1), "conv5": nn.Conv2d(inputs, 4, 5, padding=2)}
        )
        self.shift = nn.Parameter(torch.zeros(4))
        activation = choice("activation", {"relu": nn.ReLU(), "gelu": nn.GELU()})
        self.second = choice(
            "second",
            {
                "skip": nn.Identity(),
                "conv": partial(nn.Conv2d, 4, 4, 3, padding=1),
                "block": nn.Sequential(nn.BatchNorm2d(4), activation, nn.Conv2d(4, 4, 1)),
            },
        )
        self.head = nn.Linear(4, outputs)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.second(self.first(images).relu())
        result: Tensor = self.head(hidden.mean((2, 3)) + self.shift)
        return result


def branch(width: int, label: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width, number(f"{label} middle", (2, 3)), 1), nn.LazyConv2d(width, 1), nn.BatchNorm2d(width)
    )


class Sized(nn.Module):
    """A number of blocks of a chosen width, each a convolution of a chosen kernel or a bottleneck."""

    def __init__(self, io: IO) -> None:
        super().__init__()
        width, kernel = number("width", (3, 6, 4)), number("kernel", (1, 3))
        self.stem = nn.Sequential(nn.Conv2d(io.input_shape[0], width, 3, padding=1), nn.BatchNorm2d(width))
        self.blocks = nn.ModuleList(
            choice(
                f"block {i}",
                {
                    "conv": partial(nn.Conv2d, width, width, kernel, padding=kernel // 2),
                    "branch": partial(branch, width, f"block {i}"),
                    "skip": nn.Identity,
                },
            )
            for i in range(number("depth", (1, 2)))
        )
        self.head = nn.Linear(width, io.outputs)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        for block in self.blocks:
            hidden = (hidden + block(hidden)).relu()
        result: Tensor = self.head(hidden.mean((2, 3)))
        return result


PLAIN, SIZED = space(model=Plain), space(model=Sized, **SHAPES)
CHECKS = [check for check in SEARCH_SPACE_CHECKS if "blocks" not in check.__name__]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("made", [PLAIN, SIZED], ids=["modules", "numbers"])
def test_models_keep_the_contract(made: GeneSpace, check: Callable[[SearchSpace, IO], None]) -> None:
    check(made, IMAGES)


def genes(made: GeneSpace) -> dict[str, tuple[str, ...]]:
    return {gene.name: gene.choices for gene in made.genes}


def test_genes_are_what_the_model_asks_for() -> None:
    assert genes(PLAIN) == {
        "first": ("conv3", "conv5"),
        "activation": ("relu", "gelu"),
        "second": ("skip", "conv", "block"),
    }
    assert genes(SIZED) == {
        "width": ("3", "6", "4"),
        "kernel": ("1", "3"),
        "depth": ("1", "2"),
        "block 0": ("conv", "branch", "skip"),
        "block 0 middle": ("2", "3"),
        "block 1": ("conv", "branch", "skip"),
        "block 1 middle": ("2", "3"),
    }
    assert isinstance(PLAIN, SharedModelSpace) and isinstance(SIZED, SharedModelSpace)
    assert (PLAIN.name, type(PLAIN).__doc__) == (
        "Plain",
        "Two layers that are chosen, one of them with a choice inside.",
    )


def active(made: GeneSpace, code: str) -> list[str]:
    return [made.genes[number].name for number in made.active_genes(made.parse(code))]


def test_a_decision_matters_only_where_the_model_asks_for_it_and_uses_it() -> None:
    assert active(PLAIN, "000") == ["first", "second"]
    assert active(PLAIN, "002") == ["first", "activation", "second"]
    assert active(SIZED, "0000000") == ["width", "kernel", "depth", "block 0"]
    assert active(SIZED, "0011011") == [
        "width",
        "kernel",
        "depth",
        "block 0",
        "block 0 middle",
        "block 1",
        "block 1 middle",
    ]
    assert PLAIN.canonical_key(PLAIN.parse("011")) == PLAIN.canonical_key(PLAIN.parse("001")) == "001"


def test_a_network_is_the_one_without_choices() -> None:
    network = PLAIN.build(PLAIN.parse("112"), IMAGES)
    assert list(network.state_dict()) == [
        "shift", "first.weight", "first.bias", "second.0.weight", "second.0.bias", "second.0.running_mean",
        "second.0.running_var", "second.0.num_batches_tracked", "second.2.weight", "second.2.bias",
        "head.weight", "head.bias",
    ]  # fmt: skip
    assert type(network) is Plain and type(network.second) is nn.Sequential
    assert network.first.kernel_size == (5, 5) and type(network.second[1]) is nn.GELU
    sized = SIZED.build(SIZED.parse("2011120"), IMAGES)
    assert isinstance(sized, Sized) and [type(block) for block in sized.blocks] == [nn.Sequential, nn.Identity]
    assert sized.blocks[0][0].weight.shape == (3, 4, 1, 1)  # type: ignore[index]


def test_outside_of_a_space_a_model_has_its_first_alternatives_and_numbers() -> None:
    network = Plain()
    assert network.first.kernel_size == (3, 3) and type(network.second) is nn.Identity
    assert Sized(IMAGES).stem[0].out_channels == 3
    assert network(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


class Late(nn.Module):
    """Asks for decisions too late, and for one in time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(number("width", (3, 6)))
        self.late = "number"

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.layer(images.flatten(1))[:, :3]
        if self.late == "number":
            return hidden * number("scale", (1, 2))
        result: Tensor = choice("act", {"relu": nn.ReLU(), "gelu": nn.GELU()})(hidden)
        return result


class LateInside(Late):
    """Has a size of its own, so that it is only run when it is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, number("width", (3, 6)))  # type: ignore[assignment]


@pytest.mark.parametrize("late", ["number", "choice"])
def test_a_decision_in_forward_is_refused(late: str) -> None:
    network = LateInside()
    network.late = late
    said = f"nasplat.{late} must be called in the constructor of a model, but .* while a network runs; call it in __in"
    with pytest.raises(InputError, match=said):
        network(torch.zeros(1, 1, 4, 4))


def test_a_decision_in_forward_is_refused_before_a_search() -> None:
    with pytest.raises(InputError, match=r"nasplat\.number must be called in the constructor"):
        space(model=Late, **SHAPES)  # is run to find the size of its layer
    made = space(model=LateInside, **SHAPES)
    with pytest.raises(InputError, match=r"nasplat\.number must be called in the constructor"):
        made.check_io(IMAGES)


def test_functions_are_called_only_for_the_chosen_alternative() -> None:
    made: list[str] = []

    def layer(name: str) -> nn.Module:
        made.append(name)
        return nn.Linear(16, 3)

    class Factories(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = choice("layer", {"a": partial(layer, "a"), "b": partial(layer, "b")})

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.layer(images.flatten(1))
            return result

    factories = space(model=Factories, **SHAPES)
    made.clear()
    factories.build(factories.parse("1"), IMAGES)
    assert made == ["b"]


def test_costs_and_nodes_of_graphs_are_those_of_what_is_chosen() -> None:
    architecture = PLAIN.parse("112")
    cost = PLAIN.cost(architecture, IMAGES)
    assert cost.parts["first"].macs == 4 * 25 * 16 and cost.parts["first"].params == 4 * 25 + 4
    assert (cost.parts["activation"].params, cost.parts["second"].params) == (0, 8 + 4 * 4 + 4)
    assert cost.parts["other"].params == 4 + 4 * 3 + 3
    graphs = PLAIN.graphs([architecture])
    assert graphs.params[0].tolist() == [0, 4 * 3 * 25 + 4, 0, 28, 0]  # for three channels


@pytest.mark.parametrize(("made", "code"), [(PLAIN, "002"), (PLAIN, "111"), (SIZED, "0011010"), (SIZED, "2000000")])
def test_weights_of_a_path_in_the_network_of_its_own_give_the_same_outputs(made: SharedModelSpace, code: str) -> None:
    architecture = made.parse(code)
    with seeded(0):
        supernet = made.supernet(IMAGES)
        images = torch.randn(5, 1, 4, 4)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(supernet(images, architecture).square().sum())
        optimizer.step()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    with seeded(1):
        network = built(made, architecture, IMAGES).eval()
    network.load_state_dict(supernet.path(architecture).state_dict())
    supernet.eval()
    with torch.no_grad():
        assert torch.equal(network(images), supernet(images, architecture))
        assert torch.equal(supernet.extract(architecture)(images), network(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_only_the_chosen_path_has_gradients_and_widths_share_leading_channels() -> None:
    with seeded(0):
        supernet, images = SIZED.supernet(IMAGES), torch.randn(5, 1, 4, 4)  # type: ignore[attr-defined]
    torch.autograd.backward(supernet(images, SIZED.parse("0000000")).sum())
    moved = {name for name, tensor in supernet.named_parameters() if tensor.grad is not None}
    assert {name.split(".")[1] for name in moved} == {
        "net/stem/0", "net/stem/1", "net/blocks/0[block 0=conv]", "net/head",
    }  # fmt: skip
    gradient = supernet.parts["net/stem/0"].weight.grad
    assert gradient.shape == (6, 1, 3, 3) and gradient[:3].any() and not gradient[3:].any()


def test_paths_follow_a_supernet_that_is_moved() -> None:
    with seeded(0):
        supernet, images = PLAIN.supernet(IMAGES), torch.randn(5, 1, 4, 4)  # type: ignore[attr-defined]
    architecture = PLAIN.parse("112")
    supernet.path(architecture)
    supernet.double()
    path = supernet.path(architecture)
    assert all(not tensor.is_floating_point() or tensor.dtype == torch.float64 for tensor in path.state_dict().values())
    path(images.double())
    tracked = supernet.parts["net/second[second=block]/0"].num_batches_tracked
    assert path.state_dict()["second.0.num_batches_tracked"] == tracked == 1


def test_the_same_label_is_the_same_decision() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = choice("act", {"linear": nn.Linear(16, 16), "skip": nn.Identity()})
            self.b = choice("act", {"linear": nn.Linear(16, 3), "skip": nn.LazyLinear(3)})

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.b(self.a(images.flatten(1)))
            return result

    twice = space(model=Twice, **SHAPES)
    assert genes(twice) == {"act": ("linear", "skip")}
    assert twice.cost(twice.parse("0"), IMAGES).parts["act"].macs == 16 * 16 + 16 * 3
    assert type(twice.build(twice.parse("1"), IMAGES).a) is nn.Identity


class Strided(nn.Module):
    """Settings without weights, weights that are kept elsewhere, and tensors that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor(2.0)
        self.convolution = nn.Conv2d(1, 2, 3, padding=1, stride=number("stride", (1, 2)))
        self.gate = choice("gate", {"relu": nn.ReLU, "gelu": nn.GELU})
        self.recurrent = nn.GRU(2, 3, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.gate(self.convolution(images) * self.scale).flatten(2).transpose(1, 2)
        result: Tensor = self.recurrent(hidden)[0][:, -1]
        return result


def test_settings_are_those_of_the_path_and_all_weights_are_shared() -> None:
    made = space(model=Strided, **SHAPES)
    assert isinstance(made, SharedModelSpace)
    with seeded(0):
        supernet, images = made.supernet(IMAGES), torch.randn(5, 1, 4, 4)
    for code in ("00", "10", "11"):
        network = made.build(made.parse(code), IMAGES)
        network.load_state_dict(supernet.path(made.parse(code)).state_dict())
        assert torch.equal(network(images), supernet(images, made.parse(code))), code
    weight = dict(supernet.path(made.parse("00")).named_parameters())["recurrent.weight_hh_l0"]
    assert weight is dict(supernet.path(made.parse("11")).named_parameters())["recurrent.weight_hh_l0"]
    torch.autograd.backward(supernet(images, made.parse("00")).sum())
    assert weight.grad is not None and weight.grad.any()


class Normed(nn.Module):
    """A layer norm, which cannot be a part of a larger one."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        width = number("width", (4, 8))
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layers(images)
        return result


class Shifted(nn.Module):
    """The number of a layer depends on the depth."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 1, 1) for _ in range(number("depth", (1, 2)))]
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layers(images)
        return result


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            Normed,
            r"in 0 \(width=4\), the layer 'layers/2' \(LayerNorm\) has a weight of the shape \(4,\), which is no part",
        ),
        (Shifted, r"in 0 \(depth=1\), the layer 'layers/2' \(Linear\) must be the same kind of layer in all networks"),
    ],
)
def test_a_model_whose_networks_cannot_share_weights_says_why(model: type[nn.Module], said: str) -> None:
    made = space(model=model, **SHAPES)
    assert isinstance(made, ModelSpace) and not isinstance(made, SharedModelSpace)
    made.check_io(IMAGES)
    with pytest.raises(InputError, match=f"the search space {made.name} has none .the networks of .*{said}"):
        Classification(made).check_supernet()


def made_of(construct: Callable[[], object]) -> Callable[[], GeneSpace]:
    """The making of a space of a model with this constructor."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            construct()

    return lambda: space(model=Model)


def conflict() -> None:
    choice("act", {"relu": nn.ReLU, "gelu": nn.GELU})
    choice("act", {"relu": nn.ReLU, "silu": nn.SiLU})


def late_conflict() -> None:
    choice("act", {"relu": nn.ReLU, "gelu": nn.GELU} if number("n", (1, 2)) > 1 else {"a": nn.ReLU, "b": nn.GELU})


TWO = {"relu": nn.ReLU, "gelu": nn.GELU}
WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: choice("act", {}), "at least two alternatives, by name, but 'act' has none"),
    (lambda: choice("act", {"relu": nn.ReLU()}), "but 'act' has 'relu'; with one, use the module itself"),
    (lambda: choice("act", {"one": 1, "two": 2}), "but 'one' of 'act' is 1; for numbers there is nasplat.number"),  # type: ignore[dict-item]
    (
        lambda: choice("c", {"conv": nn.Conv2d, "skip": nn.Identity}),  # type: ignore[dict-item]
        "must need no arguments, but calling 'conv' of 'c'",
    ),
    (lambda: choice("act", {1: nn.ReLU, 2: nn.GELU}), "names of alternatives must be text, but 'act' has 1"),  # type: ignore[dict-item]
    (lambda: number("width", (16,)), "at least two values, but 'width' has .16,."),
    (lambda: number("width", (16, 16)), "must differ, but 'width' has 16 and 16"),
    (lambda: number("act", ("relu", "gelu")), "must be numbers, but one is 'relu'; use choice"),  # type: ignore[type-var]
    (lambda: number("", (1, 2)), "the label of a choice or number must be text, but got ''"),
    (made_of(lambda: None), "at least one decision, .* but this one asks for none"),
    (made_of(conflict), "'act' is one of 'relu', 'gelu' and then of 'relu', 'silu'; give one of them another label"),
    (made_of(late_conflict), "the options of 'act' must always be the same"),
    (
        made_of(lambda: nn.Linear(choice("a", TWO), 2)),  # type: ignore[arg-type]
        "Model raised TypeError: .*; correct it, or give input_shape",
    ),
    (lambda: space(model=Plain()), "must be a subclass of torch.nn.Module, but got Plain"),  # type: ignore[arg-type]
    (lambda: space(model=nn.Linear), "the constructor of the model has the parameter 'in_features'"),
    (lambda: space({"a": (1, 2)}, model=Plain), "finds its genes in the model; leave out genes, build and active"),
    (lambda: space(model=Plain, allowed=lambda frist: True), "'frist'; did you mean 'first'"),
]


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_wrong_use_is_one_clear_error(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_forbidden_combinations_are_told_by_labels() -> None:
    made = space(model=Plain, allowed=lambda first, second: first == "conv3" or second != "skip")
    assert made.parse("001").code == "001"
    with pytest.raises(
        InputError, match=r"code '100' is not allowed: 100 \(first=conv5, activation=relu, second=skip\)"
    ):
        made.parse("100")


def test_weights_are_shared_where_the_usual_combinations_are_forbidden() -> None:
    class Fussy(nn.Module):
        """A grouped convolution, which takes only even widths, and another one that takes only odd ones."""

        def __init__(self) -> None:
            super().__init__()
            width = number("width", (4, 5, 6))
            self.stem = nn.Conv2d(1, width, 1)
            pairs, whole = partial(nn.Conv2d, width, width, 1, groups=2), partial(nn.Conv2d, width, width, 3, padding=1)
            self.layer = choice("layer", {"whole": whole, "pairs": pairs if width != 5 else nn.Identity})
            self.act = choice("act", TWO)
            self.head = nn.Linear(width, 3)

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.head(self.act(self.layer(self.stem(images))).mean((2, 3)))
            return result

    def matching(width: int, layer: str, act: str) -> bool:
        return (layer == "pairs") == (width % 2 == 0) and (layer == "whole" or act == "gelu")

    made = space(model=Fussy, allowed=matching, **SHAPES)
    assert isinstance(made, SharedModelSpace)
    members = {member.code for member in made.members() or ()}
    assert members == {"011", "211", "100", "101"}
    with seeded(0):
        supernet, images = made.supernet(IMAGES), torch.randn(3, 1, 4, 4)
    for code in members:
        network = made.build(made.parse(code), IMAGES)
        network.load_state_dict(supernet.path(made.parse(code)).state_dict())
        assert torch.equal(network(images), supernet(images, made.parse(code))), code


class Combined(nn.Module):
    """A decision that depends on two numbers together."""

    def __init__(self) -> None:
        super().__init__()
        one, two = number("one", (1, 2)), number("two", (1, 2))
        self.layer = choice("layer", TWO) if one != two else choice("other", TWO)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(images.flatten(1)))
        return result


def test_a_decision_that_depends_on_a_combination_is_refused_where_it_shows() -> None:
    made = space(model=Combined, **SHAPES)
    with pytest.raises(InputError, match=r"on each number alone, but 00.. .* asks for 'other' in another way"):
        made.build(made.parse("0000"), IMAGES)


SCRIPT = """
import sys
from pathlib import Path
from ray import cloudpickle
from nasplat.architecture import IO
made, kind = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
io = IO.image(channels=1, side=4, outputs=3)
assert type(made) is kind
print(made.cost(made.parse("1"), io).params, len(list(made.supernet(io).parameters())), kind().name)
"""


@pytest.mark.slow
def test_a_space_of_a_notebook_reaches_a_worker(tmp_path: Path) -> None:
    """Its model is in the main module, so it is sent by value; here, in a function."""
    cloudpickle = pytest.importorskip("ray").cloudpickle

    class Sent(nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.layer = choice(
                "layer", {"a": partial(nn.Linear, 16, outputs), "b": nn.LazyLinear(outputs, bias=False)}
            )

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.layer(images.flatten(1))
            return result

    made = space(model=Sent, **SHAPES)
    made.cost(made.parse("0"), IMAGES)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        (tmp_path / "made").write_bytes(cloudpickle.dumps((made, type(made))))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "made")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["48", "3", "Sent"], done.stderr


@pytest.mark.slow
def test_cars_searches_a_model_and_its_winner_is_the_network_that_is_built() -> None:
    made = space(model=Plain, name="digits", input_shape=(1, 8, 8), outputs=10)
    benchmark = Classification(made, epochs=3, data=DataOptions(subset=200))
    benchmark.check_supernet()
    made.check_io(benchmark.io)
    goal = Goal((Objective("accuracy", maximize=True), Objective("params", maximize=False)))
    problem = Problem(made, goal, io=benchmark.io, fidelity=benchmark.fidelity)
    strategy, store = CARS(problem, population=2, warmup=1, interval=1), MemoryArtifacts()
    benchmark.prepare()
    while tasks := strategy.ask(100):
        for task in tasks:
            outcome = perform(task, benchmark, device="cpu", artifacts=store)
            if isinstance(outcome, Measurement):
                costs = problem.cost(outcome.architecture).metrics()
                outcome = Measurement(
                    task=outcome.task,
                    metrics={**outcome.metrics, **costs},
                    artifacts=outcome.artifacts,
                    spent=outcome.spent,
                )
            strategy.tell(outcome)
    assert len(strategy.parents) == 2
    for parent in strategy.parents:
        with seeded(7):
            network = built(made, parent.architecture, benchmark.io)
        network.load_state_dict(benchmark.state_dict(parent, artifacts=store))
        found = evaluate(network, benchmark._splits("cpu").validation)
        assert found == {name: parent.metrics[name] for name in found}


def test_samples_of_a_model_differ_and_repeat() -> None:
    assert SIZED.sample(default_rng(0)) == SIZED.sample(default_rng(0)) != SIZED.sample(default_rng(1))
