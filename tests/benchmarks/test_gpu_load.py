"""How much of the time a GPU works, from the spans that a profiler gives."""

from __future__ import annotations

import pytest

from benchmarks.gpu_load import covered_time


def test_spans_are_counted_once_and_short_gaps_apart() -> None:
    us = 1e-6
    spans = [(10 * us, 14 * us), (0 * us, 3 * us), (1 * us, 2 * us), (4 * us, 6 * us), (5 * us, 7.5 * us)]
    found = covered_time(spans)
    # 0 to 3, 4 to 7.5 and 10 to 14; the gap of 1 us is short, that of 2.5 us is the host's.
    assert found.busy == pytest.approx(10.5 * us)
    assert found.gaps == pytest.approx(1 * us)


def test_nothing_is_no_time() -> None:
    assert covered_time([]).busy == covered_time([]).gaps == 0.0
