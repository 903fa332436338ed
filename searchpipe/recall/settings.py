"""``[recall.gpu]``: vector recall on a GPU."""

from __future__ import annotations

from typing import Annotated

import msgspec

from searchpipe.device.settings import UseGpu
from searchpipe.recall.rule import IndexKind
from searchpipe.settings import Settings

_Count = Annotated[int, msgspec.Meta(ge=0)]


class GpuRecallSettings(Settings, frozen=True):
    """Vector recall on the GPU of ``[gpu]``.

    Attributes:
        use: ``auto`` (that GPU if the vectors fit into it), ``never``, or ``always`` (that GPU or
            ``EngineError``).
        index: the kind of index; by count and memory (:mod:`searchpipe.recall.rule`) if None.
        lists: inverted lists; 0 for the rule's number.
        probes: lists that a query reads; 0 for the rule's number.
        use_cuvs: search lists by cuVS instead of FAISS's own kernels.
        exact_filters: keep a float16 copy of the vectors for filters that leave little, if it fits.
        temp_mb: device memory for FAISS's temporaries, in MiB.
        memory_mb: device memory that recall may take in all, in MiB; 0 for what the rest leaves free.
        max_batch: lookups in one search.
        max_delay_ms: how long an idle index waits for company, in milliseconds.
        max_waiting: lookups that may wait.
    """

    use: UseGpu = "auto"
    index: IndexKind | None = None
    lists: _Count = 0
    probes: Annotated[int, msgspec.Meta(ge=0, le=2048)] = 0
    use_cuvs: bool = False
    exact_filters: bool = True
    temp_mb: Annotated[int, msgspec.Meta(ge=16, le=1536)] = 256
    memory_mb: _Count = 0
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    max_delay_ms: Annotated[float, msgspec.Meta(ge=0.0, lt=1000.0)] = 0.0
    max_waiting: Annotated[int, msgspec.Meta(ge=1)] = 1024
