"""Asking a pipeline as if it had no caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_BYPASSED = ContextVar("searchpipe_uncached", default=False)


@contextmanager
def uncached() -> Iterator[None]:
    """Queries asked inside are computed, whatever is cached, and neither kept nor counted by a cache.

    It holds for the thread or the asyncio task that enters it, ``asearch`` included.
    """
    token = _BYPASSED.set(True)
    try:
        yield
    finally:
        _BYPASSED.reset(token)


def bypassed() -> bool:
    """Whether this thread or task is inside :func:`uncached`."""
    return _BYPASSED.get()
