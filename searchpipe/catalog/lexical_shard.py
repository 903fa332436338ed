"""One shard of the lexical index: a tantivy index and the ordinals of its documents."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tantivy

from searchpipe.arrays import Float32, Int32
from searchpipe.catalog.storage import open_array

ORDINAL = "ordinal"

_Hits = list[tuple[float, Any]]


class LexicalShard:
    """Searches one tantivy index. Safe from many threads; tantivy releases the GIL while it searches."""

    def __init__(self, folder: Path) -> None:
        self._searcher, mirror = _open(folder)
        if mirror is not None:
            weakref.finalize(self, shutil.rmtree, mirror, True)
        sizes = [s["max_doc"] for s in msgspec.json.decode((folder / "meta.json").read_bytes())["segments"]]
        self._starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self.count = int(self._starts[-1])
        self.ordinals: Int32 = open_array(folder / "ordinals.i32", np.int32, (self.count,))
        self._check_order()
        self._in_order = len(sizes) == 1 and bool(np.array_equal(self.ordinals, np.arange(self.count)))

    def fetch(self, query: Any, limit: int) -> tuple[Int32, Float32]:
        """The ``limit`` best of a tantivy query: ordinals int32 ``(m,)`` and scores float32 ``(m,)``."""
        limit = min(limit, self.count)
        if limit <= 0:
            return np.empty(0, np.int32), np.empty(0, np.float32)
        hits: _Hits = self._searcher.search(query, limit, count=False).hits
        # Lists first: NumPy takes them in several times faster than generators.
        scores = np.array([score for score, _ in hits], np.float32)
        if self._in_order:
            return np.array([address.doc for _, address in hits], np.int32), scores
        docs = np.array([address.doc for _, address in hits], np.int64)
        segments = np.array([address.segment_ord for _, address in hits], np.int64)
        return self.ordinals[self._starts[segments] + docs], scores

    def _check_order(self) -> None:
        """Check that the first and last document of each segment are where the table of ordinals says."""
        for segment, (start, end) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            ends = [tantivy.DocAddress(segment, 0), tantivy.DocAddress(segment, int(end - start) - 1)]
            found = self._searcher.fast_field_values(ORDINAL, ends)
            if found != [int(self.ordinals[start]), int(self.ordinals[end - 1])]:
                raise ValueError(f"segment {segment} has other documents than ordinals.i32 says")


def inner_name(place: int) -> str:
    """Tantivy's name of a field: a catalog's own names may hold characters that it refuses."""
    return f"f{place}"


def lexical_schema(fields: int) -> Any:
    """Term frequencies without positions for each field, and each document's ordinal."""
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field(ORDINAL, indexed=True, fast=True)
    for place in range(fields):
        builder.add_text_field(inner_name(place), tokenizer_name="terms", index_option="freq")
    return builder.build()


def register_terms(index: Any) -> None:
    """Terms come analysed, separated by spaces: tantivy must only split them."""
    splitter = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
    index.register_tokenizer("terms", splitter)


def _open(folder: Path) -> tuple[Any, Path | None]:
    """Return a searcher, and the folder of links made for it, if any."""
    try:
        return _searcher(folder), None
    except (ValueError, OSError):
        # tantivy takes a lock file even to read; on a read-only volume it gets a
        # folder of links to the real files instead.
        mirror = Path(tempfile.mkdtemp(prefix="searchpipe-lexical-"))
        try:
            for file in folder.iterdir():
                if not file.name.endswith(".lock"):
                    (mirror / file.name).symlink_to(file.resolve())
            return _searcher(mirror), mirror
        except BaseException:
            shutil.rmtree(mirror, ignore_errors=True)
            raise


def _searcher(folder: Path) -> Any:
    index = tantivy.Index.open(str(folder))
    # A published index never changes: no thread that watches it.
    index.config_reader("manual")
    return index.searcher()
