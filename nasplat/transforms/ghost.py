"""Ghost modules in place of convolutions (Han et al., 2020, "GhostNet: More features from cheap operations")."""

from typing import Annotated, ClassVar

from pydantic import Field

from nasplat.nn.ghost.ghostify import GhostRewriting
from nasplat.nn.ghost.shapes import Operator


class Ghost(GhostRewriting):
    """Replaces convolutions by Ghost modules, most of whose maps are cheap.

    Some of the maps are those of a convolution, and the others are made of these by cheap convolutions. The weights of
    Ghost modules are new, also in a trained network.

    Args:
        ratio: Number of maps for each map of the convolution.
        kernel: The side of the cheap convolutions, odd.
        stem: Whether the first convolution is replaced too.
        classifier: Whether the last layer is replaced too, if it is a 1 x 1 convolution.
    """

    excludes: ClassVar[frozenset[str]] = frozenset({"balanced_binary", "full_stack"})

    def __init__(
        self,
        *,
        ratio: Annotated[int, Field(ge=2)] = 2,
        kernel: Annotated[int, Field(ge=1)] = 3,
        stem: bool = False,
        classifier: bool = False,
    ) -> None:
        super().__init__(Operator(ratio, kernel), stem=stem, classifier=classifier)
        self.ratio = ratio
        self.kernel = kernel
