"""What goes over the wire, as OpenAPI shows it. Answers are written without these classes, for speed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 10.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Whole = Annotated[int, BeforeValidator(_whole)]


class SearchBody(BaseModel):
    """A query."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: Annotated[str, Field(min_length=1, description="What the user typed.", examples=["red shoes"])]
    k: Annotated[_Whole, Field(ge=1, le=2**31 - 1, description="Hits wanted.")] = 10
    filters: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="Column -> value, list of values, or operators.",
            examples=[{"price": {"lte": 50}}],
        ),
    ]
    context: Annotated[dict[str, Any], Field(default_factory=dict, description="User and session features.")]
    budget_ms: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="Milliseconds; the configured budget if absent."),
    ] = None
    stages: Annotated[
        dict[str, bool],
        Field(
            default_factory=dict,
            description="Stage -> false to leave it out of this query.",
            examples=[{"score": False}],
        ),
    ]
    priority: Annotated[_Whole, Field(ge=-100, le=100, description="Higher goes first.")] = 0


class HitBody(BaseModel):
    """One product on the page."""

    rank: int
    id: str
    score: float | None
    scores: dict[str, float | None]
    fields: dict[str, Any]
    reasons: list[str]


class DegradationBody(BaseModel):
    """Something given up to answer in time."""

    stage: str
    reason: str
    given_up: str
    amount: float


class SpanBody(BaseModel):
    """One stage's part of the trace, in milliseconds from the query's start."""

    stage: str
    start_ms: float
    ms: float
    n_in: int
    n_out: int
    decision: str
    units: int


class TraceBody(BaseModel):
    """What happened to the query."""

    total_ms: float
    budget_ms: float | None
    longest_step_ms: float
    spans: list[SpanBody]


class PageBody(BaseModel):
    """The answer to a query."""

    query: str
    hits: list[HitBody]
    degradations: list[DegradationBody]
    trace: TraceBody
    snapshot: str
    extras: dict[str, Any]
    engine: str


class FieldProblem(BaseModel):
    """One field of a request that is not valid."""

    field: str
    message: str


class Problem(BaseModel):
    """Why there is no answer."""

    code: str
    message: str
    cure: str
    fields: list[FieldProblem]


class ErrorBody(BaseModel):
    """Every answer that is not the one asked for."""

    error: Problem


class HealthBody(BaseModel):
    """The state of the service."""

    status: str


class StageBody(BaseModel):
    """One stage of the pipeline."""

    name: str
    essential: bool
    settings: str


class AboutBody(BaseModel):
    """What is served."""

    version: str
    snapshot: str
    products: int
    default_budget_ms: float
    max_budget_ms: float
    max_k: int
    stages: list[StageBody]
