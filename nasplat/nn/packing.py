"""Networks as they are stored and shipped, with each rewritten layer in its packed form."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nasplat.nn.rewritten import Packed, Rewritten, rewritten


def packed(network: nn.Module) -> nn.Module:
    """A deep copy of a network, in which the packed form of each rewritten layer stands in its place.

    A layer that is used in several places has one packed form in all of them. The network itself may be such a layer.
    """
    forms = {id(layer): layer.packed() for _, layer in rewritten(network)}
    return copy.deepcopy(network, dict(forms))  # a deep copy takes what it is given as the copy of an object


def dense(network: nn.Module) -> nn.Module:
    """A deep copy of a network, with an ordinary layer for each rewritten one that has such a form.

    What reads the weights of a network, as upscaling in strips does, can then read them.
    """
    forms = {id(layer): form for _, layer in rewritten(network) if (form := layer.dense()) is not None}
    return copy.deepcopy(network, dict(forms))


def unpack(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the weights of a network's packed form into it.

    Args:
        network: The network with its rewritten layers.
        state: The state dict of a packed form of the same network.

    Raises:
        RuntimeError: Names or shapes are not those of the network's packed form. The network is then as before.
    """
    if not any(rewritten(network)):
        network.load_state_dict(state)
        return
    form = packed(network)
    form.load_state_dict(state)
    with torch.no_grad():
        _take(network, form)


def _take(module: nn.Module, form: nn.Module) -> None:
    if isinstance(module, Rewritten):
        module.unpack(form)
        return
    own, others = ((*each.parameters(recurse=False), *each.buffers(recurse=False)) for each in (module, form))
    for mine, other in zip(own, others, strict=True):
        mine.copy_(other)
    for child, other_child in zip(module.children(), form.children(), strict=True):
        _take(child, other_child)


def packed_names(network: nn.Module) -> set[str]:
    """The names of all parameters and buffers of packed layers, as in a state dict, with those of shared layers."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, layer in network.named_modules(remove_duplicate=False)
        if isinstance(layer, Packed)
        for name, _ in (*layer.named_parameters(remove_duplicate=False), *layer.named_buffers(remove_duplicate=False))
    }
