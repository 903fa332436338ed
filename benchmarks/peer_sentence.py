"""sentence-transformers and FAISS as people put them together: each of 16 threads serves a query alone."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.capacity_search import Ranked
from benchmarks.capacity_world import PeerWorld

THREADS = 16


class SentenceTransformersSystem:
    """SentenceTransformer, FAISS, CrossEncoder, in half precision on a GPU; any thread may ask.

    Args:
        world: models, texts and vectors.
        batch: pairs of one forward pass; the library sorts a query's pairs by length before it cuts them.
    """

    threads = THREADS

    def __init__(self, world: PeerWorld, *, batch: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        library: Any = importlib.import_module("sentence_transformers")
        kind = self._torch.float16 if world.gpu else self._torch.float32
        settings = {"dtype": kind, "attn_implementation": "sdpa"}
        self._encoder = library.SentenceTransformer(
            str(world.encoder), device=world.device, model_kwargs=settings
        )
        self._scorer = library.CrossEncoder(
            str(world.cross_encoder),
            device=world.device,
            max_length=world.max_tokens,
            model_kwargs=settings,
            activation_fn=self._torch.nn.Identity(),
        )
        self._version = library.__version__
        self._world = world
        self._batch = batch

    def ask(self, text: str) -> Ranked:
        """As :class:`benchmarks.capacity_search.System`."""
        world = self._world
        with self._torch.inference_mode():
            vector = self._encoder.encode([text], convert_to_numpy=True, show_progress_bar=False)
            rows = world.index.search(np.asarray(vector), world.candidates)[0]
            pairs = [(text, document) for document in world.texts.of(rows.tolist())]
            scores = self._scorer.predict(
                pairs, batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True
            )
        return best(rows, np.asarray(scores, np.float32).reshape(-1))

    def counts(self) -> dict[str, float]:
        """The library counts nothing."""
        return {}

    def describe(self) -> str:
        """One line."""
        kind = "fp16" if self._world.gpu else "fp32"
        settings = f"{kind}, sdpa, {self.threads} threads, {self._batch} pairs a pass"
        return f"sentence-transformers {self._version}, {settings}"

    def close(self) -> None:
        """Nothing runs."""


def best(rows: Any, scores: Any, *, most: int = 10) -> Ranked:
    """The best ``most`` of the documents by score."""
    order = np.argsort(-scores, kind="stable")[:most]
    return Ranked(tuple(rows[order].tolist()), tuple(scores[order].tolist()), int(np.isfinite(scores).sum()))
