"""Drop-path: terms of a network's sums are left out at random while it is trained."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from nasplat.errors import TrialFailed


@runtime_checkable
class Branched(Protocol):
    """A module that adds up what others give, and says which of them are such terms."""

    @property
    def branches(self) -> Sequence[nn.Module]:
        """Modules whose outputs `[batch, ...]` are terms of sums and nothing else; those that only pass on are not."""


class DropPath:
    """Leaves each term of a sum out for some images (Larsson et al., 2017, "FractalNet").

    Every term has a chance of its own for every image; those that stay are scaled up by 1 / (1 - p), so that the
    expectation of the sum does not change. p rises linearly over the training, from 0 to the highest (Zoph et al.,
    2018, "Learning transferable architectures": ScheduledDropPath). All terms of a sum may be left out at
    once, as in DARTS (Liu et al., 2019), and identities never are.

    It acts by hooks, so that the network is as it was before and after. Draws from torch's global generator of the
    network's device.

    Args:
        network: What is trained; a member of a space that happens to have nothing to leave out is trained as it is.
        highest: p at the end of the training, 0 <= highest < 1.

    Raises:
        TrialFailed: No module of the network says which terms may be left out.
    """

    def __init__(self, network: nn.Module, highest: float) -> None:
        sums = [module for module in network.modules() if isinstance(module, Branched)]
        if not sums:
            raise TrialFailed(
                "no branches",
                f"drop-path leaves out terms of sums, but no module of {type(network).__name__} says by `branches` "
                "which these are; add that to its space's networks, or leave out benchmark.recipe.drop_path",
            )
        self._branches = [branch for module in sums for branch in module.branches]
        self._highest = highest

    @contextmanager
    def acting(self, progress: Callable[[], float]) -> Iterator[None]:
        """Terms are left out within.

        Args:
            progress: How much of the training is done, from 0 to 1; asked in every step.
        """

        def drop(branch: nn.Module, given: tuple[Tensor, ...], term: Tensor) -> Tensor:
            return dropped(term, self._highest * progress())

        with ExitStack() as hooks:
            for branch in self._branches:
                hooks.callback(branch.register_forward_hook(drop).remove)
            yield


def dropped(term: Tensor, probability: float) -> Tensor:
    """A term `[batch, ...]` that is zero for about so large a part of the images, and scaled up for the others."""
    kept = 1 - probability
    chance = term.new_empty([len(term), *[1] * (term.ndim - 1)]).bernoulli_(kept)
    return term * chance.div_(kept)
