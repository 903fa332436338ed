"""The pipeline's own stages over a snapshot of hashed vectors, with hashed models in place of ONNX."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.gate import ComputeGate
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Stage, Work
from searchpipe.stages.encode import Encode
from searchpipe.stages.score import Score
from tests.fakes.hashed_models import HashedTokenizer


class HashedTokenize:
    """Fills the tokens of both models."""

    name, essential = "tokenize", False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("tokens", "pair_tokens")

    def run(self, work: Work) -> None:
        [work.tokens] = HashedTokenizer().ids_many([work.query.text])
        work.pair_tokens = work.tokens

    def describe(self) -> str:
        return "hashed words"


class HashedVectors:
    """A direction for each set of token ids: dense recall that answers, if not well."""

    dim = 16

    def encode(self, token_ids: list[Int32]) -> Float32:
        rows = [np.random.default_rng(ids.tolist() or [0]).standard_normal(self.dim) for ids in token_ids]
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class SharedWords:
    """Scores a pair by the share of the query's tokens that the document has."""

    def lengths(self, query_ids: Int32, store: Any, docs: Int32) -> Int32:
        return (store.lengths(docs) + len(query_ids) + 3).astype(np.int32)

    def score(self, query_ids: Int32, store: Any, docs: Int32) -> Float32:
        wanted = set(query_ids.tolist())
        shares = [len(wanted & set(store.tokens(int(doc)).tolist())) / max(1, len(wanted)) for doc in docs]
        return (6 * np.array(shares, np.float32) - 3).astype(np.float32)


class Hold:
    """A stage that waits until it is let go; counts who is inside."""

    name, essential = "hold", False
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("candidates",)

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)

    def run(self, work: Work) -> None:
        self.entered.release()
        while not self.go.wait(0.01):
            work.deadline.check_cancelled()

    def describe(self) -> str:
        return "waits"


def hashed_stages(snapshot: Snapshot) -> dict[str, Stage]:
    gate = ComputeGate()
    return {
        "tokenize": HashedTokenize(),
        "encode": Encode(HashedVectors(), gate, model="hashed"),
        "score": Score(SharedWords(), snapshot.tokens, gate, depth=8, model="shared words"),
    }


def hashed_pipeline(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    hold: Hold | None = None,
    observers: Sequence[Any] = (),
) -> Pipeline:
    """Open a pipeline over a snapshot of ``tests.fakes.catalogs``; ``hold`` stands in for ``prerank``."""
    snapshot = Snapshot.open(folder)
    replace = hashed_stages(snapshot)
    if hold is not None:
        replace["prerank"] = hold
    return Pipeline.open(snapshot, config, replace=replace, observers=observers)
