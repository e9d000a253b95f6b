"""The contract of a search space as checks. Each takes a space and an `IO` that it can build for."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import default_rng

from nasplat.architecture import IO, Architecture
from nasplat.block_space import BlockSpace
from nasplat.encodings.pruned_graph import roles
from nasplat.errors import InputError
from nasplat.graph import Role
from nasplat.search_space import SearchSpace, SupernetSpace
from nasplat.testing.common import check_configuration, does_not_apply, global_generators_untouched, needs_networks
from nasplat.testing.costs import convolutions_are_what_is_built, cost_is_what_is_built
from nasplat.testing.genes import genes_have_an_effect

if TYPE_CHECKING:
    from torch import nn

SAMPLES = 30
NEIGHBORS = 60


def samples_are_members(space: SearchSpace, io: IO) -> None:
    """Every sample has the space's name, and its code parses to the same architecture."""
    for architecture in _samples(space):
        assert architecture.space == space.name, f"{architecture} does not carry the space's name {space.name!r}"
        _assert_member(space, architecture)


def codes_are_short_printable_text(space: SearchSpace, io: IO) -> None:
    """A code is printable ASCII without white space, at most 200 characters."""
    for architecture in _samples(space):
        code = architecture.code
        assert code.isascii() and code.isprintable() and not any(map(str.isspace, code)), f"code {code!r}"
        assert 0 < len(code) <= 200, f"a code has {len(code)} characters"


def same_generator_same_samples(space: SearchSpace, io: IO) -> None:
    """Sampling, mutation and crossover draw from the given generator alone."""

    def draws() -> list[Architecture]:
        rng = default_rng(1)
        a, b = space.sample(rng), space.sample(rng)
        return [a, b, space.mutate(a, rng), space.crossover(a, b, rng), space.sample(rng)]

    with global_generators_untouched():
        assert draws() == draws(), "the same seed gave different architectures"


def samples_differ(space: SearchSpace, io: IO) -> None:
    """Sampling reaches more than a corner of the space."""
    assert len({a.code for a in _samples(space)}) > 3, f"{SAMPLES} samples have at most 3 different members"


def strangers_are_refused(space: SearchSpace, io: IO) -> None:
    """Text that is no code is an `InputError` that repeats what was given."""
    for text in ("", "?", "no such architecture", *(a.code + "!" for a in _samples(space)[:5])):
        try:
            parsed = space.parse(text)
        except InputError as error:
            assert repr(text)[1:-1] in str(error) or not text, (
                f"the error for the invalid code {text!r} does not contain it: {error}"
            )
        else:
            raise AssertionError(f"the invalid code {text!r} was parsed as {parsed}")


def mutants_are_other_members(space: SearchSpace, io: IO) -> None:
    """A mutation gives a member that is not the parent."""
    rng = default_rng(2)
    for architecture in _samples(space):
        mutant = space.mutate(architecture, rng)
        _assert_member(space, mutant)
        assert mutant != architecture, f"{architecture} mutated into itself"


def crossover_stays_between_its_parents(space: SearchSpace, io: IO) -> None:
    """A child is a member of the space. If both parents are equal, the child equals them."""
    rng = default_rng(3)
    members = _samples(space)
    for a, b in pairwise(members):
        child = space.crossover(a, b, rng)
        _assert_member(space, child)
        assert space.crossover(a, a, rng) == a, f"the crossover of {a} with itself gives another architecture"


def neighbors_are_mutual(space: SearchSpace, io: IO) -> None:
    """Neighbours are distinct other members. The relation is symmetric: each neighbour has the member as neighbour."""
    for architecture in _samples(space)[:5]:
        neighbors = space.neighbors(architecture)
        assert neighbors and len(set(neighbors)) == len(neighbors), (
            f"{architecture} has no neighbours, or has one of them twice"
        )
        assert architecture not in neighbors, f"{architecture} is its own neighbour"
        assert neighbors == space.neighbors(architecture), "the order of neighbours changes"
        for neighbor in neighbors[:10]:
            _assert_member(space, neighbor)
            assert architecture in space.neighbors(neighbor), (
                f"{neighbor} is a neighbour of {architecture}, but not the other way round"
            )


def canonical_keys_are_stable_text(space: SearchSpace, io: IO) -> None:
    """A canonical key is text that depends only on the code. Not all members share one key."""
    members = _samples(space)
    keys = [space.canonical_key(a) for a in members]
    assert all(isinstance(key, str) and key for key in keys), "a canonical key is not text"
    assert keys == [space.canonical_key(Architecture(a.space, a.code)) for a in members], "a canonical key changes"
    assert len(set(keys)) > 1, "all members share one canonical key"


def features_have_one_shape(space: SearchSpace, io: IO) -> None:
    """Features are finite and have one shape. They are constant for a member and differ between members."""
    members = list(dict.fromkeys(_samples(space)))
    features = [np.asarray(space.features(a)) for a in members]
    assert len({f.shape for f in features}) == 1, "features differ in shape"
    assert all(np.isfinite(f).all() for f in features), "features are not finite"
    assert all((f == space.features(a)).all() for f, a in zip(features, members, strict=True)), "features change"
    assert len({f.tobytes() for f in features}) > 1, "all members have the same features"


def graphs_are_well_formed(space: SearchSpace, io: IO) -> None:
    """Graphs pass `Graphs.check`, have inputs and outputs, and are the same alone as among others.

    So are the operations and the number of places. The nodes together cost no more than the network; the costs of a
    default graph are estimates.
    """
    members = _samples(space)
    graphs = space.graphs(members)
    assert len(graphs) == len(members), f"{len(members)} members have {len(graphs)} graphs"
    try:
        graphs.check()
    except InputError as error:
        raise AssertionError(f"a graph is invalid: {error}") from error
    for row, architecture in enumerate(members[:10]):
        alone, among = space.graphs([architecture]), graphs[row : row + 1]
        assert alone.operations == graphs.operations, (
            f"the operations of {architecture} differ between a graph alone and one among others"
        )
        for name in ("types", "adjacency", "params", "macs"):
            same = np.array_equal(getattr(alone, name), getattr(among, name))
            assert same, f"the {name} of {architecture} differ between a graph alone and one among others"
    for role in (Role.INPUT, Role.OUTPUT):
        having = roles(graphs, role).any(axis=1)
        assert having.all(), f"the graph of {members[int(having.argmin())]} has no {role}"
    for row, architecture in enumerate(() if space.has_default_graph else members):
        whole = space.reference_cost(architecture).metrics()
        for name, nodes in (("params", graphs.params[row].sum()), ("macs", graphs.macs[row].sum())):
            known = whole.get(name, 0)
            assert nodes <= known, f"the nodes of {architecture} have {nodes} {name}, more than the network, {known}"


def tensors_have_one_shape(space: SearchSpace, io: IO) -> None:
    """Tensors are `[n, maps, nodes, nodes]`, finite, float32, 0 up to the diagonal, the same alone as among others."""
    members = _samples(space)
    tensors = space.tensors(members)
    assert tensors.dtype == np.float32, f"tensors are of {tensors.dtype}, not float32"
    square = tensors.ndim == 4 and len(tensors) == len(members) and tensors.shape[2] == tensors.shape[3]
    assert square, f"the tensors of {len(members)} members have the shape {tensors.shape}"
    assert np.isfinite(tensors).all(), "tensors are not finite"
    assert not np.tril(tensors).any(), "tensors have values on or below the diagonal"
    for row, architecture in enumerate(members[:10]):
        same = np.array_equal(space.tensors([architecture]), tensors[row : row + 1])
        assert same, f"the tensor of {architecture} differs between alone and among others"


def networks_fit_their_io(space: SearchSpace, io: IO) -> None:
    """A network takes the images and gives the outputs that `io` names, and can be trained."""
    needs_networks(space)
    import torch

    from nasplat.training.seeding import seeded

    for architecture in _samples(space)[:5]:
        with seeded(0):
            network = space.build(architecture, io).train()
            given = network(torch.randn(3, *io.input_shape))
        assert tuple(given.shape) == (3, *io.output_shape), f"{architecture} gives {tuple(given.shape)}"
        torch.autograd.backward(given.sum())
        assert any(p.grad is not None for p in network.parameters()), f"{architecture} gets no gradient"


def other_data_is_refused(space: SearchSpace, io: IO) -> None:
    """A space accepts its kind of data. A super-resolution space refuses classification, and the other way round."""
    space.check_io(io)
    other = IO.image(1, 8, 10) if io.purpose == "generation" else replace(io, scale=2 if io.scale is None else None)
    try:
        space.check_io(other)
    except InputError:
        return
    raise AssertionError(f"the networks are for {io}, but {other} was not refused")


def same_weights_same_outputs(space: SearchSpace, io: IO) -> None:
    """Two networks of one code with the same state dict give the same outputs. Building decides nothing else."""
    needs_networks(space)
    import torch

    from nasplat.training.seeding import seeded

    for architecture in _samples(space)[:3]:
        with seeded(1):
            first = space.build(architecture, io).eval()
            images = torch.randn(2, *io.input_shape)
        with seeded(2):
            second = space.build(architecture, io).eval()
        second.load_state_dict(first.state_dict())
        with torch.no_grad():
            assert torch.equal(first(images), second(images)), f"two networks of {architecture} differ"


def supernet_paths_are_what_is_built(space: SearchSpace, io: IO) -> None:
    """A supernet's path has the state dict of the network from `build`. With equal weights, the outputs are equal."""
    if not isinstance(space, SupernetSpace):
        does_not_apply(f"{space.name} has no supernet")
    import torch

    from nasplat.training.seeding import seeded

    with seeded(0):
        supernet = space.supernet(io)
        images = torch.randn(3, *io.input_shape)
    for architecture in _samples(space)[:5]:
        with seeded(1):
            network = space.build(architecture, io)
        try:
            network.load_state_dict(supernet.path(architecture).state_dict())
        except RuntimeError as error:  # which names every state that is missing, too many or of another shape
            raise AssertionError(f"the path of {architecture} is not the network that is built: {error}") from error
        for mode in (True, False):
            supernet.train(mode)
            network.train(mode)
            with torch.no_grad():
                same = torch.equal(supernet(images, architecture), network(images))
            assert same, f"the path and the network of {architecture} differ, {'training' if mode else 'evaluating'}"


def supernet_shares_its_weights(space: SearchSpace, io: IO) -> None:
    """Each path uses parameters of the supernet, always the same ones. Neighbours share some parameters."""
    if not isinstance(space, SupernetSpace):
        does_not_apply(f"{space.name} has no supernet")
    from nasplat.training.seeding import seeded

    with seeded(0):
        supernet = space.supernet(io)
        shared = _parameters(supernet)
        for architecture in _samples(space)[:3]:
            first = _parameters(supernet.path(architecture))
            assert first <= shared, f"the path of {architecture} has parameters that are not the supernet's"
            for neighbor in _some_neighbors(space, architecture):
                common = first & _parameters(supernet.path(neighbor))
                assert common, f"{architecture} and its neighbor {neighbor} share no parameter"
            assert _parameters(supernet.path(architecture)) == first, f"the path of {architecture} changes"


def supernet_extracts_copies(space: SearchSpace, io: IO) -> None:
    """An extracted network has copies of the weights of its path. It shares no weights with the supernet."""
    if not isinstance(space, SupernetSpace):
        does_not_apply(f"{space.name} has no supernet")
    import torch

    from nasplat.training.seeding import seeded

    with seeded(0):
        supernet = space.supernet(io)
    for architecture in _samples(space)[:3]:
        extracted = supernet.extract(architecture)
        theirs, ours = extracted.state_dict(), supernet.path(architecture).state_dict()
        assert theirs.keys() == ours.keys(), f"the network extracted for {architecture} is not its path"
        assert all(torch.equal(theirs[name], ours[name]) for name in ours), (
            f"extracting changes the weights of {architecture}"
        )
        storages = {tensor.untyped_storage().data_ptr() for tensor in supernet.state_dict().values()}
        kept = [name for name, tensor in theirs.items() if tensor.untyped_storage().data_ptr() in storages]
        assert not kept, f"the network extracted for {architecture} still shares {', '.join(kept)} with the supernet"


def supernet_has_no_dead_weight(space: SearchSpace, io: IO) -> None:
    """Every parameter of a supernet lies on the path of a member."""
    if not isinstance(space, SupernetSpace):
        does_not_apply(f"{space.name} has no supernet")
    from nasplat.training.seeding import seeded

    with seeded(0):
        supernet = space.supernet(io)
    unused = _parameters(supernet)
    samples = _samples(space)
    # The samples use nearly all parameters. Their many neighbours use the rare ones.
    for members in (samples, *(_some_neighbors(space, architecture) for architecture in samples)):
        for member in members:
            unused -= _parameters(supernet.path(member))
            if not unused:
                return
    names = [name for name, parameter in supernet.named_parameters() if id(parameter) in unused]
    raise AssertionError(f"no path among {SAMPLES} samples and their neighbors has {', '.join(names)}")


def blocks_are_what_is_built(space: SearchSpace, io: IO) -> None:
    """The blocks together have the parameters of the network, in a fixed order.

    Each block accepts an input of its `input_shape`. The kind and the widths identify a block.
    """
    if not isinstance(space, BlockSpace):
        does_not_apply(f"{space.name} has no blocks")
    import torch

    from nasplat.training.seeding import seeded

    known: dict[tuple[str, tuple[int, ...]], tuple[object, ...]] = {}
    for architecture in _samples(space)[:8]:
        blocks = space.blocks(architecture, io)
        names = [(block.kind, block.widths) for block in blocks]
        again = [(block.kind, block.widths) for block in space.blocks(architecture, io)]
        assert names == again, f"the blocks of {architecture} are {names} and then {again}"
        with seeded(0):
            whole = _shapes(space.build(architecture, io))
            modules = [block.make().eval() for block in blocks]
        parts = sorted(shape for module in modules for shape in _shapes(module))
        assert parts == whole, f"the blocks of {architecture} have parameters of {parts}, but the network of {whole}"
        for block, name, module in zip(blocks, names, modules, strict=True):
            widths = bool(block.widths) and all(type(width) is int and width > 0 for width in block.widths)
            assert widths, f"{block.kind!r} has the widths {block.widths}, but they must be whole numbers above 0"
            try:
                with torch.no_grad():
                    module(torch.zeros(2, *block.input_shape))
            except RuntimeError as error:  # torch refuses other shapes so
                raise AssertionError(f"{name} does not take {block.input_shape}: {error}") from error
            made = (block.input_shape, _shapes(module))
            assert known.setdefault(name, made) == made, (
                f"two different blocks have the kind and widths {name}: {known[name]} and {made}"
            )


def options_are_configuration(space: SearchSpace, io: IO) -> None:
    """Constructor options are annotated, keyword-only and stored under their own names."""
    check_configuration(space, given=0)


SEARCH_SPACE_CHECKS: tuple[Callable[[SearchSpace, IO], None], ...] = (
    samples_are_members,
    codes_are_short_printable_text,
    same_generator_same_samples,
    samples_differ,
    strangers_are_refused,
    mutants_are_other_members,
    crossover_stays_between_its_parents,
    neighbors_are_mutual,
    canonical_keys_are_stable_text,
    features_have_one_shape,
    graphs_are_well_formed,
    tensors_have_one_shape,
    cost_is_what_is_built,
    convolutions_are_what_is_built,
    genes_have_an_effect,
    networks_fit_their_io,
    other_data_is_refused,
    same_weights_same_outputs,
    supernet_paths_are_what_is_built,
    supernet_shares_its_weights,
    supernet_extracts_copies,
    supernet_has_no_dead_weight,
    blocks_are_what_is_built,
    options_are_configuration,
)


def _assert_member(space: SearchSpace, architecture: Architecture) -> None:
    try:
        parsed = space.parse(architecture.code)
    except InputError as error:
        raise AssertionError(f"{architecture} is not a member: {error}") from error
    assert parsed == architecture, f"the code of {architecture} is parsed as {parsed}"


def _samples(space: SearchSpace) -> list[Architecture]:
    rng = default_rng(0)
    return [space.sample(rng) for _ in range(SAMPLES)]


def _some_neighbors(space: SearchSpace, architecture: Architecture) -> list[Architecture]:
    """At most `NEIGHBORS` neighbours, at regular steps in the list of all neighbours."""
    neighbors = space.neighbors(architecture)
    return neighbors[:: -(-len(neighbors) // NEIGHBORS)]


def _shapes(network: "nn.Module") -> list[tuple[int, ...]]:
    """The sorted shapes of the network's parameters."""
    return sorted(tuple(parameter.shape) for parameter in network.parameters())


def _parameters(network: "nn.Module") -> set[int]:
    """The object ids of the network's parameters."""
    return {id(parameter) for parameter in network.parameters()}
