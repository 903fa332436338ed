"""What a child of ``os.fork`` inherits and must not touch.

A fork copies the memory of all threads but runs only one of them: worker threads of the scorer, of ONNX
Runtime and of OpenMP are gone, locks that they held stay locked, and a CUDA context is not valid in the
child. Using such an object hangs, and so does freeing it, because its destructor waits for its threads.
"""

from __future__ import annotations

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
        import ctypes

        inherited, self._objects = list(self._objects), WeakSet()
        if inherited:
            _end_without_destructors()
        for one in inherited:
            # One reference that nobody gives back: not even the end of the interpreter destroys it.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
            forsake = getattr(one, "forsake", None)
            if forsake is not None:
                forsake()


def _end_without_destructors() -> None:
    """End this process before the exit handlers of C++ libraries: ONNX Runtime's waits for lost threads.

    glibc calls the function registered last first, with the exit status, when Python has finished. Elsewhere
    a child of ``os.fork`` must end by ``os._exit``, as those of ``multiprocessing`` do.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)
