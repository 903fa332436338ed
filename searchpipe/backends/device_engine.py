"""What an engine on a GPU is, whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from searchpipe.errors import EngineError
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

#: enqueue(index, (rows, tokens), inputs, output, stream): put one batch on the stream and return.
Enqueue = Callable[[int, Bucket, list[int], int, int], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on one lane.

    Attributes:
        enqueue: puts one batch on the lane's stream.
        held: what must stay alive for it.
        why_not_captured: a reason against CUDA graphs, empty if there is none.
    """

    enqueue: Enqueue
    held: object
    why_not_captured: str = ""


@dataclass(slots=True)
class DeviceEngine:
    """A model prepared on one GPU: graphs for each bucket, on one or more lanes.

    ``executor`` goes to one ``_core.Scorer``; close the scorer before this.
    Threads: opening and closing from one thread; the rest is immutable.
    """

    name: str
    runtime: str  # "onnxruntime 1.31.1 CUDA", "tensorrt 11.1.0" ...
    inputs: int  # arrays that a batch consists of
    output_width: int
    lanes: list[_core.GraphEngine]
    executor: _core.StagingRing
    held: list[Any] = field(default_factory=list)  # sessions, contexts: alive as long as the graphs

    @property
    def buckets(self) -> list[Bucket]:
        """Shapes (rows, tokens), smallest first; tokens of each row or, if packed, of all together."""
        return self.lanes[0].buckets

    @property
    def reports(self) -> list[_core.BucketReport]:
        """What preparing gave, for every lane and bucket."""
        return [report for lane in self.lanes for report in lane.reports]

    @property
    def not_captured(self) -> dict[Bucket, str]:
        """Buckets that call the runtime for every batch, with the reason."""
        return {report.bucket: report.reason for report in self.reports if not report.captured}

    def describe(self) -> str:
        """One line for traces and `describe`."""
        reports = self.reports
        captured = sum(report.captured for report in reports)
        memory = sum(report.device_bytes for report in reports) / 2**20
        slots = self.executor.slots
        rows = "packed" if self.executor.packed else "padded"
        text = (
            f"{self.runtime}, {rows} rows, {captured} of {len(reports)} graphs captured, "
            f"{len(self.lanes)} lane(s), {slots} slots, {memory:.0f} MiB of activations and graphs"
        )
        failed = self.not_captured
        if failed:
            text += f"; not captured: {next(iter(failed.values()))}"
        mixed = [report for report in reports if report.kept_nodes]
        if mixed:  # the driver launches them node by node
            one = " x ".join(map(str, mixed[-1].bucket))
            text += f"; {len(mixed)} graphs have nodes that are no kernels ({one}: {mixed[-1].kept_nodes})"
        return text

    def close(self) -> None:
        """Drop graphs, then what they ran on."""
        for lane in self.lanes:
            lane.close()
        self.held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_lanes(
    name: str,
    runtime: str,
    *,
    device: _core.Device,
    buckets: Sequence[Bucket],
    inputs: int,
    output_width: int,
    load: Callable[[_core.GraphEngine], Loaded],
    longest_row: int = 0,
    lanes: int = 1,
    slots: int = 3,
    capture: bool = True,
) -> DeviceEngine:
    """Prepare ``lanes`` copies of a model, each on a stream of its own.

    Args:
        name: of the model, for messages.
        runtime: what runs it, with its version.
        device: the GPU.
        buckets: shapes (rows, tokens); tokens of each row or, if packed, of all together.
        inputs: arrays that the model takes.
        output_width: float32 values a row.
        load: builds the runtime's objects on a lane's stream and addresses.
        longest_row: tokens of the longest of packed rows; 0 for padded ones.
        lanes: batches that may compute side by side.
        slots: of the staging ring; at least one more than lanes lets copies overlap.
        capture: into CUDA graphs.

    Raises:
        EngineError: the model did not run, or the device has not the memory.
    """
    from searchpipe import _core

    made: list[_core.GraphEngine] = []
    held: list[object] = []

    def prepare(why_not: str) -> None:
        lane = _core.GraphEngine(
            device, list(buckets), inputs=inputs, output_width=output_width, longest_row=longest_row
        )
        try:
            loaded = load(lane)
            why_not = why_not or loaded.why_not_captured
            lane.set_enqueue(loaded.enqueue)
            lane.prepare(capture=not why_not, why_not=why_not)
        except BaseException:
            lane.close()
            raise
        made.append(lane)
        held.append(loaded.held)

    why_not = "" if capture else "capture is switched off"
    try:
        while len(made) < lanes:
            try:
                prepare(why_not)
            except (RuntimeError, _core.CudaError) as error:
                if why_not:
                    raise
                # A runtime that a failed capture left in pieces is opened anew, and never captured again.
                why_not = f"capture broke the runtime: {error}"
        ring = _core.StagingRing(made, slots=slots)
    except BaseException as error:
        for lane in made:
            lane.close()
        if isinstance(error, RuntimeError):
            raise EngineError(f"{name} on {runtime}: {error}") from error
        raise
    return DeviceEngine(name, runtime, inputs, output_width, made, ring, held)


def open_device(ordinal: int = 0) -> _core.Device:
    """Open the GPU ``ordinal``.

    Raises:
        EngineError: there is no usable driver or no such GPU; the message says why.
    """
    from searchpipe import _core

    status = _core.cuda_available()
    if not status:
        raise EngineError(f"CUDA cannot be used: {status.reason}.")
    try:
        return _core.Device(ordinal)
    except IndexError as error:
        raise EngineError(f"{error}.") from error
