"""A search for the choices in a network of one's own, with shared weights: python examples/choices.py"""

import torch
from torch import Tensor, nn

import nasplat


class Net(nn.Module):
    """A network for grey images of 8 x 8 pixels, of which some decisions are open."""

    def __init__(self, input_shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        width = nasplat.number("width", (8, 16))
        self.stem = nasplat.choice(
            "stem",
            {
                "conv3": lambda: nn.Conv2d(input_shape[0], width, 3, padding=1),
                "conv5": lambda: nn.Conv2d(input_shape[0], width, 5, padding=2),
            },
        )
        self.norm = nn.BatchNorm2d(width)
        self.body = nasplat.choice(
            "body",
            {
                "none": nn.Identity,
                "conv3": lambda: nn.Conv2d(width, width, 3, padding=1),
                "depthwise": lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
            },
        )
        self.classify = nn.Linear(width * 16, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[n, outputs]` of images `[n, channels, 8, 8]`."""
        features = torch.relu(self.norm(self.stem(images)))
        features = torch.relu(self.body(features))
        logits: Tensor = self.classify(nn.functional.adaptive_avg_pool2d(features, 4).flatten(1))
        return logits


if __name__ == "__main__":
    run = nasplat.search(
        space=Net,
        benchmark={"name": "classification", "dataset": "digits", "epochs": 10},
        strategy={"name": "cars", "population": 4},
        objectives=["accuracy:max", "params:min"],
        evaluations=12,
        out="runs/choices",
    )
    for trial in run.front():
        print(trial.architecture, trial.metrics)
    network = nasplat.load(run.export(), space=Net)
    print(network)
