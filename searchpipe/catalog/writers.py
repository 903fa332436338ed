"""All parts of a snapshot, written side by side, chunk by chunk."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import msgspec

from searchpipe.arrays import Int32
from searchpipe.catalog.analysis import Analyzer, AnalyzerSpec
from searchpipe.catalog.analysis.analyzer import choose_cjk
from searchpipe.catalog.columns import ColumnInfo
from searchpipe.catalog.columns_writer import ColumnsWriter
from searchpipe.catalog.dense import DenseInfo
from searchpipe.catalog.ids import IdWriter
from searchpipe.catalog.lanes import Lane
from searchpipe.catalog.lexical_writer import LexicalWriter
from searchpipe.catalog.reuse import KnownVectors
from searchpipe.catalog.rows import Product
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.storage import BlobWriter
from searchpipe.catalog.template import TextTemplate, as_text
from searchpipe.catalog.vectors_writer import Encoder, VectorsWriter
from searchpipe.errors import CatalogError


class Tokenizer(Protocol):
    """What a build needs of a tokenizer; :class:`searchpipe.models.tokenizer.TextTokenizer` has it."""

    vocab_size: int

    def ids_many(self, texts: list[str]) -> list[Int32]: ...


class SnapshotWriters:
    """The files of one snapshot in ``folder``. For one thread.

    Three lanes write side by side: ids, display fields, columns and postings; the cross-encoder's
    tokens; the vectors. Each has the chunks in their order, so that a product has the same ordinal
    everywhere. Three chunks are in memory at most, and the texts and vectors of two more where an
    encoder takes two calls at once. ``owner`` ends the lanes, which drops the chunks that wait, and
    closes what an unfinished build leaves open.
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
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._dense_text = TextTemplate(settings.dense_text)
        self._pair_text = TextTemplate(settings.pair_text)
        self._cjk = None if settings.cjk == "auto" else settings.cjk
        self.analyzer = self._make_analyzer()
        self.documents = 0
        self.tokens = 0
        self._ids = IdWriter(folder, owner)
        self._display = BlobWriter(folder, "fields", owner)
        self._columns = ColumnsWriter(folder / "columns", settings, owner)
        self._lexical = LexicalWriter(folder / "lexical", settings, owner)
        self._vectors = VectorsWriter(folder / "dense", settings, encoder, known, owner)
        self._store: Any = TokenStoreWriter(str(folder / "tokens.bin"), vocab_size=tokenizer.vocab_size)
        # The last that `owner` is told of is ended first: before the files that they write.
        self._fields_lane = Lane("fields", owner)
        self._tokens_lane = Lane("tokens", owner)
        self._vectors_lane = Lane("vectors", owner)

    @property
    def mistyped(self) -> dict[str, int]:
        """Column -> values that were of another type and count as missing."""
        return self._columns.mistyped

    @property
    def reused(self) -> int:
        """Products so far whose vector came from the build before."""
        return self._vectors.reused

    def append(self, products: list[Product]) -> None:
        """Hand one chunk of products to the lanes, waiting where one has chunks enough.

        Raises:
            SearchpipeError, OSError: this chunk or an earlier one cannot be written.

        """
        self._vectors_lane.put(lambda: self._append_vectors(products))
        self._tokens_lane.put(lambda: self._append_tokens(products))
        self._fields_lane.put(lambda: self._append_fields(products))
        self.documents += len(products)

    def wait(self) -> None:
        """Return when all chunks are written. Raises as :meth:`append`."""
        for lane in (self._fields_lane, self._tokens_lane, self._vectors_lane):
            lane.wait()

    def close(self) -> tuple[DenseInfo, dict[str, ColumnInfo]]:
        """Finish all files and build the indexes. Raises as :meth:`append`."""
        self._fields_lane.put(self._close_fields)
        self._tokens_lane.put(self._close_tokens)
        self.wait()
        return self._vectors.close(), self._columns.close()

    def _append_fields(self, products: list[Product]) -> None:
        if self._cjk is None:
            self._cjk = choose_cjk(f"{p.values['title']} {p.values['text']}" for p in products)
            if self._cjk is not None:
                self.analyzer = self._make_analyzer()
        self._ids.append([product.id for product in products])
        self._display.append([self._shown(product) for product in products])
        self._columns.append(products)
        self._lexical.append(products, self.analyzer.document_terms)

    def _append_tokens(self, products: list[Product]) -> None:
        limit = self._settings.max_pair_tokens
        texts = [self._pair_text.render(product.values) for product in products]
        kept = [ids[:limit] for ids in self._tokenizer.ids_many(texts)]
        try:
            self._store.append_many(kept)
        except RuntimeError as error:
            raise _unwritable_tokens(error) from error
        self.tokens += sum(map(len, kept))

    def _append_vectors(self, products: list[Product]) -> None:
        self._vectors.append([self._prefix + self._dense_text.render(product.values) for product in products])

    def _close_fields(self) -> None:
        self._ids.close()
        self._display.close()
        self._lexical.close()

    def _close_tokens(self) -> None:
        try:
            self._store.close()
        except RuntimeError as error:
            raise _unwritable_tokens(error) from error

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


def _unwritable_tokens(error: RuntimeError) -> CatalogError:
    return CatalogError(
        f"The documents' tokens cannot be written: {error}.", cure="Check that the disk has room."
    )
