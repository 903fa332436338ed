from __future__ import annotations

import math
import pickle
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe._core import Histogram

LEAST, MOST = 1e-9, 1e12
POINTS = np.array([0.0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0])

tracked = st.one_of(
    st.floats(LEAST, MOST),
    st.floats(math.log(LEAST), math.log(MOST)).map(lambda x: min(max(math.exp(x), LEAST), MOST)),
    st.sampled_from([LEAST, MOST, 1.0]),
)
errors = st.sampled_from([0.001, 0.01, 0.05, 0.5])


def filled(values: list[float], relative_error: float = 0.01) -> Histogram:
    histogram = Histogram(relative_error=relative_error)
    histogram.record_many(np.array(values, np.float64))
    return histogram


@settings(max_examples=200, deadline=None)
@given(st.lists(tracked, min_size=1, max_size=60), errors, st.floats(0, 1))
def test_quantiles_are_within_the_stated_error(values: list[float], error: float, point: float) -> None:
    histogram = filled(values, error)
    for q in (point, *POINTS.tolist()):
        exact = sorted(values)[int(q * (len(values) - 1))]
        assert abs(histogram.quantile(q) - exact) <= exact * error * (1 + 1e-9)
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values), rel=1e-12)
    assert (histogram.min, histogram.max) == (min(values), max(values))
    assert histogram.quantiles(POINTS).tolist() == [histogram.quantile(q) for q in POINTS.tolist()]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.one_of(tracked, st.just(0.0)), max_size=20), max_size=5))
def test_merging_equals_recording_in_one(parts: list[list[float]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(filled(part))
    whole = filled([value for part in parts for value in part])
    one_by_one = Histogram()
    for value in (value for part in parts for value in part):
        one_by_one.record(value)
    for other in (whole, one_by_one):
        assert merged.count == other.count
        assert merged.sum == pytest.approx(other.sum, rel=1e-12)
        np.testing.assert_array_equal([merged.min, merged.max], [other.min, other.max])
        np.testing.assert_array_equal(merged.quantiles(POINTS), other.quantiles(POINTS))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(tracked, st.just(0.0)), max_size=30), errors)
def test_bytes_and_pickle_keep_everything(values: list[float], error: float) -> None:
    histogram = filled(values, error)
    for copy in (Histogram.from_bytes(histogram.to_bytes()), pickle.loads(pickle.dumps(histogram))):
        assert copy.relative_error == error
        assert copy.to_bytes() == histogram.to_bytes()
        np.testing.assert_array_equal(copy.quantiles(POINTS), histogram.quantiles(POINTS))
        copy.record(1.0)
        assert copy.count == histogram.count + 1


def test_nothing_recorded() -> None:
    histogram = Histogram()
    assert (histogram.count, histogram.sum, histogram.relative_error) == (0, 0.0, 0.01)
    assert math.isnan(histogram.quantile(0.5))
    assert math.isnan(histogram.min)
    assert math.isnan(histogram.max)
    assert np.isnan(histogram.quantiles(POINTS)).all()
    histogram.record_many(np.empty(0))
    assert histogram.count == 0


def test_values_outside_of_the_tracked_range() -> None:
    histogram = filled([0.0, 1e-12, 5.0, 1e15, 1e300])
    assert histogram.quantile(0.0) == histogram.quantile(0.25) == 0.0
    assert histogram.quantile(0.5) == pytest.approx(5.0, rel=0.01)
    assert histogram.quantile(0.75) == histogram.quantile(1.0) == 1e300
    assert filled([MOST, 1e15]).quantile(0.0) == pytest.approx(MOST, rel=0.01)
    overflowing = filled([1.7e308, 1.7e308])
    assert overflowing.sum == math.inf
    assert Histogram.from_bytes(overflowing.to_bytes()).sum == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-300])
def test_refused_values_leave_nothing(value: float) -> None:
    histogram = Histogram()
    with pytest.raises(ValueError, match="finite and not negative"):
        histogram.record(value)
    with pytest.raises(ValueError, match="finite and not negative"):
        histogram.record_many(np.array([1.0, value, 2.0]))
    assert (histogram.count, histogram.sum) == (0, 0.0)
    assert math.isnan(histogram.max)


def test_refused_arguments() -> None:
    for error in (0.0, -0.1, 0.51, 1e-5, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"relative_error is .*0.0001 to 0.5"):
            Histogram(relative_error=error)
    for q in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"outside of 0\.\.1"):
            Histogram().quantile(q)
    with pytest.raises(TypeError, match=r"float32, not float64"):
        Histogram().record_many(np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"0.01 and 0.02 cannot be merged"):
        Histogram().merge(Histogram(relative_error=0.02))


def test_merging_with_itself_doubles() -> None:
    histogram = filled([1.0, 2.0])
    histogram.merge(histogram)
    assert (histogram.count, histogram.sum) == (4, 6.0)


def test_damaged_bytes_are_refused() -> None:
    good = filled([0.0, 1.0, 2.0, 3.5]).to_bytes()
    for position in range(len(good)):
        for damaged in (
            good[:position] + bytes([good[position] ^ 0x41]) + good[position + 1 :],
            good[:position],
        ):
            with pytest.raises(RuntimeError, match="no histogram"):
                Histogram.from_bytes(damaged)
    with pytest.raises(RuntimeError, match="do not begin with SPHISTOG"):
        Histogram.from_bytes(b"x" * 200)
    with pytest.raises(RuntimeError, match="version is 9"):
        Histogram.from_bytes(good[:12] + struct.pack("<I", 9) + good[16:])


def test_many_threads_record_merge_and_read() -> None:
    histogram, second = Histogram(), Histogram()
    second.record_many(np.full(10, 3.0))
    failures: list[float] = []

    def record() -> None:
        for _ in range(300):
            histogram.record(1.0)
            histogram.record_many(np.array([2.0, 4.0]))
            histogram.merge(second)

    def read() -> None:
        for _ in range(300):
            value = histogram.quantile(0.5)
            if not (math.isnan(value) or 0.99 <= value <= 4.04):
                failures.append(value)
            Histogram.from_bytes(histogram.to_bytes())

    threads = [threading.Thread(target=target) for target in (record, record, record, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert histogram.count == 3 * 300 * 13
    assert histogram.sum == 3 * 300 * (1 + 6 + 30)
