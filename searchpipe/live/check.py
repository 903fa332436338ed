"""Golden queries: a new version answers them before anybody else asks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from searchpipe.cache import uncached
from searchpipe.errors import SearchpipeError, SwapError
from searchpipe.live import compare
from searchpipe.live.compare import Comparison
from searchpipe.live.settings import CheckSettings
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline

STANDARD = ("wireless headphones", "running shoes for women size 8")
"""Asked where no golden query is configured and none was asked lately."""

_FEW = 5  # queries; the median of fewer says nothing about latency

Ask = Callable[[str], Page]


def check(
    new: Pipeline,
    live: Ask | None,
    queries: Sequence[str],
    settings: CheckSettings,
    *,
    go_on: Callable[[], None] = lambda: None,
) -> Comparison:
    """Ask the new version, and the live one beside it, query by query.

    Args:
        new: not serving yet.
        live: asks the live version; None if there is none.
        queries: at least one.
        settings: the limits.
        go_on: called between two queries; may raise.

    Raises:
        SwapError: a query fails, a part is broken, a score is not finite, or a figure is outside its limit.
    """
    new_ms: list[float] = []
    live_ms: list[float] = []
    overlaps: list[float] = []
    differences: list[float] = []
    emptied = degraded = 0
    for text in queries:
        go_on()
        with uncached():
            page = _asked(new, text, settings.budget_ms)
        degraded += page.degraded
        new_ms.append(page.trace.total_ms)
        if live is None:
            continue
        try:
            with uncached():
                before = live(text)
        except SearchpipeError:
            continue  # the live version has its own troubles; they are no measure of the new one
        live_ms.append(before.trace.total_ms)
        overlaps.append(compare.page_overlap(before, page))
        differences.append(compare.score_difference(before, page))
        emptied += bool(before.hits) and not page.hits
    found = Comparison(
        compared=len(overlaps),
        overlap=compare.mean_of(overlaps),
        score_difference=compare.mean_of(differences),
        new_ms=median(new_ms),
        live_ms=median(live_ms) if live_ms else float("nan"),
        emptied=emptied / len(queries),
        degraded=degraded / len(queries),
    )
    _judge(found, settings)
    return found


def _asked(new: Pipeline, text: str, budget_ms: float) -> Page:
    try:
        page = new.search(text, budget_ms=budget_ms)
    except SearchpipeError as error:
        raise SwapError(f"The golden query {text!r:.80} failed: {error}") from error
    broken = compare.broken_parts(page)
    if broken:
        raise SwapError(f"The golden query {text!r:.80} was answered in part: {'; '.join(broken)}.")
    return page


def _judge(found: Comparison, settings: CheckSettings) -> None:
    if found.compared and found.overlap < settings.min_overlap:
        raise SwapError(
            f"The pages overlap by {found.overlap:.3f}; live.check.min_overlap is {settings.min_overlap:g}.",
            cure="Compare the two with searchpipe compare.",
        )
    if found.emptied > settings.max_emptied:
        raise SwapError(
            f"For {found.emptied:.0%} of the queries only the live version finds anything; "
            f"live.check.max_emptied is {settings.max_emptied:.0%}."
        )
    most = found.live_ms * settings.latency_ratio + settings.latency_slack_ms
    if found.compared >= _FEW and found.new_ms > most:
        raise SwapError(
            f"A golden query takes {found.new_ms:.1f} ms, and {found.live_ms:.1f} ms on the live version; "
            f"{most:.1f} ms are allowed.",
            cure="See live.check.latency_ratio and live.check.latency_slack_ms.",
        )
