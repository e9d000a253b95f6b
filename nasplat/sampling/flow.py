"""A normalizing flow: a density that is fitted to draws, and that can be drawn from."""

from collections.abc import Mapping

import torch
import zuko
from torch import Tensor

from nasplat.training.fit import below
from nasplat.training.optimizer_state import load_optimizer, optimizer_state, prefixed
from nasplat.training.seeding import seeded


class Flow:
    """A flow of affine couplings (RealNVP; Dinh et al., 2017), by the package `zuko`.

    Args:
        dimensions: The dimensions of a draw, at least 2.
        couplings: The number of couplings.
        width: The width of the two hidden layers of each coupling.
        learning_rate: That of Adam.
        seed: Draws the first weights.
    """

    def __init__(
        self, dimensions: int, *, couplings: int = 4, width: int = 64, learning_rate: float = 1e-3, seed: int = 0
    ) -> None:
        self.dimensions = dimensions
        with seeded(seed):
            self.network = zuko.flows.RealNVP(dimensions, transforms=couplings, hidden_features=(width, width))
        self._optimizer = torch.optim.Adam(self.network.parameters(), learning_rate)

    def log_density(self, items: Tensor) -> Tensor:
        """The logarithm of the density of draws `[n]`."""
        found: Tensor = self.network().log_prob(items)
        return found

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws `[count, dimensions]`, without gradients."""
        noise = torch.randn(count, self.dimensions, generator=generator)
        with torch.no_grad():
            found: Tensor = self.network().transform.inv(noise)
        return found

    def fit(self, items: Tensor, steps: int, batch: int, generator: torch.Generator) -> float:
        """Take steps towards the highest likelihood of draws `[n, dimensions]`. Returns the last batch's mean."""
        value = 0.0
        for _ in range(steps):
            rows = torch.randint(len(items), (min(batch, len(items)),), generator=generator)
            loss = -self.log_density(items[rows]).mean()
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self._optimizer.step()
            value = -loss.item()
        return value

    def state(self) -> dict[str, Tensor]:
        """All that goes on: weights and what the optimizer keeps."""
        return prefixed("network.", self.network.state_dict()) | prefixed(
            "optimizer.", optimizer_state(self._optimizer)
        )

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            KeyError, RuntimeError, ValueError: The state is of another flow.
        """
        self.network.load_state_dict(below("network.", state))
        load_optimizer(self._optimizer, below("optimizer.", state))
