"""The exponential moving average of a network's weights and statistics over the steps of its training."""

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """A copy of a network that follows it slowly: after each step, average = d · average + (1 - d) · network.

    d is the decay, but in step t, from 0, no more than (1 + t) / (10 + t), so that a short training does not keep the
    weights that it began with. Batch norm's statistics are averaged as weights are; what counts is copied.

    Args:
        network: What is followed, on its device; it keeps its tensors from now on.
        decay: The largest part of the average that a step keeps, 0 <= decay < 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self, step: int) -> None:
        """Take in what the network has become by a step of training, the first of which is 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, theirs = _columns(self._averaged)
        get_ema_multi_avg_fn(decay)(mine, theirs, step)  # type: ignore[no-untyped-call]
        for ours, its in self._copied:
            ours.copy_(its)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]
