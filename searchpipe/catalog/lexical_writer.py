"""Writes the lexical index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tantivy

from searchpipe.catalog.lexical import COMBINED, COMBINED_PARTS
from searchpipe.catalog.lexical_shard import ORDINAL, inner_name, lexical_schema, register_terms
from searchpipe.catalog.rows import Product
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.storage import ArrayWriter
from searchpipe.catalog.template import as_text
from searchpipe.errors import CatalogError

_MIB = 1 << 20
_LEAST_MIB = 16
"""tantivy refuses less for a thread, in MiB."""


_SHARD_DOCUMENTS = 125_000
"""A search takes as long as its shard is large: about 3 ms at the ninetieth percentile for so many."""

_MAX_SHARDS = 8


def shard_count(expected: float) -> int:
    """Shards for a catalog of about ``expected`` documents, 1 to 8."""
    return max(1, min(_MAX_SHARDS, round(expected / _SHARD_DOCUMENTS)))


class LexicalWriter:
    """Indexes the terms of products in the order of their ordinals, dealt out to shards. For one thread.

    Args:
        folder: made here; the index itself, or one folder a shard.
        settings: the fields, and the memory, which the shards divide.
        owner: stops tantivy's threads if the build is given up.
        shards: at least 1.

    Raises:
        CatalogError: when tantivy cannot write on, for example on a full disk.

    """

    def __init__(self, folder: Path, settings: IndexSettings, owner: ExitStack, *, shards: int = 1) -> None:
        folder.mkdir()
        self._fields = tuple(settings.lexical_fields)
        self._count = 0
        folders = [folder] if shards == 1 else [folder / str(number) for number in range(shards)]
        memory = max(_LEAST_MIB, settings.lexical_memory_mb // shards)
        self._shards = [_ShardWriter(part, len(self._fields), memory, owner) for part in folders]

    def append(self, products: Iterable[Product], analyze: Any) -> None:
        """Append ``products``; ``analyze`` turns a text into its list of terms."""
        with _translated("be written"):
            for product in products:
                document = tantivy.Document()
                document.add_unsigned(ORDINAL, self._count)
                terms_of = field_terms(product.values, self._fields, analyze)
                for place, field in enumerate(self._fields):
                    if terms_of[field]:
                        document.add_text(inner_name(place), " ".join(terms_of[field]))
                self._shards[self._count % len(self._shards)].add(document)
                self._count += 1

    def commit(self) -> None:
        """Write a segment of what has come so far."""
        with _translated("be written"):
            for shard in self._shards:
                shard.commit()

    def close(self) -> None:
        """Finish the index and write the ordinals of its documents."""
        with _translated("be finished"):
            found = [shard.finish() for shard in self._shards]
        if not np.array_equal(np.sort(np.concatenate(found)), np.arange(self._count)):
            raise CatalogError(
                f"The lexical index has other documents than the {self._count} that were written.",
                cure="Build the snapshot again, and report this.",
            )


class _ShardWriter:
    """One tantivy index.

    tantivy's own thread writes a segment whenever its memory is full and merges
    segments in the background, in any order: :meth:`finish` therefore writes down
    which ordinal each of its documents has.
    """

    def __init__(self, folder: Path, fields: int, memory_mib: int, owner: ExitStack) -> None:
        self._folder = folder
        self._owner = owner
        folder.mkdir(exist_ok=True)
        with _translated("be created"):
            self._index = tantivy.Index(lexical_schema(fields), path=str(folder), reuse=False)
            register_terms(self._index)
            self._writer: Any = self._index.writer(memory_mib * _MIB, 1)
        owner.callback(self._stop)

    def add(self, document: Any) -> None:
        self._writer.add_document(document)

    def commit(self) -> None:
        self._writer.commit()

    def finish(self) -> Any:
        self._writer.commit()
        self._stop()
        self._index.reload()
        ordinals = self._ordinals(self._index.searcher())
        writer = ArrayWriter(self._folder / "ordinals.i32", np.int32, self._owner)
        writer.append(ordinals)
        writer.close()
        for path in self._folder.iterdir():
            path.chmod(0o644)  # tantivy makes some files that only their owner can read
        return ordinals

    def _stop(self) -> None:
        """Wait for tantivy's threads, which would write on into a folder that is being removed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(ValueError):  # they have failed already, and that was reported
                writer.wait_merging_threads()

    def _ordinals(self, searcher: Any) -> Any:
        meta = msgspec.json.decode((self._folder / "meta.json").read_bytes())
        found: list[int] = []
        for segment, info in enumerate(meta["segments"]):
            for first in range(0, info["max_doc"], 65536):
                last = min(first + 65536, info["max_doc"])
                addresses = [tantivy.DocAddress(segment, doc) for doc in range(first, last)]
                found += searcher.fast_field_values(ORDINAL, addresses)
        return np.array(found, np.int64)


def field_terms(values: Mapping[str, Any], fields: Iterable[str], analyze: Any) -> dict[str, list[str]]:
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
        field: [term for part in COMBINED_PARTS for term in terms_of(part)]
        if field == COMBINED
        else terms_of(field)
        for field in fields
    }


class _translated:  # noqa: N801 - reads as a verb
    """tantivy reports every failure as ValueError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | OSError):
            raise CatalogError(
                f"The lexical index cannot {self._what}: {error}.",
                cure="Check that the disk has room and the folder can be written.",
            ) from error
