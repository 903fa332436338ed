"""Query-document pairs to scores on an engine chain: twin of ``backends.cross_encoder.PairScorer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from searchpipe.arrays import Float32, Int32
from searchpipe.errors import ModelError
from searchpipe.models.settings import LocalModel
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.runtime.begun_scores import Fusion, PlannedScores, Term
from searchpipe.runtime.engine_chain import EngineChain, Submit
from searchpipe.runtime.forecast import Forecast, Outlook

if TYPE_CHECKING:
    from searchpipe import _core


class ChainPairScorer:
    """Scores documents of a token store against a query; safe from many threads.

    Requests of all callers are merged into batches; a request is one call, however
    many documents it has, and costs Python one submission and one result.

    Args:
        local_model: the cross-encoder that every link of ``chain`` runs.
        chain: the engines; closed with this object.
        tokenizer: for the special tokens.
        max_query_tokens, max_doc_tokens: a pair keeps at most so many of each.

    Raises:
        ModelError: the model is no cross-encoder.
    """

    def __init__(
        self,
        local_model: LocalModel,
        chain: EngineChain,
        tokenizer: TextTokenizer,
        *,
        max_query_tokens: int = 32,
        max_doc_tokens: int = 128,
    ) -> None:
        from searchpipe import _core

        if local_model.kind != "cross-encoder":
            raise ModelError(f"Model {local_model.name} is an {local_model.kind}, not a cross-encoder.")
        self.model = local_model
        self.chain = chain
        self.tokenizer = tokenizer
        self._packer = _core.PairPacker(
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            pad_id=tokenizer.pad_id,
            max_query_tokens=max_query_tokens,
            max_doc_tokens=max_doc_tokens,
            max_tokens=min(local_model.max_tokens, chain.scorer.executor.longest_row),
        )

    def lengths(self, query_ids: Int32, store: _core.TokenStore, docs: Int32) -> Int32:
        """Tokens of each pair's row, int32 ``(n,)``. Raises IndexError for a document outside the store."""
        return self._packer.lengths(query_ids, store, docs)

    def score(
        self,
        query_ids: Int32,
        store: _core.TokenStore,
        docs: Int32,
        *,
        deadline: float | None = None,
        priority: int = 0,
        meanwhile: Callable[[], None] | None = None,
        before_end: Callable[[], None] | None = None,
        forecast: Forecast | None = None,
    ) -> Float32:
        """Score each of ``docs``: float32 ``(n,)`` logits, in the order of ``docs``.

        Of a model with two classes it is the log-odds of the second, ``logit[1] - logit[0]``.

        Args:
            query_ids: int32 ``(q,)`` token ids without special tokens.
            store: the documents' token ids.
            docs: int32 ``(n,)`` ordinals.
            deadline: seconds of ``time.monotonic()``; pairs not begun by then come back as NaN.
            priority: higher goes first.
            meanwhile: called once on this thread when the pairs were submitted; what it raises is ignored.
            before_end: called at most once on this thread, shortly before the scores are there, if nobody
                else uses the engine; what it raises is ignored.
            forecast: what :meth:`outlook` or :meth:`predict` has just said of these pairs, so that it need
                not be found out again.

        Raises:
            IndexError: an ordinal outside the store.
            ModelError: the store holds ids that the model does not know.
            EngineError: the engine failed or none is ready.
            OverloadedError, ClosedError: the queue is full, the engine closed.
        """
        request = self._request(query_ids, store, docs, deadline, priority)
        forecaster = self.chain.forecaster
        if forecaster is None:
            return self.logits(self.chain.run(request, meanwhile=meanwhile, before_end=before_end))
        lengths = self.lengths(query_ids, store, docs) if forecast is None else None
        with forecaster.running(len(docs), lengths, forecast=forecast):
            return self.logits(self.chain.run(request, meanwhile=meanwhile, before_end=before_end))

    def plan(
        self,
        found: dict[str, tuple[Int32, Float32] | None],
        fusion: Fusion,
        formula: Sequence[Term] | None,
        *,
        query_ids: Int32,
        store: _core.TokenStore,
        depth: int,
        priority: int = 0,
    ) -> PlannedScores:
        """Tell beforehand all but the one list of documents that is still awaited; see ``_core.HeadPlan``.

        Raises:
            ModelError: as :meth:`score`.
            ValueError: it cannot be planned.
        """
        from searchpipe import _core

        self._check(store)
        plan = _core.HeadPlan(found, *fusion, formula, depth, self._packer, store, query_ids, priority)
        return PlannedScores(self.chain, plan, self.logits)

    async def score_async(
        self,
        query_ids: Int32,
        store: _core.TokenStore,
        docs: Int32,
        *,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Float32:
        """As :meth:`score`, without blocking the event loop."""
        request = self._request(query_ids, store, docs, deadline, priority)
        return self.logits(await self.chain.run_async(request))

    def predict(self, lengths: Int32) -> Forecast | None:
        """How long :meth:`score` of rows with these ``lengths`` would take now; None if nobody knows."""
        forecaster = self.chain.forecaster
        return forecaster.predict(lengths) if forecaster is not None else None

    def outlook(self, query_ids: Int32, store: _core.TokenStore, docs: Int32) -> Outlook:
        """:meth:`lengths` and :meth:`predict` in one. Raises IndexError for a document outside the store."""
        forecaster = self.chain.forecaster
        if forecaster is not None:
            return forecaster.outlook(self._packer, store, query_ids, docs)
        lengths = self.lengths(query_ids, store, docs)
        return Outlook(lengths, int(lengths.sum()), None)

    def tokens_of(self, query_ids: Int32, store: _core.TokenStore, docs: Int32) -> tuple[int, int]:
        """Rows and width (tokens) of ``docs`` in one batch, for a cost model."""
        layout = self._packer.layout(query_ids, store, docs)
        return layout.rows, layout.width

    def close(self) -> None:
        """Close the engines."""
        self.chain.close()

    def _request(
        self,
        query_ids: Int32,
        store: _core.TokenStore,
        docs: Int32,
        deadline: float | None,
        priority: int,
    ) -> Submit:
        self._check(store)
        return lambda scorer: scorer.prepare_pairs(
            self._packer, store, query_ids, docs, deadline=deadline, priority=priority
        )

    def _check(self, store: _core.TokenStore) -> None:
        if store.max_token_id >= self.tokenizer.vocab_size:
            raise ModelError(
                f"The token store holds id {store.max_token_id}; model {self.model.name} knows "
                f"{self.tokenizer.vocab_size} tokens.",
                cure="Index the catalog again with this cross-encoder's tokenizer.",
            )

    def logits(self, scores: Float32) -> Float32:
        """What an engine gave, float32 ``(n,)`` or ``(n, 2)``, as one logit a pair, float32 ``(n,)``."""
        if scores.ndim == 1:
            return scores
        if scores.shape[1] == 2:
            odds: Float32 = scores[:, 1] - scores[:, 0]
            return odds
        raise ModelError(f"Model {self.model.name} gives {scores.shape[1]} values a pair, not 1 or 2.")
