"""Rows of all sources, checked, in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchpipe.catalog.readers import RowReader, open_rows
from searchpipe.catalog.rejects import RejectLog
from searchpipe.catalog.rows import Product, RowChecker, RowError
from searchpipe.catalog.settings import IndexSettings
from searchpipe.errors import CatalogError

# A chunk ends early when its titles and texts reach this many characters.
_CHUNK_CHARACTERS = 16 << 20


class ProductStream:
    """Products of ``sources``, in their order and each id once. For one thread.

    Ids are held in memory, about 100 MB for a million products.
    """

    def __init__(self, sources: list[Path], settings: IndexSettings, rejects: RejectLog) -> None:
        self._readers: list[RowReader] = [
            open_rows(path, max_row_bytes=settings.max_row_bytes) for path in sources
        ]
        self._settings = settings
        self._rejects = rejects
        self._reading = -1
        self.rows = 0
        self.bytes_total = sum(reader.bytes_total for reader in self._readers)

    @property
    def bytes_read(self) -> int:
        """Bytes consumed of all sources."""
        done = sum(reader.bytes_total for reader in self._readers[: max(self._reading, 0)])
        if 0 <= self._reading < len(self._readers):
            done += self._readers[self._reading].bytes_read
        return done

    def __iter__(self) -> Iterator[list[Product]]:
        """Chunks of products.

        Raises:
            CatalogError: when too many rows are bad, or there is no good one at all.

        """
        chunk: list[Product] = []
        characters = 0
        any_product = False
        for product in self._products():
            any_product = True
            chunk.append(product)
            characters += len(product.values["title"]) + len(product.values["text"])
            if len(chunk) >= self._settings.chunk_rows or characters >= _CHUNK_CHARACTERS:
                yield chunk
                self._rejects.judge(self.rows, final=False)
                chunk, characters = [], 0
        self._rejects.judge(self.rows, final=True)
        if chunk:
            yield chunk
        if not any_product:
            raise CatalogError(
                f"None of the {self.rows:,} rows is a product.", cure="Index a catalog with some rows."
            )

    def _products(self) -> Iterator[Product]:
        checker = RowChecker(self._settings)
        seen: set[str] = set()
        for place, reader in enumerate(self._readers):
            self._reading = place
            for row in reader:
                self.rows += 1
                try:
                    product = checker.check(row)
                except RowError as error:
                    self._rejects.add(row, str(error), error.product_id)
                    if self.rows % 1000 == 0:
                        self._rejects.judge(self.rows, final=False)
                    continue
                if product.id in seen:
                    self._rejects.add(row, "duplicate id: the first row with it was kept", product.id)
                    continue
                seen.add(product.id)
                yield product
        self._reading = len(self._readers)
