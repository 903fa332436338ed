"""Graphs that stay as captured: what cannot be rewritten, and what would not write the same."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.backends.device_engine import Loaded, open_lanes
from tests.fakes.cuda_driver import FakeDriver, HostFunctions
from tests.runtime.row_model import PTX
from tests.runtime.straight_line_world import BUCKET, Step, open_engine, open_steps
from tests.runtime.stream_work import Bytes, Copy, Fill, StreamWork

LOSSY_QUERY, NOT_SUPPORTED = 402, 801
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
    assert told == ["", "2 graphs have nodes that are no kernels (8 x 32: 1 copy)"]


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
