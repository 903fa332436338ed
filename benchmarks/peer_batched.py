"""The same models in plain PyTorch behind a dynamic batcher of a page of code: a strong rival.

Callers leave their queries in a queue; one thread takes all that wait, up to a limit, and answers them in
one go by :class:`benchmarks.torch_search.TorchSearch`.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

from benchmarks.capacity_search import Ranked
from benchmarks.capacity_world import PeerWorld
from benchmarks.torch_search import TorchSearch

_SECONDS = 60.0


class BatchedSystem:
    """Any thread may ask.

    Args:
        world: models, texts and vectors.
        max_queries: answered in one go at most.
        workers: threads that answer; while one waits for the GPU the other tokenizes.
    """

    threads = 64

    def __init__(self, world: PeerWorld, *, max_queries: int, workers: int = 2) -> None:
        self._search = TorchSearch(world)
        self._max_queries = max_queries
        self._waiting: queue.Queue[tuple[str, Future[Ranked]] | None] = queue.Queue(1024)
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for worker in self._workers:
            worker.start()

    def ask(self, text: str) -> Ranked:
        """As :class:`benchmarks.capacity_search.System`."""
        future: Future[Ranked] = Future()
        self._waiting.put((text, future), timeout=_SECONDS)
        return future.result(_SECONDS)

    def counts(self) -> dict[str, float]:
        """Queries, batches and tokens."""
        search = self._search
        return {
            "queries": float(search.queries),
            "batches": float(search.batches),
            "real_tokens": float(search.real_tokens),
            "padded_tokens": float(search.padded_tokens),
        }

    def describe(self) -> str:
        """One line."""
        return (
            f"PyTorch sdpa behind a batcher, up to {self._max_queries} queries, {len(self._workers)} workers"
        )

    def close(self) -> None:
        """End the workers. Idempotent."""
        for _ in self._workers:
            self._waiting.put(None)
        for worker in self._workers:
            worker.join(_SECONDS)
        self._workers = []

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            some = [first]
            while len(some) < self._max_queries:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                some.append(more)
            try:
                found = self._search.answer([text for text, _ in some])
            except Exception as error:
                for _, future in some:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(some, found, strict=True):
                future.set_result(answer)
