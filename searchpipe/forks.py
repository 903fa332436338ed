"""What a child of ``os.fork`` inherits and must not touch.

A fork copies the memory of all threads but runs only one of them: worker threads of the scorer, of ONNX
Runtime and of OpenMP are gone, locks that they held stay locked, and a CUDA context is not valid in the
child. Using such an object hangs, and so does freeing it, because its destructor waits for its threads.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any
from weakref import WeakSet


class Inherited:
    """Objects that a forked child must neither use nor free. Any thread may call anything.

    In the child of a fork they are kept alive for good and forgotten; each that has a
    method ``forsake`` is told, so that it can refuse its callers.
    """

    def __init__(self) -> None:
        self._objects: WeakSet[Any] = WeakSet()
        if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
            os.register_at_fork(after_in_child=self._forsake)

    def __iter__(self) -> Any:
        """Those of this process that are still alive."""
        return iter(list(self._objects))

    def add(self, one: Any) -> None:
        """Guard an object for as long as it lives."""
        self._objects.add(one)

    def discard(self, one: Any) -> None:
        """It holds nothing any more that a fork would break."""
        self._objects.discard(one)

    def _forsake(self) -> None:
        inherited, self._objects = list(self._objects), WeakSet()
        if inherited:
            _end_without_destructors()
        for one in inherited:
            # One reference that nobody gives back: not even the end of the interpreter destroys it.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
            forsake = getattr(one, "forsake", None)
            if forsake is not None:
                forsake()


def _exit_functions() -> tuple[Any, Any] | None:
    """``on_exit`` and ``_exit`` of the C library, where it has both: glibc."""
    if not hasattr(os, "register_at_fork"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "on_exit"):  # musl, macOS
        return None
    return libc.on_exit, ctypes.cast(libc._exit, ctypes.c_void_p)


# Looked up before any fork: a child should not have to ask a loader that another thread may have been using.
_EXIT_FUNCTIONS = _exit_functions()


def _end_without_destructors() -> None:
    """End this process before the exit handlers of C and C++ libraries.

    Needed: in a child that ends by ``sys.exit`` or by returning from its main module, ONNX Runtime's handler
    waits for its threads, which stayed in the parent, and the child hangs for ever (``tests/test_forks.py``
    does without this). Keeping the sessions alive does not help, for it is a global object that waits.

    Safe as far as it goes: only a child that inherited an open pipeline or engine comes here. glibc calls the
    function registered last first, so ``_exit`` runs after all of Python's own end (``atexit``, flushed
    ``sys.stdout``, exit code: glibc passes it as the first argument) and after what the child itself
    registered later; registered twice it does no more. Skipped are the handlers from before the fork:
    destructors of global objects, and the flush of C's own buffered files, which hold what the parent wrote
    and will flush itself. A program started by ``exec`` has none of this.

    Elsewhere such a child must end by ``os._exit``, as those of ``multiprocessing`` do.
    """
    if _EXIT_FUNCTIONS is not None:
        on_exit, end = _EXIT_FUNCTIONS
        on_exit(end, None)
