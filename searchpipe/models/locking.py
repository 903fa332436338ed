"""One lock a cache entry, between processes and between threads."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Seconds between two attempts; downloads take seconds, so a waiter loses nothing.
_POLL_SECONDS = 0.05


@contextmanager
def exclusive(path: Path, *, on_wait: Callable[[], None], timeout: float | None = None) -> Iterator[None]:
    """Hold an advisory lock on ``path``; the system releases it if the process dies.

    ``on_wait`` is called once, when another holder makes this one wait. The file
    stays: removing it would let two holders lock two different files of one name.
    ``timeout``: seconds to wait at most; None for as long as it takes, 0 to try once.

    Raises:
        TimeoutError: another holder kept it for ``timeout``.
        OSError: the file cannot be made or locked.

    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        waited = False
        give_up = None if timeout is None else time.monotonic() + timeout
        while not _try_lock(descriptor):
            if give_up is not None and time.monotonic() >= give_up:
                raise TimeoutError(f"another process holds {path}")
            if not waited:
                waited = True
                on_wait()
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)  # releases the lock


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
