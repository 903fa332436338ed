"""A pipeline as on a GPU whose engines answer at once: what remains is the host's own work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.esci import CACHE
from searchpipe import _core
from searchpipe.arrays import Bool, Float32, Int32, Int64
from searchpipe.catalog.build import build_snapshot
from searchpipe.catalog.exact import exact_search
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.config import Config
from searchpipe.demo.generate import write_demo
from searchpipe.errors import SnapshotError
from searchpipe.gate import ComputeGate
from searchpipe.gpu_buckets import encoder_buckets, pair_buckets
from searchpipe.models.settings import LocalModel
from searchpipe.models.shipped import engines_folder
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.pipeline import Pipeline
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.fallback import FallbackIndex
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.recall.rule import choose_index
from searchpipe.recall.source import SharedDense
from searchpipe.runtime.buckets import Bucket
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from searchpipe.runtime.pair_scorer import ChainPairScorer
from searchpipe.runtime.text_encoder import ChainTextEncoder
from searchpipe.stages.base import Stage
from searchpipe.stages.build_page import BuildPage
from searchpipe.stages.diversify import Diversify
from searchpipe.stages.encode import Encode
from searchpipe.stages.features import Features
from searchpipe.stages.prerank import Formula, Prerank
from searchpipe.stages.recall import Lexical, Recall
from searchpipe.stages.score import Score
from searchpipe.stages.tokenize import Tokenize

DIM = 384
_MAX_TOKENS = 128
_WIDE = 1024  # callers at once of engines that merge them
_COST_MS = (0.05, 2e-5)  # of a batch, and of each of its token places; as a GPU's small models take


class HashedEncoder:
    """The sum of a direction a token. Any thread may call it."""

    dim = DIM

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        size = (tokenizer.vocab_size, DIM)
        self.table = np.random.default_rng(7).standard_normal(size, np.float32)

    def encode_texts(self, texts: Sequence[str], *, prefix: str = "") -> Float32:
        """Unit vectors, float32 ``(len(texts), 384)``."""
        vectors = np.full((len(texts), DIM), 1e-3, np.float32)
        for row, text in enumerate(texts):
            vectors[row] += self.table[self._tokenizer.ids(prefix + text)].sum(axis=0)
        unit: Float32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class InstantSearch:
    """A search that has ended. Any thread may call anything."""

    ended = True
    seconds = 1e-4

    def __init__(self, docs: Int32, scores: Float32) -> None:
        self._found = docs, scores

    def run(self, seconds: float = 0.0) -> None:
        """Nothing is left to do."""

    def wait(self, seconds: float = 0.0) -> bool:  # noqa: ARG002
        """It has ended."""
        return True

    def share(self, threads: _core.SearchThreads, wanted: int) -> int:  # noqa: ARG002
        """None of ``threads`` is needed."""
        return 0

    def found(self) -> tuple[Int32, Float32]:
        """What was known."""
        return self._found


class InstantLexical:
    """Gives what the real index gave for the same text before. Any thread may call it."""

    def __init__(self, found: Mapping[str, tuple[Int32, Float32]]) -> None:
        self._found = found

    def search(self, text: str, k: int, *, mask: Bool | None = None) -> tuple[Int32, Float32]:
        """The known answer; ``mask`` is not supported."""
        return self.begin(text, k, mask=mask).found()

    def begin(self, text: str, k: int, *, mask: Bool | None = None) -> InstantSearch:
        """As :meth:`search`."""
        assert mask is None
        docs, scores = self._found[text]
        return InstantSearch(docs[:k], scores[:k])


class InstantIndex(GpuIndex):
    """A GPU's index whose device has answered each query before; checks and ends searches as the real one."""

    def __init__(self, vectors: Float32, found: Mapping[bytes, tuple[Int64, Float32]]) -> None:
        self.plan = choose_index(len(vectors), vectors.shape[1], 1 << 40, codes="float32")
        self.count, self.dim = vectors.shape
        self.exact = None
        self._vectors = vectors
        self._widest = 2048
        self._found = found

    def search_many(
        self, queries: Any, k: int, *, mask: Bool | None = None, probes: int = 0
    ) -> tuple[Int64, Float32]:
        """The known answers; ``mask`` and ``probes`` are not supported."""
        assert mask is None
        assert not probes
        found = [self._found[query.tobytes()] for query in queries]
        if len(found) == 1:
            return found[0][0][None, :k], found[0][1][None, :k]
        return np.stack([ids[:k] for ids, _ in found]), np.stack([scores[:k] for _, scores in found])

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class HostWorld:
    """A snapshot of generated products, texts to search for, and the tokenizer of both models."""

    snapshot: Snapshot
    texts: list[str]
    tokenizer: TextTokenizer
    encoder: HashedEncoder


def open_world(products: int = 20_000, queries: int = 400) -> HostWorld:
    """The generated world, indexed once into ``.bench/``; its snapshot is the caller's to close."""
    tokenizer = TextTokenizer(
        engines_folder() / "bert-base-uncased.tokenizer.json", max_tokens=_MAX_TOKENS - 2
    )
    encoder = HashedEncoder(tokenizer)
    folder = CACHE / f"host-{products}"
    demo = folder / "demo"
    if not (demo / "query_log.jsonl").exists():
        write_demo(demo, products=products, queries=5000, labelled=0)
    try:
        snapshot = Snapshot.open(folder / "snapshot", verify=False)
    except SnapshotError:
        settings = IndexSettings(dense_index="flat")
        build_snapshot(
            demo / "products.jsonl", folder / "snapshot", settings, encoder=encoder, tokenizer=tokenizer
        )
        snapshot = Snapshot.open(folder / "snapshot", verify=False)
    lines = (demo / "query_log.jsonl").read_text("utf-8").splitlines()
    texts = list(dict.fromkeys(json.loads(line)["query"] for line in lines))[:queries]
    return HostWorld(snapshot, texts, tokenizer, encoder)


def open_host_pipeline(world: HostWorld, config: Config, owner: ExitStack) -> tuple[Pipeline, list[Stage]]:
    """The stages as they are assembled for a GPU, on engines that answer at once; ``owner`` closes them."""
    snapshot = world.snapshot
    encoder = _text_encoder(world)
    scorer = _pair_scorer(world, config)
    owner.callback(encoder.close)
    owner.callback(scorer.close)
    lexical, dense = _answers(world, encoder, config.recall.depth)
    dispatcher = Dispatcher(InstantIndex(snapshot.dense.vectors, dense))
    owner.callback(dispatcher.close)
    shared = FallbackIndex(dispatcher, snapshot.dense, max_k=2048)
    pool = owner.enter_context(ThreadPoolExecutor(2, "searchpipe-early"))
    threads = _core.SearchThreads(2)
    owner.callback(threads.close)
    gate = ComputeGate(_WIDE)
    score, diversify = config.score, config.diversify
    stages: list[Stage] = [
        Tokenize(world.tokenizer),
        Encode(encoder, gate, model=encoder.model.name),
        Recall(
            [Lexical(InstantLexical(lexical)), SharedDense(shared)],
            snapshot.mask,
            depth=config.recall.depth,
            pool=pool,
            threads=threads,
        ),
        Prerank(Formula(Features(snapshot.columns), config.prerank.weights)),
        Score(
            scorer,
            snapshot.tokens,
            gate,
            depth=score.depth,
            weight=score.weight,
            temperature=score.temperature,
        ),
        Diversify(snapshot, trade_off=diversify.trade_off, depth=diversify.depth),
        BuildPage(snapshot),
    ]
    return Pipeline(stages, None, config), stages


def _answers(
    world: HostWorld, encoder: ChainTextEncoder, depth: int
) -> tuple[dict[str, tuple[Int32, Float32]], dict[bytes, tuple[Int64, Float32]]]:
    """What both indexes find for each text, by the text and by its vector."""
    lexical, dense = {}, {}
    for text in world.texts:
        lexical[text] = world.snapshot.lexical.search(text, depth)
        [vector] = encoder.encode([world.tokenizer.ids(text)])
        docs, scores = exact_search(world.snapshot.dense.vectors, np.ascontiguousarray(vector), depth)
        dense[vector.tobytes()] = docs.astype(np.int64), scores
    return lexical, dense


def _text_encoder(world: HostWorld) -> ChainTextEncoder:
    table = world.encoder.table

    def compute(ids: Int32, mask: Int32, _: Int32 | None, output: Float32) -> None:
        sums = (table[ids] * mask[:, :, None]).sum(axis=1)
        np.divide(sums, np.linalg.norm(sums, axis=1, keepdims=True), out=output)

    chain = _chain(compute, encoder_buckets(_MAX_TOKENS), DIM)
    return ChainTextEncoder(_model("encoder", world.tokenizer), chain, world.tokenizer)


def _pair_scorer(world: HostWorld, config: Config) -> ChainPairScorer:
    def compute(ids: Int32, mask: Int32, types: Int32 | None, output: Float32) -> None:  # noqa: ARG001
        # Something that differs from pair to pair, whatever the batch: padding adds nothing.
        np.multiply(((ids * 2654435) % 997).sum(axis=1) % 97, 0.08, out=output[:, 0], casting="unsafe")
        output -= 4.0

    chain = _chain(compute, pair_buckets(world.snapshot.tokens, config.score, _MAX_TOKENS), 1)
    return ChainPairScorer(
        _model("cross-encoder", world.tokenizer),
        chain,
        world.tokenizer,
        max_query_tokens=config.score.max_query_tokens,
        max_doc_tokens=config.score.max_doc_tokens,
    )


def _chain(compute: Any, buckets: list[Bucket], width: int) -> EngineChain:
    fixed, per_token = _COST_MS
    costs = [(fixed + per_token * rows * tokens, 0.0) for rows, tokens in buckets]

    def opened() -> Opened:
        executor = _core.HostExecutor(compute, buckets, output_width=width, costs=costs)
        return Opened(executor, lambda: None, "instant", on_gpu=True)

    return EngineChain([Link("instant", opened)])


def _model(kind: Any, tokenizer: TextTokenizer) -> LocalModel:
    nowhere = Path()
    return LocalModel(
        name="instant",
        kind=kind,
        model=nowhere,
        tokenizer=tokenizer.path,
        sha256="",
        max_tokens=_MAX_TOKENS,
        pooling="none",
        normalize=False,
        query_prefix="",
        document_prefix="",
    )
