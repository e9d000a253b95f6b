"""Mobile search spaces around GhostNet (Han et al., 2020, "GhostNet: More features from cheap operations", CVPR)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from nasplat.architecture import IO, Architecture
from nasplat.block_space import Block, BlockSpace
from nasplat.convolution import Convolution
from nasplat.cost import Cost
from nasplat.errors import InputError, unknown
from nasplat.graph import ABSENT, Graphs, Role
from nasplat.graph import Operation as Node
from nasplat.nn.ghost.convolutions import network_convolutions
from nasplat.nn.ghost.shapes import PLAIN, Bottleneck, GhostShape, Operator, make_divisible, network_costs
from nasplat.search_space import Gene, GeneSpace, SupernetSpace

if TYPE_CHECKING:
    from torch import nn

    from nasplat.nn.supernet import Part, Supernet

OPERATORS = (PLAIN, *(Operator(ratio, kernel) for ratio in (2, 3, 4) for kernel in (1, 3, 5)))
BY_NAME = {str(operator): operator for operator in OPERATORS}
KINDS = ("expansion", "outputs", "depthwise", "squeeze", "expand", "project")
"""The kinds of genes of a bottleneck."""
GENES = len(KINDS)
LAYERS = ("expand", "depthwise", "squeeze", "project", "shortcut")

NODES = (
    Node("input", Role.INPUT),
    Node("output", Role.OUTPUT),
    *(Node(name, Role.CONVOLUTION, kernel=3) for name in ("stem", "shortcut")),
    *(Node(name, Role.CONVOLUTION) for name in ("head", "classifier")),
    Node("identity", Role.IDENTITY),
    Node("squeeze", Role.OTHER),
    *(Node(f"depthwise {kernel}", Role.CONVOLUTION, kernel=kernel) for kernel in (3, 5, 7)),
    *(Node(name, Role.CONVOLUTION, kernel=operator.kernel) for name, operator in BY_NAME.items()),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """Bottlenecks with one image size.

    Args:
        width: The output channels of the bottlenecks at width 1.
        stride: The stride of the first bottleneck.
        depths: The possible numbers of bottlenecks.
    """

    width: int
    stride: int
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Preset:
    """The fixed outer shape of a Ghost space, and the choices of its genes.

    Args:
        stem: The width of the first convolution, at width 1.
        stem_stride: The stride of the first convolution.
        stages: The stages after the stem.
        head: The width of the last convolution before global average pooling, at width 1.
        features: The width between the pooling and the classifier. It is not scaled.
        resolutions: The possible image sides after resizing, as fractions of the original side.
        widths: The possible multipliers of all widths.
        expansions: The possible widths of a bottleneck's middle, as multiples of its input width.
        outputs: The possible multipliers of a stage's width for each of its bottlenecks.
        kernels: The sides of depth-wise convolutions.
    """

    stem: int
    stem_stride: int
    stages: tuple[Stage, ...]
    head: int
    features: int
    resolutions: tuple[float, ...]
    widths: tuple[float, ...]
    expansions: tuple[float, ...]
    outputs: tuple[float, ...]
    kernels: tuple[int, ...]

    def genes(self) -> tuple[Gene, ...]:
        """Resolution and width; then for each stage the depth, and six genes for each bottleneck."""
        found = [Gene("resolution", _texts(self.resolutions)), Gene("width", _texts(self.widths))]
        for number, stage in enumerate(self.stages, 1):
            found.append(Gene(f"stage {number} depth", _texts(stage.depths)))
            for block in range(max(stage.depths)):
                place = f"stage {number} block {block}"
                # A stride of 2 needs a filter; without one, three of four pixels would be ignored.
                kernels = self.kernels if stage.stride > 1 and not block else (0, *self.kernels)
                found += [
                    Gene(f"{place} expansion", _texts(self.expansions)),
                    Gene(f"{place} outputs", _texts(self.outputs)),
                    Gene(f"{place} depthwise", tuple(str(kernel or "none") for kernel in kernels)),
                    Gene(f"{place} squeeze", ("no", "yes")),
                    Gene(f"{place} expand", tuple(BY_NAME)),
                    Gene(f"{place} project", tuple(BY_NAME)),
                ]
        return tuple(found)


def _texts(values: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{value:g}" for value in values)


class GhostSpace(GeneSpace, SupernetSpace, BlockSpace):
    """Stages of bottlenecks whose convolutions are ordinary ones or Ghost modules.

    The genes are the resolution (images are resized in the network), the multiplier of all widths, and the number of
    bottlenecks of each stage. Each bottleneck has six more: the width of its middle as a multiple of its input width;
    its output width as a multiple of its stage's; the side of the depth-wise convolution, or none;
    squeeze-and-excitation; and the operators of the first and of the second convolution: plain, or Ghost with the
    ratio s and the kernel d. Widths are rounded to multiples of four as in GhostNet. The genes of bottlenecks beyond a
    stage's depth are inactive and do not mutate. Where the shape of an input changes, the kernel of the shortcut is
    that of the depth-wise convolution, or 3.

    Args:
        dropout: The dropout rate on the last features in training.
    """

    preset: ClassVar[Preset]
    untimed: ClassVar[frozenset[str]] = frozenset({"dropout"})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.genes = cls.preset.genes()

    def __init__(self, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        self.dropout = dropout

    def alike(self, **choices: str) -> Architecture:
        """The architecture with identical choices for all bottlenecks.

        Args:
            choices: The choice for every kind of gene, by the last word of its name. ``depth`` may exceed a stage's
                maximum. A ``depthwise`` of none means the smallest kernel where a kernel is required.

        Raises:
            InputError: A gene does not have the choice.

        >>> space = GhostSmall()
        >>> space.alike(resolution="1", width="1", depth="1", expansion="2", outputs="1", depthwise="none",
        ...             squeeze="no", expand="ghost 2 3", project="ghost 2 3").code
        '12011002211002201100221100221100220110022110022110022'
        """
        return self.member([_choice(gene, choices) for gene in self.genes])

    def shape(self, architecture: Architecture, io: IO) -> GhostShape:
        """All sizes of an architecture's network.

        Raises:
            ValueError: The images are not square.
        """
        return self._shape(self.chosen(architecture), io)

    def active_genes(self, architecture: Architecture) -> Sequence[int]:
        found, position = [0, 1], 2
        for stage in self.preset.stages:
            depth = stage.depths[self.choices(architecture)[position]]
            found += range(position, position + 1 + GENES * depth)
            position += 1 + GENES * max(stage.depths)
        return found

    def canonical_key(self, architecture: Architecture) -> str:
        """Equal if all sizes and operators are equal. Inactive genes and widths that round to the same value do not
        matter."""
        shape = self.shape(architecture, self.reference_io)
        resolution = self.choices(architecture)[0]
        blocks = [
            (place, b.inputs, b.expanded, b.outputs, b.kernel, b.squeeze, str(b.expand), str(b.project))
            for place, b in shape.blocks.items()
        ]
        whole = (resolution, shape.stem, shape.head, shape.features, blocks)
        return blake2b(repr(whole).encode(), digest_size=16).hexdigest()

    def graphs(self, architectures: Sequence[Architecture]) -> Graphs:
        """A chain of layers: the stem, up to five layers of each bottleneck, head and classifier.

        The shortcut, an identity or a convolution, is parallel to a bottleneck's other layers.
        """
        places = [
            f"stage {number} block {block}"
            for number, stage in enumerate(self.preset.stages, 1)
            for block in range(max(stage.depths))
        ]
        names = ["input", "stem", *(f"{place} {layer}" for place in places for layer in LAYERS), "head"]
        number = {name: i for i, name in enumerate([*names, "classifier", "output"])}
        kinds = {operation.name: i for i, operation in enumerate(NODES)}
        n, size = len(architectures), len(number)
        types = np.full((n, size), ABSENT, dtype=np.int16)
        adjacency = np.zeros((n, size, size), dtype=bool)
        params, macs = np.zeros((n, size), dtype=np.int64), np.zeros((n, size), dtype=np.int64)
        for row, architecture in enumerate(architectures):
            shape = self.shape(architecture, self.reference_io)
            nodes = {"input": "input", "stem": "stem"}
            edges = [("input", "stem")]
            before = ["stem"]
            for place, block in shape.blocks.items():
                layers = {layer: f"{place} {layer}" for layer in LAYERS}
                nodes[layers["expand"]] = str(block.expand)
                nodes[layers["project"]] = str(block.project)
                nodes[layers["shortcut"]] = "identity" if block.identity else "shortcut"
                if block.kernel:
                    nodes[layers["depthwise"]] = f"depthwise {block.kernel}"
                if block.squeeze:
                    nodes[layers["squeeze"]] = "squeeze"
                line = [layers[layer] for layer in LAYERS[:4] if layers[layer] in nodes]
                edges += [(source, target) for source in before for target in (line[0], layers["shortcut"])]
                edges += pairwise(line)
                before = [line[-1], layers["shortcut"]]
            edges += [*((source, "head") for source in before), ("head", "classifier"), ("classifier", "output")]
            nodes |= {"head": "head", "classifier": "classifier", "output": "output"}
            for name, kind in nodes.items():
                types[row, number[name]] = kinds[kind]
            for source, target in edges:
                adjacency[row, number[source], number[target]] = True
            for name, cost in network_costs(shape, self.reference_io).items():
                params[row, number[name]], macs[row, number[name]] = cost.params, cost.macs
        return Graphs(NODES, types, adjacency, params, macs)

    def cost(self, architecture: Architecture, io: IO) -> Cost:
        """Parameters, MACs and bits by layer: stem, the layers of each bottleneck, head and classifier."""
        return Cost.total(network_costs(self.shape(architecture, io), io))

    def convolutions_of(self, architecture: Architecture, io: IO) -> Sequence[Convolution]:
        return network_convolutions(self.shape(architecture, io), io)

    def build(self, architecture: Architecture, io: IO) -> "nn.Module":
        """The network: square images `[batch, channels, side, side]` to `[batch, classes]`."""
        from nasplat.nn.supernet import new_part

        return self._assembled(architecture, new_part, io=io, largest=None)

    def supernet(self, io: IO) -> "Supernet":
        """One network with the maximum width, depth and kernels. Paths use parts of its layers.

        An ordinary convolution and the Ghost modules in its place share its filters. The cheap operations of each
        ratio have their own filters, which kernels of all sides share. Bottlenecks are initialized as identities,
        where shapes permit it.
        """
        from nasplat.nn.ghost.supernet import begin_as_identities
        from nasplat.nn.supernet import Supernet

        most = {gene.name: gene.choices[-1] for gene in self.genes}
        # Every ratio once. Outputs alternate between narrow and wide, so no shortcut is the identity.
        covering = [
            self.member(
                [
                    gene.choices.index(str(operator))
                    if gene.choices == tuple(BY_NAME)
                    else (0 if gene.name.endswith("outputs") and i // GENES % 2 else len(gene.choices) - 1)
                    for i, gene in enumerate(self.genes)
                ]
            )
            for operator in OPERATORS
            if operator.kernel == 1
        ]
        supernet = Supernet(partial(self._assembled, io=io, largest=self._shape(most, io)), covering)
        begin_as_identities(supernet.parts)
        return supernet

    def stages_of(self, architecture: Architecture) -> Mapping[str, Sequence[str]]:
        """The bottlenecks of each stage, and what follows them."""
        choices, found, number = self.chosen(architecture), dict[str, Sequence[str]](), 0
        for stage in range(1, len(self.preset.stages) + 1):
            depth = int(choices[f"stage {stage} depth"])
            found[f"stage {stage}"] = [f"blocks.{block}" for block in range(number, number + depth)]
            number += depth
        return {**found, "head": ["head", "features"]}

    def blocks(self, architecture: Architecture, io: IO) -> list[Block]:
        """Stem, the layers of each bottleneck, head and classifier."""
        from nasplat.nn.ghost.blocks import network_blocks

        return network_blocks(self.shape(architecture, io), io)

    def _assembled(
        self, architecture: Architecture, part: "Part", /, *, io: IO, largest: GhostShape | None
    ) -> "nn.Module":
        from nasplat.nn.ghost.supernet import GhostNetwork

        return GhostNetwork(self.shape(architecture, io), io, dropout=self.dropout, part=part, largest=largest)

    def _shape(self, given: Mapping[str, str], io: IO) -> GhostShape:
        """The shape for the choices of all genes, by name."""
        _, side, *others = io.input_shape
        if others != [side]:
            raise ValueError(f"{self.name} takes square images, but got {io.input_shape}")
        preset, width = self.preset, float(given["width"])
        blocks = {}
        # Output widths of bottlenecks are rounded before scaling, as are the values in GhostNet's table.
        channels = preset.stem
        for number, stage in enumerate(preset.stages, 1):
            for block in range(int(given[f"stage {number} depth"])):
                place = f"stage {number} block {block}"
                gene = {name.removeprefix(f"{place} "): given[name] for name in (f"{place} {kind}" for kind in KINDS)}
                kernel = 0 if gene["depthwise"] == "none" else int(gene["depthwise"])
                outputs = round(stage.width * float(gene["outputs"]))
                blocks[place] = Bottleneck(
                    inputs=make_divisible(channels * width),
                    expanded=make_divisible(round(channels * float(gene["expansion"])) * width),
                    outputs=make_divisible(outputs * width),
                    kernel=kernel,
                    stride=1 if block else stage.stride,
                    squeeze=gene["squeeze"] == "yes",
                    expand=BY_NAME[gene["expand"]],
                    project=BY_NAME[gene["project"]],
                    shortcut_kernel=kernel or 3,
                )
                channels = outputs
        return GhostShape(
            side=max(1, round(side * float(given["resolution"]))),
            stem=make_divisible(preset.stem * width),
            stem_stride=preset.stem_stride,
            blocks=blocks,
            head=make_divisible(preset.head * width),
            features=preset.features,
        )


def _place(gene: Gene) -> tuple[int, int, str]:
    """The stage and the bottleneck of a gene (the first if it has none), and its kind."""
    *place, kind = gene.name.split()
    numbers = [int(word) for word in place if word.isdigit()]
    stage, block = [*numbers, 1, 0][:2] if len(numbers) != 1 else (numbers[0], 0)
    return stage, block, kind


def _choice(gene: Gene, choices: Mapping[str, str]) -> int:
    kind = gene.name.rpartition(" ")[2]
    wanted = choices.get(kind, "")
    if kind == "depth" and wanted.isdigit():
        wanted = str(min(int(wanted), int(gene.choices[-1])))
    if kind == "depthwise" and wanted == "none" and wanted not in gene.choices:
        return 0
    if wanted not in gene.choices:
        raise InputError(unknown(f"choice of {kind}", wanted, gene.choices))
    return gene.choices.index(wanted)


class GhostImageNet(GhostSpace):
    """Mobile networks of Ghost modules for images of 224 x 224 pixels.

    GhostNet 0.5x, 1.0x and 1.3x are members.
    """

    name: ClassVar[str] = "ghost/imagenet"
    reference_io: ClassVar[IO] = IO.image(channels=3, side=224, outputs=1000)
    preset: ClassVar[Preset] = Preset(
        stem=16,
        stem_stride=2,
        stages=(
            Stage(16, 1, (1, 2)),
            Stage(24, 2, (1, 2, 3)),
            Stage(40, 2, (1, 2, 3)),
            Stage(80, 2, (2, 3, 4)),
            Stage(112, 1, (1, 2, 3)),
            Stage(160, 2, (3, 4, 5)),
        ),
        head=960,
        features=1280,
        resolutions=(4 / 7, 5 / 7, 6 / 7, 1),
        widths=(0.5, 0.75, 1, 1.3),
        expansions=(1, 2, 2.3, 2.5, 3, 4, 6),
        outputs=(0.75, 1, 1.25),
        kernels=(3, 5, 7),
    )

    def __init__(self, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2) -> None:
        super().__init__(dropout=dropout)

    def ghostnet(self, width: str = "1") -> Architecture:
        """GhostNet as published, of width 0.5, 1 or 1.3 (Han et al., 2020, table 1).

        Raises:
            InputError: The space does not have the width.
        """
        rest = {"outputs": "1", "expand": "ghost 2 3", "project": "ghost 2 3", "resolution": "1", "width": width}
        choices = []
        for gene in self.genes:
            stage, block, kind = _place(gene)
            rows = GHOSTNET[stage - 1]
            expansion, squeeze, kernel = rows[min(block, len(rows) - 1)]
            table = {"depth": str(len(rows)), "expansion": expansion, "squeeze": squeeze, "depthwise": kernel}
            choices.append(_choice(gene, {kind: (rest | table)[kind]}))
        return self.member(choices)


GHOSTNET = (
    [("1", "no", "none")],
    [("3", "no", "3"), ("3", "no", "none")],
    [("3", "yes", "5"), ("3", "yes", "none")],
    [("6", "no", "3"), ("2.5", "no", "none"), ("2.3", "no", "none"), ("2.3", "no", "none")],
    [("6", "yes", "none"), ("6", "yes", "none")],
    [("6", "yes", "5"), ("6", "no", "none"), ("6", "yes", "none"), ("6", "no", "none"), ("6", "yes", "none")],
)
"""Expansion, squeeze-and-excitation and depth-wise convolution of each of GhostNet's bottlenecks, by stage."""


class GhostCIFAR(GhostSpace):
    """Mobile networks of Ghost modules for images of 32 x 32 pixels."""

    name: ClassVar[str] = "ghost/cifar"
    reference_io: ClassVar[IO] = IO.image(channels=3, side=32, outputs=10)
    preset: ClassVar[Preset] = Preset(
        stem=16,
        stem_stride=1,
        stages=(
            Stage(16, 1, (1, 2)),
            Stage(24, 2, (1, 2, 3)),
            Stage(48, 2, (1, 2, 3)),
            Stage(96, 1, (1, 2, 3)),
            Stage(160, 2, (1, 2, 3)),
        ),
        head=320,
        features=320,
        resolutions=(0.75, 0.875, 1),
        widths=(0.5, 0.75, 1),
        expansions=(1, 2, 3, 4, 6),
        outputs=(0.75, 1, 1.25),
        kernels=(3, 5, 7),
    )


class GhostSmall(GhostSpace):
    """Mobile networks of Ghost modules for images of 8 to 28 pixels; quick to train."""

    name: ClassVar[str] = "ghost/small"
    reference_io: ClassVar[IO] = IO.image(channels=1, side=16, outputs=10)
    preset: ClassVar[Preset] = Preset(
        stem=8,
        stem_stride=2,
        stages=(Stage(8, 1, (1, 2)), Stage(16, 2, (1, 2, 3)), Stage(32, 2, (1, 2, 3))),
        head=64,
        features=64,
        resolutions=(0.75, 1),
        widths=(0.5, 0.75, 1, 1.5),
        expansions=(1, 2, 3, 4),
        outputs=(0.75, 1, 1.25),
        kernels=(3, 5),
    )
