"""Drop-path: terms of a network's sums are dropped at random in training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from nasplat.errors import TrialFailed


@runtime_checkable
class Branched(Protocol):
    """A module that sums the outputs of other modules and lists these drop-path branches."""

    @property
    def drop_path_branches(self) -> Sequence[nn.Module]:
        """Modules whose outputs `[batch, ...]` are only used as terms of sums. Identities are not included."""


class DropPath:
    """Drops each term of a sum for some images (Larsson et al., 2017, "FractalNet").

    Every term is dropped independently for every image. The remaining terms are scaled by 1 / (1 - p), so the
    expectation of the sum does not change. p rises linearly over the training, from 0 to the highest value (Zoph et
    al., 2018, "Learning transferable architectures": ScheduledDropPath). All terms of a sum may be dropped at once, as
    in DARTS (Liu et al., 2019). Identities are never dropped.

    Drop-path uses hooks, which are removed afterwards, so the network itself is not changed. It draws from torch's
    global generator of the network's device.

    Args:
        network: The network that is trained. If it supports drop-path but has no branches to drop, it is trained as it
            is.
        highest: p at the end of the training, 0 <= highest < 1.

    Raises:
        TrialFailed: No module of the network lists its drop-path branches.
    """

    def __init__(self, network: nn.Module, highest: float) -> None:
        sums = [module for module in network.modules() if isinstance(module, Branched)]
        if not sums:
            raise TrialFailed(
                "no drop-path branches",
                f"drop-path leaves out terms of sums, but no module of {type(network).__name__} has "
                "`drop_path_branches`; add that to its space's networks, or leave out benchmark.recipe.drop_path",
            )
        self._branches = [branch for module in sums for branch in module.drop_path_branches]
        self._highest = highest

    @contextmanager
    def acting(self, progress: Callable[[], float]) -> Iterator[None]:
        """Drop-path is active inside this context.

        Args:
            progress: Gives the completed fraction of the training, from 0 to 1; called in every step.
        """

        def drop(branch: nn.Module, given: tuple[Tensor, ...], term: Tensor) -> Tensor:
            return dropped(term, self._highest * progress())

        with ExitStack() as hooks:
            for branch in self._branches:
                hooks.callback(branch.register_forward_hook(drop).remove)
            yield


def dropped(term: Tensor, probability: float) -> Tensor:
    """A term `[batch, ...]`, set to zero for each image with the given probability, and scaled up otherwise."""
    kept = 1 - probability
    chance = term.new_empty([len(term), *[1] * (term.ndim - 1)]).bernoulli_(kept)
    return term * chance.div_(kept)
