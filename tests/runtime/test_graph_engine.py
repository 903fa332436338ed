"""Preparing engines: buckets, capture, replay without Python."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.backends.device_engine import Loaded, open_lanes
from tests.runtime.device_reader import DeviceReader
from tests.runtime.row_model import ENGINES, PTX, kernel_engine, row_scores

BUCKETS = [(8, 32), (32, 64), (8, 64), (8, 32)]


def test_buckets_are_captured_largest_first(device: _core.Device) -> None:
    calls: list[tuple[int, int]] = []
    engine = kernel_engine(device, BUCKETS, calls)
    assert engine.buckets == [(8, 32), (8, 64), (32, 64)]
    # Plain runs until the memory that is free stays the same (others may use the device), and a captured one.
    order = [bucket for i, bucket in enumerate(calls) if i == 0 or calls[i - 1] != bucket]
    assert order == [(32, 64), (8, 64), (8, 32)]
    assert all(3 <= calls.count(bucket) <= 7 for bucket in order)
    for report in engine.reports:
        assert report.captured
        assert report.reason == ""
        assert report.graph_nodes == 1
        assert report.milliseconds > 0.0


def test_replay_calls_no_python(
    device: _core.Device, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = ENGINES["graph"](device, BUCKETS)
    built.calls.clear()
    docs = np.arange(200, dtype=np.int32)
    assert built.scorer.submit_pairs(packer, store, np.array([5], np.int32), docs).wait(30)
    assert built.calls == []
    built.scorer.close()


def test_a_launch_runs_one_batch_of_what_the_inputs_hold(device: _core.Device) -> None:
    reader = DeviceReader()
    engine = kernel_engine(device, [(4, 16), (8, 16)], [])
    engine.launch(0)
    scores = reader.read(engine.stream, engine.addresses(4, 16)[1], 4).view(np.float32)
    ids = np.ones((4, 16), np.int32)  # what the smallest bucket, the last one, was prepared with
    np.testing.assert_array_equal(scores, row_scores(ids, ids, 0 * ids, 1)[:, 0])
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"bucket {index} of 2"):
            engine.launch(index)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.launch(0)
    with pytest.raises(RuntimeError, match="nothing to enqueue"):
        _core.GraphEngine(device, [(4, 16)]).launch(0)
    reader.close()


def test_addresses_are_aligned_and_apart(device: _core.Device) -> None:
    engine = _core.GraphEngine(device, [(3, 7), (5, 100)], inputs=2)
    inputs, output = engine.addresses(3, 7)
    assert len(inputs) == 2
    assert all(address % 256 == 0 for address in [*inputs, output])
    assert inputs[1] - inputs[0] >= 3 * 7 * 4


def test_what_enqueue_raises_is_told(device: _core.Device) -> None:
    engine = _core.GraphEngine(device, [(4, 16)])

    def enqueue(*_: object) -> None:
        raise ValueError("no such binding")

    engine.set_enqueue(enqueue)
    with pytest.raises(RuntimeError, match="ValueError: no such binding"):
        engine.prepare()
    with pytest.raises(ValueError, match="not prepared"):
        _core.StagingRing([engine])


def fails_while_captured(engine: _core.GraphEngine, device: _core.Device, *, stale_errors: int) -> list[str]:
    """Make the capture of `engine`, and so many runs after it, raise; return what every call did."""
    kernel = _core.Kernel(device, PTX, "row_scores")
    done: list[str] = []

    def enqueue(index: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
        capturing = _capturing(stream)
        if capturing or ("captured" in done and done.count("stale") < stale_errors):
            done.append("captured" if capturing else "stale")
            raise RuntimeError("operation not permitted when stream is capturing")
        done.append("ran")
        kernel.launch(stream, 1, 64, [*inputs, output, *bucket, 1])

    engine.set_enqueue(enqueue)
    return done


def _capturing(stream: int) -> bool:
    library = ctypes.CDLL(os.environ.get("SEARCHPIPE_LIBCUDA", "libcuda.so.1"))
    function, found = ctypes.c_void_p(), ctypes.c_int()
    library.cuGetProcAddress_v2(
        b"cuStreamIsCapturing", ctypes.byref(function), 12000, ctypes.c_uint64(1), ctypes.byref(found)
    )
    is_capturing = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(function.value)
    status = ctypes.c_int()
    assert is_capturing(stream, ctypes.addressof(status)) == 0
    return status.value != 0


@pytest.mark.parametrize("stale_errors", [0, 1, 2])
def test_after_a_failed_capture_the_plain_enqueue_goes_on(device: _core.Device, stale_errors: int) -> None:
    engine = _core.GraphEngine(device, [(8, 16)])
    done = fails_while_captured(engine, device, stale_errors=stale_errors)
    engine.prepare()
    assert not engine.reports[0].captured
    assert "not permitted when stream is capturing" in engine.reports[0].reason
    assert done.count("stale") == stale_errors
    assert done[-1] == "ran"
    engine.close()


def test_a_runtime_that_capture_broke_is_opened_anew(device: _core.Device) -> None:
    opened: list[list[str]] = []

    def load(lane: _core.GraphEngine) -> Loaded:
        kernel = _core.Kernel(device, PTX, "row_scores")
        done: list[str] = []
        opened.append(done)

        def enqueue(index: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
            if _capturing(stream) or "broken" in done:
                done.append("broken")
                raise RuntimeError("the session is broken")
            done.append("ran")
            kernel.launch(stream, 1, 64, [*inputs, output, *bucket, 1])

        return Loaded(enqueue, done)

    with open_lanes(
        "model", "runtime", device=device, buckets=[(8, 16)], inputs=3, output_width=1, load=load, lanes=2
    ) as engine:
        assert len(opened) == 3  # the broken one, and two that are never captured
        assert "broken" not in opened[1] + opened[2]
        assert "capture broke the runtime: RuntimeError: the session is broken" in engine.describe()


def test_an_engine_that_enqueues_nothing_is_not_captured(device: _core.Device) -> None:
    engine = _core.GraphEngine(device, [(4, 16)])
    engine.set_enqueue(lambda *_: None)
    engine.prepare()
    assert not engine.reports[0].captured
    assert "nothing was captured" in engine.reports[0].reason


@pytest.mark.parametrize(
    ("buckets", "options", "message"),
    [
        ([], {}, "at least one bucket"),
        ([(0, 16)], {}, "bucket 0 x 16"),
        ([(4, 1 << 20)], {}, "bucket 4 x 1048576"),
        ([(4, 16)], {"inputs": 4}, "not 4"),
        ([(4, 16)], {"output_width": 0}, "output_width is 0"),
    ],
)
def test_impossible_shapes_are_refused(
    device: _core.Device, buckets: list[tuple[int, int]], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.GraphEngine(device, buckets, **options)
    with pytest.raises(ValueError, match=message):
        _core.HostExecutor(lambda *_: None, buckets, **options)


def test_lanes_must_be_alike(device: _core.Device) -> None:
    calls: list[tuple[int, int]] = []
    lanes = [kernel_engine(device, [(4, 16)], calls), kernel_engine(device, [(4, 32)], calls)]
    with pytest.raises(ValueError, match="share device, buckets"):
        _core.StagingRing(lanes)
    with pytest.raises(ValueError, match="slots is 0"):
        _core.StagingRing(lanes[:1], slots=0)


def test_rows_reach_device_memory_too(device: _core.Device) -> None:
    built = ENGINES["graph"](device, [(4, 16)], output_width=3)
    target = _core.DeviceBuffer(device, 6 * 3 * 4)
    texts = [np.full(n, 1000 + n, np.int32) for n in (1, 5, 2, 0, 3, 4)]
    ticket = built.scorer.submit_texts(texts, cls_id=101, sep_id=102, device_output=target.address)
    assert ticket.wait(30)
    copied = np.empty((6, 3), np.float32)
    target.read(copied)
    np.testing.assert_array_equal(copied, ticket.scores())
    built.scorer.close()


def test_a_host_engine_has_no_device_output() -> None:
    built = ENGINES["host"](None, [(4, 16)])
    ticket = built.scorer.submit_texts([np.zeros(3, np.int32)], cls_id=1, sep_id=2, device_output=4096)
    assert ticket.wait(30)
    assert ticket.status == "failed"
    assert "no device output" in ticket.error
    built.scorer.close()


def test_what_a_host_engine_raises_fails_the_request() -> None:
    def compute(*_: object) -> None:
        raise ZeroDivisionError("of the model")

    scorer = _core.Scorer(_core.HostExecutor(compute, [(4, 16)]))
    ticket = scorer.submit_texts([np.zeros(3, np.int32)], cls_id=1, sep_id=2)
    assert ticket.wait(30)
    assert (ticket.status, ticket.error) == ("failed", "ZeroDivisionError: of the model")
    scorer.close()


def test_a_scorer_that_is_dropped_finishes_first() -> None:
    built = ENGINES["host"](None, [(4, 16)])
    tickets = [built.scorer.submit_texts([np.zeros(3, np.int32)] * 9, cls_id=1, sep_id=2) for _ in range(20)]
    del built
    assert [ticket.status for ticket in tickets] == ["done"] * 20
