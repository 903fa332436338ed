"""The folder that snapshots are published in.

::

    OUT/CURRENT         name of the published build; replaced atomically
    OUT/builds/NAME/    one complete build each, never changed once it is there
    OUT/builds/.tmp-*   a build that is being made (or was, by a process that died)
    OUT/rejects.jsonl   bad rows of the last build
    OUT/.lock           held by the process that builds
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searchpipe.catalog.manifest import MANIFEST, read_manifest
from searchpipe.catalog.storage import sync_folder
from searchpipe.errors import CatalogBusyError, SnapshotError, SnapshotNotFoundError

_UNFINISHED = ".tmp-"


class SnapshotFolder:
    """Paths and publication. Builds hold :meth:`lock`; reading needs no lock. Safe from many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.builds = path / "builds"
        self.rejects = path / "rejects.jsonl"
        self._current = path / "CURRENT"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other build out of this folder; the system lets go if the process dies.

        Raises:
            CatalogBusyError: at once, when another process (or thread) builds here.

        """
        self.builds.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
                raise CatalogBusyError(
                    f"Process {holder} is already indexing into {self.path}.",
                    cure="Wait until it ends, or index into another folder.",
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    def current(self) -> str | None:
        """Return the name of the published build, or None."""
        try:
            return self._current.read_text("utf-8").strip() or None
        except FileNotFoundError:
            return None

    def resolve(self) -> Path:
        """Return the folder of the published build; a build's own folder is taken for itself.

        Raises:
            SnapshotNotFoundError: when nothing is published here.

        """
        name = self.current()
        if name is None:
            if (self.path / MANIFEST).is_file():
                return self.path
            what = "has no published snapshot" if self.path.is_dir() else "does not exist"
            raise SnapshotNotFoundError(
                f"The folder {self.path} {what}.", cure="Build one with: searchpipe index"
            )
        if "/" in name or name.startswith("."):
            raise SnapshotNotFoundError(f"{self._current} names {name!r}, which is no build.")
        return self.builds / name

    def begin(self) -> tuple[str, Path]:
        """Remove what dead processes left, and start a build: its name and its temporary folder."""
        for left in self.builds.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(4)
        folder = self.builds / f"{_UNFINISHED}{name}"
        folder.mkdir()
        return name, folder

    def publish(self, name: str, folder: Path) -> Path:
        """Make the finished build in ``folder`` the published one; its files are durable already."""
        for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
            sync_folder(inner)
        target = self.builds / name
        folder.rename(target)
        sync_folder(self.builds)
        fresh = self.path / "CURRENT.tmp"
        with fresh.open("w", encoding="utf-8") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._current)
        sync_folder(self.path)
        return target

    def prune(self, keep: int) -> None:
        """Remove all builds but the published one and its ``keep - 1`` predecessors.

        Readers of a removed build keep their open files.
        """
        kept: set[str] = set()
        name = self.current() or ""
        while name and len(kept) < keep and name not in kept:
            kept.add(name)
            try:
                name = read_manifest(self.builds / name).previous
            except SnapshotError:
                break
        for build in self.builds.iterdir():
            if build.name not in kept:
                # Renamed first, so that no half-removed folder looks like a build.
                doomed = self.builds / f"{_UNFINISHED}old-{secrets.token_hex(4)}"
                build.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
