"""A forecast is the sum of the measured batches, behind what others have asked for."""

from __future__ import annotations

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.runtime.forecast import Forecaster
from tests.runtime.row_model import packed_engine

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
