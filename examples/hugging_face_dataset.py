"""A Hugging Face data set in a function of one's own; needs pip install 'nasplat[datasets]'"""

import torch
from datasets import Dataset
from numpy.random import default_rng
from torch import Tensor, nn
from torch.nn import functional

import nasplat


def texts(split: str) -> Dataset:
    """Sequences of 12 tokens, labelled by whether more of them are even; `datasets.load_dataset` gives real ones."""
    tokens = default_rng(["training", "validation", "test"].index(split)).integers(32, size=(600, 12))
    labels = (tokens % 2).mean(axis=1) < 0.5
    made: Dataset = Dataset.from_dict({"tokens": tokens.tolist(), "label": labels.astype(int).tolist()})
    return made.with_format("torch")


class Bag(nn.Module):
    """The mean of embeddings, and a perceptron on it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, width)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[batch, 2]` of tokens `[batch, 12]`."""
        scores: Tensor = self.head(self.embedding(tokens.long()).mean(1))
        return scores


space = nasplat.space(genes={"width": (2, 4, 8, 16), "hidden": (4, 8, 16)}, build=Bag, input_shape=(12,), outputs=2)


def evaluate(network: nn.Module, *, epochs: int = 5, device: str, split: str) -> dict[str, float]:
    """Train and measure a network on batches of the data set."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for epoch in range(epochs):
        for batch in texts("training").shuffle(seed=epoch).iter(batch_size=50):
            loss = functional.cross_entropy(network(batch["tokens"].to(device)), batch["label"].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    right = 0
    with torch.no_grad():
        for batch in texts(split).iter(batch_size=300):
            right += int((network(batch["tokens"].to(device)).argmax(1) == batch["label"].to(device)).sum())
    return {"accuracy": right / 600}


if __name__ == "__main__":
    run = nasplat.search(
        space=space, benchmark=evaluate, objectives=["accuracy:max", "params:min"], evaluations=6, out="runs/texts"
    )
    for trial in run.front():
        print(trial.architecture, trial.metrics)
