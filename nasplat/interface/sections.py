"""The sections of a configuration that name a plug-in, with the registry of each."""

from typing import Any

from nasplat.registry import BENCHMARKS, SEARCH_SPACES, STRATEGIES, Registry

REGISTRIES: dict[str, Registry[Any]] = {"space": SEARCH_SPACES, "benchmark": BENCHMARKS, "strategy": STRATEGIES}
