"""Rows of token ids as the text models take them: pairs of query and document, and queries alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Array, Int32
from searchpipe.errors import RecipeError
from searchpipe.models.cache import sha256_of
from searchpipe.models.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from searchpipe.catalog import Snapshot

Pair = tuple[str, int]
"""A query's text and a document's ordinal."""

MAX_QUERY_TOKENS = 32
"""Of a pair's row, as the pipeline's default."""

_CACHED_QUERIES = 4096


class PairRows:
    """Packs pairs as ``[CLS] query [SEP] document [SEP]``. Safe from many threads.

    Attributes:
        store: the documents' tokens.
        packer: with the special tokens and limits of the model.
        ids: a query's text -> its tokens, int32 ``(n,)``.

    Args:
        snapshot: holds the documents' tokens.
        tokenizer: of the model.
        max_tokens: longest row, special tokens included.

    Raises:
        RecipeError: the snapshot's documents were tokenized for another model.
    """

    def __init__(self, snapshot: Snapshot, tokenizer: Path, max_tokens: int) -> None:
        from searchpipe._core import PairPacker

        made_with = snapshot.manifest.tokenizer
        if made_with.sha256 and made_with.sha256 != sha256_of(tokenizer):
            raise RecipeError(
                f"The snapshot's documents were tokenized for {made_with.name}, with another tokenizer "
                f"than {tokenizer.name} of this model.",
                cure="Index the catalog with the model's tokenizer (models.scorer).",
            )
        self.store = snapshot.tokens
        self._tokenizer = TextTokenizer(tokenizer, max_tokens=MAX_QUERY_TOKENS)
        if self.store.max_token_id >= self._tokenizer.vocab_size:
            raise RecipeError(
                f"The snapshot holds the token {self.store.max_token_id}; the tokenizer has "
                f"{self._tokenizer.vocab_size}.",
                cure="Index the catalog with the model's tokenizer (models.scorer).",
            )
        self.max_tokens = max_tokens
        self.packer = PairPacker(
            cls_id=self._tokenizer.cls_id,
            sep_id=self._tokenizer.sep_id,
            pad_id=self._tokenizer.pad_id,
            max_query_tokens=min(MAX_QUERY_TOKENS, max(1, max_tokens // 2)),
            max_doc_tokens=max_tokens,
            max_tokens=max_tokens,
        )
        self.ids = lru_cache(_CACHED_QUERIES)(self._tokenizer.ids)

    def lengths(self, query: str, docs: Int32) -> Int32:
        """Tokens of each row, the longest first: int32 ``(n,)``."""
        found: Int32 = self.packer.layout(self.ids(query), self.store, np.asarray(docs, np.int32)).lengths
        return found

    def feeds(self, pairs: Sequence[Pair], width: int = 0) -> tuple[dict[str, Array], Array]:
        """The model's inputs for ``pairs``, and the place in ``pairs`` of each row.

        Args:
            pairs: at least one.
            width: tokens of a row at least; shorter rows are padded.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 ``(n, tokens)``, and int ``(n,)``.
        """
        texts = list(dict.fromkeys(text for text, _ in pairs))
        place = {text: number for number, text in enumerate(texts)}
        queries = [self.ids(text) for text in texts]
        of_row = np.array([place[text] for text, _ in pairs], np.int32)
        docs = np.array([doc for _, doc in pairs], np.int32)
        layout = self.packer.layout_many(queries, of_row, self.store, docs)
        shape = (layout.rows, max(layout.width, width))
        ids, mask, types = (np.zeros(shape, np.int64) for _ in range(3))
        layout = self.packer.pack_many(queries, of_row, self.store, docs, ids, mask, types)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}, layout.permutation


class QueryRows:
    """Tokenizes queries as ``[CLS] query [SEP]``. Safe from many threads.

    Args:
        tokenizer: of the model.
        max_tokens: longest row, special tokens included.
        prefix: put before every text.
    """

    def __init__(self, tokenizer: Path, max_tokens: int, prefix: str = "") -> None:
        self._prefix = prefix
        self._tokenizer = TextTokenizer(tokenizer, max_tokens=max(1, max_tokens - 2))
        self.max_tokens = max_tokens

    @property
    def special(self) -> tuple[int, int, int]:
        """Ids of CLS, SEP and PAD."""
        return self._tokenizer.cls_id, self._tokenizer.sep_id, self._tokenizer.pad_id

    def ids(self, texts: Sequence[str]) -> list[Int32]:
        """Ids of each text without special tokens."""
        return self._tokenizer.ids_many([self._prefix + text for text in texts])

    def length(self, text: str) -> int:
        """Tokens of the row."""
        return len(self.ids([text])[0]) + 2

    def feeds(self, texts: Sequence[str], width: int = 0) -> dict[str, Array]:
        """The model's inputs: int64 ``(n, tokens)`` each, tokens being ``width`` at least."""
        rows = self.ids(texts)
        shape = (len(rows), max(width, *(len(row) + 2 for row in rows)))
        ids: Any = np.full(shape, self._tokenizer.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        for place, row in enumerate(rows):
            end = len(row) + 1
            ids[place, 0], ids[place, end] = self._tokenizer.cls_id, self._tokenizer.sep_id
            ids[place, 1:end] = row
            mask[place, : end + 1] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}
