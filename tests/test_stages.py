"""A transform for each stage of a network: options of one stage do not depend on what the others are."""

import pytest

from nasplat.errors import InputError
from nasplat.nn.full_stack import FullStackConv2d
from nasplat.nn.rewritten import rewritten
from nasplat.options import construct
from nasplat.registry import SEARCH_SPACES
from nasplat.search_space import SearchSpace


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
    with pytest.raises(InputError, match="at most the 16 filters of the widest layer, but got 64"):
        wide = space([2, 64])
        wide.check_io(wide.reference_io)
    fitting = space([2, 16])
    fitting.check_io(fitting.reference_io)
