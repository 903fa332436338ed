"""Putting entries into the order of time within a window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from searchpipe.replay.entry import Entry
from searchpipe.replay.reader import ReadNotes, in_order

times = st.lists(st.integers(0, 50), max_size=60)


@given(times, st.integers(1, 10))
def test_nothing_is_lost_and_time_never_falls(found: list[int], window: int) -> None:
    notes = ReadNotes()
    entries = [Entry(float(ts), str(number)) for number, ts in enumerate(found)]
    given_out = list(in_order(iter(entries), window, notes))
    assert sorted(e.query for e in given_out) == sorted(e.query for e in entries)
    assert [e.ts for e in given_out] == sorted(e.ts for e in given_out)
    newest = [max(found[: place + 1]) for place in range(len(found))]
    assert notes.out_of_order == sum(ts < high for ts, high in zip(found, newest, strict=True))
    assert notes.beyond_window <= notes.out_of_order
    if not notes.beyond_window:
        assert [e.ts for e in given_out] == sorted(map(float, found))


@given(times)
def test_a_window_as_long_as_the_log_sorts_it(found: list[int]) -> None:
    notes = ReadNotes()
    entries = [Entry(float(ts), "x") for ts in found]
    assert [e.ts for e in in_order(iter(entries), 60, notes)] == sorted(map(float, found))
    assert notes.beyond_window == 0
