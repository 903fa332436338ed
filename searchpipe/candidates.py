"""The candidates of one query on their way through the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Array, Float32, Int32


class Carried(NamedTuple):
    """Columns for ``docs``, and for no other array of documents."""

    docs: Int32
    columns: dict[str, Array]


@dataclass(slots=True)
class Candidates:
    """Documents with their scores, best first. A struct of arrays: one query owns it, no locks.

    Attributes:
        docs: int32 ``(n,)``, ordinals into the snapshot, each at most once.
        scores: name of a stage's score -> float32 ``(n,)``; NaN where that
            stage did not see the document.
        carried: what was made ready for these documents before their order was known, see :meth:`carry`.
    """

    docs: Int32
    scores: dict[str, Float32] = field(default_factory=dict)
    carried: Carried | None = field(default=None, repr=False, compare=False)

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
        return self._made_of(*_core.take(self.docs, self.scores, self._carried_columns(), rows, rest))

    def ordered_by(self, name: str, values: Float32) -> Candidates | None:
        """All candidates by ``values``, float32 ``(n,)``, from the largest down; equal ones keep their order.

        The values are kept under ``name``. None if one of them is not finite.

        Raises:
            ValueError: not one value a candidate.
        """
        made = _core.order_by(self.docs, self.scores, self._carried_columns(), name, values)
        return None if made is None else self._made_of(*made)

    def reordered(
        self, name: str, logits: Float32, temperature: float, prior: Float32, weight: float
    ) -> Candidates:
        """All candidates by a model's opinion on the first of them and their places; one logit is finite.

        See :func:`searchpipe._core.reorder_by_opinion`. The logits are kept under ``name``, what the order
        was made from under ``blend``.
        """
        beside = self._carried_columns()
        return self._made_of(
            *_core.reorder_by_opinion(
                self.docs, self.scores, beside, name, logits, temperature, prior, weight
            )
        )

    @staticmethod
    def _made_of(docs: Int32, scores: dict[str, Float32], beside: dict[str, Array] | None) -> Candidates:
        return Candidates(docs, scores, None if beside is None else Carried(docs, beside))

    def _carried_columns(self) -> dict[str, Array] | None:
        """As :meth:`beside`; None for nothing."""
        carried = self.carried
        return carried.columns if carried is not None and carried.docs is self.docs else None

    def carry(self, name: str, column: Array) -> None:
        """Keep ``column``, ``(n,)``, beside these documents, into whatever order :meth:`take` brings them."""
        carried = self.carried
        if carried is None or carried.docs is not self.docs:
            carried = self.carried = Carried(self.docs, {})
        carried.columns[name] = column

    def beside(self) -> Mapping[str, Array]:
        """What is carried, name -> ``(n,)``; nothing if the documents were replaced since."""
        return self._carried_columns() or {}

    @classmethod
    def empty(cls) -> Candidates:
        """No candidates."""
        return cls(np.empty(0, np.int32))

    @classmethod
    def of(cls, docs: Int32, scores: Mapping[str, Float32]) -> Candidates:
        """Candidates from parallel arrays of equal length."""
        return cls(docs, dict(scores))
