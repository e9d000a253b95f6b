"""The contract of a transform as checks. Each takes a function that makes a transform.

Its options must fit a network whose widest convolution has 32 filters.
"""

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from nasplat.architecture import IO
from nasplat.errors import InputError
from nasplat.registry import TRANSFORMS
from nasplat.testing.common import check_configuration, does_not_apply
from nasplat.transform import Rewriting, Transform

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nasplat.nn.rewritten import Rewritten

MakeTransform: TypeAlias = Callable[[], Transform]
STEPS, EXAMPLES = 3, 16
IMAGES = IO.image(channels=3, side=12, outputs=5)
"""The shapes of `nasplat.testing.toy_network.ToyNetwork`."""


def options_are_configuration(make: MakeTransform) -> None:
    """Constructor options are annotated, keyword-only and stored under their own names."""
    check_configuration(make(), given=0)


def candidates_are_layers_listed_once(make: MakeTransform) -> None:
    """Candidates are layers of the network, each once under its first name, in one order; some can be rewritten."""
    network, transform = _network(), make()
    found = transform.candidates(network)
    names, known = [candidate.name for candidate in found], [name for name, _ in network.named_modules()]
    assert len(set(names)) == len(names), f"candidates are listed twice: {names}"
    for name in names:
        assert name in known, f"the candidate {name!r} is no layer, or not under the first of its names: {known}"
    assert list(found) == list(transform.candidates(network)), "the candidates change"
    able = [candidate.name for candidate in found if not candidate.reason]
    assert able and transform.eligible(network) == able, (
        f"{able} have no reason against them, but {transform.eligible(network)} are eligible"
    )


def networks_keep_their_form(make: MakeTransform) -> None:
    """A rewritten network has the shape of outputs, the mode, the types and the device of the given one."""
    import torch

    for mode, dtype in ((True, torch.float32), (False, torch.float64)):
        network = _network().train(mode).to(dtype)
        other = _applied(make(), network).network
        modes = {name: module.training for name, module in other.named_modules()}
        assert set(modes.values()) == {mode}, f"a network with training={mode} became {modes}"
        for name, parameter in other.named_parameters():
            assert (parameter.dtype, parameter.device.type) == (dtype, "cpu"), (
                f"{name} is of {parameter.dtype} on {parameter.device}, but the network is of {dtype} on the CPU"
            )
        outputs = other(torch.randn(2, *IMAGES.input_shape, dtype=dtype))
        assert tuple(outputs.shape) == (2, *IMAGES.output_shape), f"the outputs have the shape {tuple(outputs.shape)}"


def what_is_given_is_unchanged(make: MakeTransform) -> None:
    """The given network stays as it is, and the new one shares no weights with it."""
    import torch

    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    said = str(network)
    other = _applied(make(), network).network
    after = network.state_dict()
    same = after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert same and str(network) == said, "the network that was given has changed"
    storages = {tensor.untyped_storage().data_ptr() for tensor in after.values()}
    shared = [name for name, each in other.state_dict().items() if each.untyped_storage().data_ptr() in storages]
    assert not shared, f"the new network shares {', '.join(shared)} with the one that was given"


def only_what_is_named_is_rewritten(make: MakeTransform) -> None:
    """Without names all eligible layers are rewritten, and no others; with names, these. Other layers keep weights."""
    import torch

    transform, network = make(), _network()
    able = transform.eligible(network)
    for names in (None, able[:1], able[-1:]):
        wanted = able if names is None else names
        other = _applied(transform, network, names).network
        candidates = [candidate.name for candidate in transform.candidates(network)]
        changed = [each for each in candidates if str(other.get_submodule(each)) != str(network.get_submodule(each))]
        assert changed == wanted, f"of {candidates}, {wanted} should be rewritten, but {changed} are"
        layers = [network.get_submodule(name) for name in wanted]
        places = tuple(f"{name}." for name, module in network.named_modules(remove_duplicate=False) if module in layers)
        theirs = other.state_dict()
        for name, tensor in network.state_dict().items():
            kept = name.startswith(places) or (name in theirs and torch.equal(theirs[name], tensor))
            assert kept, f"{name} has other weights, but only {', '.join(wanted)} should be rewritten"


def strangers_are_refused(make: MakeTransform) -> None:
    """Names that are no candidates, candidates that cannot be rewritten, and networks without any are `InputError`s."""
    from torch import nn

    transform, network = make(), _network()
    names = ["no such layer", "norm", *(each.name for each in transform.candidates(network) if each.reason)]
    for name in names:
        try:
            _applied(transform, network, [name])
        except InputError as error:
            assert name in str(error), f"the error for the layer {name!r} does not contain it: {error}"
        else:
            raise AssertionError(f"the layer {name!r}, which cannot be rewritten, was accepted")
    try:
        _applied(transform, nn.Sequential(nn.Flatten()))
    except InputError:
        return
    raise AssertionError("a network without layers was accepted")


def same_generator_same_weights(make: MakeTransform) -> None:
    """With one state of torch's global generator, weights are the same, drawn or fitted."""
    import torch

    network = _network()
    for fitted in (False, True):
        one, other = (_applied(make(), network, fitted=fitted).network.state_dict() for _ in range(2))
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), f"{name} differs between two rewritings with one seed"


def fitted_weights_are_nearer_than_drawn(make: MakeTransform) -> None:
    """A fitted layer computes more nearly what the given layer computes than a drawn one does.

    Of a layer that is linear in its inputs the derivatives are compared, of another one the outputs in training.
    """
    transform, network = _fitting(make), _network().double().eval()
    drawn, fitted = (_errors(network, _applied(transform, network, fitted=each).network) for each in (False, True))
    for name in transform.eligible(network):
        assert fitted[name] < drawn[name], (
            f"the layer {name!r} has the error {fitted[name]:.3g} fitted, but {drawn[name]:.3g} drawn"
        )


def errors_are_those_of_the_layers(make: MakeTransform) -> None:
    """The error of each fitted layer is that of its weights, and nothing has an error that was drawn.

    The weights are compared by the derivatives of layers that are linear in their inputs. Of other layers, errors must
    only not be negative: a transform of such layers needs a test of its own.
    """
    transform, network = make(), _network().double().eval()
    drawn = _applied(transform, network).errors
    assert not drawn, f"weights were drawn, but errors of a fit are told: {drawn}"
    rewriting = _applied(transform, network, fitted=True)
    if not transform.fits:
        assert not rewriting.errors, f"{type(transform).__name__} fits nothing, but tells errors: {rewriting.errors}"
        return
    found = _errors(network, rewriting.network)
    assert list(rewriting.errors) == transform.eligible(network), f"the fitted layers are {list(rewriting.errors)}"
    linear = _linear(network, rewriting.network)
    for name, error in rewriting.errors.items():
        assert error >= 0, f"the layer {name!r} tells the error {error}"
        assert name not in linear or abs(error - found[name]) < 1e-6, (
            f"the layer {name!r} tells the error {error}, but it is {found[name]}"
        )


def packed_layers_compute_the_same(make: MakeTransform) -> None:
    """What is packed has the outputs of the layer, and shares no weights with it."""
    import torch

    for name, layer, inputs in _rewritten(make):
        with torch.no_grad():
            packed = layer.packed()
            assert torch.allclose(packed(inputs), layer(inputs), atol=1e-5), f"{name} computes something else packed"
            storages = {tensor.untyped_storage().data_ptr() for tensor in layer.state_dict().values()}
            shared = [
                tensor for tensor in packed.state_dict().values() if tensor.untyped_storage().data_ptr() in storages
            ]
            assert not shared, f"{name} shares weights with what it packed"


def unpacked_layers_compute_the_same(make: MakeTransform) -> None:
    """A layer with other weights has the outputs of the packed one after unpacking it."""
    import torch

    from nasplat.nn.rewritten import rewritten
    from nasplat.training.seeding import seeded

    with seeded(1):
        others = dict(rewritten(make().apply(_network()).network.eval()))
    for name, layer, inputs in _rewritten(make):
        with torch.no_grad():
            others[name].unpack(layer.packed())
            same = torch.allclose(others[name](inputs), layer(inputs), atol=1e-5)
        assert same, f"{name} computes something else once it is packed and unpacked"


def stored_bits_are_those_that_are_packed(make: MakeTransform) -> None:
    """The tensors of a packed layer have as many bits as it says, each rounded up to bytes at most."""
    told = False
    for name, layer, _ in _rewritten(make):
        bits = layer.stored_bits()
        if bits is None:
            continue
        told = True
        own = [each for key, each in layer.packed().state_dict().items() if "." not in key]
        stored = 8 * sum(each.numel() * each.element_size() for each in own)
        assert bits <= stored < bits + 8 * len(own), (
            f"{name} says that it has {bits} bits, but its tensors have {stored}"
        )
    if not told:
        does_not_apply("its layers are stored as ordinary parameters are")


def operations_are_at_most_the_multiply_accumulates(make: MakeTransform) -> None:
    """The operations of each kind in a layer are from 0 to its multiply-accumulates."""
    for name, layer, _ in _rewritten(make):
        for macs in (0, 1, 7, 1000, 10**12):
            for kind, found in layer.operations(macs)._asdict().items():
                assert 0 <= found <= macs, f"{name} needs {found} {kind} for {macs} multiply-accumulates"


def formulas_are_what_is_counted(make: MakeTransform) -> None:
    """By the sizes of convolutions, the same layers are eligible and the same costs are added as by networks."""
    from nasplat.convolution import found_by_running
    from nasplat.cost import count

    transform, network = make(), _network()
    convolutions = found_by_running(network, IMAGES)
    by_size, able = transform.eligible_of(convolutions), transform.eligible(network)
    if by_size is None:
        does_not_apply("the sizes of convolutions do not tell what it can rewrite")
    assert by_size == able, f"{able} are eligible, but {by_size} by their sizes"
    plain = count(_network, IMAGES).metrics()
    for names in (None, able[:1]):
        after = count(lambda: transform.apply(network, names).network, IMAGES).metrics()  # noqa: B023  called at once
        added = transform.added_cost(convolutions, names).metrics()
        for name, figure in added.items():
            counted = after[name] - plain[name]
            assert figure == counted, f"rewriting {names or able} adds {counted:g} {name}, but it says {figure:g}"


def steps_keep_outputs_finite(make: MakeTransform) -> None:
    """Training with the layers' penalties and `after_step` keeps outputs finite; penalties are finite scalars."""
    import torch

    from nasplat.nn.rewritten import penalty, rewritten

    network = _applied(make(), _network()).network.train()
    images = torch.randn(4, *IMAGES.input_shape, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(STEPS):
        loss, more = network(images).square().mean(), [layer.penalty() for _, layer in rewritten(network)]
        for term in more:
            sound = term is None or (term.ndim == 0 and bool(term.isfinite()))
            assert sound, f"a penalty must be a finite scalar, but is {term}"
        whole = penalty(network)
        optimizer.zero_grad()
        torch.autograd.backward(loss if whole is None else loss + whole)
        optimizer.step()
        with torch.no_grad():
            for _, layer in rewritten(network):
                layer.after_step()
            assert network(images).isfinite().all(), "the outputs are not finite after a step"


def undecayed_parameters_exist(make: MakeTransform) -> None:
    """The names in `undecayed` are parameters of the layer."""
    for name, layer, _ in _rewritten(make):
        own = {key for key, _ in layer.named_parameters(recurse=False)}
        assert layer.undecayed <= own, f"{name} has the parameters {sorted(own)}, not {sorted(layer.undecayed - own)}"


def excluded_transforms_are_known(make: MakeTransform) -> None:
    """The names in `excludes` are those of other transforms that are registered."""
    transform = make()
    for name in transform.excludes:
        assert name in TRANSFORMS.names(), (
            f"{name!r} is excluded, but the transforms are {', '.join(TRANSFORMS.names())}"
        )
        assert not isinstance(transform, TRANSFORMS.get(name)), f"{name!r} excludes itself"


TRANSFORM_CHECKS: tuple[Callable[[MakeTransform], None], ...] = (
    options_are_configuration,
    candidates_are_layers_listed_once,
    networks_keep_their_form,
    what_is_given_is_unchanged,
    only_what_is_named_is_rewritten,
    strangers_are_refused,
    same_generator_same_weights,
    fitted_weights_are_nearer_than_drawn,
    errors_are_those_of_the_layers,
    packed_layers_compute_the_same,
    unpacked_layers_compute_the_same,
    stored_bits_are_those_that_are_packed,
    operations_are_at_most_the_multiply_accumulates,
    formulas_are_what_is_counted,
    steps_keep_outputs_finite,
    undecayed_parameters_exist,
    excluded_transforms_are_known,
)


def _network() -> "nn.Module":
    from nasplat.testing.toy_network import ToyNetwork
    from nasplat.training.seeding import seeded

    with seeded(0):
        return ToyNetwork()


def _applied(
    transform: Transform, network: "nn.Module", names: list[str] | None = None, *, fitted: bool = False
) -> Rewriting:
    from nasplat.training.seeding import seeded

    with seeded(0):
        return transform.apply(network, names, fitted=fitted)


def _fitting(make: MakeTransform) -> Transform:
    transform = make()
    if not transform.fits:
        does_not_apply(f"{type(transform).__name__} fits no weights")
    return transform


def _rewritten(make: MakeTransform) -> Iterator[tuple[str, "Rewritten", "Tensor"]]:
    """The rewritten layers of the toy network in evaluation mode, by name, each with an example of its inputs.

    Raises:
        SkipTest: There are none: all are made of ordinary layers.
    """
    from nasplat.nn.rewritten import rewritten

    network = _applied(make(), _network().eval()).network
    inputs = _inputs(network)
    found = [(name, each) for name, each in rewritten(network) if name in inputs]
    if not found:
        does_not_apply("it makes ordinary layers")
    return ((name, layer, inputs[name]) for name, layer in found)


def _inputs(network: "nn.Module") -> dict[str, "Tensor"]:
    """An example of the inputs of every layer."""
    import torch

    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda layer, given: found.update({name: given[0]})

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in network.named_modules()]
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        network(torch.randn(1, *IMAGES.input_shape, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return found


def _errors(network: "nn.Module", other: "nn.Module") -> dict[str, float]:
    """The squared error of each layer that differs, relative: of the derivatives at one place of its outputs.

    Of a layer that is not linear: one less the squared correlation of outputs in training with those of the
    other, for inputs of a normal distribution.
    """
    import torch

    def derivatives(layer: "nn.Module", inputs: "Tensor") -> "Tensor":
        def center(x: "Tensor") -> "Tensor":
            outputs: Tensor = layer(x)[0]
            return outputs if outputs.ndim < 3 else outputs[:, outputs.shape[1] // 2, outputs.shape[2] // 2]

        found: Tensor = torch.autograd.functional.jacobian(center, inputs)  # type: ignore[no-untyped-call]
        return found

    errors, linear, generator = {}, _linear(network, other), torch.Generator().manual_seed(0)
    for name, inputs in _inputs(network).items():
        layer, new = network.get_submodule(name), other.get_submodule(name)
        if name in linear:
            exact = derivatives(layer, inputs)
            errors[name] = float((derivatives(new, inputs) - exact).square().sum() / exact.square().sum())
        elif _differ(layer, new):
            with torch.no_grad():
                drawn = torch.randn(EXAMPLES, *inputs.shape[1:], dtype=inputs.dtype, generator=generator)
                both = torch.stack([each(drawn).flatten() for each in (layer, copy.deepcopy(new).train())])
            errors[name] = 1 - float(torch.corrcoef(both)[0, 1]) ** 2
    return errors


def _differ(layer: "nn.Module", other: "nn.Module") -> bool:
    return str(layer) != str(other) and not list(layer.children())


def _linear(network: "nn.Module", other: "nn.Module") -> set[str]:
    """The layers that differ, by name, and are linear in their inputs but for a constant."""
    import torch

    found, generator = set(), torch.Generator().manual_seed(0)
    for name, inputs in _inputs(network).items():
        new = other.get_submodule(name)
        if _differ(network.get_submodule(name), new):
            one, two = (torch.randn(inputs.shape, dtype=inputs.dtype, generator=generator) for _ in range(2))
            with torch.no_grad():
                if torch.allclose(new(one) + new(two), new(one + two) + new(0 * one)):
                    found.add(name)
    return found
