"""score: a cross-encoder reads the best candidates, as many as the time allows."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from searchpipe._core import TokenStore
from searchpipe.arrays import Array, Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.gate import ComputeGate
from searchpipe.stages.base import Work


class PairScorer(Protocol):
    """Scores (query, document) pairs; :class:`searchpipe.backends.cross_encoder.PairScorer` is one.

    Called from many threads.
    """

    def lengths(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Int32:
        """Tokens of each pair's row, int32 ``(n,)``."""
        ...

    def score(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Float32:
        """Logits float32 ``(n,)``, in the order of ``docs``: one uninterruptible step."""
        ...


class Score:
    """Blends a cross-encoder's opinion into the order of the first ``depth`` candidates.

    Candidates are scored from the best down, in steps that the cost model says
    fit into what is left of the budget; those that no time was left for keep
    their order behind the scored ones. The blended score is
    ``weight * sigmoid(logit / temperature) + (1 - weight) * place``, where place falls linearly
    from 1 at the first candidate to 0 at the ``depth``-th, so that it does not
    depend on how many were scored.

    Raw logits are kept under ``score``.

    Args:
        scorer: the engine.
        store: the documents' token ids.
        gate: shared with the other stages that run models on the same cores.
        depth: candidates to score at most.
        step_rows: pairs in one step at most; the answer can be late by one step.
        weight: of the cross-encoder against the order before it, 0 to 1.
        temperature: of the sigmoid, in logits.
        model: its name, for :meth:`describe`.
    """

    name = "score"
    reads: tuple[str, ...] = ("pair_tokens", "candidates")
    writes: tuple[str, ...] = ("candidates",)
    essential = False

    def __init__(
        self,
        scorer: PairScorer,
        store: TokenStore,
        gate: ComputeGate,
        *,
        depth: int = 100,
        step_rows: int = 16,
        weight: float = 0.5,
        temperature: float = 3.0,
        model: str = "cross-encoder",
    ) -> None:
        self._scorer = scorer
        self._store = store
        self._gate = gate
        self._depth = depth
        self._step_rows = step_rows
        self._weight = weight
        self._temperature = temperature
        self._model = model

    def run(self, work: Work) -> None:
        """Score as many candidates as fit, then reorder them."""
        candidates = work.candidates
        assert candidates is not None
        assert work.pair_tokens is not None
        wanted = min(self._depth, len(candidates))
        if not wanted:
            return
        docs = candidates.docs[:wanted]
        lengths = self._scorer.lengths(work.pair_tokens, self._store, docs)
        # Without a limit every pair will be scored, so the order is free: rows
        # of like length share a step and pad the least.
        order = np.argsort(-lengths, kind="stable") if work.deadline.unlimited else np.arange(wanted)
        logits = np.full(wanted, np.nan, np.float32)
        done = self._score_steps(work, docs, lengths, order, logits)
        bad = int(np.count_nonzero(~np.isfinite(logits[order[:done]])))
        if bad:
            work.degrade("bad_scores", f"{bad} of {done} scores", bad / wanted)
        if np.isfinite(logits).any():
            work.candidates = self._blend(candidates, logits)
            work.orders["score"] = work.candidates.docs
        work.decision = f"{done} of {wanted} pairs"

    def _score_steps(self, work: Work, docs: Int32, lengths: Int32, order: Array, logits: Float32) -> int:
        """Fill ``logits`` step by step along ``order``; returns how many were scored."""
        wanted, done = len(docs), 0
        assert work.pair_tokens is not None
        while done < wanted:
            ahead = order[done : done + self._step_rows]
            width = int(lengths[ahead].max())
            rows = len(ahead)
            if not work.deadline.unlimited:
                rows = work.costs.largest_within(self.name, width, rows, work.allowance())
                if not rows:
                    work.costs.relax(self.name, width)
            reason = "shortened" if done else "deadline"
            if rows:
                step = ahead[:rows]
                size = rows * int(lengths[step].max())
                cost = work.costs.predict(self.name, size) or 0.0
                with self._gate.enter(work, priority=1, timeout_s=work.allowance() - cost) as passed:
                    if passed:
                        with work.step(self.name, size):
                            logits[step] = self._scorer.score(work.pair_tokens, self._store, docs[step])
                        done += rows
                        continue
                reason = "busy"
            work.degrade(reason, f"scored {done} of {wanted} candidates", 1 - done / wanted)
            break
        return done

    def _blend(self, candidates: Candidates, logits: Float32) -> Candidates:
        n = len(candidates)
        scored = np.zeros(n, bool)
        scored[: len(logits)] = np.isfinite(logits)
        column = np.full(n, np.nan, np.float32)
        column[: len(logits)] = logits
        place = np.clip(1.0 - np.arange(n, dtype=np.float32) / self._depth, 0.0, 1.0)
        opinion = 1.0 / (1.0 + np.exp(-np.clip(column / self._temperature, -30.0, 30.0)))
        blended = np.where(scored, self._weight * opinion + (1.0 - self._weight) * place, -1.0)
        candidates.scores["score"] = column
        candidates.scores["blend"] = np.where(scored, blended, np.nan).astype(np.float32)
        return candidates.take(np.argsort(-blended, kind="stable"))

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return (
            f"{self._model}, up to {self._depth} pairs in steps of {self._step_rows}, weight {self._weight:g}"
        )
