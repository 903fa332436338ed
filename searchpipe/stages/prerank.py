"""prerank: a cheap order over all candidates, by a formula or a learned ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.candidates import Candidates
from searchpipe.errors import ModelError
from searchpipe.runtime.begun_scores import Term
from searchpipe.stages.base import Work
from searchpipe.stages.features import Features

_QUICK_S = 2e-4
"""A learned ranker that takes longer is not tried ahead: its threads are needed for answers."""


class Ranker(Protocol):
    """Scores all candidates of a query from cheap features. ``score`` is called from many threads."""

    def score(self, work: Work) -> Float32:
        """Float32 ``(n,)``, higher is better, finite; in the order of ``work.candidates``."""
        ...

    def describe(self) -> str:
        """One line."""
        ...


class Formula:
    """A weighted sum of features, each in ``[0, 1]``; added up in float32, in the order of the weights.

    Args:
        features: computes them.
        weights: feature name -> weight, any finite number.

    Attributes:
        terms: the formula as ``_core.HeadPlan`` takes it; None if it cannot be told so.

    Raises:
        ConfigError: a feature that does not exist.
    """

    def __init__(self, features: Features, weights: Mapping[str, float]) -> None:
        self._features = features
        self._names = tuple(weights)
        self._weights = np.asarray(list(weights.values()), np.float32)
        features.check(self._names)
        features.prepare(self._names)
        self.terms = features.terms(self._names, self._weights)

    def score(self, work: Work) -> Float32:
        """Evaluate the formula."""
        return self._features.weighted(self._names, self._weights, work)

    def describe(self) -> str:
        """One line."""
        return " + ".join(f"{w:g} {n}" for n, w in zip(self._names, self._weights, strict=True))


class Prerank:
    """Reorders ``candidates`` by a :class:`Ranker`; its scores are kept under ``prerank``."""

    name = "prerank"
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("candidates",)
    essential = False

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    def run(self, work: Work) -> None:
        """Score and sort; ties keep the fused order."""
        candidates = work.candidates
        assert candidates is not None
        if not len(candidates):
            return
        if (head := work.head) is not None and (done := head.take(self.name, candidates)) is not None:
            assert done.made is not None
            self._settle(work, done.made)
            return
        with work.step(self.name, len(candidates)):
            scores = np.asarray(self._ranker.score(work), np.float32)
        if scores.shape != (len(candidates),):
            raise ModelError(
                f"The ranker gave scores of shape {scores.shape} for {len(candidates)} candidates.",
                cure="Return one float per candidate.",
            )
        preranked = candidates.ordered_by(self.name, scores)
        if preranked is None:
            work.degrade("bad_scores", "the preranked order")
            return
        self._settle(work, preranked)

    def _settle(self, work: Work, preranked: Candidates) -> None:
        work.candidates = preranked
        work.orders["prerank"] = preranked.docs

    def head_terms(self) -> Sequence[Term] | None:
        """See :class:`searchpipe.stages.head_plan.FormulaStage`."""
        return self._ranker.terms if isinstance(self._ranker, Formula) else None

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return self._ranker.describe()
