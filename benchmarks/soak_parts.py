"""What the soak runs on: builds of a generated catalog, hashed models, and stages that fail at random."""

from __future__ import annotations

import json
import math
import random
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.catalog.build import build_snapshot
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.config import Config
from searchpipe.demo.generate import write_demo
from searchpipe.gate import ComputeGate
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Work
from searchpipe.stages.encode import Encode
from searchpipe.stages.score import Score

_DIM = 32
_VOCABULARY = 30_000
_ILL_EVERY = 4  # one version in so many fails for good ...
_ILL_AFTER_S = 5.0  # ... so many seconds after it was opened


class HashedTokenizer:
    """A token a word, the same in every process. Any thread may call it."""

    vocab_size = _VOCABULARY

    def ids_many(self, texts: Sequence[str]) -> list[Int32]:
        """Token ids, int32 ``(n,)`` a text."""
        return [
            np.array([zlib.crc32(word.encode()) % _VOCABULARY for word in text.lower().split()], np.int32)
            for text in texts
        ]


class HashedEncoder:
    """The sum of a direction a word. Any thread may call it."""

    dim = _DIM

    def __init__(self) -> None:
        table = np.random.default_rng(7).standard_normal((_VOCABULARY, _DIM)).astype(np.float32)
        self._table = table

    def encode(self, token_ids: list[Int32]) -> Float32:
        """Unit vectors, float32 ``(len(token_ids), 32)``."""
        vectors = np.full((len(token_ids), _DIM), 1e-3, np.float32)
        for row, ids in enumerate(token_ids):
            vectors[row] += self._table[ids].sum(axis=0)
        unit: Float32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def encode_texts(self, texts: Sequence[str], *, prefix: str = "") -> Float32:
        """Likewise of texts."""
        return self.encode(HashedTokenizer().ids_many([prefix + text for text in texts]))


class Faults:
    """Decides, seeded, which step goes wrong and how. Any thread may call anything.

    Args:
        seed: of the decisions.
        share: of the steps that go wrong while ``active``.
    """

    def __init__(self, seed: int, share: float = 0.01) -> None:
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._share = share
        self.active = False
        self._opened = 0
        self.injected = 0

    def no_room(self) -> bool:
        """Whether a version cannot be opened; one in ten."""
        with self._lock:
            hit = self.active and self._draw.random() < 0.1
            self.injected += hit
            return hit

    def ill_from(self) -> float:
        """When a new version begins to fail for good, which a check beforehand cannot see; seldom."""
        with self._lock:
            self._opened += self.active
            if not self.active or self._opened % _ILL_EVERY:
                return math.inf
            self.injected += 1
            return time.monotonic() + _ILL_AFTER_S

    def strike(self) -> str:
        """``raise``, ``stall``, ``nan``, or nothing, which is the rule."""
        if not self.active:
            return ""
        with self._lock:
            if self._draw.random() >= self._share:
                return ""
            self.injected += 1
            return self._draw.choice(("raise", "stall", "nan"))


class _Tokenize:
    name, essential = "tokenize", False
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("tokens", "pair_tokens")

    def run(self, work: Work) -> None:
        [work.tokens] = HashedTokenizer().ids_many([work.query.text])
        work.pair_tokens = work.tokens

    def describe(self) -> str:
        return "hashed words"


class _FaultyEncoder:
    dim = _DIM

    def __init__(self, encoder: HashedEncoder, faults: Faults) -> None:
        self._encoder = encoder
        self._faults = faults

    def encode(self, token_ids: list[Int32]) -> Float32:
        fault = self._faults.strike()
        if fault == "raise":
            raise RuntimeError("injected: the device was lost")
        if fault == "stall":
            time.sleep(0.03)
        vectors = self._encoder.encode(token_ids)
        return vectors * np.float32("nan") if fault == "nan" else vectors


class _SharedWords:
    """Scores a pair by the share of the query's tokens that the document has."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._ill_from = faults.ill_from()

    def lengths(self, query_ids: Int32, store: Any, docs: Int32) -> Int32:
        return np.asarray(store.lengths(docs) + len(query_ids) + 3, np.int32)

    def score(self, query_ids: Int32, store: Any, docs: Int32) -> Float32:
        fault = self._faults.strike()
        if fault == "raise" or time.monotonic() > self._ill_from:
            raise MemoryError("injected: out of memory")
        if fault == "stall":
            time.sleep(0.03)
        wanted = set(query_ids.tolist())
        shares = [len(wanted & set(store.tokens(int(doc)).tolist())) / max(1, len(wanted)) for doc in docs]
        scores = (6 * np.array(shares, np.float32) - 3).astype(np.float32)
        if fault == "nan" and scores.size:
            scores[0] = np.nan
        return scores


def faulty_opener(faults: Faults) -> Callable[[Path, Config], Pipeline]:
    """An opener for live pipelines; a tenth of the versions cannot be opened while faults are active."""
    encoder = HashedEncoder()

    def opened(build: Path, config: Config) -> Pipeline:
        if faults.no_room():
            raise MemoryError("injected: no room for another version")
        snapshot = Snapshot.open(build)
        gate = ComputeGate(2)
        scorer = _SharedWords(faults)
        stages: dict[str, Any] = {
            "tokenize": _Tokenize(),
            "encode": Encode(_FaultyEncoder(encoder, faults), gate, model="hashed"),
            "score": Score(
                scorer, snapshot.tokens, gate, depth=32, weight=config.score.weight, model="shared words"
            ),
        }
        return Pipeline.open(snapshot, config, replace=stages)

    return opened


def publish_builds(folder: Path, builds: int, products: int, queries: int) -> tuple[list[Path], list[str]]:
    """Publish a generated catalog several times, each with other titles and prices.

    Returns:
        The folders of the builds, and the texts of the generated log, each once.
    """
    files = write_demo(folder / "demo", products=products, queries=queries)
    rows = [json.loads(line) for line in files.products.read_text("utf-8").splitlines()]
    found = []
    for number in range(builds):
        changed = folder / f"products-{number}.jsonl"
        with changed.open("w", encoding="utf-8") as file:
            for place, row in enumerate(rows):
                other = rows[(place + 17 * number) % len(rows)]
                file.write(json.dumps({**row, "title": f"{row['title']} {other['title'].split()[0]}"}) + "\n")
        settings = IndexSettings(keep_builds=builds)
        build_snapshot(
            changed, folder / "out", settings, encoder=HashedEncoder(), tokenizer=HashedTokenizer()
        )
        found.append(folder / "out" / "builds" / (folder / "out" / "CURRENT").read_text("utf-8").strip())
    lines = files.query_log.read_text("utf-8").splitlines()
    return found, list(dict.fromkeys(json.loads(line)["query"] for line in lines))
