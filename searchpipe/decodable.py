"""Types that JSON is decoded to, safe to use from several threads."""

from __future__ import annotations

import os
import threading
from typing import TypeVar

import msgspec

T = TypeVar("T")

_lock = threading.Lock()
_learnt: set[object] = set()

if hasattr(os, "register_at_fork"):  # a child must not inherit it held by a thread that it has not
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def decodable(kind: type[T]) -> type[T]:
    """``kind``, for ``msgspec.convert``, ``decode`` and ``Decoder``, which take no struct otherwise here.

    msgspec learns what the fields of a struct are when it is decoded to for the first time, and tells other
    threads so when it has begun. msgspec 0.22 crashes the process (SIGSEGV) where one of them then decodes
    to it: eight of twelve processes that loaded a configuration in four threads at once. So types are
    learnt here, one thread at a time, before anybody decodes to them.

    Any thread may call it.
    """
    if kind not in _learnt:
        with _lock:
            msgspec.json.Decoder(kind)
            _learnt.add(kind)
    return kind
