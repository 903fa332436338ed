"""The scoring task ready to run: documents tokenized, scorers over it, and how calls are timed."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu_data import Task
from benchmarks.gpu_models import FloatModel
from benchmarks.gpu_peers import MAX_TOKENS, reference
from searchpipe._core import TokenStore, TokenStoreWriter
from searchpipe.arrays import Float32, Int32
from searchpipe.backends.onnx_split import KINDS
from searchpipe.device import nvtx
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.runtime.buckets import choose_buckets
from searchpipe.runtime.open_chain import ChainOptions, open_chain
from searchpipe.runtime.pair_scorer import ChainPairScorer

MAX_QUERY_TOKENS = 32


class Bench:
    """The task with its documents tokenized, and scorers over it. For one thread unless said otherwise."""

    def __init__(self, task: Task, model: FloatModel, folder: Path, args: argparse.Namespace) -> None:
        self.task = task
        self.model = model
        self._args = args
        self.tokenizer = TextTokenizer(model.local.tokenizer, max_tokens=MAX_TOKENS)
        self._query_tokenizer = TextTokenizer(model.local.tokenizer, max_tokens=MAX_QUERY_TOKENS)
        path = str(folder / "tokens.bin")
        writer = TokenStoreWriter(path, vocab_size=self.tokenizer.vocab_size)
        for ids in self.tokenizer.ids_many(task.documents):
            writer.append(ids)
        writer.close()
        self.store = TokenStore(path)
        self._exact: dict[int, Float32] = {}

    def open(
        self,
        *,
        lanes: int,
        slots: int,
        packed: bool | None = None,
        token_step: int = 0,
        max_rows: int = 0,
        epilogues: Sequence[str] = KINDS,
    ) -> ChainPairScorer:
        """A scorer whose buckets fit the lengths of the task; what is not given is as on the command line."""
        widths = choose_buckets(
            max_rows=max_rows or self._args.max_rows,
            max_tokens=MAX_TOKENS,
            lengths=self._lengths(),
            widths=self._args.widths,
        )
        options = ChainOptions(
            buckets=widths,
            packed=not self._args.no_packed if packed is None else packed,
            token_step=token_step or self._args.token_step,
            epilogues=epilogues,
            lanes=lanes,
            slots=slots,
            plan=self._args.plan,
            gpu_model=self.model.local.model,
        )
        return ChainPairScorer(
            self.model.local,
            open_chain(self.model.local, options),
            self.tokenizer,
            max_query_tokens=MAX_QUERY_TOKENS,
            max_doc_tokens=MAX_TOKENS,
        )

    def score(self, scorer: ChainPairScorer, row: int) -> Float32:
        """Text in to scores out for one query; any thread."""
        with nvtx.range("score:query"):
            ids = self._query_tokenizer.ids(self.task.queries[row])
            return scorer.score(ids, self.store, self.task.candidates[row])

    def score_some(self, scorer: ChainPairScorer, row: int, docs: Int32) -> Float32:
        """The same for other documents."""
        return scorer.score(self._query_tokenizer.ids(self.task.queries[row]), self.store, docs)

    def exact(self, row: int) -> Float32:
        """Scores of one query in single precision on the CPU; computed once."""
        if row not in self._exact:
            self._exact[row] = reference(self.model, self.task.queries[row], self.texts(row))
        return self._exact[row]

    def texts(self, row: int) -> list[str]:
        """The documents of one query."""
        return [self.task.documents[doc] for doc in self.task.candidates[row].tolist()]

    def _lengths(self) -> Int32:
        """Row lengths of all pairs, int32 ``(n,)``."""
        documents = self.store.lengths()
        queries = [len(self._query_tokenizer.ids(text)) for text in self.task.queries]
        rows = [
            documents[docs] + tokens + 3 for docs, tokens in zip(self.task.candidates, queries, strict=True)
        ]
        lengths: Int32 = np.minimum(np.concatenate(rows), MAX_TOKENS).astype(np.int32)
        return lengths


@dataclass(frozen=True, slots=True)
class Served:
    """What serving every query some times gave."""

    seconds: list[float]
    padding_share: float
    batches_per_query: float


def serve(bench: Bench, scorer: ChainPairScorer, rounds: int) -> Served:
    """Score every query once unmeasured, then ``rounds`` times one by one."""
    count = len(bench.task.queries)
    for row in range(count):
        bench.score(scorer, row)
    before = scorer.chain.scorer.stats()
    seconds = times(lambda row: bench.score(scorer, row), list(range(count)) * rounds)
    after = scorer.chain.scorer.stats()
    real = after.real_tokens - before.real_tokens
    places = after.padded_tokens - before.padded_tokens
    return Served(seconds, 1 - real / places, (after.batches - before.batches) / len(seconds))


def graph_times(scorer: ChainPairScorer) -> str:
    """What each graph takes, as measured when it was captured."""
    executor = scorer.chain.scorer.executor
    timed = zip(executor.buckets, executor.costs, strict=True)
    return "Graphs, ms: " + ", ".join(f"{rows}:{tokens} {ms:.2f}" for (rows, tokens), (ms, _) in timed)


def throughput(bench: Bench, scorer: ChainPairScorer, callers: int) -> float:
    """Queries a second with so many callers at once."""
    count = len(bench.task.queries)
    turns = max(1, 4 * count // callers)

    def ask(caller: int) -> None:
        for turn in range(turns):
            bench.score(scorer, (caller * 11 + turn) % count)

    ask(0)
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(callers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return callers * turns / (time.perf_counter() - begin)


def times(call: Callable[[int], object], rows: Iterable[int]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for row in rows:
        begin = time.perf_counter()
        call(row)
        seconds.append(time.perf_counter() - begin)
    return seconds
