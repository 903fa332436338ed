"""A forecast is the sum of the measured batches, behind what others have asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.runtime.forecast import Forecaster
from tests.runtime.row_model import packed_engine, random_store

BUCKETS = [(4, 16), (8, 16), (8, 32)]
COSTS = [(1.0, 0.0), (1.5, 0.0), (4.0, 0.0)]


@pytest.fixture
def forecaster() -> Forecaster:
    executor = _core.HostExecutor(lambda *arrays: None, BUCKETS, costs=COSTS)
    return Forecaster(executor)


@pytest.mark.parametrize(
    ("lengths", "milliseconds"),
    [
        ([16] * 4, 1.0),
        ([3] * 8, 1.5),
        ([32], 4.0),
        ([5, 20, 5], 4.0),
        ([9] * 12, 2.5),
        ([400], 4.0),
        ([], 0.0),
    ],
)
def test_the_cheapest_batches_are_summed(
    forecaster: Forecaster, lengths: list[int], milliseconds: float
) -> None:
    found = forecaster.predict(np.array(lengths, np.int32))
    assert found.wait_s == 0.0
    assert 0.0 <= found.run_s - milliseconds / 1e3 <= 1e-3


@pytest.mark.parametrize("length", [0, 1, 16, 17, 32, 33, 5000])
def test_one_row_is_forecast_as_the_only_one_of_many(forecaster: Forecaster, length: int) -> None:
    for given in (0, 16):
        with forecaster.running(given):
            assert forecaster.predict_row(length) == forecaster.predict(np.array([length], np.int32))


def test_what_others_have_asked_for_is_waited_for(forecaster: Forecaster) -> None:
    one = np.array([10], np.int32)
    with forecaster.running(16):
        # A row of unknown length is one of the widest: 4 ms for 8 of them.
        assert forecaster.predict(one).wait_s == pytest.approx(8e-3)
        with forecaster.running(8):
            assert forecaster.predict(one).wait_s == pytest.approx(12e-3)
        with pytest.raises(KeyError), forecaster.running(8):
            {}["a request that fails"]
        assert forecaster.predict(one).wait_s == pytest.approx(8e-3)
    assert forecaster.predict(one).wait_s == 0.0


def test_others_rows_of_known_length_cost_what_their_batches_cost(forecaster: Forecaster) -> None:
    one = np.array([10], np.int32)
    with forecaster.running(16, np.full(16, 16, np.int32)):
        assert forecaster.predict(one).wait_s == pytest.approx(3e-3)
        with forecaster.running(8, np.full(8, 32, np.int32)):
            assert forecaster.predict(one).wait_s == pytest.approx(7e-3)
    assert forecaster.predict(one).wait_s == 0.0


def test_an_outlook_is_lengths_and_forecast_in_one(forecaster: Forecaster, tmp_path: Path) -> None:
    store = random_store(tmp_path / "tokens", documents=40, longest=40, seed=4)
    packer = _core.PairPacker(cls_id=101, sep_id=102, max_query_tokens=4, max_doc_tokens=50, max_tokens=32)
    query = np.arange(2000, 2003, dtype=np.int32)
    for docs in (np.arange(40, dtype=np.int32)[::-1], np.array([3], np.int32), np.empty(0, np.int32)):
        with forecaster.running(16):
            found = forecaster.outlook(packer, store, query, docs)
            assert found.forecast == forecaster.predict(found.lengths)
            assert found.forecast.wait_s == forecaster.given_s > 0.0
        assert found.lengths.tolist() == packer.lengths(query, store, docs).tolist()
        assert found.tokens == found.lengths.sum()
    with pytest.raises(IndexError, match="document 40"):
        forecaster.outlook(packer, store, query, np.array([1, 40], np.int32))


def test_what_was_forecast_counts_as_what_was_measured(forecaster: Forecaster) -> None:
    lengths = np.full(12, 9, np.int32)
    with forecaster.running(12, lengths):
        measured = forecaster.given_s
    with forecaster.running(12, forecast=forecaster.predict(lengths)):
        assert forecaster.given_s == pytest.approx(measured)
    assert forecaster.given_s == 0.0
    with forecaster.running(0, forecast=forecaster.predict(lengths[:0])):
        assert forecaster.given_s == 0.0


def test_what_is_expected_depends_on_what_was_given_before(forecaster: Forecaster) -> None:
    alone = forecaster.expected_s(8)
    assert alone > forecaster.least_s == forecaster.expected_s(0)
    with forecaster.running(80):
        behind = forecaster.expected_s(8)
        assert behind > alone
        before_s = forecaster.given_s
        assert forecaster.expected_s(8, 0.0) == alone
    assert forecaster.expected_s(8) == alone
    assert forecaster.expected_s(8, before_s) == behind


def test_packed_rows_cost_what_their_tokens_cost(device: _core.Device) -> None:
    executor = _core.StagingRing([packed_engine(device, [(4, 32), (16, 32)], [])])
    found = Forecaster(executor)
    costs = [fixed / 1e3 for fixed, _ in executor.costs]
    (_, few), (rows, many) = executor.buckets
    assert executor.packed
    small = found.predict(np.array([few // 4] * 3, np.int32)).run_s
    assert 0.0 <= small - min(costs) <= 1e-3
    # One batch, although not one row is as long as the longest: lengths may be mixed.
    mixed = np.array([30, 2, 25, 9], np.int32)
    assert many >= mixed.sum()
    assert rows >= len(mixed)
    assert found.predict(mixed).run_s <= max(costs) + 1e-3
    with found.running(2):
        assert found.predict(mixed).wait_s > 0.0
