"""A Lightning module trained in a function of one's own; needs pip install 'nasplat[lightning]'"""

import logging

import pytorch_lightning as lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nasplat


class Classifier(lightning.LightningModule):
    """Trains a network as a classifier."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(self.network(images), labels)

    def test_step(self, batch: list[Tensor]) -> None:
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def perceptron(depth: int, width: int) -> nn.Module:
    """A multi-layer perceptron for images of 8 x 8 pixels."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in [64] + [width] * (depth - 1):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


space = nasplat.space(
    genes={"depth": (1, 2, 3), "width": (8, 16, 32, 64)}, build=perceptron, input_shape=(1, 8, 8), outputs=10
)


def evaluate(
    network: nn.Module, *, epochs: int = 3, device: str, split: str, learning_rate: float = 0.01
) -> dict[str, float]:
    """Train and measure a network by Lightning's trainer."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    images, labels = load_digits(return_X_y=True)
    examples = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)
    part = slice(1500, None) if split == "test" else slice(1200, 1500)
    training = DataLoader(TensorDataset(*(each[:1200] for each in examples)), batch_size=100, shuffle=True)
    measuring = DataLoader(TensorDataset(*(each[part] for each in examples)), batch_size=300)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Classifier(network, learning_rate)
    if epochs:
        trainer.fit(module, training)
    (metrics,) = trainer.test(module, measuring, verbose=False)
    network.to(device)
    return {"accuracy": metrics["accuracy"]}


if __name__ == "__main__":
    run = nasplat.search(
        space=space, benchmark=evaluate, objectives=["accuracy:max", "params:min"], evaluations=6, out="runs/lightning"
    )
    for trial in run.front():
        print(trial.architecture, trial.metrics)
