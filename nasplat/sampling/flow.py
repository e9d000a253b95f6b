"""A normalizing flow: a density that is fitted to draws, and that can be drawn from."""

from typing import Any

import torch
import zuko
from torch import Tensor

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

    def state(self) -> dict[str, Any]:
        """All that goes on: weights and the optimizer's state."""
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
