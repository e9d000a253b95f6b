"""A transform for each stage of a network: options of one stage do not depend on what the others are."""

from collections import OrderedDict

import pytest
from torch import nn

from nasplat.architecture import IO, Architecture
from nasplat.config import with_transform
from nasplat.errors import InputError
from nasplat.nn.full_stack import FullStackConv2d
from nasplat.nn.rewritten import rewritten
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import Gene, GeneSpace, SearchSpace


def space(filters: list[int]) -> SearchSpace:
    """Networks of 4, 8 and 16 maps, with choices of full-stack filters."""
    options = {"per": "stage", "filters": filters}
    made = construct("space", SEARCH_SPACES.get("nasbench201+full_stack"), channels=4, cells=1, transform=options)
    assert isinstance(made, SearchSpace)
    return made


def test_a_narrow_stage_may_have_the_ratio_of_a_wide_one_that_has_another() -> None:
    narrow = space([2, 16])
    architecture = narrow.parse("432110.211")  # stages 2 and 3 are rewritten before stage 1
    network = narrow.build(architecture, narrow.reference_io)
    ratios = [layer.stack.ratio for _, layer in rewritten(network) if isinstance(layer, FullStackConv2d)]
    assert set(ratios) == {2, 16}


@pytest.mark.slow  # it counts, which torch needs seconds to be ready for
def test_a_ratio_above_the_widest_layer_is_refused_before_a_search() -> None:
    for filters in ([2, 64], [64, 2]):
        wide = space(filters)
        with pytest.raises(InputError, match="at most the 16 filters of the widest layer, but got 64"):
            wide.check_io(wide.reference_io)
    fitting = space([2, 16])
    fitting.check_io(fitting.reference_io)


class Stem(GeneSpace):
    """Two convolutions, each a stage."""

    genes = (Gene("width", ("4", "8")),)

    def build(self, architecture: Architecture, io: IO) -> nn.Module:
        width = int(str(self.chosen(architecture)["width"]))
        return nn.Sequential(
            OrderedDict(
                a=nn.Sequential(nn.Conv2d(io.input_shape[0], 4, 3)),
                b=nn.Sequential(nn.Conv2d(4, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                c=nn.Linear(width, io.outputs),
            )
        )


def test_the_first_convolution_stays_the_first_when_it_is_rewritten() -> None:
    options = {"per": "stage", "stem": [True, False], "filters": 2}
    made = construct("space", SEARCH_SPACES.transformed(Stem, ["full_stack"]), transform=options)
    assert isinstance(made, SearchSpace)
    for code in ("0.120", "0.210", "0.110", "0.220"):
        network = made.build(made.parse(code), made.reference_io)
        found = [name for name, _ in rewritten(network)]
        assert found == (["a.0", "b.0"] if code[2] == "1" else ["b.0"]), code


@pytest.mark.parametrize(
    ("filters", "said"),
    [([2, 2], "different values"), ([], "different values"), (list(range(2, 60)), "at most 36 choices")],
)
def test_lists_that_make_no_choices_or_too_many_are_refused(filters: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        space(filters)


@pytest.mark.parametrize("section", [{"name": 5}, {"name": None}, {"name": [5]}, 5])
def test_a_section_of_another_form_is_refused(section: object) -> None:
    with pytest.raises(InputError, match="transform must be the name of a transform"):
        with_transform({"space": "nasbench201", "transform": section})
