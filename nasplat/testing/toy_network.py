"""A tiny network with convolutions of many kinds, for the checks of transforms."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE, CHANNELS, OUTPUTS = 12, 3, 5


class ToyNetwork(nn.Module):
    """Ordinary, depth-wise, grouped, strided and dilated convolutions, and one in two places.

    Images `[B, 3, 12, 12]` to `[B, 5]`. The layers `again` and `same` are one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(CHANNELS, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 1, groups=2)
        self.wide = nn.Conv2d(16, 32, 3, stride=2, padding=1, padding_mode="circular", bias=False)
        self.again = nn.Conv2d(32, 32, 1)
        self.same = self.again
        self.dilated = nn.Conv2d(32, 12, 3, dilation=2, padding="same")
        self.head = nn.Linear(12, OUTPUTS)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(images)))
        x = functional.relu(self.wide(functional.relu(self.grouped(self.depthwise(x)))))
        x = self.dilated(functional.relu(self.same(functional.relu(self.again(x)))))
        logits: Tensor = self.head(torch.flatten(x.mean((2, 3)), 1))
        return logits
