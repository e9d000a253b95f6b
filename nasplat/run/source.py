"""Where the members of a retraining come from, as its run directory keeps it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nasplat.config import PluginConfig
from nasplat.objective import Objective

Count = Annotated[int, Field(ge=0)]


class _Recorded(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Origin(_Recorded):
    """What the search measured of a member.

    Args:
        trial: Its trial in the search.
        metrics: What was measured there, costs included.
        fidelity: After how many epochs.
    """

    trial: Count
    metrics: dict[str, float]
    fidelity: Count


class Source(_Recorded):
    """A search, and what was picked from it.

    Args:
        run: Its directory, as it was given.
        strategy: Its strategy by name, with all options.
        space: Its search space, likewise.
        benchmark: Its benchmark, likewise.
        objectives: What it wanted, as ``accuracy:max``; the first is what retrained values are compared with.
        evaluations: How many it had made.
        seed: All its randomness came from it.
        members: What was measured of what was picked, by code.
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
