"""Pairs that are on their way before anybody waits for their scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from searchpipe.arrays import Float32, Int32
from searchpipe.runtime.chain_request import Begun, Spare
from searchpipe.runtime.engine_chain import EngineChain
from searchpipe.runtime.forecast import Running

if TYPE_CHECKING:
    from searchpipe import _core

Logits = Callable[[Float32], Float32]
"""What an engine gave, float32 ``(n,)`` or ``(n, 2)``, as one logit a pair."""


Term = tuple[Literal["fused", "list", "by document", "by place"], Any, float]
"""Of a formula that orders candidates, as ``_core.HeadPlan`` takes it: how, what, weight."""


class Fusion(NamedTuple):
    """How lists of documents are made one: arguments of ``_core.fuse_found``."""

    weights: dict[str, float]
    method: Literal["rrf", "minmax"]
    k: float


class BegunScores:
    """Pairs that are on their way; finish or cancel them once, on the thread that has begun them.

    Args:
        chain: has begun them.
        begun: the request.
        running: not entered; counts them as given to the engine until then.
        logits: of the model.
    """

    __slots__ = ("_begun", "_chain", "_logits", "_running")

    def __init__(self, chain: EngineChain, begun: Begun, running: Running, logits: Logits) -> None:
        self._chain = chain
        self._begun = begun
        self._running = running
        self._logits = logits
        running.__enter__()

    def finish(self, *, meanwhile: Spare | None = None, before_end: Spare | None = None) -> Float32:
        """Wait for the logits; arguments and what is raised as of ``ChainPairScorer.score``."""
        try:
            return self._logits(self._chain.finish(self._begun, meanwhile=meanwhile, before_end=before_end))
        finally:
            self._running.__exit__(None, None, None)

    def cancel(self) -> None:
        """Nobody wants them."""
        self._begun.request.abandon()
        self._running.__exit__(None, None, None)


class PlannedScores:
    """Pairs of which one list of documents is still awaited. Belongs to one thread.

    Args:
        chain: is to score them.
        plan: all that is known of them.
        logits: of the model.

    Attributes:
        plan: the same, and what was made of it once the pairs were begun.
    """

    __slots__ = ("_chain", "_logits", "plan")

    def __init__(self, chain: EngineChain, plan: _core.HeadPlan, logits: Logits) -> None:
        self._chain = chain
        self._logits = logits
        self.plan = plan

    def begin(self, docs: Int32, scores: Float32, allowance_s: float, margin: float) -> BegunScores | None:
        """The list has come: put the pairs on their way, if ``margin`` times their forecast is allowed.

        Raises:
            ValueError: it cannot be fused.
            IndexError, OverloadedError, ClosedError: as ``ChainPairScorer.score``.
        """
        chain, plan = self._chain, self.plan
        forecaster = chain.forecaster
        if forecaster is None:
            return None

        def start(scorer: _core.Scorer) -> tuple[_core.Ticket, _core.Flight] | None:
            flight = forecaster.begin(plan, docs, scores, scorer, allowance_s, margin)
            return None if flight is None else (plan.ticket, flight)

        begun = chain.begin(start)
        if begun is None:
            return None
        return BegunScores(chain, begun, forecaster.running(0, seconds=plan.seconds), self._logits)

    def rehearse(self, docs: Int32, scores: Float32) -> None:
        """As :meth:`begin`, up to the beginning, with any list."""
        if (forecaster := self._chain.forecaster) is not None:
            forecaster.rehearse(self.plan, docs, scores, self._chain.scorer)
