"""Weights and states of trainings as artifacts: the network that they belong to, and how trainings begin with them."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from nasplat.architecture import IO, Architecture
from nasplat.artifact import Artifacts, Handle
from nasplat.errors import TrialFailed
from nasplat.nn.counting import check_params
from nasplat.search_space import SearchSpace
from nasplat.task import Evaluate
from nasplat.training.fit import Training
from nasplat.training.seeding import seeded
from nasplat.transform import Transforming

LONGEST = 300
"""The longest reason in a message, in characters; torch names every weight that does not fit."""
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


def trained_network(
    space: SearchSpace,
    architecture: Architecture,
    weights: Handle,
    io: IO,
    artifacts: Artifacts,
    *,
    called: str = "the weights",
) -> nn.Module:
    """The network of an architecture with the weights of an artifact, on the CPU.

    Args:
        space: The search space.
        architecture: The network's architecture.
        weights: Where its weights are.
        io: The inputs and outputs that it is built for.
        artifacts: The store.
        called: What a message calls the weights.

    Raises:
        TrialFailed: The weights do not fit the network.
        ArtifactError: The artifact is missing or damaged.
    """
    with seeded(0):  # whatever it is made with is replaced
        network = space.build(architecture, io)
    data = artifacts.get(weights)
    try:
        network.load_state_dict(load(data))
    except (RuntimeError, SafetensorError) as error:  # torch refuses weights of another shape so
        reason = " ".join(str(error).split())
        raise TrialFailed(
            "another network",
            f"{called} do not fit {architecture}: {reason[:LONGEST]}{'…' * (len(reason) > LONGEST)}",
        ) from None
    return network


def transformed_network(task: Evaluate, space: SearchSpace, io: IO, device: str, artifacts: Artifacts) -> nn.Module:
    """The network of a task, with weights that are fitted to those of its original.

    Raises:
        TrialFailed: The task has no original, or its space no transform; or the weights do not fit the original.
        ArtifactError: The original's weights are missing or damaged.
    """
    tuning = task.tuning
    if tuning is None or tuning.original is None or not isinstance(space, Transforming):
        raise TrialFailed("no original", f"{space.name} transforms no network, or the task names no original")
    original = trained_network(space, tuning.original, tuning.weights, io, artifacts)
    network = space.fitted(task.architecture, original.to(device)).network
    if task.architecture.space == space.name:
        check_params(network, space, task.architecture, io)
    return network


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
