"""The manifest: what a snapshot is, and how to tell that it still is that."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from searchpipe.catalog.analysis import AnalyzerSpec
from searchpipe.catalog.columns import ColumnInfo
from searchpipe.catalog.dense import DenseInfo
from searchpipe.decodable import decodable
from searchpipe.errors import SnapshotCorruptError, SnapshotNotFoundError, SnapshotVersionError

SCHEMA = 2
MANIFEST = "manifest.json"
_HASHING_THREADS = 4


class FileInfo(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class ModelInfo(msgspec.Struct, frozen=True):
    """A model's name and the SHA-256 of its file (of the tokenizer file, for tokens)."""

    name: str
    sha256: str


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Rows read, those that became documents, those rejected, and tokens kept for the cross-encoder."""

    rows: int
    documents: int
    rejected: int
    tokens: int


class LexicalInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Boost by field, in the order that the fields were indexed in, and the terms searched of a query."""

    fields: dict[str, float]
    max_query_terms: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a snapshot; immutable, so safe from many threads.

    ``settings`` is a record of how it was built; whatever is needed to read the
    snapshot has a field of its own. ``files`` has every file by its path within
    the snapshot. ``checksum`` is the SHA-256 of the rest of the manifest.
    """

    schema: int
    name: str
    created: str
    searchpipe: str
    previous: str
    sources: list[str]
    counts: Counts
    analyzer: AnalyzerSpec
    lexical: LexicalInfo
    dense: DenseInfo
    encoder: ModelInfo
    tokenizer: ModelInfo
    columns: dict[str, ColumnInfo]
    settings: dict[str, Any]
    files: dict[str, FileInfo]
    checksum: str = ""


class _Head(msgspec.Struct):
    schema: int


def describe_files(folder: Path) -> dict[str, FileInfo]:
    """Size and hash of every file below ``folder``, each made durable on the way."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    # Hashing and waiting for the disk let go of the GIL.
    with ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="searchpipe-build-hash") as pool:
        infos = pool.map(_describe, paths)
        names = [path.relative_to(folder).as_posix() for path in paths]
        return dict(zip(names, infos, strict=True))


def _describe(path: Path) -> FileInfo:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return FileInfo(path.stat().st_size, digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with its checksum, durably."""
    content = msgspec.to_builtins(manifest)
    content["checksum"] = _checksum(content)
    with (folder / MANIFEST).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1))
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the snapshot in ``folder``.

    Raises:
        SnapshotNotFoundError: when there is none.
        SnapshotVersionError: when this release cannot read its schema.
        SnapshotCorruptError: when it was changed or cut short.

    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotNotFoundError(
            f"There is no snapshot in {folder}: it has no {MANIFEST}.",
            cure="Build one with: searchpipe index",
        ) from None
    try:
        schema = msgspec.json.decode(raw, type=decodable(_Head)).schema
        if schema != SCHEMA:
            cure = "Install a newer searchpipe." if schema > SCHEMA else "Index the catalog again."
            raise SnapshotVersionError(f"{path} has schema {schema}, this release reads {SCHEMA}.", cure=cure)
        content = msgspec.json.decode(raw, type=dict[str, Any])
        if content.get("checksum") != _checksum(content):
            raise SnapshotCorruptError(f"{path} was changed after it was written.", cure=REBUILD)
        return msgspec.convert(content, decodable(Manifest))
    except msgspec.MsgspecError as error:
        raise SnapshotCorruptError(f"{path} is not a manifest: {error}.", cure=REBUILD) from error


REBUILD = "Index the catalog again, or restore the folder from a copy."


def verify_files(folder: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Compare every file with the manifest: its size and, with ``hashes``, its content.

    Raises:
        SnapshotCorruptError: naming the file and the difference.

    """
    for name, info in manifest.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise SnapshotCorruptError(
                f"The manifest in {folder} lists a file outside it: {name}.", cure=REBUILD
            )
        path = folder / name
        try:
            size = path.stat().st_size
            if size != info.bytes:
                raise SnapshotCorruptError(
                    f"{path} has {size:,} bytes instead of {info.bytes:,}.", cure=REBUILD
                )
            if hashes:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != info.sha256:
                    raise SnapshotCorruptError(
                        f"{path} has other content than when it was built "
                        f"(SHA-256 {digest[:16]}... instead of {info.sha256[:16]}...).",
                        cure=REBUILD,
                    )
        except FileNotFoundError:
            raise SnapshotCorruptError(f"{path} is missing.", cure=REBUILD) from None


def _checksum(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()
