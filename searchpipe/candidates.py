"""The candidates of one query on their way through the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

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

    def take(self, rows: Array) -> Candidates:
        """The candidates at ``rows`` (int ``(m,)`` or bool ``(n,)``), in that order."""
        return Candidates(self.docs[rows], {name: column[rows] for name, column in self.scores.items()})

    def head(self, count: int) -> Candidates:
        """The first ``count`` candidates, as views."""
        return Candidates(self.docs[:count], {name: column[:count] for name, column in self.scores.items()})

    @classmethod
    def empty(cls) -> Candidates:
        """No candidates."""
        return cls(np.empty(0, np.int32))

    @classmethod
    def of(cls, docs: Int32, scores: Mapping[str, Float32]) -> Candidates:
        """Candidates from parallel arrays of equal length."""
        return cls(docs, dict(scores))
