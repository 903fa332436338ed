"""Two versions' answers to the same queries, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, quantiles

from searchpipe.page import Page
from searchpipe.replay.rbo import rbo

BROKEN = frozenset({"stage_failed", "bad_scores", "missing_input", "unavailable", "circuit_open"})
"""Reasons of degradations that are no matter of time: something does not work."""


def page_overlap(one: Page, other: Page) -> float:
    """Rank-biased overlap of two pages' products, 0 to 1; two empty pages are equal."""
    return rbo([hit.id for hit in one], [hit.id for hit in other])


def score_difference(one: Page, other: Page) -> float:
    """Mean absolute difference of the scores of products on both pages; NaN without any."""
    scores = {hit.id: hit.score for hit in one}
    shared = [abs(scores[hit.id] - hit.score) for hit in other if hit.id in scores]
    return fmean(shared) if shared else math.nan


def broken_parts(page: Page) -> list[str]:
    """What does not work, as ``stage: what was given up``, scores that are not finite included."""
    found = [f"{d.stage}: {d.reason}, {d.given_up}" for d in page.degradations if d.reason in BROKEN]
    for hit in page:
        bad = [n for n, value in {"score": hit.score, **hit.scores}.items() if not math.isfinite(value)]
        if bad:
            found.append(f"the {bad[0]} of product {hit.id} is not a finite number")
            break
    return found


def mean_of(values: list[float]) -> float:
    """The mean of those that are numbers; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def quantile(values: list[float], point: float) -> float:
    """A quantile by linear interpolation; NaN without values. ``point`` is a multiple of 0.01 inside 0..1."""
    if len(values) < 2:
        return values[0] if values else math.nan
    return quantiles(values, n=100, method="inclusive")[round(100 * point) - 1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found of a new version beside the live one; figures without a value are NaN.

    Attributes:
        compared: queries that both answered.
        failed: queries that the new one could not answer.
        dropped: queries that were not compared because the queue was full.
        overlap: mean rank-biased overlap of the pages, 0 to 1.
        score_difference: mean absolute difference of the scores of shared products.
        new_ms: latency of the new version: the median (check) or the ninth decile (shadow).
        live_ms: likewise of the live one.
        emptied: share of the queries that only the live one finds something for, 0 to 1.
        degraded: share of the new one's answers that were degraded, 0 to 1.
    """

    compared: int = 0
    failed: int = 0
    dropped: int = 0
    overlap: float = math.nan
    score_difference: float = math.nan
    new_ms: float = math.nan
    live_ms: float = math.nan
    emptied: float = 0.0
    degraded: float = 0.0
