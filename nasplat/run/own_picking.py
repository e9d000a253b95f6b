"""A run's own folder `picking/`, with what was picked for it, wherever the run is now."""

import os
from pathlib import Path

from nasplat.config import PluginConfig, SearchConfig
from nasplat.data.picked import ABOUT, FOLDER, PREFIX


def at_home(config: SearchConfig, run: Path) -> SearchConfig:
    """The configuration of a run; if the run has images that were picked for it, they are read from where it is now.

    The configuration names the place where the run was created, but runs are moved, copied and recovered.
    """
    options = config.benchmark.options
    if not str(options.get("dataset")).startswith(PREFIX):
        return config
    if not os.path.isfile(run / FOLDER / ABOUT):  # noqa: PTH113  an impossible name is a missing file
        return config
    here = options | {"dataset": f"{PREFIX}{run.absolute()}"}
    return config.model_copy(update={"benchmark": PluginConfig(name=config.benchmark.name, **here)})
