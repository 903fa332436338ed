"""How long does it take to score 256 products for a query on a GPU, and are the scores right?

    python -m benchmarks.score_gpu [--json FILE] [--lanes N] [--slots N] [--no-peers]
    python -m benchmarks.score_gpu --variants all --no-peers       settings side by side

84 development queries of ESCI, 256 candidates each (the judged ones and seeded random others), title and
first 40 words, at most 128 tokens, the 12-layer MiniLM cross-encoder; one query at a time, text in
to scores out. Documents were tokenized when they were indexed, as in every snapshot. The peers
run in the same process on the same pairs. Rows are packed; the same engine with padded rows is
measured too.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_data import CANDIDATES, Task, scoring_task
from benchmarks.gpu_models import FloatModel, float_model
from benchmarks.gpu_peers import MAX_TOKENS, Scorer, cross_encoder, padded_onnx, reference
from benchmarks.report import Report
from benchmarks.score_variants import Variant, chosen
from searchpipe._core import TokenStore, TokenStoreWriter
from searchpipe.arrays import Float32, Int32
from searchpipe.device import nvtx
from searchpipe.device.facts import driver_facts
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.runtime.buckets import choose_buckets
from searchpipe.runtime.open_chain import ChainOptions, open_chain
from searchpipe.runtime.pair_scorer import ChainPairScorer

MAX_QUERY_TOKENS = 32
TOP = 50


def main() -> None:
    """Measure and report."""
    title = "How long does it take to score 256 products for a query on a GPU?"
    parser = Report.parser("score_gpu", title)
    parser.add_argument("--queries", type=int, default=84)
    parser.add_argument("--rounds", type=int, default=4, help="times that each query is scored")
    parser.add_argument("--lanes", type=int, default=1, help="batches that compute side by side")
    parser.add_argument("--slots", type=int, default=3, help="batches in flight")
    parser.add_argument("--widths", type=int, default=8, help="bucket widths")
    parser.add_argument("--max-rows", type=int, default=CANDIDATES, help="rows of the largest bucket")
    parser.add_argument("--plan", type=Path, help="a TensorRT plan to try first")
    parser.add_argument("--checked", type=int, default=12, help="queries compared with single precision")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-overlap", action="store_true")
    parser.add_argument("--no-packed", action="store_true", help="padded rows only")
    parser.add_argument("--token-step", type=int, default=1024, help="between graphs of packed rows")
    parser.add_argument("--variants", help="settings to measure besides, comma-separated, or all")
    args = parser.parse_args()
    facts = driver_facts()
    if not facts.available:
        raise SystemExit(f"This benchmark needs a GPU: {facts.reason}.")
    packages = ("onnxruntime-gpu", "torch", "transformers", "sentence-transformers", "tokenizers")
    report = Report.from_args("score_gpu", title, packages=packages, args=args)
    report.note(facts.devices[0].line())
    task, model = scoring_task(args.seed, queries=args.queries), float_model("cross-encoder")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(task, model, Path(folder), args)
        _measure(report, bench, args)
        if not args.no_packed:
            _measure_padded(report, bench, args)
        if not args.no_overlap:
            _measure_overlap(report, bench)
        if args.variants:
            _measure_variants(report, bench, chosen(args.variants), args.rounds)
    report.finish()


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


def _measure(report: Report, bench: Bench, args: argparse.Namespace) -> None:
    begin = time.perf_counter()
    scorer = bench.open(lanes=args.lanes, slots=args.slots)
    report.figure("open_s", time.perf_counter() - begin, unit="s")
    states = scorer.chain.states
    report.note("; ".join(f"{s.name}: {s.state} {s.description or s.reason}".strip() for s in states))
    if scorer.chain.serving == "onnx-cpu":
        raise SystemExit(f"No GPU engine opened: {[(s.name, s.reason) for s in states]}")
    report.note(f"Answering: {scorer.chain.serving}")
    report.note(_graph_times(scorer))
    found = _serve(bench, scorer, args.rounds)
    ours = report.times("searchpipe", found.seconds)
    report.figure("score_p50_ms", 1e3 * ours["p50"], unit="ms", goal="<= 6")
    report.figure("score_p99_ms", 1e3 * ours["p99"], unit="ms", goal=f"<= {1.3e3 * ours['p50']:.2f}")
    report.figure("padding_share", found.padding_share)
    report.figure("batches_per_query", found.batches_per_query)
    _check_scores(report, bench, scorer, args.checked)
    if not args.no_peers:
        _measure_peers(report, bench, ours["p50"])
    scorer.close()


@dataclass(frozen=True, slots=True)
class Served:
    """What serving every query some times gave."""

    seconds: list[float]
    padding_share: float
    batches_per_query: float


def _serve(bench: Bench, scorer: ChainPairScorer, rounds: int) -> Served:
    count = len(bench.task.queries)
    for row in range(count):
        bench.score(scorer, row)
    before = scorer.chain.scorer.stats()
    seconds = _times(lambda row: bench.score(scorer, row), list(range(count)) * rounds)
    after = scorer.chain.scorer.stats()
    real = after.real_tokens - before.real_tokens
    places = after.padded_tokens - before.padded_tokens
    return Served(seconds, 1 - real / places, (after.batches - before.batches) / len(seconds))


def _graph_times(scorer: ChainPairScorer) -> str:
    executor = scorer.chain.scorer.executor
    timed = zip(executor.buckets, executor.costs, strict=True)
    return "Graphs, ms: " + ", ".join(f"{rows}:{tokens} {ms:.2f}" for (rows, tokens), (ms, _) in timed)


def _measure_padded(report: Report, bench: Bench, args: argparse.Namespace) -> None:
    scorer = bench.open(lanes=args.lanes, slots=args.slots, packed=False)
    report.note(_graph_times(scorer))
    found = _serve(bench, scorer, args.rounds)
    padded = report.times("padded", found.seconds)
    report.figure("padded_p50_ms", 1e3 * padded["p50"], unit="ms")
    report.figure("padded_p99_ms", 1e3 * padded["p99"], unit="ms")
    report.figure("padded_padding_share", found.padding_share)
    scorer.close()


def _measure_variants(report: Report, bench: Bench, variants: list[Variant], rounds: int) -> None:
    """Every variant for itself: calls one by one, its padding, its scores, and queries a second."""
    lines = [f"{'variant':<18}{'predicted':>10}{'P50 ms':>8}{'P99 ms':>8}{'padding':>9}{'diff':>8}{'qps':>7}"]
    for variant in variants:
        with variant.applied():
            scorer = bench.open(
                lanes=variant.lanes,
                slots=variant.slots,
                packed=variant.packed,
                token_step=variant.token_step,
                max_rows=variant.max_rows,
            )
        wanted = "onnx-cuda-packed" if variant.packed else "onnx-cuda"
        if scorer.chain.serving != wanted:
            reasons = "; ".join(f"{state.name}: {state.reason}" for state in scorer.chain.states)
            lines.append(f"{variant.name:<18} did not open: {reasons}")
            scorer.close()
            continue
        found = _serve(bench, scorer, rounds)
        p50, p99 = (1e3 * float(np.quantile(found.seconds, point)) for point in (0.5, 0.99))
        diff = max(float(np.abs(bench.score(scorer, row) - bench.exact(row)).max()) for row in range(4))
        qps = _throughput(bench, scorer, callers=16)
        scorer.close()
        expected = f"{variant.predicted_ms:.1f}" if variant.predicted_ms is not None else ""
        lines.append(
            f"{variant.name:<18}{expected:>10}{p50:>8.2f}{p99:>8.2f}{found.padding_share:>9.1%}{diff:>8.3f}"
            f"{qps:>7.0f}  ({variant.why})"
        )
        report.figure(f"{variant.name}_p50_ms", p50, unit="ms")
    for line in lines:
        report.note(line)


def _measure_peers(report: Report, bench: Bench, ours: float) -> None:
    makers: dict[str, Any] = {
        "crossencoder_fp16": lambda: cross_encoder(bench.model, half=True),
        "crossencoder_fp32": lambda: cross_encoder(bench.model, half=False),
        "ort_padded": lambda: padded_onnx(bench.model),
    }
    goals = {"crossencoder_fp16": ">= 8", "ort_padded": ">= 2.5"}
    rows = range(len(bench.task.queries))
    texts = [bench.texts(row) for row in rows]
    for name, make in makers.items():
        seconds = _peer_times(make(), bench.task.queries, texts)
        found = report.times(name, seconds)
        report.figure(f"speedup_vs_{name}", found["p50"] / ours, unit="x", goal=goals.get(name, ""))


def _peer_times(peer: Scorer, queries: list[str], texts: list[list[str]]) -> list[float]:
    rows = range(len(queries))
    for row in rows[:8]:
        peer(queries[row], texts[row])
    return _times(lambda row: peer(queries[row], texts[row]), rows)


def _check_scores(report: Report, bench: Bench, scorer: ChainPairScorer, checked: int) -> None:
    """Against single precision on the CPU, and of a pair against itself in other company."""
    worst, taus = 0.0, []
    for row in range(min(checked, len(bench.task.queries))):
        exact = bench.exact(row)
        ours = bench.score(scorer, row)
        worst = max(worst, float(np.abs(ours - exact).max()))
        top = np.argsort(-exact, kind="stable")[:TOP]
        taus.append(kendall_tau(exact[top], ours[top]))
    report.figure("max_abs_diff", worst, unit="logits", goal="< 0.05")
    report.figure("kendall_tau_top50", min(taus), goal=">= 0.98")
    rng = np.random.default_rng(report.seed)
    moved = 0.0
    for row in range(0, len(bench.task.queries), 7):
        whole = bench.score(scorer, row)
        for size in (1, 7, 32, 100):
            some = rng.choice(len(whole), size, replace=False)
            alone = bench.score_some(scorer, row, bench.task.candidates[row][some])
            moved = max(moved, float(np.abs(alone - whole[some]).max()))
    report.figure("batch_mate_diff", moved, unit="logits", goal="<= 0.02")


def _measure_overlap(report: Report, bench: Bench, callers: int = 8) -> None:
    """Queries a second with 8 callers, by the number of slots: with one, copies and packing wait."""
    for slots in (1, 3):
        scorer = bench.open(lanes=1, slots=slots)
        report.figure(f"qps_{slots}_slots", _throughput(bench, scorer, callers), unit="queries/s")
        scorer.close()


def _throughput(bench: Bench, scorer: ChainPairScorer, callers: int) -> float:
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


def kendall_tau(left: Float32, right: Float32) -> float:
    """Kendall's tau-a of two score lists: concordant less discordant pairs, over all pairs."""
    rows, columns = np.triu_indices(len(left), 1)
    agree = np.sign(left[rows] - left[columns]) * np.sign(right[rows] - right[columns])
    return float(agree.mean()) if len(agree) else 1.0


def _times(call: Callable[[int], object], rows: Iterable[int]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for row in rows:
        begin = time.perf_counter()
        call(row)
        seconds.append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    main()
