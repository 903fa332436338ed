"""Captured graphs of kernels alone: they write what memsets and copies would, in the same order."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.backends.device_engine import Loaded, open_lanes
from tests.fakes.cuda_driver import FakeDriver, HostFunctions
from tests.runtime.row_model import CLS, PTX, SEP, expected_texts
from tests.runtime.stream_work import Bytes, Copy, Fill, StreamWork

LOSSY_QUERY, NOT_SUPPORTED = 402, 801
BUCKET = (4, 16)
TEXTS = [np.arange(500, 500 + n, dtype=np.int32) for n in (3, 0, 14, 7)]


Step = Fill | Copy


@dataclass
class Opened:
    engine: _core.GraphEngine
    scorer: _core.Scorer
    scratch: _core.DeviceBuffer

    @property
    def report(self) -> _core.BucketReport:
        (report,) = self.engine.reports
        assert report.captured, report.reason
        return report

    def run(self, before: Bytes) -> Bytes:
        """One batch, with ``before`` in the scratch memory; what is there afterwards."""
        self.scratch.write(before)
        ticket = self.scorer.submit_texts(TEXTS, cls_id=CLS, sep_id=SEP)
        assert ticket.wait(30)
        assert ticket.status == "done", ticket.error
        np.testing.assert_array_equal(ticket.scores(), expected_texts(TEXTS, 1)[:, 0])
        after = np.empty_like(before)
        self.scratch.read(after)
        return after

    def close(self) -> None:
        self.scorer.close()
        self.engine.close()


@pytest.fixture
def work(device: _core.Device) -> Iterator[StreamWork]:
    one = StreamWork()
    yield one
    one.close()


def open_engine(
    device: _core.Device,
    put: Callable[[int, int], None],
    *,
    nbytes: int,
    straight_line: bool = True,
) -> Opened:
    """The row model with put(stream, scratch) before it and again behind it."""
    kernel = _core.Kernel(device, PTX, "row_scores")
    scratch = _core.DeviceBuffer(device, nbytes)
    engine = _core.GraphEngine(device, [BUCKET], straight_line=straight_line)

    def enqueue(_: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
        put(stream, scratch.address)
        kernel.launch(stream, 1, 64, [*inputs, output, *bucket, 1])
        put(stream, scratch.address)

    engine.set_enqueue(enqueue)
    engine.prepare()
    return Opened(engine, _core.Scorer(_core.StagingRing([engine])), scratch)


def open_steps(
    device: _core.Device, work: StreamWork, steps: list[Step], *, nbytes: int, straight_line: bool = True
) -> Opened:
    def put(stream: int, scratch: int) -> None:
        for step in steps:
            step.put(work, stream, scratch)

    return open_engine(device, put, nbytes=nbytes, straight_line=straight_line)


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


STEPS: list[Step] = [Fill(0, 0, 1, 4, 1, 10), Copy(100, 0, 40), Fill(4, 16, 5, 2, 3, 5)]
BEFORE = np.full(256, 77, np.uint8)


def written() -> Bytes:
    expected = BEFORE.copy()
    for step in [*STEPS, *STEPS]:
        step.on_host(expected)
    return expected


# How often each is called at least; of modules and functions, besides the row model's.
CALLS = {
    "cuGraphClone": 1,
    "cuGraphNodeGetType": 10,
    "cuGraphMemsetNodeGetParams": 3,
    "cuGraphMemcpyNodeGetParams": 2,
    "cuPointerGetAttributes": 3,
    "cuModuleLoadData": 2,
    "cuModuleGetFunction": 2,
    "cuGraphNodeGetDependencies": 3,
    "cuGraphNodeGetDependentNodes": 3,
    "cuGraphAddKernelNode": 3,
    "cuGraphAddDependencies": 3,
    "cuGraphDestroyNode": 3,
    "cuGraphInstantiateWithFlags": 1,
}


@pytest.mark.parametrize(
    ("call", "skip"), [(call, skip) for call, times in CALLS.items() for skip in range(times)]
)
def test_where_rewriting_fails_the_graph_is_as_captured(
    device: _core.Device, work: StreamWork, fake: FakeDriver, call: str, skip: int
) -> None:
    model = 1 if call.startswith("cuModule") else 0  # the row model's kernel comes first
    fake.fail_call(call, skip=skip + model, code=NOT_SUPPORTED)
    opened = open_steps(device, work, STEPS, nbytes=256)
    assert opened.report.graph_nodes == 7
    assert opened.report.replaced_nodes == 0
    assert call in opened.report.kept_nodes
    assert "(801)" in opened.report.kept_nodes
    np.testing.assert_array_equal(opened.run(BEFORE), written())
    opened.close()


@pytest.mark.parametrize("call", ["cuGraphNodeGetDependencies", "cuGraphNodeGetDependentNodes"])
@pytest.mark.parametrize("skip", [0, 1, 4])
def test_nodes_whose_edges_carry_data_stay(
    device: _core.Device, work: StreamWork, fake: FakeDriver, call: str, skip: int
) -> None:
    fake.fail_call(call, skip=skip, code=LOSSY_QUERY)
    opened = open_steps(device, work, STEPS, nbytes=256)
    assert opened.report.replaced_nodes == 5
    assert opened.report.kept_nodes in ("1 memset", "1 copy")
    np.testing.assert_array_equal(opened.run(BEFORE), written())
    opened.close()


def test_a_graph_that_allocates_stays_as_captured(device: _core.Device, work: StreamWork) -> None:
    """As cuBLAS does where it was given no workspace."""

    def put(stream: int, scratch: int) -> None:
        workspace = work.workspace(stream, 1 << 16)
        work.fill(stream, workspace, 0x77, 1, 64)
        work.copy(stream, scratch + 8, workspace, 64)
        work.give_back(stream, workspace)

    opened = open_engine(device, put, nbytes=256)
    assert opened.report.graph_nodes == 9
    assert opened.report.replaced_nodes == 0
    assert opened.report.kept_nodes.startswith("all: it allocates memory (2 times)")
    after = opened.run(BEFORE)
    assert after.tolist() == [77] * 8 + [0x77] * 64 + [77] * 184
    opened.close()


def test_an_engine_tells_of_graphs_that_are_not_kernels_alone(
    device: _core.Device, work: StreamWork, fake: FakeDriver
) -> None:
    kernel, ordinary = _core.Kernel(device, PTX, "row_scores"), np.zeros(16, np.uint8)
    scratch = _core.DeviceBuffer(device, 64)

    def load(_: _core.GraphEngine) -> Loaded:
        def enqueue(_: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
            kernel.launch(stream, 1, 64, [*inputs, output, *bucket, 1])
            work.fill(stream, scratch.address, 1, 1, 16)
            if bucket[0] > 4:
                work.copy_in(stream, scratch.address, ordinary.ctypes.data, 16)

        return Loaded(enqueue, ordinary)

    told = []
    for buckets in ([(4, 16)], [(4, 16), (8, 16), (8, 32)]):
        with open_lanes(
            "model", "runtime", device=device, buckets=buckets, inputs=3, output_width=1, load=load
        ) as engine:
            told.append(engine.describe().partition("; ")[2])
    assert told == ["", "2 graphs have nodes that are no kernels (1 copy)"]


def open_unsteady(device: _core.Device, work: StreamWork, write: Callable[[int], None]) -> _core.GraphEngine:
    """The row model, whose output ``write`` changes behind it, on the stream of the fake."""
    kernel = _core.Kernel(device, PTX, "row_scores")
    scratch = _core.DeviceBuffer(device, 64)
    host = HostFunctions()
    engine = _core.GraphEngine(device, [BUCKET])

    def enqueue(_: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
        work.fill(stream, scratch.address, 0, 4, 16)
        kernel.launch(stream, 1, 64, [*inputs, output, *bucket, 1])
        host.put(stream, lambda: write(output))

    engine.set_enqueue(enqueue)
    engine.prepare()
    return engine


def test_a_graph_that_writes_something_else_with_kernels_is_not_kept(
    device: _core.Device, work: StreamWork, fake: FakeDriver
) -> None:
    runs: list[int] = []

    def count(output: int) -> None:
        runs.append(len(runs))
        ctypes.cast(output, ctypes.POINTER(ctypes.c_float))[BUCKET[0] - 1] = len(runs)

    engine = open_unsteady(device, work, count)
    (report,) = engine.reports
    assert (report.captured, report.graph_nodes, report.replaced_nodes) == (True, 3, 0)
    assert report.kept_nodes == "all: with kernels in their places, it does not write what it writes without"
    engine.close()


def test_a_graph_that_writes_nothing_is_not_kept(
    device: _core.Device, work: StreamWork, fake: FakeDriver
) -> None:
    """What an earlier run wrote is not taken for its own."""
    engine = open_unsteady(device, work, lambda _: None)
    assert engine.reports[0].replaced_nodes == 1
    engine.close()
    lost = []

    def forget(output: int) -> None:
        lost.append(output)
        if len(lost) == 3:  # two plain runs come before it
            ctypes.memset(output, 0xFF, 4 * BUCKET[0])

    engine = open_unsteady(device, work, forget)
    assert len(lost) > 3
    assert engine.reports[0].replaced_nodes == 0
    engine.close()


def test_a_graph_that_cannot_be_launched_with_kernels_is_as_captured(
    device: _core.Device, work: StreamWork, fake: FakeDriver
) -> None:
    fake.fail_call("cuGraphLaunch", code=NOT_SUPPORTED)
    opened = open_steps(device, work, STEPS, nbytes=256)
    assert opened.report.replaced_nodes == 0
    assert "cuGraphLaunch" in opened.report.kept_nodes
    np.testing.assert_array_equal(opened.run(BEFORE), written())
    opened.close()


def test_switched_off_nothing_is_asked(device: _core.Device, work: StreamWork, fake: FakeDriver) -> None:
    counts = [fake.count(call) for call in ("cuGraphClone", "cuGraphNodeGetType")]
    opened = open_steps(device, work, STEPS, nbytes=256, straight_line=False)
    assert [fake.count(call) for call in ("cuGraphClone", "cuGraphNodeGetType")] == counts
    assert (opened.report.graph_nodes, opened.report.replaced_nodes) == (7, 0)
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
