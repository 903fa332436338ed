"""Thresholds of a comparison, for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from searchpipe.errors import ConfigError
from searchpipe.replay.compare_figures import Check, GroupComparison, SideFigures
from searchpipe.replay.entry import Entry
from searchpipe.settings import Settings

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Rise = Annotated[float, msgspec.Meta(ge=-1.0)]


class Thresholds(Settings, frozen=True):
    """What B may lose against A; None is not checked.

    Attributes:
        max_p99_increase: of the P99 latency, relative: 0.1 for 10%.
        max_p50_increase: of the median, relative.
        max_ndcg_loss: of the mean nDCG@10, absolute.
        max_rr_loss: of the mean reciprocal rank of clicks, absolute.
        min_rbo: mean overlap of the pages at least.
        max_failed_increase: of the share of queries without an answer, absolute; always checked.
    """

    max_p99_increase: _Rise | None = None
    max_p50_increase: _Rise | None = None
    max_ndcg_loss: _Share | None = None
    max_rr_loss: _Share | None = None
    min_rbo: _Share | None = None
    max_failed_increase: _Share = 0.001


def check_all(whole: GroupComparison, a: SideFigures, b: SideFigures, limits: Thresholds) -> list[Check]:
    """Every threshold that was set, and the share of failures; a figure that is missing fails."""
    found = [_failures(a, b, limits.max_failed_increase)]
    for name, limit, difference in (
        ("p99_increase", limits.max_p99_increase, whole.latency_p99),
        ("p50_increase", limits.max_p50_increase, whole.latency_p50),
    ):
        if limit is not None:
            low, high = difference.relative_low, difference.relative_high
            found.append(_at_most(name, limit, difference.relative, low, high))
    for name, limit, difference in (
        ("ndcg_loss", limits.max_ndcg_loss, whole.ndcg_at_10),
        ("rr_loss", limits.max_rr_loss, whole.rr),
    ):
        if limit is not None:
            ends = _minus(difference.high), _minus(difference.low)
            found.append(_at_most(name, limit, _minus(difference.difference), *ends))
    if limits.min_rbo is not None:
        overlap = whole.overlap
        mean, limit = overlap.mean, limits.min_rbo
        passed = mean is not None and mean >= limit
        end = overlap.low if passed else overlap.high
        certain = end is not None and (end >= limit) == passed
        found.append(Check("rbo", limit, mean, overlap.low, overlap.high, passed, certain))
    return found


def check_possible(limits: Thresholds, entries: Sequence[Entry]) -> None:
    """Refuse thresholds that the log can say nothing about, before minutes of searching.

    Raises:
        ConfigError: a loss of nDCG without labels, or of the reciprocal rank without clicks.
    """
    if limits.max_ndcg_loss is not None and not any(entry.labels for entry in entries):
        raise ConfigError("A loss of nDCG cannot be checked: no query of the log has labels.")
    if limits.max_rr_loss is not None and not any(entry.clicks for entry in entries):
        raise ConfigError("A loss of reciprocal rank cannot be checked: no query of the log has clicks.")


def _failures(a: SideFigures, b: SideFigures, limit: float) -> Check:
    shares = []
    for side in (a, b):
        failed = sum(side.failed.values())
        shares.append(failed / (failed + side.answered) if failed + side.answered else 1.0)
    rise = shares[1] - shares[0]
    # B must answer something, however bad A is.
    passed = rise <= limit and b.answered > 0
    return Check("failed_increase", limit, rise, None, None, passed, True)


def _at_most(name: str, limit: float, value: float | None, low: float | None, high: float | None) -> Check:
    passed = value is not None and value <= limit
    end = high if passed else low
    certain = end is not None and (end <= limit) == passed
    return Check(name, limit, value, low, high, passed, certain)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
