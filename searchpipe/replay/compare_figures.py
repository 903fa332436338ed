"""The figures of a comparison; their JSON schema is checked in as ``compare.schema.json``."""

from __future__ import annotations

from typing import Any

import msgspec

from searchpipe.replay.figures import LogFigures, schema_of
from searchpipe.replay.paired import Difference

COMPARISON_FORMAT = 1


class Overlap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rank-biased overlap of the pages that both sides answered, with the interval of its mean."""

    queries: int
    p: float
    mean: float | None
    low: float | None
    high: float | None
    p10: float | None
    same_pages: int


class SideFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One side by itself; failures by code, and answers out of its result cache."""

    name: str
    answered: int
    failed: dict[str, int]
    degraded: int
    degradations: dict[str, int]
    cached: int


class GroupComparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All queries or one stratum. Latencies in milliseconds; means over queries that both answered."""

    queries: int
    latency_mean: Difference
    latency_p50: Difference
    latency_p99: Difference
    ndcg_at_10: Difference
    recall: Difference
    rr: Difference
    overlap: Overlap


class PlacedItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place of a page."""

    id: str
    title: str
    score: float


class ChangedQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query whose pages differ much: both of them, as they were."""

    query: str
    rbo: float
    a_ms: float
    b_ms: float
    a_ndcg: float | None
    b_ndcg: float | None
    a: list[PlacedItem]
    b: list[PlacedItem]


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One threshold. ``passed``: the figure keeps it; ``certain``: its whole interval says the same."""

    name: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    passed: bool
    certain: bool


class ComparisonReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A against B on one log, query by query on the same machine."""

    format: int
    searchpipe: str
    started: str
    machine: dict[str, str]
    seed: int
    warm_up_queries: int
    interrupted: bool
    log: LogFigures
    a: SideFigures
    b: SideFigures
    whole: GroupComparison
    strata: dict[str, GroupComparison]
    changed: list[ChangedQuery]
    checks: list[Check]
    passed: bool


def comparison_schema() -> dict[str, Any]:
    """JSON schema of :class:`ComparisonReport`."""
    return schema_of(ComparisonReport, "Report of searchpipe compare")
