"""Batches of a pipeline's GPU scorer: how full they were, and how much of them was padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from searchpipe.errors import SearchpipeError
from searchpipe.replay.figures import ScorerFigures

_NAMES = ("requests", "batches", "rows", "real_tokens", "padded_tokens", "late_rows", "failed_batches")


@dataclass(frozen=True, slots=True)
class ScorerCounts:
    """Counters of a scorer at one moment, as :class:`searchpipe._core.ScorerStats` has them."""

    values: dict[str, int]


def scorer_counts(pipeline: Any) -> ScorerCounts | None:
    """Of a pipeline whose cross-encoder runs on a GPU; None where it has no such counters."""
    scorer = getattr(getattr(pipeline, "gpu", None), "scorer", None)
    if scorer is None:
        return None
    try:
        stats = scorer.chain.scorer.stats()
    except SearchpipeError:
        return None  # no engine is ready
    return ScorerCounts({name: int(getattr(stats, name)) for name in _NAMES})


def scorer_figures(before: ScorerCounts | None, after: ScorerCounts | None) -> ScorerFigures | None:
    """What happened between two moments; None without counters, or if another engine took over."""
    if before is None or after is None:
        return None
    gone = {name: after.values[name] - before.values[name] for name in _NAMES}
    if min(gone.values()) < 0:
        return None
    rows, batches = gone["rows"], gone["batches"]
    real, padded = gone["real_tokens"], gone["padded_tokens"]
    return ScorerFigures(
        gone["requests"],
        batches,
        rows,
        rows / batches if batches else None,
        real,
        padded,
        1 - real / padded if padded else None,
        gone["late_rows"],
        gone["failed_batches"],
    )
