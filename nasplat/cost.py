"""The cost of a network, computed without training it, and counted on a network where no formula gives it."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from nasplat.architecture import IO
from nasplat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

OTHER = "other"
"""The part of a counted cost that belongs to none of the named parts."""

MOST = 2**53
"""Maximum of each figure of a cost: so far, integers are exact in floating-point numbers."""

EXPECTED, SPREAD = "macs_expected", "macs_spread"
"""The mean and the standard deviation of the multiply-accumulates of measured images, where images differ in them."""

WORD = 64
"""The number of bit operations that count as one operation, as processors combine so many bits in one step."""


class Operations(NamedTuple):
    """What computes the multiply-accumulates of a layer.

    Args:
        multiplications: The multiplications of real numbers.
        additions: The additions of real numbers.
        bits: The multiply-accumulates of two single bits each, without any of these.
    """

    multiplications: int
    additions: int
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a network, or of one part of it.

    Args:
        params: Trainable parameters.
        macs: Multiply-accumulates of convolutions and linear layers only, for one example.
        memory_bits: Bits that store the parameters and the statistics of batch norm, as packed as they are exported.
        published: Further metrics by name: counted by the own rules of a publication, or taken from a table.
        parts: The cost of each named part; if there are parts, they sum to the whole.
        counted: Whether parameters, multiply-accumulates and memory are known. If not, they are 0 here, and no metrics.
        multiplications: The multiplications in the multiply-accumulates; None if they are as many.
        additions: The additions in the multiply-accumulates; None if they are as many.
        bit_operations: The multiply-accumulates of two single bits each. They are no multiplications or additions.

    Raises:
        InputError: A figure is larger than `MOST`, as of a network whose width is a slip of the pen.
    """

    params: int = 0
    macs: int = 0
    memory_bits: int = 0
    published: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, "Cost"] = field(default_factory=dict)
    counted: bool = True
    multiplications: int | None = None
    additions: int | None = None
    bit_operations: int = 0

    def __post_init__(self) -> None:
        if self.params > MOST or self.macs > MOST or self.memory_bits > MOST:
            raise InputError(
                f"the figures of a network's cost must be at most {MOST:.3g}, but got {_spelt(self.params)} "
                f"parameters, {_spelt(self.macs)} multiply-accumulates and {_spelt(self.memory_bits)} bits; choose "
                "smaller options of its space"
            )

    @classmethod
    def total(cls, parts: Mapping[str, "Cost"]) -> Self:
        """The sum of named parts; the result keeps the parts.

        >>> whole = Cost.total({"stem": Cost(params=2), "head": Cost(params=3, macs=5)})
        >>> whole.params, whole.macs, whole.operations
        (5, 5, 5.0)
        """
        published: dict[str, float] = {}
        for part in parts.values():
            for name, value in part.published.items():
                published[name] = published.get(name, 0) + value
        return cls(
            params=sum(part.params for part in parts.values()),
            macs=sum(part.macs for part in parts.values()),
            memory_bits=sum(part.memory_bits for part in parts.values()),
            published=published,
            parts=parts,
            multiplications=_total(parts, "multiplications"),
            additions=_total(parts, "additions"),
            bit_operations=sum(part.bit_operations for part in parts.values()),
        )

    def scaled(self, times: int) -> "Cost":
        """The cost of this part used `times` times, without its parts."""
        return Cost(
            params=times * self.params,
            macs=times * self.macs,
            memory_bits=times * self.memory_bits,
            published={name: times * value for name, value in self.published.items()},
            multiplications=None if self.multiplications is None else times * self.multiplications,
            additions=None if self.additions is None else times * self.additions,
            bit_operations=times * self.bit_operations,
        )

    @property
    def operations(self) -> float:
        """The real operations, each a multiplication with an addition, and a sixty-fourth of the bit operations.

        A multiplication or an addition alone is half of one. For a plain network it is `macs`.
        """
        real = _operations(self, "multiplications") + _operations(self, "additions")
        return real / 2 + self.bit_operations / WORD

    def metrics(self) -> dict[str, float]:
        """The totals by the metric names that objectives and constraints use."""
        counts: dict[str, float] = {
            "params": self.params,
            "macs": self.macs,
            "memory_bits": self.memory_bits,
            "multiplications": _operations(self, "multiplications"),
            "additions": _operations(self, "additions"),
            "bit_operations": self.bit_operations,
            "operations": self.operations,
        }
        return {**(counts if self.counted else {}), **self.published}


def _operations(cost: Cost, kind: str) -> int:
    found: int | None = getattr(cost, kind)
    return cost.macs if found is None else found


def _total(parts: Mapping[str, Cost], kind: str) -> int | None:
    """The sum of the operations of a kind; None if no part has another number than its multiply-accumulates."""
    if all(getattr(part, kind) is None for part in parts.values()):
        return None
    return sum(_operations(part, kind) for part in parts.values())


@runtime_checkable
class Layer(Protocol):
    """A layer whose cost is not that of its parameters and multiply-accumulates, as `nasplat.nn.rewritten` has them."""

    def stored_bits(self) -> int | None:
        """The bits that store its own parameters and buffers; None for those of ordinary ones."""

    def operations(self, macs: int) -> Operations:
        """What computes its multiply-accumulates."""


@runtime_checkable
class Sparing(Protocol):
    """A layer, rewritten or packed, that in evaluation computes less for some images than for others."""

    def spared(self, x: "Tensor", result: "Tensor") -> "Tensor":
        """The multiply-accumulates that each image is spared, `[B]`, as if it were evaluated alone."""


def _spelt(count: int) -> str:
    """A count as text; none is too large for it, as they are for floating-point numbers and for decimal digits."""
    return f"{float(count):.3g}" if count <= MOST**4 else f"10^{math.floor(math.log10(count))}"


def counted_params(network: "nn.Module") -> int:
    """The number of trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def counted_macs(network: "nn.Module", io: IO) -> int:
    """The multiply-accumulates of convolutions and matrix products in evaluation, for one example.

    That is half of what torch's FlopCounterMode counts. Nothing is computed, if the network runs on the meta device.
    """
    import torch

    try:
        with all_nonzero():
            return _macs(_without_values(network), torch.zeros(1, *io.input_shape, device="meta"))
    except (RuntimeError, TypeError, ValueError):  # the network looks at values, or keeps tensors where it is
        return _counted(copy.deepcopy(network), io, children, check=False).macs


def _macs(network: "nn.Module", examples: "Tensor") -> int:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    _evaluate(network, examples, counter)
    return counter.get_total_flops() // 2


def _evaluate(network: "nn.Module", examples: "Tensor", counter: Any) -> Any:
    import torch

    with torch.no_grad(), unfused_attention(), counter:
        return network.eval()(examples)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Attention runs as products of matrices. Torch fuses it on some devices, and does not count what is fused."""
    from torch.backends import mha
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fused = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(fused)


@contextmanager
def all_nonzero() -> Iterator[None]:
    """On the meta device, where tensors have no values, all elements count as nonzero; else torch refuses to look.

    A layer that leaves out what is zero then computes with everything.
    """
    from torch.fx.experimental import _config

    before = _config.meta_nonzero_assume_all_nonzero
    _config.meta_nonzero_assume_all_nonzero = True
    try:
        yield
    finally:
        _config.meta_nonzero_assume_all_nonzero = before


Parts: TypeAlias = Mapping[str, Sequence["nn.Module"]]
"""The modules of each named part of a network. What lies in two parts belongs to the inner one."""


def children(network: "nn.Module") -> Parts:
    """The children of a network as its parts."""
    return {name: [child] for name, child in network.named_children()}


def layers(network: "nn.Module") -> Parts:
    """The layers of a network as its parts: what has parameters or a cost of its own, by its name."""
    own = {
        name: [module]
        for name, module in network.named_modules()
        if isinstance(module, Layer) or next(module.parameters(recurse=False), None) is not None
    }
    return {name or type(network).__name__: modules for name, modules in own.items()}


def count(
    make: Callable[[], "nn.Module"],
    io: IO,
    parts: Callable[["nn.Module"], Parts] = children,
    *,
    seed: int = 0,
    check: bool = True,
) -> Cost:
    """The cost of the network that `make` makes, counted while it evaluates one example.

    It is made on the meta device, which allocates no memory and computes nothing; what depends on the values of an
    image counts as if nothing is left out. A network that looks at values otherwise, or mixes devices, cannot be made
    there; it is made once more, on the CPU. Torch's global generator is left as it was.

    Args:
        make: Makes the network.
        io: Its input and output shapes.
        parts: The parts of the network. What belongs to none of them is the part `OTHER`.
        seed: The seed of torch's global generator meanwhile.
        check: Whether the outputs must have the shape that `io` says.

    Raises:
        InputError: `make` returned something else, or the outputs have another shape than `io` says.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        # What is wrong with it everywhere is raised below. A network that was there before is copied without memory.
        with suppress(Exception), all_nonzero(), torch.device("meta"):
            return _counted(_without_values(make()), io, parts, check=check)
        return _counted(make(), io, parts, check=check)


def _without_values(network: "nn.Module") -> "nn.Module":
    """A network on the meta device: itself, or else a copy."""
    import torch

    if all(parameter.device.type == "meta" for parameter in network.parameters()):
        return network
    known: dict[int, Any] = {id(each): torch.empty_like(each, device="meta") for each in network.buffers()}
    parameters = {
        id(each): torch.nn.Parameter(torch.empty_like(each, device="meta"), requires_grad=each.requires_grad)
        for each in network.parameters()
    }
    return copy.deepcopy(network, known | parameters)


def _counted(network: object, io: IO, parts: Callable[["nn.Module"], Parts], *, check: bool) -> Cost:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    if not isinstance(network, torch.nn.Module):
        raise InputError(f"build must return a torch.nn.Module, but it returned a {type(network).__name__}")
    named = parts(network)
    owners = {id(module): name for name, modules in named.items() for module in modules}
    params, bits = _parameters(network, owners)
    counter = FlopCounterMode(display=False)
    layers = {id(module): module for module in network.modules() if isinstance(module, Layer)}
    done: dict[str, list[int]] = {name: [0, 0, 0, 0] for name in [*named, OTHER]}  # MACs, and their operations
    running: list[tuple[str, Layer | None]] = [(OTHER, None)]
    counted_so_far = 0

    def attribute() -> None:
        """Give what was counted since the last call to the innermost part and layer that are running."""
        nonlocal counted_so_far
        total = counter.get_total_flops()
        macs, counted_so_far = (total - counted_so_far) // 2, total
        part, layer = running[-1]
        each = macs, *(Operations(macs, macs) if layer is None else layer.operations(macs))
        done[part] = [before + more for before, more in zip(done[part], each, strict=True)]

    def enter(module: "nn.Module", given: object) -> None:
        attribute()
        part, layer = running[-1]
        running.append((owners.get(id(module), part), layers.get(id(module), layer)))

    def leave(module: "nn.Module", given: "tuple[Tensor]", result: "Tensor") -> None:
        attribute()
        part, layer = running.pop()
        if isinstance(module, Sparing) and result.device.type != "meta":  # there, nothing is spared
            spared = int(module.spared(*given, result).sum())
            each = spared, *(Operations(spared, spared) if layer is None else layer.operations(spared))
            done[part] = [before + more for before, more in zip(done[part], each, strict=True)]

    hooks = [
        hook
        for module in network.modules()
        if id(module) in owners or id(module) in layers or isinstance(module, Sparing)
        for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        outputs = _evaluate(network, torch.zeros(1, *io.input_shape, device=device), counter)
    finally:
        for hook in hooks:
            hook.remove()
    attribute()
    if check:
        _check_outputs(outputs, io)
    costs = {
        name: Cost(
            params=params.get(name, 0),
            macs=macs,
            memory_bits=bits.get(name, 0),
            multiplications=None if multiplications == macs else multiplications,
            additions=None if additions == macs else additions,
            bit_operations=on_bits,
        )
        for name, (macs, multiplications, additions, on_bits) in done.items()
    }
    return Cost.total({name: cost for name, cost in costs.items() if name != OTHER or cost.memory_bits or cost.macs})


def _parameters(network: "nn.Module", owners: Mapping[int, str]) -> tuple[dict[str, int], dict[str, int]]:
    """The number of trainable parameters of each part, and the bits that store it.

    Stored are parameters and those buffers of floating-point numbers that are in the state dict.
    """
    params: dict[str, int] = {}
    bits: dict[str, int] = {}
    seen: set[int] = set()

    def visit(module: "nn.Module", part: str) -> None:
        part = owners.get(id(module), part)
        own = None if id(module) in seen or not isinstance(module, Layer) else module.stored_bits()
        seen.add(id(module))
        bits[part] = bits.get(part, 0) + (own or 0)
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                params[part] = params.get(part, 0) + parameter.numel() * parameter.requires_grad
                bits[part] += _bits(parameter) if own is None else 0
        for name, buffer in module.named_buffers(recurse=False) if own is None else ():
            if id(buffer) not in seen and buffer.is_floating_point() and name not in module._non_persistent_buffers_set:
                seen.add(id(buffer))
                bits[part] += _bits(buffer)
        for child in module.children():
            visit(child, part)

    visit(network, OTHER)
    return params, bits


def _bits(tensor: "Tensor") -> int:
    return tensor.numel() * tensor.element_size() * 8


def _check_outputs(outputs: object, io: IO) -> None:
    import torch

    wanted = (1, *io.output_shape)
    if not isinstance(outputs, torch.Tensor):
        raise InputError(f"forward must return one tensor, but it returned a {type(outputs).__name__}; select it there")
    if tuple(outputs.shape) != wanted:
        raise InputError(
            f"for an input of the shape {(1, *io.input_shape)} the output must have the shape {wanted}, but it has "
            f"{tuple(outputs.shape)}; take the shapes from io, or from input_shape and outputs"
        )
