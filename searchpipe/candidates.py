"""The candidates of one query on their way through the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Array, Float32, Int32


@dataclass(slots=True)
class Candidates:
    """Documents with their scores, best first. A struct of arrays: one query owns it, no locks.

    Attributes:
        docs: int32 ``(n,)``, ordinals into the snapshot, each at most once.
        scores: name of a stage's score -> float32 ``(n,)``; NaN where that
            stage did not see the document.
    """

    docs: Int32
    scores: dict[str, Float32] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.docs)

    def take(self, rows: Array, *, rest: bool = False) -> Candidates:
        """The candidates at ``rows`` (int ``(m,)`` or bool ``(n,)``), in that order.

        ``rest``: behind them all the others, in the order they had.

        Raises:
            IndexError: a row that does not exist.
            ValueError: with ``rest``, a row that is there twice.
        """
        if rows.dtype != np.int32:
            rows = (np.flatnonzero(rows) if rows.dtype == bool else rows).astype(np.int32)
        docs, columns = _core.take(self.docs, list(self.scores.values()), rows, rest=rest)
        return Candidates(docs, dict(zip(self.scores, columns, strict=True)))

    @classmethod
    def empty(cls) -> Candidates:
        """No candidates."""
        return cls(np.empty(0, np.int32))

    @classmethod
    def of(cls, docs: Int32, scores: Mapping[str, Float32]) -> Candidates:
        """Candidates from parallel arrays of equal length."""
        return cls(docs, dict(scores))
