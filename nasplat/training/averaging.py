"""The exponential moving average of a network's weights and statistics over the steps of its training."""

import copy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """A moving average of a network: after each step, average = d · average + (1 - d) · network.

    d is the decay, but in step t (from 0) at most (1 + t) / (10 + t), so a short training does not keep its initial
    weights. Batch norm's statistics are averaged as weights are. Counters are copied, and what is infinite at first.

    Args:
        network: The network to average, on its device. Its tensors must not be replaced afterwards.
        decay: The largest weight of the old average in a step, 0 <= decay < 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point() and bool(pair[0].isfinite().all())]
        averaged = {id(mine) for mine, _ in self._averaged}
        self._copied = [pair for pair in pairs if id(pair[0]) not in averaged]

    def update(self, step: int) -> None:
        """Update the average after a step of training; the first step is 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, theirs = _columns(self._averaged)
        get_ema_multi_avg_fn(decay)(mine, theirs, step)  # type: ignore[no-untyped-call]
        for ours, its in self._copied:
            ours.copy_(its)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]
