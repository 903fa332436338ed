"""Texts to vectors: a bi-encoder over any engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from searchpipe.arrays import Array, Float32, Int32
from searchpipe.backends.base import Engine
from searchpipe.backends.text_inputs import check_text_inputs
from searchpipe.errors import EngineError, ModelError
from searchpipe.models.settings import LocalModel
from searchpipe.models.tokenizer import TextTokenizer

# Rows times width of one run, padding included. Large enough to keep a few cores busy,
# small enough that activations (about 10 KB a token in a 384-wide model) stay in the
# tens of megabytes.
PADDED_TOKENS_PER_RUN = 4096
# A vector shorter than this has no direction; it is left as it is instead of blown up.
_SMALLEST_NORM = 1e-12


class TextEncoder:
    """Token ids in, one float32 vector each out; safe from many threads.

    Texts are run sorted by length in batches of at most ``padded_tokens`` tokens,
    padding included. With dynamically quantised models (the int8 ones) a vector
    depends slightly on what shares its batch: cosine to the vector of the text
    alone stays above 0.99. Encode one text a call where it must not.

    Raises:
        ModelError: the model is no encoder, or its inputs or output are not those of one.

    """

    def __init__(
        self,
        local_model: LocalModel,
        engine: Engine,
        tokenizer: TextTokenizer,
        *,
        padded_tokens: int = PADDED_TOKENS_PER_RUN,
    ) -> None:
        if local_model.kind != "encoder":
            raise ModelError(
                f"Model {local_model.name} is a {local_model.kind}, not an encoder.",
                cure="Name an encoder, for example minilm-l6.",
            )
        self.model = local_model
        self.engine = engine
        self.tokenizer = tokenizer
        self._dtype = check_text_inputs(engine)
        self._types = "token_type_ids" in engine.inputs
        self._padded_tokens = max(1, padded_tokens)
        self._rank = 2 if local_model.pooling == "none" else 3
        declared = engine.output_shape
        if declared is not None and len(declared) != self._rank:
            raise self._wrong_output(str(declared))
        # The only way to learn the size when the file does not declare it is to run it once.
        self._dim = (declared[-1] if declared else None) or int(self._run([np.empty(0, np.int32)]).shape[1])

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def encode(self, token_ids: Sequence[Int32]) -> Float32:
        """Encode texts given as ids without special tokens: float32 [n, dim], in the order given.

        Ids beyond ``max_tokens`` (less the two special tokens) are cut. Unit length
        if the model normalises; NaN passes through.

        Raises:
            EngineError: the engine failed or returned another shape.

        """
        limit = self.model.max_tokens - 2
        cut = [ids[:limit] for ids in token_ids]
        out = np.empty((len(cut), self._dim), dtype=np.float32)
        for rows in self._batches([len(ids) + 2 for ids in cut]):
            out[rows] = self._run([cut[row] for row in rows])
        return out

    def encode_texts(self, texts: Sequence[str], *, prefix: str = "") -> Float32:
        """Encode texts, each after ``prefix`` (the model's query or document prefix): float32 [n, dim]."""
        return self.encode(self.tokenizer.ids_many([prefix + text for text in texts] if prefix else texts))

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Rows of similar length, the longest first, within the token budget."""
        batch: list[int] = []
        width = 0
        for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            width = width or lengths[row]
            if batch and (len(batch) + 1) * width > self._padded_tokens:
                yield batch
                batch, width = [], lengths[row]
            batch.append(row)
        if batch:
            yield batch

    def _run(self, texts: list[Int32]) -> Float32:
        width = max(len(ids) for ids in texts) + 2
        shape = (len(texts), width)
        ids = np.full(shape, self.tokenizer.pad_id, dtype=self._dtype)
        mask = np.zeros(shape, dtype=self._dtype)
        for row, text in enumerate(texts):
            end = len(text) + 1
            ids[row, 0] = self.tokenizer.cls_id
            ids[row, 1:end] = text
            ids[row, end] = self.tokenizer.sep_id
            mask[row, : end + 1] = 1
        feeds: dict[str, Array] = {"input_ids": ids, "attention_mask": mask}
        if self._types:
            feeds["token_type_ids"] = np.zeros(shape, dtype=self._dtype)
        hidden = self.engine.run(feeds)
        expected = shape if self._rank == 3 else shape[:1]
        if hidden.ndim != self._rank or hidden.shape[:-1] != expected:
            raise EngineError(
                f"Engine {self.engine.name} returned {hidden.shape} for {shape[0]} texts of width {width}."
            )
        vectors = self._pool(hidden, mask)
        return _normalized(vectors) if self.model.normalize else vectors

    def _pool(self, hidden: Float32, mask: Array) -> Float32:
        if self.model.pooling == "none":
            return hidden
        if self.model.pooling == "cls":
            return hidden[:, 0]
        weights = mask.astype(np.float32)
        # Every row has its two special tokens, so the count is never zero.
        pooled: Float32 = np.einsum("rtd,rt->rd", hidden, weights) / weights.sum(axis=1, keepdims=True)
        return pooled

    def _wrong_output(self, found: str) -> ModelError:
        wanted = "[batch, dim]" if self._rank == 2 else "[batch, sequence, dim]"
        return ModelError(
            f"Model {self.model.name}: output {self.engine.outputs[0]} has the shape {found}, "
            f"expected {wanted} with pooling {self.model.pooling!r}.",
            cure="Use pooling 'none' for a model that pools by itself, 'mean' or 'cls' otherwise.",
        )


def _normalized(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms <= _SMALLEST_NORM] = 1.0
    unit: Float32 = vectors / norms
    return unit
