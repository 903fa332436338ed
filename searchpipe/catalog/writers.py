"""All parts of a snapshot, written side by side, chunk by chunk."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.catalog.analysis import Analyzer, AnalyzerSpec
from searchpipe.catalog.analysis.analyzer import choose_cjk
from searchpipe.catalog.columns import ColumnInfo
from searchpipe.catalog.columns_writer import ColumnsWriter
from searchpipe.catalog.dense import DenseInfo
from searchpipe.catalog.dense_writer import DenseWriter
from searchpipe.catalog.ids import IdWriter
from searchpipe.catalog.lexical_writer import LexicalWriter
from searchpipe.catalog.reuse import KnownVectors, TextKeyWriter, text_keys
from searchpipe.catalog.rows import Product
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.storage import BlobWriter
from searchpipe.catalog.template import TextTemplate, as_text
from searchpipe.errors import CatalogError


class Encoder(Protocol):
    """What a build needs of an encoder; :class:`searchpipe.backends.TextEncoder` has it."""

    @property
    def dim(self) -> int: ...

    def encode_texts(self, texts: list[str], *, prefix: str = "") -> Float32: ...


class Tokenizer(Protocol):
    """What a build needs of a tokenizer; :class:`searchpipe.models.tokenizer.TextTokenizer` has it."""

    vocab_size: int

    def ids_many(self, texts: list[str]) -> list[Int32]: ...


class SnapshotWriters:
    """The files of one snapshot in ``folder``. For one thread.

    Every chunk is appended to all parts before the next, so that a product has
    the same ordinal everywhere. ``owner`` closes what an unfinished build leaves open.
    """

    def __init__(
        self,
        folder: Path,
        settings: IndexSettings,
        encoder: Encoder,
        tokenizer: Tokenizer,
        *,
        prefix: str,
        known: KnownVectors | None,
        owner: ExitStack,
    ) -> None:
        from searchpipe._core import TokenStoreWriter

        self._settings = settings
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._known = known
        self._dense_text = TextTemplate(settings.dense_text)
        self._pair_text = TextTemplate(settings.pair_text)
        self._cjk = None if settings.cjk == "auto" else settings.cjk
        self.analyzer = self._make_analyzer()
        self.documents = 0
        self.tokens = 0
        self.reused = 0
        self._ids = IdWriter(folder, owner)
        self._display = BlobWriter(folder, "fields", owner)
        self._columns = ColumnsWriter(folder / "columns", settings, owner)
        self._lexical = LexicalWriter(folder / "lexical", settings, owner)
        self._dense = DenseWriter(folder / "dense", settings, encoder.dim, owner)
        self._keys = TextKeyWriter(folder / "dense", owner)
        self._store: Any = TokenStoreWriter(str(folder / "tokens.bin"), vocab_size=tokenizer.vocab_size)

    @property
    def mistyped(self) -> dict[str, int]:
        """Column -> values that were of another type and count as missing."""
        return self._columns.mistyped

    def append(self, products: list[Product]) -> None:
        """Write one chunk of products."""
        if self._cjk is None:
            self._cjk = choose_cjk(f"{p.values['title']} {p.values['text']}" for p in products)
            if self._cjk is not None:
                self.analyzer = self._make_analyzer()
        self._ids.append([product.id for product in products])
        self._display.append([self._shown(product) for product in products])
        self._columns.append(products)
        self._lexical.append(products, self.analyzer.document_terms)
        self._append_tokens([self._pair_text.render(product.values) for product in products])
        self._append_vectors([self._prefix + self._dense_text.render(product.values) for product in products])
        self.documents += len(products)

    def close(self) -> tuple[DenseInfo, dict[str, ColumnInfo]]:
        """Finish all files and build the indexes."""
        self._ids.close()
        self._display.close()
        columns = self._columns.close()
        self._lexical.close()
        self._keys.close()
        try:
            self._store.close()
        except RuntimeError as error:
            raise _unwritable_tokens(error) from error
        return self._dense.close(), columns

    def _make_analyzer(self) -> Analyzer:
        return Analyzer(AnalyzerSpec(languages=self._settings.languages, cjk=self._cjk or "bigram"))

    def _shown(self, product: Product) -> bytes:
        wanted = self._settings.display
        shown = {
            name: value
            for name, value in product.values.items()
            if (name in wanted if wanted is not None else name != "text") and value not in ("", [])
        }
        # What JSON has no form for, such as dates of a Parquet file, is shown as text.
        return msgspec.json.encode(shown, enc_hook=as_text)

    def _append_tokens(self, texts: list[str]) -> None:
        limit = self._settings.max_pair_tokens
        try:
            for ids in self._tokenizer.ids_many(texts):
                kept = ids[:limit]
                self._store.append(kept)
                self.tokens += len(kept)
        except RuntimeError as error:
            raise _unwritable_tokens(error) from error

    def _append_vectors(self, texts: list[str]) -> None:
        keys = text_keys(texts)
        vectors = np.empty((len(texts), self._encoder.dim), np.float32)
        fresh = np.arange(len(texts))
        if self._known is not None:
            known, found = self._known.find(keys)
            vectors[known] = found
            fresh = np.flatnonzero(~known)
            self.reused += int(known.sum())
        if len(fresh):
            made = self._encoder.encode_texts([texts[row] for row in fresh])
            if made.shape != (len(fresh), self._encoder.dim):
                raise CatalogError(
                    f"The encoder gave {made.shape} for {len(fresh)} texts, its dim is {self._encoder.dim}."
                )
            vectors[fresh] = made
        self._dense.append(vectors)
        self._keys.append(keys)


def _unwritable_tokens(error: RuntimeError) -> CatalogError:
    return CatalogError(
        f"The documents' tokens cannot be written: {error}.", cure="Check that the disk has room."
    )
