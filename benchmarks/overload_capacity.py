"""What the overload benchmark calls goodput and capacity, and the search for the capacity.

Every query that is asked counts, from its intended start. A machine that others use too makes single trials
fail, never succeed: so a rate is judged by the median of its trials, and the one at which the way up ended is
judged once more, from anew, before the search gives up.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from searchpipe.replay.capacity import Capacity, CapacitySettings, Probe, Run, find_capacity, holds_target
from searchpipe.replay.outcome import Outcome

GOOD_SHARE = 0.99
GOODPUT = (
    "answers a second, of any service, that came within the budget from the intended start of their query; "
    "not what was refused, late or lost"
)
CAPACITY = (
    f"the highest rate of Poisson arrivals of which at least {GOOD_SHARE:.0%} were answered within the "
    "budget from their intended start, in the median of the trials at that rate; found by doubling and "
    "bisection, the rate that failed last tried again"
)


def p99_of_all_ms(outcomes: Sequence[Outcome]) -> float:
    """The P99 from the intended start, ``inf`` for what got no answer: a rank, so that a share is one.

    It is within a budget if and only if at least 99 of 100 were answered within it. ``inf`` of nothing.
    """
    if not outcomes:
        return float("inf")
    latencies = [o.latency_ms if o.kind == "answered" else float("inf") for o in outcomes]
    return float(np.quantile(latencies, GOOD_SHARE, method="inverted_cdf"))


def trial(rate: float, seconds: float, outcomes: Sequence[Outcome], budget_ms: float) -> Run:
    """What one trial shows; its P99 is that of all that were asked, null if that is no answer."""
    answered = [o for o in outcomes if o.kind == "answered"]
    latencies = [o.latency_ms for o in answered]
    p99_ms = p99_of_all_ms(outcomes)
    return Run(
        rate=rate,
        queries=len(outcomes),
        answered_per_s=len(answered) / seconds,
        good_per_s=sum(latency <= budget_ms for latency in latencies) / seconds,
        p50_ms=float(np.median(latencies)) if latencies else None,
        p99_ms=p99_ms if p99_ms < float("inf") else None,
        failed_share=1 - len(answered) / max(1, len(outcomes)),
        degraded_share=sum(o.answer is not None and bool(o.answer.degradations) for o in answered)
        / max(1, len(answered)),
        start_lag_p99_ms=float(np.quantile([(o.started - o.at) * 1e3 for o in outcomes], 0.99))
        if outcomes
        else None,
    )


def settings_of(budget_ms: float, start_rate: float, trials: int) -> CapacitySettings:
    """Of the search; ``trials`` at a rate is odd."""
    return CapacitySettings(
        p99_ms=budget_ms,
        start_rate=start_rate,
        tolerance=0.05,
        repeats=trials,
        max_failed_share=round(1 - GOOD_SHARE, 6),
    )


def search(probe: Probe, settings: CapacitySettings) -> Capacity:
    """The capacity; where the rate that failed holds after all, of a second search from there."""
    found = find_capacity(probe, settings)
    steps = found.steps
    while found.rate is not None and found.fails_at is not None and _holds(probe, found.fails_at, settings):
        higher = find_capacity(probe, msgspec.structs.replace(settings, start_rate=found.fails_at))
        steps = [*steps, *higher.steps]
        if higher.rate is None or higher.rate <= found.rate:
            break
        found = higher
    return msgspec.structs.replace(found, steps=steps)


def _holds(probe: Probe, rate: float, settings: CapacitySettings) -> bool:
    """What the majority of new trials says, as soon as it is one."""
    needed, votes = settings.repeats // 2 + 1, [0, 0]
    while max(votes) < needed:
        votes[holds_target(probe(rate, sum(votes)), settings)] += 1
    return votes[True] >= needed


def described(found: Capacity) -> list[str]:
    """One line for each rate that was tried, in the order of the searches."""
    return [
        f"search: {step.rate:.0f}/s {'holds' if step.holds else 'fails'}, P99 of all "
        + ", ".join("no answer" if run.p99_ms is None else f"{run.p99_ms:.1f} ms" for run in step.runs)
        for step in found.steps
    ]
