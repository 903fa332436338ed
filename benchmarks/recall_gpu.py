"""How fast does a GPU find the nearest of a million vectors, and does it find the right ones?

    python -m benchmarks.recall_gpu [--json FILE] [--count N] [--kind KIND] [--compare]

1,000,000 x 384 clustered vectors, the best 256 of each query, host memory to host memory
through the dispatcher that the pipeline uses. The number of lists a query reads is chosen on
queries of its own, and recall is measured on others against an exact float32 search.
"""

from __future__ import annotations

import argparse
import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_data import Vectors, clustered_vectors
from benchmarks.report import Report, measure
from searchpipe.arrays import Float32, Int32, Int64
from searchpipe.device.facts import DeviceFacts, driver_facts
from searchpipe.device.plan import DevicePlan
from searchpipe.errors import SearchpipeError
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.exact_gpu import DeviceMatrix
from searchpipe.recall.faiss_build import require_gpu_faiss
from searchpipe.recall.gpu_index import TEMP_BYTES, GpuIndex
from searchpipe.recall.lookup import Lookup
from searchpipe.recall.open import RecallPlan
from searchpipe.recall.rule import KINDS, IndexPlan, choose_index
from searchpipe.recall.tune import recall_of, tune_probes

BATCH = 32
THREADS = 32
COMPARED: tuple[dict[str, Any], ...] = (
    {"kind": "flat", "codes": "float16"},
    {"kind": "ivf-flat", "codes": "float32"},
    {"kind": "ivf-flat", "codes": "float32", "use_cuvs": True},
    {"kind": "ivf-flat", "codes": "float16"},
    {"kind": "ivf-pq"},
    {"kind": "cagra", "codes": "float32"},
    {"kind": "cagra", "codes": "float16"},
)


def main() -> None:
    """Measure and report."""
    title = "How fast does a GPU find the nearest of a million vectors?"
    parser = Report.parser("recall_gpu", title)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=256)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--kind", choices=KINDS, help="instead of the rule's choice")
    parser.add_argument(
        "--wanted", type=float, default=0.965, help="recall to tune for (default: %(default)s)"
    )
    parser.add_argument("--compare", action="store_true", help="also measure every other kind of index")
    args = parser.parse_args()
    facts = driver_facts()
    if not facts.available:
        raise SystemExit(f"This benchmark needs a GPU: {facts.reason}.")
    report = Report.from_args("recall_gpu", title, packages=("faiss-gpu-cuvs", "cupy-cuda13x"), args=args)
    device = facts.devices[0]
    report.note(device.line())
    vectors = clustered_vectors(args.count, args.dim, args.seed, queries=args.queries)
    stream = _stream()
    best, tuning_best = _truth(vectors, args.k, stream)
    _measure_chosen(report, args, vectors, best, tuning_best, device, stream)
    if args.compare:
        for options in COMPARED:
            _compare(report, args, vectors, best, tuning_best, options, stream)
    report.finish()


def _measure_chosen(
    report: Report,
    args: argparse.Namespace,
    vectors: Vectors,
    best: Int64,
    tuning_best: Int64,
    device: DeviceFacts,
    stream: Any,
) -> None:
    free = device.free_bytes
    plan = choose_index(args.count, args.dim, free // 2, kind=args.kind)
    recall_plan = RecallPlan(plan, True, TEMP_BYTES)
    table = DevicePlan(tuple(recall_plan.parts()), free, device.total_bytes, device=device.name)
    print(table.table())
    table.check()
    begin = time.perf_counter()
    index = _index(plan, vectors.documents, stream)
    report.figure("build_s", time.perf_counter() - begin, unit="s")
    index.exact = DeviceMatrix(vectors.documents, stream=_handle(stream))
    tuned = tune_probes(index, vectors.tuning, tuning_best, wanted=args.wanted)
    report.note(f"{plan.line()}; tuned to {tuned.probes} lists for recall {tuned.recall:.4f}")
    dispatcher = Dispatcher(index)
    queries = vectors.queries
    turn = _turns(len(queries))

    alone = measure(lambda: dispatcher.search(queries[turn()], args.k), rounds=args.rounds, warm_up=100)
    raw = measure(lambda: index.search_many(queries[turn()][None], args.k), rounds=args.rounds, warm_up=100)
    rounds = max(50, args.rounds // 4)
    starts = _turns(max(1, len(queries) - BATCH))
    many = measure(lambda: _batch(index, queries, starts(), args.k), rounds=rounds, warm_up=20)
    found = report.times("one query, host to host", alone)
    report.figure("recall_p50_ms_b1", 1e3 * found["p50"], unit="ms", goal="<= 0.5")
    report.figure("recall_p99_ms_b1", 1e3 * found["p99"], unit="ms")
    found = report.times(f"{BATCH} queries in one search, host to host", many)
    report.figure("recall_p50_ms_b32", 1e3 * found["p50"], unit="ms")
    report.times("one query, FAISS's call alone", raw)
    _measure_on_device(report, dispatcher, queries, args.k, rounds)

    answers = [dispatcher.search(query, args.k) for query in queries]
    got = np.stack([_padded(docs, args.k) for docs, _ in answers])
    report.figure(f"recall_at_{args.k}", recall_of(got, best), goal=">= 0.95")
    _measure_threads(report, dispatcher, queries, args.k, answers)
    _measure_filters(report, dispatcher, vectors, args.k)
    before = driver_facts().devices[0].free_bytes
    for _ in range(4):
        for query in queries:
            dispatcher.search(query, args.k)
    drift = before - driver_facts().devices[0].free_bytes
    report.figure("device_memory_drift_mib", drift / 2**20, unit="MiB", goal="= 0")
    dispatcher.close()
    index.close()


def _measure_on_device(report: Report, dispatcher: Dispatcher, queries: Float32, k: int, rounds: int) -> None:
    """The query vector already lies on the device, as the encoder leaves it."""
    cupy = importlib.import_module("cupy")
    there = [cupy.asarray(query) for query in queries]
    cupy.cuda.Device().synchronize()
    turn = _turns(len(there))
    report.times(
        "one query, device to host",
        measure(lambda: dispatcher.search(there[turn()], k), rounds=rounds, warm_up=20),
    )


def _measure_threads(
    report: Report,
    dispatcher: Dispatcher,
    queries: Float32,
    k: int,
    alone: list[tuple[Int32, Float32]],
) -> None:
    """All queries from each of 32 threads: the same answers as from one, and how many a second."""
    different = [0] * THREADS

    def ask(thread: int) -> None:
        for turn in range(len(queries)):
            place = (turn + thread * 7) % len(queries)
            docs, scores = dispatcher.search(queries[place], k)
            if not np.array_equal(docs, alone[place][0]) or not np.array_equal(scores, alone[place][1]):
                different[thread] += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(THREADS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    stats = dispatcher.stats()
    report.figure("threads_different_answers", sum(different), goal="= 0")
    report.figure("threads_queries_per_s", THREADS * len(queries) / seconds, unit="queries/s")
    report.note(
        f"{THREADS} threads: {stats.lookups} lookups in {stats.searches} searches, "
        f"largest {stats.largest}, {stats.failures} failures"
    )


def _measure_filters(report: Report, dispatcher: Dispatcher, vectors: Vectors, k: int) -> None:
    """Filters that leave more and less, against comparing all that they allow."""
    rng = np.random.default_rng(report.seed + 1)
    for share in (0.5, 0.05, 0.001):
        mask = rng.random(len(vectors.documents)) < share
        rows = np.flatnonzero(mask)
        hits = wanted = 0
        seconds = []
        for query in vectors.queries[:64]:
            begin = time.perf_counter()
            docs, _ = dispatcher.search(query, k, mask=mask)
            seconds.append(time.perf_counter() - begin)
            scores = vectors.documents[rows] @ query if share < 0.1 else (vectors.documents @ query)[rows]
            best = rows[np.argpartition(-scores, min(k, len(rows)) - 1)[:k]]
            assert mask[docs].all(), "a filter let another document through"
            hits += len(np.intersect1d(docs, best))
            wanted += len(best)
        report.times(f"filter that leaves {share:.1%}", seconds[1:])
        report.figure(f"filtered_recall_{share:g}", hits / wanted, goal=">= 0.95")


def _compare(
    report: Report,
    args: argparse.Namespace,
    vectors: Vectors,
    best: Int64,
    tuning_best: Int64,
    options: dict[str, Any],
    stream: Any,
) -> None:
    name = " ".join(str(value) for key, value in options.items() if key != "use_cuvs")
    name += " cuVS" if options.get("use_cuvs") else ""
    given = {key: value for key, value in options.items() if key != "use_cuvs"}
    try:
        plan = choose_index(args.count, args.dim, 1 << 40, **given)
        begin = time.perf_counter()
        index = _index(plan, vectors.documents, stream, use_cuvs=options.get("use_cuvs", False))
        built = time.perf_counter() - begin
        tuned = tune_probes(index, vectors.tuning, tuning_best, wanted=args.wanted)
        queries, turn = vectors.queries, _turns(len(vectors.queries))
        dispatcher = Dispatcher(index)
        alone = measure(lambda: dispatcher.search(queries[turn()], args.k), rounds=500, warm_up=50)
        starts = _turns(max(1, len(queries) - BATCH))
        many = measure(lambda: _batch(index, queries, starts(), args.k), rounds=100, warm_up=10)
        answers = [dispatcher.search(query, args.k)[0] for query in queries]
        recall = recall_of(np.stack([_padded(docs, args.k) for docs in answers]), best)
        report.times(f"{name}, batch 1", alone)
        report.times(f"{name}, batch {BATCH}", many)
        report.note(f"{name}: recall {recall:.4f}, {tuned.probes} lists read, built in {built:.1f} s")
        index.close()
    except (SearchpipeError, RuntimeError, TypeError, AttributeError) as error:
        report.note(f"{name}: not measured: {type(error).__name__}: {error}")


def _truth(vectors: Vectors, k: int, stream: Any) -> tuple[Int64, Int64]:
    """The exact neighbours of both sets of queries, by a float32 flat index."""
    plan = choose_index(
        len(vectors.documents), vectors.documents.shape[1], 1 << 40, kind="flat", codes="float32"
    )
    index = _index(plan, vectors.documents, stream)
    try:
        return index.search_many(vectors.queries, k)[0], index.search_many(vectors.tuning, k)[0]
    finally:
        index.close()


def _index(plan: IndexPlan, documents: Float32, stream: Any, *, use_cuvs: bool = False) -> GpuIndex:
    return GpuIndex(
        plan,
        documents,
        stream=_handle(stream),
        temp_bytes=TEMP_BYTES,
        use_cuvs=use_cuvs,
        faiss=require_gpu_faiss(),
    )


def _batch(index: GpuIndex, queries: Float32, start: int, k: int) -> list[tuple[Int32, Float32]]:
    lookups = [Lookup(query, k) for query in queries[start : start + BATCH]]
    return [index.finish(one, found) for one, found in zip(lookups, index.search_batch(lookups), strict=True)]


def _padded(docs: Int32, k: int) -> Int64:
    row = np.full(k, -1, np.int64)
    row[: len(docs)] = docs
    return row


def _turns(count: int) -> Callable[[], int]:
    """0, 1, ... count - 1, 0, 1, ..."""
    at = -1

    def following() -> int:
        nonlocal at
        at = (at + 1) % count
        return at

    return following


def _stream() -> Any:
    """A stream of our own: the core's where it was built with one, else cupy's."""
    _core: Any = importlib.import_module("searchpipe._core")
    if hasattr(_core, "Stream"):
        return _core.Stream(_core.Device(0))
    cupy = importlib.import_module("cupy")
    return cupy.cuda.Stream(non_blocking=True)


def _handle(stream: Any) -> int:
    return int(stream.handle if hasattr(stream, "handle") else stream.ptr)


if __name__ == "__main__":
    main()
