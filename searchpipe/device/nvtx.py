"""Named ranges for Nsight: ``with nvtx.range("stage:score"): ...``.

Off unless the environment variable ``SEARCHPIPE_NVTX`` is 1 when this module is
imported, or :func:`enable` is called. While off, a range is one shared object
whose enter and exit do nothing. Ranges nest per thread; any thread may use them.
With NVIDIA's library the C++ core names its batches and slots too; with the
package ``nvtx`` alone, only Python's stages have names.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from searchpipe.errors import MissingDependencyError

VARIABLE = "SEARCHPIPE_NVTX"
_LIBRARIES = ("libnvtx3interop.so.1", "libnvToolsExt.so.1")
_OFF: AbstractContextManager[None] = nullcontext()


class Marker(Protocol):
    """What pushes and pops the ranges of the calling thread."""

    def push(self, name: str) -> object:
        """Begin a range."""
        ...

    def pop(self) -> object:
        """End the innermost range."""
        ...


_marker: Marker | None = None


def range(name: str) -> AbstractContextManager[None]:  # noqa: A001  (the word that Nsight shows)
    """A range of the calling thread around the body of a ``with``."""
    return _OFF if _marker is None else _Range(_marker, name)


def enabled() -> bool:
    """Whether ranges are recorded."""
    return _marker is not None


def enable(marker: Marker | None = None) -> None:
    """Record ranges from now on.

    Args:
        marker: instead of NVIDIA's library or, without that, the package ``nvtx``.

    Raises:
        MissingDependencyError: neither is installed.
    """
    global _marker
    found = marker or _find_marker()
    if isinstance(found, _LibraryMarker):
        found.name_batches()
    _marker = found


def disable() -> None:
    """Record no more; ranges that are open end properly."""
    global _marker
    if isinstance(_marker, _LibraryMarker):
        from searchpipe import _core

        _core.set_nvtx(0, 0)
    _marker = None


class _Range:
    __slots__ = ("_marker", "_name")

    def __init__(self, marker: Marker, name: str) -> None:
        self._marker = marker
        self._name = name

    def __enter__(self) -> None:
        self._marker.push(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._marker.pop()


class _PackageMarker:
    def __init__(self, package: Any) -> None:
        self.push: Callable[[str], object] = package.push_range
        self.pop: Callable[[], object] = package.pop_range


class _LibraryMarker:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._push = library.nvtxRangePushA
        self._push.argtypes = [ctypes.c_char_p]
        self._push.restype = ctypes.c_int
        self.pop: Callable[[], object] = library.nvtxRangePop

    def push(self, name: str) -> object:
        return self._push(name.encode())

    def name_batches(self) -> None:
        """Let the C++ core record through the same library, which this process never unloads."""
        from searchpipe import _core

        _core.set_nvtx(_address(self._push), _address(self.pop))


def _find_marker() -> Marker:
    for path in (*_in_wheels(), *_LIBRARIES):
        try:
            return _LibraryMarker(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue
    try:
        return _PackageMarker(importlib.import_module("nvtx"))
    except ImportError:
        pass
    raise MissingDependencyError(
        "Ranges were asked for, and neither the package nvtx nor NVIDIA's library of it is installed.",
        cure="Install it with: pip install nvidia-nvtx",
    )


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _in_wheels() -> list[str]:
    """The library inside NVIDIA's wheels, which are on no search path of the loader."""
    roots = [Path(entry) / "nvidia" for entry in sys.path if entry]
    return [str(found) for root in roots for name in _LIBRARIES for found in root.glob(f"*/lib/{name}")]


if os.environ.get(VARIABLE, "") not in ("", "0"):
    enable()
