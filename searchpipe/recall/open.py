"""From a snapshot, built on any host, to dense recall on this host's GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from searchpipe.device.facts import DeviceFacts, device_facts
from searchpipe.device.plan import MIB, RESERVE_BYTES, DevicePlan, Part
from searchpipe.errors import EngineError, MissingDependencyError
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.exact_gpu import DeviceMatrix
from searchpipe.recall.faiss_build import centroids_of, require_gpu_faiss
from searchpipe.recall.fallback import FallbackIndex
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.recall.policy import CoalescePolicy
from searchpipe.recall.rule import IndexPlan, choose_index
from searchpipe.recall.settings import GpuRecallSettings

if TYPE_CHECKING:
    from searchpipe.catalog.dense import DenseIndex

_EMPTY = "The catalog is empty: there is nothing to put on a GPU."


@dataclass(frozen=True, slots=True)
class RecallPlan:
    """What recall will take of a device.

    Attributes:
        index: the index.
        exact_filters: whether a float16 copy of the vectors is kept for filters.
        temp_bytes: for FAISS's temporaries.
    """

    index: IndexPlan
    exact_filters: bool
    temp_bytes: int

    def parts(self) -> list[Part]:
        """The parts for a :class:`searchpipe.device.plan.DevicePlan`."""
        index = self.index
        found = [
            Part("recall temporaries", self.temp_bytes, "FAISS, bounded"),
            Part("recall index", index.index_bytes, index.line(), index.build_bytes),
        ]
        if self.exact_filters:
            size = DeviceMatrix.nbytes(index.count, index.dim)
            found.append(Part("recall filters", size, "float16 vectors for filters that leave little"))
        return found


@dataclass(slots=True)
class OpenRecall:
    """Dense recall on a GPU, ready to be searched; ``close`` it after the last search.

    Attributes:
        index: answers; safe from many threads.
        gpu: the index on the GPU, for its plan and tuning before the first search.
        dispatcher: for its statistics.
        plan: the device's memory as it was planned.
    """

    index: FallbackIndex
    gpu: GpuIndex
    dispatcher: Dispatcher
    plan: DevicePlan
    stream: Any = None

    def describe(self) -> str:
        """One line."""
        return f"GPU {self.plan.device}: {self.gpu.plan.line()}"

    def close(self) -> None:
        """Let those that wait finish, then free the device memory. Idempotent."""
        self.dispatcher.close()
        self.gpu.close()
        self.stream = None


def plan_recall(count: int, dim: int, settings: GpuRecallSettings, device: DevicePlan) -> RecallPlan:
    """Fit recall into what is left of a device.

    Args:
        count: vectors.
        dim: numbers of a vector.
        settings: what is asked for.
        device: the device with everything else that it is to hold.

    Raises:
        DeviceMemoryError: no index fits.
        EngineError: the catalog is empty.
        ConfigError: an index that does not exist.
    """
    if count < 1:
        raise EngineError(_EMPTY)
    temp = settings.temp_mb * MIB
    left = device.left_for("recall") - temp
    if settings.memory_mb:
        left = min(left, settings.memory_mb * MIB - temp)
    index = choose_index(
        count,
        dim,
        max(0, left),
        kind=settings.index,
        lists=min(settings.lists, count),
        probes=settings.probes,
    )
    matrix = DeviceMatrix.nbytes(count, dim)
    # The copy is a convenience: it must never push the index into coarser codes.
    fits = (
        settings.exact_filters and _has_cupy() and index.index_bytes + max(index.build_bytes, matrix) <= left
    )
    return RecallPlan(index, fits, temp)


def open_recall(
    dense: DenseIndex,
    settings: GpuRecallSettings | None = None,
    *,
    device: int = 0,
    reserve_bytes: int = RESERVE_BYTES,
    others: tuple[Part, ...] = (),
    stream: Any = None,
    show: Callable[[str], object] | None = None,
    facts: DeviceFacts | None = None,
) -> OpenRecall:
    """Put a snapshot's vectors on a GPU.

    Args:
        dense: the snapshot's vector index, of any kind.
        settings: None for the defaults.
        device: ordinal of the GPU.
        reserve_bytes: device memory that must stay free.
        others: what the device is to hold besides and does not yet.
        stream: has the attribute ``handle``, a CUstream as a number, and is kept alive;
            FAISS's own if None.
        show: gets the plan of the device's memory before any of it is taken.
        facts: of the GPU; asked of the driver if None.

    Raises:
        MissingDependencyError: no FAISS for GPUs, no cuda-python, or no GPU.
        DeviceMemoryError: it does not fit; the message holds the figures.
        EngineError: the catalog is empty, or FAISS could not make the index.
    """
    settings = settings or GpuRecallSettings()
    if dense.count < 1:
        raise EngineError(_EMPTY)
    require_gpu_faiss()
    if facts is None:
        try:
            facts = device_facts(device)
        except IndexError as error:
            raise MissingDependencyError(str(error)) from error
    empty = DevicePlan(
        others, facts.free_bytes, facts.total_bytes, reserve_bytes, f"{facts.name} {facts.ordinal}"
    )
    wanted = plan_recall(dense.count, dense.dim, settings, empty)
    plan = empty.with_parts(wanted.parts())
    if show is not None:
        show(plan.table())
    return build_recall(dense, wanted, plan.check(), settings, device=device, stream=stream)


def build_recall(
    dense: DenseIndex,
    wanted: RecallPlan,
    plan: DevicePlan,
    settings: GpuRecallSettings,
    *,
    device: int = 0,
    stream: Any = None,
) -> OpenRecall:
    """Make what was planned.

    Args:
        dense: the snapshot's vector index.
        wanted: of :func:`plan_recall`, which ``plan`` has room for.
        plan: the device's memory.
        settings: of recall.
        device: ordinal of the GPU.
        stream: see :func:`open_recall`.

    Raises:
        MissingDependencyError: no FAISS for GPUs, or no GPU.
        EngineError: FAISS could not make the index.
    """
    faiss = require_gpu_faiss()
    handle = int(stream.handle) if stream is not None else 0
    gpu = GpuIndex(
        wanted.index,
        dense.vectors,
        centroids=centroids_of(faiss, dense.to_faiss()) if dense.info.kind == "ivf" else None,
        device=device,
        stream=handle,
        temp_bytes=wanted.temp_bytes,
        use_cuvs=settings.use_cuvs,
        faiss=faiss,
    )
    try:
        if wanted.exact_filters:  # after the index, whose making takes more than its being
            gpu.exact = DeviceMatrix(dense.vectors, device=device, stream=handle)
    except BaseException:
        gpu.close()
        raise
    policy = CoalescePolicy(settings.max_batch, settings.max_delay_ms / 1e3, settings.max_waiting)
    dispatcher = Dispatcher(gpu, policy=policy)
    return OpenRecall(FallbackIndex(dispatcher, dense, max_k=gpu.max_k), gpu, dispatcher, plan, stream)


def _has_cupy() -> bool:
    return importlib.util.find_spec("cupy") is not None
