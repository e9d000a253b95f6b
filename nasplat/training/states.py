"""States of trainings as artifacts: the network that they belong to, and how trainings resume from them."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from torch import Tensor

from nasplat.artifact import Artifacts, Handle
from nasplat.errors import TrialFailed
from nasplat.task import Evaluate
from nasplat.training.fit import Training

ARCHITECTURE = "architecture"
"""The key of the network's name in a state. Different networks may have the same shapes."""


def named(state: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """The state with the name of its network added."""
    return {**state, ARCHITECTURE: torch.tensor(list(network.encode()), dtype=torch.uint8)}


def named_state(handle: Handle, wanted: str, artifacts: Artifacts) -> dict[str, Tensor]:
    """The state to resume from, without the name. It must belong to the wanted network.

    Raises:
        TrialFailed: The artifact is not a state, or belongs to another network.
        ArtifactError: The artifact is missing or damaged.
    """
    try:
        state = artifacts.get_tensors(handle)
    except SafetensorError as error:
        raise TrialFailed("not a state", f"the artifact to continue from is not a safetensors file: {error}") from None
    if ARCHITECTURE not in state:
        raise TrialFailed("not a state", "the artifact to continue from is not a training state")
    of = bytes(state.pop(ARCHITECTURE).tolist()).decode(errors="replace")
    if of != wanted:
        raise TrialFailed("another network", f"the state to continue from is of {of}, but the task is for {wanted}")
    return state


def train_for(task: Evaluate, training: Training, artifacts: Artifacts, *, epochs: int | None = None) -> int:
    """Train for the task. If it continues from a state, the training resumes from it.

    Args:
        task: The task.
        training: The training of its network.
        artifacts: The store that the state is read from.
        epochs: The number of epochs in all; by default the task's fidelity.

    Returns:
        The number of images processed for the task.

    Raises:
        TrialFailed: The state does not match, or is beyond the fidelity, or training diverged.
    """
    wanted = task.fidelity if epochs is None else epochs
    if task.continues is not None:
        training.restore(named_state(task.continues, str(task.architecture), artifacts))
        if training.done >= wanted:
            raise TrialFailed(
                "already past it",
                f"the state to continue from is of {training.done} epochs, but the task asks for {wanted}; ask "
                "for more epochs, or start without the state",
            )
    return training.until(wanted)
