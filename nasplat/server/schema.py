"""What is asked and answered over HTTP."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema, create_model


def _whole(value: Any) -> Any:
    """A number that JSON has, such as 3.0, as the integer that it is to JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


TOP = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=1, description="Only so many of the best."),
    # After a validator pydantic spells the bound as its own word, which no schema knows.
    WithJsonSchema({"type": "integer", "minimum": 1, "description": "Only so many of the best."}),
]


class Prediction(BaseModel):
    """What is predicted of one architecture, or why nothing is."""

    architecture: str = Field(description="Its code; of what cannot be read, an excerpt.")
    score: float | None = Field(description="The more the better; only the order is promised to mean something.")
    deviation: float | None = Field(description="The score's standard deviation, if the predictor knows it.")
    error: str | None = Field(description="Why there is no score.")


class Predictions(BaseModel):
    """Predictions in the order of the architectures; whether there is a score is told for each."""

    predictions: list[Prediction]


class Ranked(BaseModel):
    """An architecture at its rank."""

    rank: int = Field(description="From 1, the best.")
    index: int = Field(description="Its place in the request, from 0.")
    architecture: str = Field(description="Its code.")
    score: float
    deviation: float | None


class Unranked(BaseModel):
    """What has no rank."""

    index: int = Field(description="Its place in the request, from 0.")
    architecture: str = Field(description="An excerpt of what was given.")
    error: str = Field(description="Why there is no score.")


class Ranking(BaseModel):
    """Architectures, the best first; equal scores in the order of the request."""

    ranking: list[Ranked]
    errors: list[Unranked]


class Space(BaseModel):
    """A search space by name, with the options that it was made with."""

    name: str
    options: dict[str, Any]


class Limits(BaseModel):
    """What a request may have."""

    batch: int = Field(description="Architectures.")
    body_bytes: int = Field(description="Bytes of the body.")
    code_characters: int = Field(description="Characters of one architecture.")


class Model(BaseModel):
    """What is served."""

    predictor: str = Field(description="The registered name.")
    options: dict[str, Any]
    space: Space
    deviations: bool = Field(description="Whether predictions have a standard deviation.")
    about: dict[str, Any] = Field(description="The training set, and the cross-validated rank correlation.")
    digest: str = Field(description="The SHA-256 of the saved document, which tells this predictor from all others.")
    saved_with: dict[str, Any] = Field(description="Versions of packages when it was saved.")
    version: str = Field(description="The version of NASPlat that serves.")
    limits: Limits


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """What is wrong with a request."""

    code: str = Field(description="A short name of the rule.")
    message: str = Field(description="The rule, what was given, and the remedy.")


class Refusal(BaseModel):
    """The one shape of all errors."""

    error: Problem


Requests: TypeAlias = tuple[type[BaseModel], type[BaseModel]]


def requests(space: str, batch: int, example: list[str]) -> Requests:
    """The bodies of predicting and of ranking, for a space and a limit.

    Args:
        space: The name of the space that is served.
        batch: The largest number of architectures.
        example: Codes for the documentation.
    """
    shown: dict[str, Any] = {"examples": [{"architectures": example}]}
    config = ConfigDict(strict=True, extra="forbid", json_schema_extra=shown)
    architectures: Any = Annotated[
        list[str],
        FailFast(),
        Field(
            max_length=batch,
            description="Codes, or whatever else the space reads, such as the official strings of NAS-Bench-201.",
        ),
    ]
    literal: Any = Literal  # of a name that only the running program knows
    named: Any = Annotated[literal[space] | None, Field(description="If given, it must be the space that is served.")]
    asked = create_model("Architectures", __config__=config, architectures=(architectures, ...), space=(named, None))
    ranked = create_model(
        "ToRank", __config__=config, architectures=(architectures, ...), space=(named, None), top=(TOP | None, None)
    )
    return asked, ranked
