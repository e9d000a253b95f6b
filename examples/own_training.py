"""A search with a network and a training of one's own: python examples/own_training.py"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import nasplat
from nasplat.authoring.checkpoint import Checkpoint
from nasplat.authoring.reporting import Reporter


def cnn(depth: int, width: int, kernel: int, pool: bool) -> nn.Module:
    """A plain convolutional network for grey images of 8 x 8 pixels."""
    layers: list[nn.Module] = []
    for inputs in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(inputs, width, kernel, padding="same"), nn.BatchNorm2d(width), nn.ReLU()]
    size = 1 if pool else 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(width * size**2, 10))


space = nasplat.space(
    genes={"depth": (1, 2, 3), "width": (4, 8, 16), "kernel": (3, 5), "pool": (True, False)},
    build=cnn,
    input_shape=(1, 8, 8),
    outputs=10,
)


def digits(part: slice, device: str) -> tuple[Tensor, Tensor]:
    """Images `[n, 1, 8, 8]` and labels `[n]`."""
    images, labels = load_digits(return_X_y=True)
    scaled = torch.tensor(images[part] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return scaled.to(device), torch.tensor(labels[part]).to(device)


def evaluate(
    network: nn.Module,
    *,
    epochs: int = 4,
    device: str,
    split: str,
    checkpoint: Checkpoint,
    report: Reporter,
    learning_rate: float = 0.01,
) -> dict[str, Tensor]:
    """Train on 1,200 digits, and measure on 300 others."""
    images, labels = digits(slice(1200), device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    state = checkpoint.load() or {"epoch": 0}
    if state["epoch"]:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(state["epoch"], epochs):
        for batch in torch.randperm(1200).split(100):
            loss = functional.cross_entropy(network.train()(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report(epoch + 1, {"loss": loss}, images=1200)
        checkpoint.save({"epoch": epoch + 1, "network": network.state_dict(), "optimizer": optimizer.state_dict()})
    images, labels = digits(slice(1500, None) if split == "test" else slice(1200, 1500), device)
    with torch.no_grad():
        right = network.eval()(images).argmax(1) == labels
    return {"accuracy": right.float().mean()}


if __name__ == "__main__":
    run = nasplat.search(
        space=space, benchmark=evaluate, objectives=["accuracy:max", "params:min"], evaluations=10, out="runs/own"
    )
    for trial in run.front():
        print(trial.architecture, trial.metrics)
