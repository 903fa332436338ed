"""What a daemon thread drops while the interpreter ends asks for the GIL; a script of its test."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import numpy as np

from searchpipe import _core

READ, WRITE = os.pipe()
reached = threading.Event()


class Memory:
    """Eight zeros under an array; the GIL is released while they are freed, as a memory map does it."""

    def __init__(self) -> None:
        self._bytes = np.zeros(8, np.uint8)
        self.__array_interface__ = self._bytes.__array_interface__

    def __del__(self) -> None:
        reached.set()
        os.read(READ, 1)


class Last:
    """Goes when the interpreter takes its modules down: no other thread is given the GIL any more."""

    def __del__(self, write=os.write, to=WRITE, sleep=time.sleep) -> None:
        write(to, b"!")
        sleep(0.5)  # for the thread, which could abort the process


def blobs() -> object:
    return _core.Blobs(np.asarray(Memory()), np.array([0, 8]))


def mask() -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "postings")
        with _core.PostingsWriter(path, fields=1) as writer:
            writer.append([["shoes"]])
        documents = np.asarray(Memory())[:1].view(bool)
        return _core.PostingsIndex(path).begin(["shoes"], boosts=[1.0], k=1, mask=documents)


def callback() -> object:
    memory = Memory()
    return _core.HostExecutor(lambda *_: memory, [(1, 16)])


def drop(kind: str) -> None:
    held = globals()[kind]()
    gc.collect()
    del held


last = types.ModuleType("last")
last.one = Last()
sys.modules["last"] = last
del last
threading.Thread(target=drop, args=sys.argv[1:], daemon=True).start()
print(reached.wait(30), flush=True)
