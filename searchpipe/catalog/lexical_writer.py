"""Writes the lexical index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from searchpipe.catalog.lexical import COMBINED, COMBINED_PARTS, POSTINGS
from searchpipe.catalog.rows import Product
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.template import as_text
from searchpipe.errors import CatalogError

_MIB = 1 << 20
# Terms in memory at once, some 1 MB with what the core notes of them. The GIL is let go once for all of
# them: beside a busy thread it is 5 ms until it comes back.
_BATCH_TERMS = 1 << 15


class LexicalWriter:
    """Indexes the terms of products in the order of their ordinals. For one thread.

    Memory holds ``lexical_memory_mb`` of postings and the lengths of all fields; the rest is in a
    temporary file until it is merged.

    Args:
        folder: made here.
        settings: the fields and the memory.
        owner: removes the temporary file if the build is given up.

    Raises:
        CatalogError: when the index cannot be written, for example on a full disk.

    """

    def __init__(self, folder: Path, settings: IndexSettings, owner: ExitStack) -> None:
        from searchpipe._core import PostingsWriter

        folder.mkdir()
        self._fields = tuple(settings.lexical_fields)
        try:
            self._writer = PostingsWriter(
                folder / POSTINGS,
                fields=len(self._fields),
                memory_bytes=settings.lexical_memory_mb * _MIB,
            )
        except OSError as error:
            raise _unwritable(error) from error
        owner.callback(self._writer.abandon)

    def append(self, products: Iterable[Product], analyze: Callable[[str], list[str]]) -> None:
        """Append ``products``; ``analyze`` turns a text into its list of terms."""
        documents: list[list[list[str]]] = []
        terms = 0
        for product in products:
            terms_of = field_terms(product.values, self._fields, analyze)
            documents.append([terms_of[field] for field in self._fields])
            terms += sum(map(len, documents[-1]))
            if terms >= _BATCH_TERMS:
                self._write(documents)
                documents, terms = [], 0
        self._write(documents)

    def close(self) -> None:
        """Merge what was written and publish the index in its folder."""
        try:
            self._writer.close()
        except (OSError, RuntimeError) as error:
            raise _unwritable(error) from error

    def _write(self, documents: list[list[list[str]]]) -> None:
        try:
            self._writer.append_many(documents)
        except OSError as error:
            raise _unwritable(error) from error


def field_terms(
    values: Mapping[str, Any], fields: Iterable[str], analyze: Callable[[str], list[str]]
) -> dict[str, list[str]]:
    """Terms of each lexical field of a product, every text analysed once."""
    known: dict[str, list[str]] = {}

    def terms_of(name: str) -> list[str]:
        if name not in known:
            # A full stop keeps the end of one list item from joining the next.
            value = values.get(name)
            text = ". ".join(map(as_text, value)) if isinstance(value, list | tuple) else as_text(value)
            known[name] = analyze(text) if text else []
        return known[name]

    return {
        field: list(chain.from_iterable(map(terms_of, COMBINED_PARTS)))
        if field == COMBINED
        else terms_of(field)
        for field in fields
    }


def _unwritable(error: Exception) -> CatalogError:
    return CatalogError(
        f"The lexical index cannot be written: {error}.",
        cure="Check that the disk has room and the folder can be written.",
    )
