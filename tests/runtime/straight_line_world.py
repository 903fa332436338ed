"""Engines of the row model with memsets and copies around it, for tests of what becomes of those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from searchpipe import _core
from tests.runtime.row_model import CLS, PTX, SEP, expected_texts
from tests.runtime.stream_work import Bytes, Copy, Fill, StreamWork

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
