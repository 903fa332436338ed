"""infinity-emb in this process: its engines batch the texts and pairs of all queries in flight."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from benchmarks.capacity_search import Ranked
from benchmarks.capacity_world import PeerWorld
from benchmarks.peer_sentence import best

T = TypeVar("T")
_SECONDS = 60.0


class InfinitySystem:
    """Two AsyncEmbeddingEngines on one event loop; any thread may ask.

    Args:
        world: models, texts and vectors.
        batch: pairs of one forward pass.
    """

    threads = 64

    def __init__(self, world: PeerWorld, *, batch: int) -> None:
        infinity: Any = importlib.import_module("infinity_emb")
        self._version = importlib.import_module("importlib.metadata").version("infinity-emb")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="infinity", daemon=True)
        self._thread.start()
        self._world, self._batch, self._closed = world, batch, False

        def engine(folder: Any, rows: int) -> Any:
            return infinity.AsyncEmbeddingEngine.from_args(
                infinity.EngineArgs(
                    model_name_or_path=str(folder),
                    engine="torch",
                    device=world.device,
                    dtype="float16" if world.gpu else "float32",
                    batch_size=rows,
                    bettertransformer=True,  # nested tensors: no padding inside the layers
                    model_warmup=False,
                )
            )

        self._encoder, self._scorer = engine(world.encoder, 32), engine(world.cross_encoder, batch)
        for made in (self._encoder, self._scorer):
            self._wait(made.astart)

    def ask(self, text: str) -> Ranked:
        """As :class:`benchmarks.capacity_search.System`."""
        return self._wait(lambda: self._ask(text))

    async def _ask(self, text: str) -> Ranked:
        world = self._world
        vectors, _ = await self._encoder.embed(sentences=[text])
        rows = world.index.search(np.asarray(vectors, np.float32), world.candidates)[0]
        documents = world.texts.of(rows.tolist())
        found, _ = await self._scorer.rerank(query=text, docs=documents, raw_scores=True)
        scores = np.empty(len(rows), np.float32)
        scores[[row.index for row in found]] = [row.relevance_score for row in found]
        return best(rows, scores)

    def counts(self) -> dict[str, float]:
        """The engine counts nothing."""
        return {}

    def describe(self) -> str:
        """One line."""
        return f"infinity-emb {self._version}, torch, BetterTransformer, {self._batch} pairs a pass"

    def close(self) -> None:
        """Stop both engines and the loop."""
        if self._closed:
            return
        self._closed = True
        for made in (self._encoder, self._scorer):
            self._wait(made.astop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)

    def _wait(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(begin(), self._loop).result(_SECONDS)
