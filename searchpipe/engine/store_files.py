"""Folders of the build and of the store: written aside, flushed, renamed; their files known by hash."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from searchpipe.models.cache import sha256_of

FileState = Literal["ok", "missing", "truncated", "changed"]


class FileFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was published: its place in the folder (with forward slashes), bytes, SHA-256."""

    path: str
    bytes: int
    sha256: str


def facts_of(path: Path, name: str) -> FileFacts:
    """Read a file whole; ``name`` is its place in the folder. OSError if it cannot be read."""
    return FileFacts(name, path.stat().st_size, sha256_of(path))


def state_of(path: Path, known: FileFacts) -> FileState:
    """Compare a file with what is known of it; it is read whole only if its size is right."""
    try:
        size = path.stat().st_size
        if size != known.bytes:
            return "truncated" if size < known.bytes else "changed"
        return "ok" if sha256_of(path) == known.sha256 else "changed"
    except OSError:
        return "missing"


def files_under(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each regular file below ``folder``, sorted, with its place in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path


def copy_file(source: Path, target: Path) -> None:
    """Copy the content alone and flush it to the disk.

    Raises:
        OSError: it cannot be read or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``, and itself, to the disk."""
    for _, path in files_under(folder):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        flush_folder(path)


def flush_folder(folder: Path) -> None:
    """Flush the names in ``folder``, so that a rename survives a power cut; nothing on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, target: Path) -> None:
    """Give a written and flushed folder its name; what had the name before is removed.

    A kill between the two renames leaves nothing under the name, never half of anything.
    """
    if target.exists():
        old = temporary.with_name(f"{temporary.name}.old")
        os.replace(target, old)
        os.replace(temporary, target)
        flush_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
        return
    os.replace(temporary, target)
    flush_folder(target.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Publish ``content`` under ``path``: whole or not at all, flushed. OSError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The name is given; a folder that cannot be flushed takes nothing of that back.
    with contextlib.suppress(OSError):
        flush_folder(path.parent)


def plain(value: Any) -> Any:
    """``value`` as JSON gives it back: structs and dataclasses as objects, tuples as lists, paths as text.

    Raises:
        TypeError, ValueError: it holds what JSON has no word for, NaN and infinity included.
    """
    return json.loads(json.dumps(value, allow_nan=False, default=_plain_one, ensure_ascii=False))


def _plain_one(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return value.tolist()
    return msgspec.to_builtins(value, str_keys=True)
