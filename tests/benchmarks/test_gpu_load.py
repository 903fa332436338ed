"""How much of the time a GPU works, from the spans that a profiler gives."""

from __future__ import annotations

import pytest

from benchmarks.gpu_load import PAUSE_S, Span, between_pauses, covered_time, summed

US = 1e-6


def spans(*times: tuple[float, float, str]) -> list[Span]:
    return [Span(start * US, end * US, name) for start, end, name in times]


def test_spans_are_counted_once_and_short_gaps_apart() -> None:
    found = covered_time(spans((10, 14, "c"), (0, 3, "a"), (1, 2, "x"), (4, 6, "x"), (5, 7.5, "b")))
    # 0 to 3, 4 to 7.5 and 10 to 14; the gap of 1 us is short, that of 2.5 us is the host's.
    assert found.busy == pytest.approx(10.5 * US)
    assert found.gaps == pytest.approx(1 * US)
    [wait] = found.idle
    assert (wait.before, wait.after, wait.times) == ("b", "c", 1)
    assert wait.seconds == pytest.approx(2.5 * US)


def test_waits_are_told_by_what_is_around_them() -> None:
    found = covered_time(
        spans((0, 1, "a"), (5, 6, "b"), (16, 17, "a"), (20, 21, "b"), (19.5, 21.5, "c"), (40, 41, "a"))
    )
    told = [(wait.before, wait.after, wait.times, round(wait.seconds / US, 3)) for wait in found.idle]
    assert told == [("c", "a", 1, 18.5), ("b", "a", 1, 10), ("a", "b", 1, 4), ("a", "c", 1, 2.5)]
    assert found.busy + found.gaps + sum(wait.seconds for wait in found.idle) == pytest.approx(41 * US)


def test_calls_are_told_apart_by_pauses() -> None:
    pause = PAUSE_S / US
    work = spans(
        (pause + 8, pause + 9, "a"),
        (0, 7, "a"),
        (3, 5, "b"),
        (10, 11, "c"),
        (2 * pause + 10, 2 * pause + 12, "c"),
        (2 * pause + 2, 2 * pause + 7, "a"),
        (3 * pause + 13, 3 * pause + 14, "x"),
    )
    calls = between_pauses(work)
    assert [[span.name for span in one] for one in calls] == [["a", "b", "c", "a", "a", "c"], ["x"]]
    assert between_pauses([]) == []


def test_calls_are_summed_without_the_pauses_between_them() -> None:
    one = covered_time(spans((0, 1, "a"), (4, 6, "b"), (7, 8, "c")))
    other = covered_time(spans((100, 101, "a"), (106, 107, "b"), (110, 112, "c")))
    whole = summed([one, other])
    assert whole.busy == pytest.approx(8 * US)
    assert whole.gaps == pytest.approx(1 * US)
    told = [(wait.before, wait.after, wait.times, round(wait.seconds / US, 3)) for wait in whole.idle]
    assert told == [("a", "b", 2, 8), ("b", "c", 1, 3)]


def test_nothing_is_no_time() -> None:
    nothing = covered_time([])
    assert (nothing.busy, nothing.gaps, nothing.idle) == (0.0, 0.0, ())
