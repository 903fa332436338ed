"""A published catalog, opened for searching."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from searchpipe.arrays import Array, Bool, Float32
from searchpipe.catalog.analysis import Analyzer
from searchpipe.catalog.columns import Columns
from searchpipe.catalog.dense import DenseIndex
from searchpipe.catalog.ids import IdTable
from searchpipe.catalog.layout import SnapshotFolder
from searchpipe.catalog.lexical import LexicalIndex
from searchpipe.catalog.manifest import REBUILD, Manifest, read_manifest, verify_files
from searchpipe.catalog.masks import MaskCache
from searchpipe.catalog.storage import BlobStore
from searchpipe.errors import ClosedError, SearchpipeError, SnapshotCorruptError, SnapshotError

_DECODE = msgspec.json.Decoder().decode  # any thread


class Snapshot:
    """Everything that is known about a catalog's products, by ordinal (0 to ``count`` - 1).

    Files are memory-mapped and never change. All methods may be called from
    many threads at once; after :meth:`close` they raise ClosedError, while what
    a thread already holds stays valid.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.path = folder
        self.manifest = manifest
        self.count = manifest.counts.documents
        self._parts: _Parts | None = _Parts(folder, manifest)

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Snapshot:
        """Open what is published in ``path``, or the build whose own folder ``path`` is.

        Sizes of files are always compared with the manifest, their hashes only with ``verify``.

        Raises:
            SnapshotNotFoundError: nothing is published there.
            SnapshotVersionError: this release cannot read it.
            SnapshotCorruptError: a file is missing, cut short or changed; names it.
            MissingDependencyError: the snapshot needs a package that is not installed.

        """
        folder = SnapshotFolder(Path(path))
        while True:
            current = folder.current()
            try:
                return cls._open(folder.resolve(), verify=verify)
            except SnapshotError:
                # A build that was removed meanwhile has a successor; anything else is an error.
                if folder.current() == current:
                    raise

    @classmethod
    def _open(cls, folder: Path, *, verify: bool) -> Snapshot:
        manifest = read_manifest(folder)
        verify_files(folder, manifest, hashes=verify)
        try:
            return cls(folder, manifest)
        except SearchpipeError:
            raise
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            raise SnapshotCorruptError(
                f"The snapshot in {folder} cannot be opened: {error}.", cure=REBUILD
            ) from error

    @property
    def version(self) -> str:
        """The unique name of this build."""
        return self.manifest.name

    @property
    def tokens(self) -> Any:
        """The documents' tokens for the cross-encoder: a ``_core.TokenStore``."""
        return self._open_parts.tokens

    @property
    def dense(self) -> DenseIndex:
        """The vector index."""
        return self._open_parts.dense

    @property
    def lexical(self) -> LexicalIndex:
        """The lexical index."""
        return self._open_parts.lexical

    @property
    def columns(self) -> Columns:
        """The feature columns."""
        return self._open_parts.columns

    def mask(self, filters: Mapping[str, Any] | None) -> Bool | None:
        """Documents that match ``filters``: read-only bool ``(count,)``, cached; None without filters.

        Raises:
            FilterError: see :mod:`searchpipe.catalog.filters`.

        """
        return self._open_parts.masks.mask(filters)

    def id_of(self, docs: Array) -> list[str]:
        """Return the catalog's ids of ``docs`` (int ``(n,)``). Raises IndexError for an ordinal outside."""
        return self._open_parts.ids.ids(docs)

    def ordinal_of(self, product_id: str) -> int | None:
        """Return the ordinal of the product with this id, or None."""
        return self._open_parts.ids.ordinal(product_id)

    def fields(self, docs: Array) -> list[dict[str, Any]]:
        """Return the display fields of ``docs``.

        Raises:
            IndexError: an ordinal outside.
            SnapshotCorruptError: what is stored is no JSON any more.

        """
        # One list: a call for each document would cost as much as decoding it.
        try:
            found: list[dict[str, Any]] = _DECODE(self._open_parts.fields.json_list(docs))
        except msgspec.DecodeError as error:
            raise SnapshotCorruptError(
                f"fields.blob in {self.path} holds no JSON: {error}.", cure=REBUILD
            ) from error
        if len(found) != len(docs):
            raise SnapshotCorruptError(
                f"fields.blob in {self.path} holds {len(found)} products instead of {len(docs)}.",
                cure=REBUILD,
            )
        return found

    def touch(self, docs: Array) -> None:
        """Read ahead, best first, what :meth:`id_of` and :meth:`fields` read of ``docs``.

        It ends after 0.6 ms or, on a slow disk, two documents, and 2 MiB. Ordinals outside are passed
        over. The GIL is released.
        """
        parts = self._open_parts
        parts.ids.touch(docs)
        parts.fields.touch(docs)

    def vectors(self, docs: Array) -> Float32:
        """Return the vectors of ``docs``, copied: float32 ``(n, dim)``; IndexError for an ordinal outside."""
        rows = np.asarray(docs, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < self.count):
            raise IndexError(f"a document is outside 0..{self.count - 1}")
        found: Float32 = self._open_parts.dense.vectors[rows]
        return found

    def close(self) -> None:
        """Let go of the files, which are unmapped when no thread uses them any more. Idempotent."""
        self._parts = None

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        state = "closed" if self._parts is None else f"{self.count:,} products"
        return f"<Snapshot {self.version}: {state}>"

    @property
    def _open_parts(self) -> _Parts:
        parts = self._parts
        if parts is None:
            raise ClosedError(f"The snapshot {self.version} was closed.", cure="Open it again.")
        return parts


class _Parts:
    """The readers of all files of a snapshot."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        from searchpipe._core import TokenStore

        count = manifest.counts.documents
        self.ids = IdTable(folder, count)
        self.fields = BlobStore(folder, "fields", count)
        self.columns = Columns(folder / "columns", manifest.columns, count)
        self.masks = MaskCache(self.columns)
        self.dense = DenseIndex(folder / "dense", manifest.dense, count)
        # The manifest's hashes cover the file already.
        self.tokens: Any = TokenStore(str(folder / "tokens.bin"), verify=False)
        if len(self.tokens) != count:
            raise ValueError(f"tokens.bin holds {len(self.tokens)} documents instead of {count}")
        lexical = manifest.lexical
        self.lexical = LexicalIndex(
            folder / "lexical", count, Analyzer(manifest.analyzer), lexical.fields, lexical.max_query_terms
        )
