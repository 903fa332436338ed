"""How much of the time a GPU works, from the spans that a profiler gives."""

from __future__ import annotations

import pytest

from benchmarks.gpu_load import Span, by_call, covered_time

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


def test_a_call_has_what_began_in_it() -> None:
    work = spans((3, 5, "a"), (5.5, 7, "b"), (11, 12, "c"), (103, 104, "a"), (150, 151, "x"))
    calls = spans((0, 20, "call 0"), (60, 90, "call 1"), (100, 110, "call 2"))
    first, last = by_call(work, calls)
    told = (first.busy, first.gaps, first.before, first.after, first.longest)
    assert told == pytest.approx([4.5 * US, 0.5 * US, 3 * US, 8 * US, 4 * US])
    assert (last.busy, last.before, last.after) == pytest.approx((1 * US, 3 * US, 6 * US))
    assert last.longest == 0.0


def test_nothing_is_no_time() -> None:
    nothing = covered_time([])
    assert (nothing.busy, nothing.gaps, nothing.idle) == (0.0, 0.0, ())
