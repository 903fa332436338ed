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
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_data import CANDIDATES, scoring_task
from benchmarks.gpu_models import float_model
from benchmarks.gpu_peers import Scorer, cross_encoder, padded_onnx
from benchmarks.report import Report
from benchmarks.score_bench import Bench, graph_times, serve, throughput, times
from benchmarks.score_variants import chosen, measure_variants
from searchpipe.arrays import Float32
from searchpipe.device.facts import driver_facts
from searchpipe.runtime.pair_scorer import ChainPairScorer

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
            measure_variants(report, bench, chosen(args.variants), args.rounds)
    report.finish()


def _measure(report: Report, bench: Bench, args: argparse.Namespace) -> None:
    begin = time.perf_counter()
    scorer = bench.open(lanes=args.lanes, slots=args.slots)
    report.figure("open_s", time.perf_counter() - begin, unit="s")
    states = scorer.chain.states
    report.note("; ".join(f"{s.name}: {s.state} {s.description or s.reason}".strip() for s in states))
    if scorer.chain.serving == "onnx-cpu":
        raise SystemExit(f"No GPU engine opened: {[(s.name, s.reason) for s in states]}")
    report.note(f"Answering: {scorer.chain.serving}")
    report.note(graph_times(scorer))
    found = serve(bench, scorer, args.rounds)
    ours = report.times("searchpipe", found.seconds)
    report.figure("score_p50_ms", 1e3 * ours["p50"], unit="ms", goal="<= 6")
    report.figure("score_p99_ms", 1e3 * ours["p99"], unit="ms", goal=f"<= {1.3e3 * ours['p50']:.2f}")
    report.figure("padding_share", found.padding_share)
    report.figure("batches_per_query", found.batches_per_query)
    _check_scores(report, bench, scorer, args.checked)
    if not args.no_peers:
        _measure_peers(report, bench, ours["p50"])
    scorer.close()


def _measure_padded(report: Report, bench: Bench, args: argparse.Namespace) -> None:
    scorer = bench.open(lanes=args.lanes, slots=args.slots, packed=False)
    report.note(graph_times(scorer))
    found = serve(bench, scorer, args.rounds)
    padded = report.times("padded", found.seconds)
    report.figure("padded_p50_ms", 1e3 * padded["p50"], unit="ms")
    report.figure("padded_p99_ms", 1e3 * padded["p99"], unit="ms")
    report.figure("padded_padding_share", found.padding_share)
    scorer.close()


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
        try:
            peer = make()
        except ImportError as error:
            report.note(f"{name} was not measured: {error}")
            continue
        seconds = _peer_times(peer, bench.task.queries, texts)
        found = report.times(name, seconds)
        report.figure(f"speedup_vs_{name}", found["p50"] / ours, unit="x", goal=goals.get(name, ""))


def _peer_times(peer: Scorer, queries: list[str], texts: list[list[str]]) -> list[float]:
    rows = range(len(queries))
    for row in rows[:8]:
        peer(queries[row], texts[row])
    return times(lambda row: peer(queries[row], texts[row]), rows)


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
        report.figure(f"qps_{slots}_slots", throughput(bench, scorer, callers), unit="queries/s")
        scorer.close()


def kendall_tau(left: Float32, right: Float32) -> float:
    """Kendall's tau-a of two score lists: concordant less discordant pairs, over all pairs."""
    rows, columns = np.triu_indices(len(left), 1)
    agree = np.sign(left[rows] - left[columns]) * np.sign(right[rows] - right[columns])
    return float(agree.mean()) if len(agree) else 1.0


if __name__ == "__main__":
    main()
