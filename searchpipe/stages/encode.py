"""encode: the query's tokens to one vector."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.gate import ComputeGate
from searchpipe.stages.base import Work


class Encoder(Protocol):
    """What the stage needs of an encoder; :class:`searchpipe.backends.encoder.TextEncoder` is one."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, token_ids: list[Int32]) -> Float32:
        """Float32 ``(n, dim)`` of ``n`` token id arrays; any thread."""
        ...


class Encode:
    """Fills ``vector``, unless the engine cannot be had in time: recall is then lexical alone.

    Args:
        encoder: makes the vectors.
        gate: shared with the other stages that run models on the same cores.
        model: its name, for :meth:`describe`.
    """

    name = "encode"
    reads: tuple[str, ...] = ("tokens",)
    writes: tuple[str, ...] = ("vector",)
    essential = False

    def __init__(self, encoder: Encoder, gate: ComputeGate, *, model: str = "encoder") -> None:
        self._encoder = encoder
        self._gate = gate
        self._model = model

    def run(self, work: Work) -> None:
        """Encode the query."""
        assert work.tokens is not None
        size = len(work.tokens) + 2  # [CLS] and [SEP]
        cost = work.costs.predict(self.name, size) or 0.0
        if cost > work.allowance():
            work.costs.relax(self.name, size)
            work.degrade("deadline", "dense recall")
            return
        # Before the scorer: an encoded query is worth more than one more scored pair.
        with self._gate.enter(work, priority=0, timeout_s=work.allowance() - cost) as passed:
            if not passed:
                work.degrade("busy", "dense recall")
                return
            with work.step(self.name, size):
                vector = self._encoder.encode([work.tokens])[0]
        if not np.all(np.isfinite(vector)):
            work.degrade("bad_scores", "dense recall")
            return
        work.vector = vector
        work.decision = f"{len(work.tokens)} tokens"

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return f"{self._model}, {self._encoder.dim} dimensions"
