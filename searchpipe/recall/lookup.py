"""One question to a vector index, and what the index found before the caller finished it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from searchpipe.arrays import Bool, Float32, Int32, Int64


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """What one caller wants.

    Attributes:
        vector: float32 ``(dim,)``: a NumPy array, or any object with ``__cuda_array_interface__``.
        k: best documents wanted, at least 1.
        mask: bool ``(count,)`` of the allowed documents; None for all.
    """

    vector: Any
    k: int
    mask: Bool | None = None

    @property
    def group(self) -> tuple[int, int]:
        """Lookups of one group share a search: as many documents, and the same mask or none.

        A graph is walked further for more documents, so a k of someone else must not change an answer.
        """
        return self.k, 0 if self.mask is None else id(self.mask)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the index gave for one lookup.

    Attributes:
        ids: int64 ``(m,)``, in no particular order, all allowed; m may be above k.
        scores: float32 ``(m,)`` as the index has them, which may be rounded.
        complete: whether ``ids`` can be trusted to hold the best; if not, the caller searches on the host.
    """

    ids: Int64
    scores: Float32
    complete: bool = True


class BatchIndex(Protocol):
    """An index that one thread at a time may search, and many may finish."""

    @property
    def max_k(self) -> int:
        """The most documents that one lookup may want."""
        ...

    def check(self, lookup: Lookup) -> None:
        """Refuse what cannot be searched, before it shares a search with others; any thread.

        Raises:
            QueryError: a vector, k or mask that the index cannot take.
        """
        ...

    def search_batch(self, lookups: list[Lookup]) -> list[Found]:
        """Search for lookups of one group, in their order; called by one thread at a time."""
        ...

    def finish(self, lookup: Lookup, found: Found) -> tuple[Int32, Float32]:
        """Documents int32 ``(m,)`` and scores float32 ``(m,)``, best first, m <= k; any thread."""
        ...


def on_device(vector: Any) -> bool:
    """Whether a query vector lies in device memory."""
    return hasattr(vector, "__cuda_array_interface__")


def host_copy(vector: Any) -> Float32 | None:
    """The copy on the host that a vector in device memory may bring along; None for any other vector."""
    return getattr(vector, "host", None)
