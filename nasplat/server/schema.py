"""What is asked and answered over HTTP."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema, create_model


def _whole(value: Any) -> Any:
    """A number that JSON has, such as 3.0, as the integer that it is to JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


TOP = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=1, description="How many of the best to return; by default all."),
    # After a validator pydantic spells the bound as its own word, which no schema knows.
    WithJsonSchema({"type": "integer", "minimum": 1, "description": "How many of the best to return; by default all."}),
]


class Metric(BaseModel):
    """The metric that values are of."""

    name: str = Field(description="Such as accuracy or latency_ms.")
    direction: Literal["max", "min"] = Field(description="Whether higher or lower values are better.")
    unit: str | None = Field(description="Such as fraction, dB or ms; null if the name of the metric does not say.")


METRIC: Any = Annotated[
    Metric | None,
    Field(description="Null if the saved predictor has none: values are then scores, of which higher are better."),
]


class Prediction(BaseModel):
    """The prediction for one architecture, or the reason why there is none."""

    architecture: str = Field(description="Its code; an excerpt of the given text if it cannot be read.")
    value: float | None = Field(description="The estimated value of the metric, in its unit and direction.")
    deviation: float | None = Field(description="The value's standard deviation in its unit, if the predictor has one.")
    error: str | None = Field(description="Why there is no value.")


class Predictions(BaseModel):
    """Predictions in the order of the request; each has a value or an error."""

    metric: METRIC
    predictions: list[Prediction]


class Ranked(BaseModel):
    """An architecture at its rank."""

    rank: int = Field(description="The rank; 1 is the best.")
    index: int = Field(description="The position in the request, from 0.")
    architecture: str = Field(description="Its code.")
    value: float = Field(description="The estimated value of the metric, in its unit and direction.")
    deviation: float | None = Field(description="The value's standard deviation in its unit, if the predictor has one.")


class Unranked(BaseModel):
    """An architecture that could not be ranked."""

    index: int = Field(description="The position in the request, from 0.")
    architecture: str = Field(description="An excerpt of what was given.")
    error: str = Field(description="Why there is no value.")


class Ranking(BaseModel):
    """Architectures, the best first; equal values in the order of the request."""

    metric: METRIC
    ranking: list[Ranked]
    errors: list[Unranked]


class Space(BaseModel):
    """A search space by name, with the options that it was made with."""

    name: str
    options: dict[str, Any]


class Limits(BaseModel):
    """The limits of a request."""

    batch: int = Field(description="Maximum number of architectures.")
    body_bytes: int = Field(description="Maximum size of the body in bytes.")
    code_characters: int = Field(description="Maximum number of characters of one architecture.")


class Model(BaseModel):
    """The predictor that is served."""

    predictor: str = Field(description="The registered name of the predictor.")
    options: dict[str, Any]
    space: Space
    deviations: bool = Field(description="Whether predictions have a standard deviation.")
    metric: METRIC
    values: str = Field(description="What the values of predictions are: the metric, its unit and direction in words.")
    about: dict[str, Any] = Field(description="The training set, and the cross-validated rank correlation.")
    digest: str = Field(description="The SHA-256 of the saved document; it identifies the predictor.")
    saved_with: dict[str, Any] = Field(description="Versions of packages when it was saved.")
    version: str = Field(description="The version of NASPlat on the server.")
    limits: Limits


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """What is wrong with a request."""

    code: str = Field(description="A short name of the rule.")
    message: str = Field(description="The rule, what was given, and the remedy.")


class Refusal(BaseModel):
    """The format of all errors."""

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
            description="Codes, or other texts that the space reads, such as the official strings of NAS-Bench-201.",
        ),
    ]
    literal: Any = Literal  # of a name that only the running program knows
    named: Any = Annotated[literal[space] | None, Field(description="If given, it must be the space that is served.")]
    asked = create_model("Architectures", __config__=config, architectures=(architectures, ...), space=(named, None))
    ranked = create_model(
        "ToRank", __config__=config, architectures=(architectures, ...), space=(named, None), top=(TOP | None, None)
    )
    return asked, ranked
