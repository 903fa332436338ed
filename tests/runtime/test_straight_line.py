"""Captured graphs of kernels alone: they write what memsets and copies would, in the same order."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from searchpipe import _core
from tests.fakes.cuda_driver import FakeDriver, HostFunctions
from tests.runtime.straight_line_world import Step, open_engine, open_steps
from tests.runtime.stream_work import Copy, Fill, StreamWork


def assert_writes(device: _core.Device, work: StreamWork, steps: list[Step], nbytes: int = 4096) -> None:
    before = np.random.default_rng(3).integers(0, 256, nbytes).astype(np.uint8)
    expected = before.copy()
    for step in [*steps, *steps]:
        step.on_host(expected)
    for straight_line in (True, False):
        opened = open_steps(device, work, steps, nbytes=nbytes, straight_line=straight_line)
        np.testing.assert_array_equal(opened.run(before), expected)
        assert opened.report.graph_nodes == 2 * len(steps) + 1
        assert opened.report.replaced_nodes == (2 * len(steps) if straight_line else 0)
        assert opened.report.kept_nodes == ""
        opened.close()


@st.composite
def fills(draw: st.DrawFn, nbytes: int) -> Fill:
    element = draw(st.sampled_from([1, 2, 4]))
    rows = draw(st.integers(1, 5))
    width = draw(st.integers(1, 200))
    pitch = element * (width + draw(st.integers(0, 20)))
    to = element * draw(st.integers(0, (nbytes - rows * pitch) // element))
    return Fill(to, pitch, draw(st.integers(0, 256**element - 1)), element, rows, width)


@st.composite
def copies(draw: st.DrawFn, nbytes: int) -> Copy:
    count = draw(st.integers(1, 300))
    first = draw(st.integers(0, nbytes - 2 * count))
    second = draw(st.integers(first + count, nbytes - count))
    return Copy(*draw(st.permutations([first, second])), count)


SMALL = 8192


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([Fill(3, 0, 0xAB, 1, 1, 1), Fill(5, 0, 0xCD, 1, 1, 30), Fill(16, 64, 0x1234, 2, 3, 7)])
@example([Fill(64, 16, 0x01020304, 4, 8, 4), Copy(0, 64, 40), Copy(201, 64, 33), Copy(300, 204, 50)])
@given(st.lists(st.one_of(fills(SMALL), copies(SMALL)), min_size=1, max_size=6))
def test_kernels_write_what_memsets_and_copies_write(
    device: _core.Device, work: StreamWork, steps: list[Step]
) -> None:
    assert_writes(device, work, steps, SMALL)


@pytest.mark.parametrize("odd", [0, 1, 4])
def test_more_than_all_threads_write_at_once(device: _core.Device, work: StreamWork, odd: int) -> None:
    """1 MiB: more stores of 16 bytes than the device's threads, and rows than blocks."""
    size = 1 << 20
    fill = Fill(odd, 0, 0x5A, 1, 1, size + 3)
    rows = Fill(odd * 4, 1024, 0xBEEF, 2, 700, 509)
    copy = Copy(odd + 2 * size, 0, size + 7)
    assert_writes(device, work, [fill, rows, copy], 4 * size)


def test_copies_from_and_to_page_locked_memory(device: _core.Device, work: StreamWork) -> None:
    host_in, host_out = work.pinned(640), work.pinned(640)
    sent = np.arange(640, dtype=np.int64).astype(np.uint8)
    ctypes.memmove(host_in, sent.ctypes.data, sent.nbytes)

    def put(stream: int, scratch: int) -> None:
        work.copy_in(stream, scratch + 3, host_in + 1, 600)
        work.copy_out(stream, host_out + 2, scratch + 3, 599)

    opened = open_engine(device, put, nbytes=1024)
    assert opened.report.replaced_nodes == 4
    assert opened.report.kept_nodes == ""
    ctypes.memset(host_out, 0, 640)
    after = opened.run(np.zeros(1024, np.uint8))
    np.testing.assert_array_equal(after[3:603], sent[1:601])
    received = np.frombuffer(ctypes.string_at(host_out, 640), np.uint8)
    np.testing.assert_array_equal(received[2:601], sent[1:600])
    assert received[:2].tolist() == [0, 0]
    assert not received[601:].any()
    opened.close()


def test_what_kernels_do_not_reach_stays(device: _core.Device, work: StreamWork, fake: FakeDriver) -> None:
    """Ordinary memory of the host; and large copies from page-locked memory are the copy engine's."""
    ordinary = np.arange(256, dtype=np.uint8)
    large = work.pinned((1 << 20) + 1)

    def put(stream: int, scratch: int) -> None:
        work.fill(stream, scratch, 7, 4, 100)
        work.copy_in(stream, scratch + 8, ordinary.ctypes.data, 200)
        work.copy_in(stream, scratch + 512, large, (1 << 20) + 1)

    opened = open_engine(device, put, nbytes=1 << 21)
    assert opened.report.replaced_nodes == 2
    assert opened.report.kept_nodes == "4 copies"
    after = opened.run(np.full(1 << 21, 9, np.uint8))
    np.testing.assert_array_equal(after[8:208], ordinary[:200])
    np.testing.assert_array_equal(after[:8].view(np.int32), [7, 7])
    assert not after[512 : 513 + (1 << 20)].any()
    opened.close()


def test_copies_that_overlap_stay(device: _core.Device, work: StreamWork, fake: FakeDriver) -> None:
    opened = open_steps(device, work, [Copy(8, 0, 9), Copy(8, 0, 8), Copy(0, 8, 8)], nbytes=64)
    assert opened.report.replaced_nodes == 4
    assert opened.report.kept_nodes == "2 copies"
    opened.close()


def test_a_graph_of_kernels_stays_as_it_is(device: _core.Device, work: StreamWork) -> None:
    opened = open_steps(device, work, [], nbytes=64)
    assert (opened.report.graph_nodes, opened.report.replaced_nodes) == (1, 0)
    assert opened.report.kept_nodes == ""
    opened.run(np.zeros(64, np.uint8))
    opened.close()


def test_host_functions_stay(device: _core.Device, work: StreamWork, fake: FakeDriver) -> None:
    host = HostFunctions()
    calls: list[int] = []

    def put(stream: int, scratch: int) -> None:
        work.fill(stream, scratch, 1, 1, 8)
        host.put(stream, lambda: calls.append(1))
        work.fill(stream, scratch + 4, 2, 1, 8)

    opened = open_engine(device, put, nbytes=16)
    assert opened.report.replaced_nodes == 4
    assert opened.report.kept_nodes == "2 nodes of other kinds"
    calls.clear()
    after = opened.run(np.zeros(16, np.uint8))
    assert after.tolist() == [1] * 4 + [2] * 8 + [0] * 4
    assert len(calls) == 2
    opened.close()
