"""An index that can be held, and threads that ask a dispatcher for it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from searchpipe.errors import QueryError
from searchpipe.recall.lookup import Found

LONG = 20.0


class Index:
    """Answers with the query's first number; stops at a gate, and notices a second thread inside."""

    max_k = 10

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.fail: BaseException | None = None
        self._inside = threading.Lock()

    def check(self, lookup):
        if lookup.vector[0] < 0:
            raise QueryError("negative")

    def search_batch(self, lookups):
        assert self._inside.acquire(blocking=False), "two threads inside the index"
        try:
            self.batches.append([float(one.vector[0]) for one in lookups])
            self.entered.release()
            assert self.gate.wait(LONG)
            if self.fail is not None:
                failure, self.fail = self.fail, None
                raise failure
            return [Found(np.array([int(one.vector[0])]), np.array([1.0], np.float32)) for one in lookups]
        finally:
            self._inside.release()

    def finish(self, lookup, found):
        return found.ids.astype(np.int32)[: lookup.k], found.scores[: lookup.k]


def vector(value):
    return np.array([value], np.float32)


class Caller(threading.Thread):
    def __init__(self, dispatcher, value, **options):
        super().__init__(daemon=True)
        self.arguments = (dispatcher, value, options)
        self.result = self.error = None
        self.start()

    def run(self):
        dispatcher, value, options = self.arguments
        try:
            self.result = int(dispatcher.search(vector(value), 5, **options)[0][0])
        except BaseException as error:
            self.error = error

    def end(self):
        self.join(LONG)
        assert not self.is_alive()
        return self.error if self.error is not None else self.result


def until(condition):
    limit = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.fixture
def index():
    return Index()


def hold(index, dispatcher, value=0):
    """A caller that is inside the index and stays there."""
    index.gate.clear()
    leader = Caller(dispatcher, value)
    assert index.entered.acquire(timeout=LONG)
    return leader


def queue(dispatcher, values, **options):
    callers = []
    for value in values:
        before = dispatcher.stats().waiting
        callers.append(Caller(dispatcher, value, **options))
        until(lambda before=before: dispatcher.stats().waiting > before)
    return callers
