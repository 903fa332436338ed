"""Query-document pairs to scores: a cross-encoder over any engine."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Array, Float32, Int32
from searchpipe.backends.base import Engine
from searchpipe.backends.text_inputs import check_text_inputs
from searchpipe.errors import ConfigError, EngineError, ModelError
from searchpipe.models.settings import LocalModel
from searchpipe.models.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from searchpipe._core import TokenStore

_CURE = "Use a model with one logit per pair ([n, 1] or [n]) or two classes ([n, 2])."


class PairScorer:
    """Scores documents of a token store against a query; safe from many threads.

    One call of :meth:`score` is one run of the engine, a step that cannot be
    interrupted: the caller chooses how many documents a step holds. Pairs are
    written by the C++ packer straight into buffers that each thread keeps for
    its next call.

    With dynamically quantised models (the int8 ones) a score depends on what
    shares its step, because the activations of one run share their scales:
    up to about 0.1 logits over 64 unrelated pairs. Score one document a step,
    or use an fp32 model, where scores must be reproducible to the digit.

    Raises:
        ModelError: the model is no cross-encoder, or its inputs or output are not those of one.
        ConfigError: token limits that do not fit the model.

    """

    def __init__(
        self,
        local_model: LocalModel,
        engine: Engine,
        tokenizer: TextTokenizer,
        *,
        max_query_tokens: int = 32,
        max_doc_tokens: int = 64,
    ) -> None:
        from searchpipe._core import PairPacker

        if local_model.kind != "cross-encoder":
            raise ModelError(
                f"Model {local_model.name} is an {local_model.kind}, not a cross-encoder.",
                cure="Name a cross-encoder, for example tiny-cross.",
            )
        self.model = local_model
        self.engine = engine
        self.tokenizer = tokenizer
        self.max_query_tokens = max_query_tokens
        self.max_doc_tokens = max_doc_tokens
        self._dtype = check_text_inputs(engine)
        self._types = "token_type_ids" in engine.inputs
        declared = engine.output_shape
        if declared is not None and not (
            len(declared) == 1 or (len(declared) == 2 and declared[1] in (None, 1, 2))
        ):
            raise ModelError(
                f"Model {local_model.name}: output {engine.outputs[0]} has the shape {declared}.", cure=_CURE
            )
        try:
            self._packer = PairPacker(
                cls_id=tokenizer.cls_id,
                sep_id=tokenizer.sep_id,
                pad_id=tokenizer.pad_id,
                max_query_tokens=max_query_tokens,
                max_doc_tokens=max_doc_tokens,
                max_tokens=local_model.max_tokens,
            )
        except ValueError as error:
            raise ConfigError(
                f"Model {local_model.name} (at most {local_model.max_tokens} tokens): {error}"
            ) from error
        self._buffers = threading.local()

    def score(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Float32:
        """Score each of ``docs`` (ordinals in ``store``): float32 [n] logits, in the order of ``docs``.

        Higher is more relevant. Of a model with two classes it is the log-odds of
        the second, ``logit[1] - logit[0]``. NaN and infinity pass through.

        Raises:
            IndexError: an ordinal outside the store.
            ModelError: the store was made with another tokenizer, or the output is no score.
            EngineError: the run failed.

        """
        if len(docs) == 0:
            return np.empty(0, dtype=np.float32)
        if store.max_token_id >= self.tokenizer.vocab_size:
            raise ModelError(
                f"The token store holds id {store.max_token_id}; model {self.model.name} knows "
                f"{self.tokenizer.vocab_size} tokens.",
                cure="Index the catalog again with this cross-encoder's tokenizer.",
            )
        layout = self._packer.layout(query_ids, store, docs)
        rows, width = layout.rows, layout.width
        ids = self._buffer("input_ids", rows, width)
        mask = self._buffer("attention_mask", rows, width)
        types = self._buffer("token_type_ids", rows, width) if self._types else None
        layout = self._packer.pack(query_ids, store, docs, ids, mask, types)
        feeds: dict[str, Array] = {"input_ids": ids, "attention_mask": mask}
        if types is not None:
            feeds["token_type_ids"] = types
        scores = np.empty(rows, dtype=np.float32)
        scores[layout.permutation] = self._logits(self.engine.run(feeds), rows)
        return scores

    def lengths(self, query_ids: Int32, store: TokenStore, docs: Int32) -> Int32:
        """Tokens of each pair's row, special ones included and without padding: int32 [n]."""
        layout = self._packer.layout(query_ids, store, docs)
        lengths = np.empty(layout.rows, np.int32)
        lengths[layout.permutation] = layout.lengths
        return lengths

    def tokens_of(self, query_ids: Int32, store: TokenStore, docs: Int32) -> tuple[int, int]:
        """Rows and width (tokens, with padding) of the step that would score ``docs``, for a cost model."""
        if len(docs) == 0:
            return 0, 0
        layout = self._packer.layout(query_ids, store, docs)
        return layout.rows, layout.width

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def _buffer(self, name: str, rows: int, width: int) -> Array:
        """Return this thread's buffer for one input, as a contiguous [rows, width] view."""
        flat: np.ndarray[Any, Any] | None = getattr(self._buffers, name, None)
        if flat is None or flat.size < rows * width:
            flat = np.empty(rows * width, dtype=self._dtype)
            setattr(self._buffers, name, flat)
        return flat[: rows * width].reshape(rows, width)

    def _logits(self, output: Float32, rows: int) -> Float32:
        if output.shape in ((rows,), (rows, 1)):
            return output.reshape(rows)
        if output.shape == (rows, 2):
            odds: Float32 = output[:, 1] - output[:, 0]
            return odds
        if output.shape[:1] != (rows,):
            raise EngineError(f"Engine {self.engine.name} returned {output.shape} for {rows} pairs.")
        raise ModelError(f"Model {self.model.name} returned {output.shape} for {rows} pairs.", cure=_CURE)
