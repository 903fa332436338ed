"""Which GPU index a catalog gets: a pure rule of its size and the memory that is there.

The rule, first match wins (all of it can be overridden by naming a kind):

1. **flat** up to ``FLAT_ELEMENTS`` numbers (count x dim): exact, and quick enough. An H200 read
   384 million float16 numbers in 3.8 ms by GpuIndexFlatIP, so 40 million cost about 0.4 ms.
2. **ivf-flat** up to ``IVF_COUNT`` vectors: 0.22 ms for one query over 1,000,000 x 384 on the same
   GPU, against 0.37 ms of CAGRA, and answers that do not depend on the batch. A query reads
   about one vector in 64, so its cost grows with the catalog.
3. **cagra** above that: a walk through a graph, whose cost hardly grows with the catalog.
4. **ivf-flat** again where the graph does not fit but float16 vectors do.
5. **ivf-pq** where even those do not fit: codes of a byte for 8 numbers, and what they find is
   scored again with the exact vectors on the host.

Vectors are held as float32 (exact scores) if that takes at most half of the memory, else as float16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from searchpipe.device.plan import MIB
from searchpipe.errors import ConfigError, DeviceMemoryError

IndexKind = Literal["flat", "ivf-flat", "ivf-pq", "cagra"]
Codes = Literal["float32", "float16", "pq"]
KINDS: Final[tuple[IndexKind, ...]] = get_args(IndexKind)

FLAT_ELEMENTS: Final = 40_000_000
IVF_COUNT: Final = 10_000_000
MAX_PROBES: Final = 2048
"""FAISS's GPU code selects at most 2048 lists, and as many results."""

_FEWEST_PER_LIST = 39  # FAISS warns below that many training vectors a list
_TRAINING_PER_LIST = 64
_LIST_BLOCK = 32  # lists are padded to whole blocks of vectors
_GRAPH_DEGREE = 64
_BUILD_DEGREE = 128
_PQ_SIZES = (96, 64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)  # that FAISS's kernels exist for
_SCRATCH = 64 * MIB


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """An index that has been decided on but not made.

    Attributes:
        kind: which of FAISS's GPU indexes.
        count: vectors.
        dim: numbers of a vector.
        codes: how vectors are held on the device.
        lists: inverted lists; 0 without.
        probes: lists that a query reads; 0 without lists.
        sub_quantizers: bytes of a PQ code; 0 without.
        graph_degree: neighbours of a vector in the graph; 0 without.
        index_bytes: device memory of the finished index.
        build_bytes: device memory besides while it is made.
        reason: why this kind, for people.
    """

    kind: IndexKind
    count: int
    dim: int
    codes: Codes
    lists: int
    probes: int
    sub_quantizers: int
    graph_degree: int
    index_bytes: int
    build_bytes: int
    reason: str

    @property
    def peak_bytes(self) -> int:
        """The most device memory that it ever takes."""
        return self.index_bytes + self.build_bytes

    @property
    def exact_scores(self) -> bool:
        """Whether the scores it returns are those of the float32 vectors."""
        return self.codes == "float32"

    def line(self) -> str:
        """The plan in one line."""
        parts = [f"{self.kind} of {self.count:,} x {self.dim} as {self.codes}"]
        if self.lists:
            parts.append(f"{self.probes} of {self.lists} lists read")
        if self.sub_quantizers:
            parts.append(f"codes of {self.sub_quantizers} bytes")
        if self.graph_degree:
            parts.append(f"graph degree {self.graph_degree}")
        parts.append(f"{self.index_bytes / MIB:,.0f} MiB")
        return f"{', '.join(parts)} ({self.reason})"


def choose_index(
    count: int,
    dim: int,
    available_bytes: int,
    *,
    kind: IndexKind | None = None,
    codes: Codes | None = None,
    lists: int = 0,
    probes: int = 0,
) -> IndexPlan:
    """Decide on an index.

    Args:
        count: vectors, at least 1.
        dim: numbers of a vector, at least 1.
        available_bytes: device memory that the index may take, while it is made too.
        kind: instead of the rule's choice.
        codes: float32 or float16, instead of the rule's choice; not for ivf-pq.
        lists: inverted lists; 0 for :func:`default_lists`.
        probes: lists that a query reads; 0 for :func:`default_probes`.

    Raises:
        DeviceMemoryError: nothing fits, or the named kind does not.
        ConfigError: numbers below 1, or a combination that does not exist.
    """
    if count < 1 or dim < 1:
        raise ConfigError(f"There is no index of {count} vectors of {dim} numbers.")
    if lists < 0 or probes < 0 or probes > MAX_PROBES or lists > count:
        raise ConfigError(
            f"{lists} lists with {probes} read are not possible over {count} vectors.",
            cure=f"Take at most as many lists as vectors, and read at most {MAX_PROBES} of them.",
        )
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"{kind!r} is not a kind of index.", cure=f"There are: {', '.join(KINDS)}.")
    if (codes == "pq") != (kind == "ivf-pq") and codes is not None:
        raise ConfigError(f"An index of the kind {kind or 'chosen by rule'} cannot hold codes {codes!r}.")
    tried = [_plan(choice, why, count, dim, available_bytes, codes, lists, probes)
             for choice, why in _candidates(count, dim, kind, codes)]  # fmt: skip
    for plan in tried:
        if plan.peak_bytes <= available_bytes:
            return plan
    smallest = min(tried, key=lambda plan: plan.peak_bytes)
    raise DeviceMemoryError(
        f"{count:,} vectors of {dim} numbers need {smallest.peak_bytes / MIB:,.0f} MiB as {smallest.kind} "
        f"({smallest.index_bytes / MIB:,.0f} MiB once made); {available_bytes / MIB:,.0f} MiB are available.",
        cure="Free device memory, or search on the CPU.",
    )


def default_lists(count: int) -> int:
    """Inverted lists for ``count`` vectors: 4 times the square root as a power of two, none too short."""
    wanted = 1 << max(0, round(math.log2(4 * math.sqrt(count))))
    return max(1, min(wanted, count // _FEWEST_PER_LIST))


def default_probes(lists: int) -> int:
    """Lists that a query reads: one in 64, at least 16."""
    return max(1, min(lists, MAX_PROBES, max(16, lists // 64)))


def training_size(count: int, lists: int) -> int:
    """Vectors that the lists' centres are learned from."""
    return min(count, lists * _TRAINING_PER_LIST)


def flat_bytes(count: int, dim: int, itemsize: int) -> int:
    """Device memory of the vectors alone."""
    return count * dim * itemsize


def lists_bytes(count: int, lists: int, dim: int, vector_bytes: int) -> int:
    """Device memory of inverted lists: vectors and 64-bit ids in padded blocks, and float32 centres.

    On average a list ends in half a block of padding; lists grow by doubling
    parts, which leaves them about a quarter larger than what they hold.
    """
    held = (count + lists * _LIST_BLOCK // 2) * (vector_bytes + 8)
    return held + held // 4 + lists * dim * 4


def graph_bytes(count: int, dim: int, itemsize: int) -> int:
    """Device memory of a CAGRA index: the vectors, padded to 16 bytes, and 32-bit neighbours."""
    row = -(-dim * itemsize // 16) * 16
    return count * (row + 4 * _GRAPH_DEGREE)


def sub_quantizers_for(dim: int) -> int:
    """Bytes of a PQ code: the most that divide ``dim``, have a kernel and stand for 8 numbers or more."""
    dividing = [size for size in _PQ_SIZES if dim % size == 0]
    return next((size for size in dividing if size * 8 <= dim), dividing[-1])


def _candidates(
    count: int, dim: int, kind: IndexKind | None, codes: Codes | None
) -> list[tuple[IndexKind, str]]:
    if kind is not None:
        return [(kind, "as asked for")]
    found: list[tuple[IndexKind, str]] = []
    if count * dim <= FLAT_ELEMENTS:
        found.append(("flat", f"at most {FLAT_ELEMENTS // 1_000_000} million numbers are compared exactly"))
    elif count <= IVF_COUNT:
        found.append(("ivf-flat", f"at most {IVF_COUNT // 1_000_000} million vectors"))
    else:
        found.append(("cagra", f"more than {IVF_COUNT // 1_000_000} million vectors"))
        found.append(("ivf-flat", "the graph does not fit"))
    if codes is None:
        found.append(("ivf-pq", "whole vectors do not fit"))
    return found


def _plan(
    kind: IndexKind,
    reason: str,
    count: int,
    dim: int,
    available: int,
    codes: Codes | None,
    lists: int,
    probes: int,
) -> IndexPlan:
    if kind == "ivf-pq":
        return _with_codes(kind, reason, count, dim, "pq", lists, probes)
    if codes is not None:
        return _with_codes(kind, reason, count, dim, codes, lists, probes)
    wide = _with_codes(kind, reason, count, dim, "float32", lists, probes)
    # A flat search is bound by what it reads, so the narrower numbers are the quicker ones.
    if kind != "flat" and wide.peak_bytes <= available // 2:
        return wide
    return _with_codes(kind, reason, count, dim, "float16", lists, probes)


def _with_codes(
    kind: IndexKind, reason: str, count: int, dim: int, codes: Codes, lists: int, probes: int
) -> IndexPlan:
    itemsize = 4 if codes == "float32" else 2
    sub_quantizers = degree = 0
    if kind in ("ivf-flat", "ivf-pq"):
        lists = lists or default_lists(count)
        probes = min(probes or default_probes(lists), lists)
        sub_quantizers = sub_quantizers_for(dim) if kind == "ivf-pq" else 0
        index = lists_bytes(count, lists, dim, sub_quantizers or dim * itemsize)
        # Clustering holds its training set; adding goes by blocks through scratch memory.
        build = training_size(count, lists) * dim * 4 + _SCRATCH
    else:
        lists = probes = 0
        if kind == "flat":
            index, build = flat_bytes(count, dim, itemsize), _SCRATCH
        else:
            degree = _GRAPH_DEGREE
            index = graph_bytes(count, dim, itemsize)
            # The first graph has twice the neighbours, and the PQ index that finds them lives beside it.
            build = count * 4 * _BUILD_DEGREE + lists_bytes(
                count, default_lists(count), dim, sub_quantizers_for(dim)
            ) + _SCRATCH  # fmt: skip
    return IndexPlan(kind, count, dim, codes, lists, probes, sub_quantizers, degree, index, build, reason)
