"""The origin of the members of a retraining, as recorded in its run directory."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nasplat.config import PluginConfig
from nasplat.objective import Objective

Count = Annotated[int, Field(ge=0)]


class _Recorded(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Origin(_Recorded):
    """The measurement of a member in the search.

    Args:
        trial: The number of the trial in the search.
        metrics: The metrics of that trial, costs included.
        fidelity: The fidelity of that trial, in epochs.
        errors: The layers that were fitted to this network: of each the squared error of its weights, relative to the
            squared weights.
    """

    trial: Count
    metrics: dict[str, float]
    fidelity: Count
    errors: dict[str, float] = {}


class Source(_Recorded):
    """A search, and the members that were picked from it.

    Args:
        run: The directory of the search, as the user gave it.
        strategy: The name of its strategy, with all options.
        space: The name of its search space, with all options.
        benchmark: The name of its benchmark, with all options.
        objectives: Its objectives, as ``accuracy:max``. Retrained values are compared with the first one.
        evaluations: The number of evaluations in the search.
        seed: The random seed of the search.
        members: The search's measurement of each picked member, by code.
    """

    run: str
    strategy: PluginConfig
    space: PluginConfig
    benchmark: PluginConfig
    objectives: list[str] = Field(min_length=1)
    evaluations: Count
    seed: Count
    members: dict[str, Origin] = Field(min_length=1)

    @field_validator("objectives")
    @classmethod
    def _parse(cls, objectives: list[str]) -> list[str]:
        for text in objectives:
            Objective.parse(text)
        return objectives
