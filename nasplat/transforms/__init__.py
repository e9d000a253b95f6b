"""Transforms, one module each, and their use on any torch network; see `nasplat.transform` for the contract.

A network is made smaller by a name and options, here with weights that are fitted to its own::

    rewriting = nasplat.transforms.apply(torchvision.models.resnet50(), "full_stack", filters=4, fitted=True)
    nasplat.transforms.cost(rewriting.network, (3, 224, 224)).metrics()

Training such a network takes no more than what its layers say (`nasplat.nn.rewritten.Rewritten`): add their penalties
to the loss, leave their undecayed parameters without weight decay, and call `before_training` before the first step and
`after_step` after each.
"""

from nasplat.registry import TRANSFORMS
from nasplat.transforms.applying import apply, candidates, cost, pack, unpack

__all__ = ["apply", "candidates", "cost", "pack", "unpack"]

TRANSFORMS.register("balanced_binary", "nasplat.transforms.balanced_binary:BalancedBinary")
TRANSFORMS.register("full_stack", "nasplat.transforms.full_stack:FullStackFilters")
TRANSFORMS.register("ghost", "nasplat.transforms.ghost:Ghost")
TRANSFORMS.register("instance_pruning", "nasplat.transforms.instance_pruning:InstancePruning")
