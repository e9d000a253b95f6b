"""Transforms, one module each; see `nasplat.transform` for the contract."""

from nasplat.registry import TRANSFORMS

TRANSFORMS.register("full_stack", "nasplat.transforms.full_stack:FullStackFilters")
TRANSFORMS.register("ghost", "nasplat.transforms.ghost:Ghost")
