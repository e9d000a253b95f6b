"""The contract of a transform: what rewrites layers of a network, so that the network has a lower cost."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nasplat.architecture import Architecture
from nasplat.convolution import Convolution
from nasplat.cost import Cost

if TYPE_CHECKING:
    from torch import nn

    from nasplat.search_space import SearchSpace


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer that a transform looks at.

    Args:
        name: The name of the layer, as in `named_modules` of the network.
        outputs: Its number of output channels.
        reason: Why the layer cannot be rewritten; empty if it can.
    """

    name: str
    outputs: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A network with rewritten layers.

    Args:
        network: The network; what was given is unchanged.
        errors: For each layer whose new weights were fitted to the given ones: the squared error of the weights,
            relative to the squared weights.
    """

    network: "nn.Module"
    errors: dict[str, float]


class Transforming(ABC):
    """What a search space has besides whose networks are those of another space, transformed."""

    below: "SearchSpace"
    """The space whose networks are transformed. `build` makes them too, for its architectures."""

    @abstractmethod
    def base(self, architecture: Architecture) -> Architecture:
        """The architecture of the space below."""

    @abstractmethod
    def fitted(self, architecture: Architecture, network: "nn.Module") -> Rewriting:
        """The network of an architecture, with weights that are fitted to those of a trained network.

        Args:
            architecture: The architecture; of one of the space below, the network stays as it is.
            network: The network of its architecture in the space below. It is not changed.
        """


class Transform(ABC):
    """Rewrites layers of any network into others with the same inputs and outputs.

    A transform is stateless and hashable. Its constructor takes keyword arguments only and stores them under their own
    names. What it makes of a layer that is not made of ordinary layers is a `nasplat.nn.rewritten.Rewritten`, which
    tells training, costs and exports what they must know. `nasplat.testing` has the checks of this contract.

    Several transforms of one network are applied in the order of their names. Each sees what those before have made,
    and must find something to rewrite.

    Transforms that replace one convolution by one layer are easier to write as `nasplat.nn.rewriting.LayerTransform`.
    """

    fits: ClassVar[bool] = True
    """Whether new weights can be fitted to given ones; if not, they are always drawn."""

    varies: ClassVar[bool] = False
    """Whether what its layers compute depends on the image."""

    whole: ClassVar[frozenset[str]] = frozenset()
    """The names of options that hold for a whole network, so that they are no choices of its stages."""

    excludes: ClassVar[frozenset[str]] = frozenset()
    """The names of transforms that cannot be applied to the same layers."""

    @abstractmethod
    def candidates(self, network: "nn.Module") -> Sequence[Candidate]:
        """The layers of a network that it may rewrite, in order, and those that are alike but cannot be rewritten.

        A layer that the network has in several places is listed once, under its first name.
        """

    @abstractmethod
    def apply(self, network: "nn.Module", names: Collection[str] | None = None, *, fitted: bool = False) -> Rewriting:
        """A copy of a network with rewritten layers, in the same mode, on the same device.

        Args:
            network: Any network. It is not changed.
            names: The layers to rewrite; by default all that can be.
            fitted: Whether new weights are fitted to the network's, which is then trained; else they are drawn from
                torch's global generator.

        Raises:
            InputError: No layer can be rewritten, or the options fit none of them.
        """

    def eligible_of(self, convolutions: Sequence[Convolution]) -> list[str] | None:
        """As `eligible`, of all convolutions of a network by their sizes; None, the default, if those do not tell."""
        return None

    def added_cost(self, convolutions: Sequence[Convolution], names: Collection[str] | None = None) -> Cost:
        """What rewriting adds to the cost of a network with these convolutions; it is negative where it saves.

        Only needed beside `eligible_of`.

        Args:
            convolutions: All convolutions of the network, in order.
            names: The layers to rewrite; by default all that can be.

        Raises:
            InputError: As in `apply`.
        """
        raise NotImplementedError(f"{type(self).__name__} has eligible_of, and must have added_cost beside it")

    def eligible(self, network: "nn.Module") -> list[str]:
        """The names of the layers that can be rewritten."""
        return [candidate.name for candidate in self.candidates(network) if not candidate.reason]
