"""The figures of a replay's report; their JSON schema is checked in as ``report.schema.json``."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec

REPORT_FORMAT = 1
"""Raised when a reader of older reports would misread a newer one."""


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of values in milliseconds, each within 1%; null where there is no value."""

    count: int
    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None


class QualityFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Means over the answered queries that have labels (nDCG@10, recall of the page) or clicks (rr).

    ``rr`` is the reciprocal rank of the first clicked product, 0 where none is on the page.
    """

    labelled: int
    ndcg_at_10: float | None
    recall: float | None
    clicked: int
    rr: float | None


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All queries, or those of one traffic stratum.

    ``latency_ms`` is from the intended start, of answered, timed out and dropped queries (a
    dropped one counts with the patience of its caller at least); shed ones and errors are apart,
    for they would make a broken target look fast. ``service_ms`` is the target's own account of
    the answered ones. ``goodput_per_s`` counts answers within their budget, by latency.
    ``cached`` counts answers out of the target's result cache: with any, latency is that of the cache too.
    """

    queries: int
    answered: int
    shed: int
    errors: int
    timeouts: int
    dropped: int
    latency_ms: Quantiles
    service_ms: Quantiles
    throughput_per_s: float
    within_budget: int
    goodput_per_s: float
    degraded: int
    degraded_share: float | None
    cached: int
    quality: QualityFigures


class StageFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage over all answers: its mean start after the query's, and its time."""

    stage: str
    start_ms: float
    ms: Quantiles


class DegradationFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers that one stage degraded for one reason; ``amount`` is the mean share given up."""

    stage: str
    reason: str
    queries: int
    share: float
    amount: float


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Queries whose intended start lies within ``width_s`` seconds from ``at_s``.

    ``answered_per_s`` alone counts the answers that came within it, whenever they were asked for.
    """

    at_s: float
    width_s: float
    arrived_per_s: float
    answered_per_s: float
    good_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    degraded: int
    shed: int
    errors: int
    timeouts: int
    dropped: int


class CurvePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latency at one quantile."""

    q: float
    ms: float


class BrokenFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the log that could not be used."""

    line: int
    reason: str
    excerpt: str


class LogFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was met in the log as far as it was read; several passes count once."""

    path: str
    lines: int
    entries: int
    broken: int
    reasons: dict[str, int]
    first_broken: list[BrokenFigures]
    out_of_order: int
    beyond_window: int


class ScorerFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the batches of a GPU scorer were like during the replay."""

    requests: int
    batches: int
    rows: int
    rows_per_batch: float | None
    real_tokens: int
    padded_tokens: int
    padding_share: float | None
    late_rows: int
    failed_batches: int


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replay. Times in seconds and milliseconds as named; shares from 0 to 1.

    ``duration_s`` is what was measured, without the warm-up. ``start_lag_ms`` is how late
    queries were sent, because all callers were busy or the load generator was.
    """

    format: int
    searchpipe: str
    started: str
    machine: dict[str, str]
    target: str
    snapshots: dict[str, int]
    load: str
    duration_s: float
    warm_up_s: float
    warm_up_queries: int
    interrupted: bool
    not_started: int
    log: LogFigures
    whole: Group
    strata: dict[str, Group]
    stages: list[StageFigures]
    degradations: list[DegradationFigures]
    errors: dict[str, int]
    start_lag_ms: Quantiles
    curve: list[CurvePoint]
    timeline: list[Interval]
    scorer: ScorerFigures | None = None


def report_schema() -> dict[str, Any]:
    """JSON schema of :class:`Report`, from the structs themselves."""
    return schema_of(Report, "Report of searchpipe replay")


def schema_of(kind: type[msgspec.Struct], title: str) -> dict[str, Any]:
    """JSON schema of a struct, the same bytes with every version of Python."""
    # Through JSON, which knows no tuples.
    schema = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(kind)))
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = cleandoc(definition["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
