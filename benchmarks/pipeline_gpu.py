"""How fast is the whole pipeline on a GPU, alone and under load?

    python -m benchmarks.pipeline_gpu [--json FILE] [--products N] [--soak 20000]

1,000,000 products: ESCI's and generated ones. Text in, a page of ten out: tokenize, encode on the
GPU, lexical and dense recall (256 each), prerank, the cross-encoder over the best 256, diversify.
The catalog is built once into ``.bench/`` (minutes); ``--build-only`` stops there.
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.gpu_load import GAP_S, BusyMeter, closed_loop, gpu_time, leave, open_loop
from benchmarks.gpu_pipeline import GpuPipeline, build_catalog, open_pipeline, query_texts
from benchmarks.report import Report, quantiles
from searchpipe.device.facts import driver_facts
from searchpipe.page import Trace

CALLERS = (1, 4, 16, 64)
BUDGET_MS = 50.0
SWITCH_S = 0.001  # as `searchpipe serve` sets it, and docs/serving.md advises; Python's own is 5 ms
_WARM_UP = 1400  # queries, until what is learnt of times (batches, searches, trials) has settled
_ALONE = 500
_TRACED = 100
_WAITS, _NAME_CHARS = 8, 60  # of the GPU's waits that are told; of a kernel's name
_SOAK_PARTS = 4


def main() -> None:
    """Measure and report."""
    title = "How fast is the whole pipeline on a GPU, alone and under load?"
    parser = Report.parser("pipeline_gpu", title)
    parser.add_argument("--products", type=int, default=1_000_000)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--plan", type=Path, help="a TensorRT plan of the cross-encoder to try first")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load (default: %(default)s)")
    parser.add_argument("--soak", type=int, default=0, help="queries of the memory check")
    parser.add_argument("--build-only", action="store_true")
    args = parser.parse_args()
    facts = driver_facts()
    if not facts.available:
        raise SystemExit(f"This benchmark needs a GPU: {facts.reason}.")
    begin = time.perf_counter()
    catalog = build_catalog(args.products, args.seed)
    print(f"catalog ready after {time.perf_counter() - begin:.1f} s: {catalog}", flush=True)
    if args.build_only:
        return
    packages = ("onnxruntime-gpu", "faiss-gpu-cuvs", "tokenizers")
    report = Report.from_args("pipeline_gpu", title, packages=packages, args=args)
    report.note(facts.devices[0].line())
    begin = time.perf_counter()
    free = facts.devices[0].free_bytes
    opened = open_pipeline(catalog, lanes=args.lanes, slots=args.slots, budget_ms=BUDGET_MS, plan=args.plan)
    report.figure("open_s", time.perf_counter() - begin, unit="s")
    report.figure("device_mib", (free - driver_facts().devices[0].free_bytes) / (1 << 20), unit="MiB")
    report.note(opened.engines())
    report.note(opened.recall.describe())
    try:
        texts = query_texts(catalog)
        _warm_up(opened, texts)
        _alone(report, opened, texts)
        with PauseMeter() as pauses:
            rate = _closed(report, opened, texts, args)
            _open(report, opened, texts, rate, args, suffix="_5ms_switch")
            with _switch_interval(SWITCH_S):
                _open(report, opened, texts, rate, args)
        report.note(f"longest garbage collection under load: {1e3 * pauses.longest:.1f} ms")
        if args.soak:
            _soak(report, opened, texts, args.soak)
    finally:
        opened.close()
    report.finish()
    leave()


def _warm_up(opened: GpuPipeline, texts: list[str]) -> None:
    for turn in range(_WARM_UP):
        opened.pipeline.search(texts[turn % len(texts)], budget_ms=math.inf)


def _alone(report: Report, opened: GpuPipeline, texts: list[str]) -> None:
    """One query at a time: the time of each, of each stage, and how much of it the GPU works."""
    seconds, given_up = [], 0
    stages: dict[str, list[float]] = {}
    for turn in range(_ALONE):
        begin = time.perf_counter()
        page = opened.pipeline.search(texts[turn % len(texts)])
        seconds.append(time.perf_counter() - begin)
        given_up += bool(page.degradations)
        for span in page.trace.spans:
            stages.setdefault(span.stage, []).append(span.ms / 1e3)
    found = report.times("one query at a time", seconds)
    report.figure("pipeline_p50_ms", 1e3 * found["p50"], unit="ms", goal="<= 10")
    report.figure("pipeline_p99_ms", 1e3 * found["p99"], unit="ms", goal="<= 15")
    report.figure("degraded_share", given_up / len(seconds), goal="= 0")
    for name, values in stages.items():
        report.times(f"stage {name}", values)

    gpu, calls = gpu_time(lambda turn: opened.pipeline.search(texts[turn % len(texts)]), _TRACED)
    busy, gaps = gpu.busy / _TRACED, gpu.gaps / _TRACED
    report.figure("gpu_ms_per_query", 1e3 * busy, unit="ms")
    report.figure("gpu_gaps_ms_per_query", 1e3 * gaps, unit="ms")
    same = quantiles(seconds[:_TRACED], (0.5,))["p50"]
    report.figure("host_ms_p50", max(0.0, 1e3 * (same - busy - gaps)), unit="ms", goal="<= 0.5")
    longer = max(0.0, 1e3 * (found["p50"] - busy - gaps))
    report.figure(f"host_ms_p50_of_{_ALONE}", longer, unit="ms")
    report.figure("host_and_gaps_ms_p50", max(0.0, 1e3 * (same - busy)), unit="ms")
    if len(calls) == _TRACED:
        host = [took - call.busy - call.gaps for took, call in zip(seconds, calls, strict=False)]
        report.figure("host_ms_p50_by_query", 1e3 * quantiles(host, (0.5,))["p50"], unit="ms")
    else:
        report.note(f"no host_ms_p50_by_query: {len(calls)} queries were told apart in the profile")
    report.note(
        f"host: the median of {_TRACED} queries, less the mean time in which the GPU ran a kernel or a copy "
        f"for them, less its gaps under {1e6 * GAP_S:.0f} us: from kernel to kernel no host takes part"
    )
    for wait in gpu.idle[:_WAITS]:
        report.note(
            f"under the profiler the GPU waited {1e6 * wait.seconds / _TRACED:.0f} us a query, in "
            f"{wait.times / _TRACED:.1f} times, from {_short(wait.before)} to {_short(wait.after)}"
        )


def _short(kernel: str) -> str:
    """The beginning of a kernel's name, which may be pages of template arguments."""
    return kernel if len(kernel) <= _NAME_CHARS else f"{kernel[:_NAME_CHARS]}..."


def _closed(report: Report, opened: GpuPipeline, texts: list[str], args: argparse.Namespace) -> float:
    """1, 4, 16 and 64 callers that ask without a pause; returns the saturated rate."""
    best, busy = 0.0, 0.0
    for callers in CALLERS:
        with BusyMeter() as meter:
            load = closed_loop(
                lambda text: opened.pipeline.search(text, budget_ms=math.inf),
                texts,
                callers=callers,
                duration_s=args.seconds,
            )
        found = report.times(f"{callers} callers", load.seconds)
        report.note(
            f"{callers} callers: {load.rate:,.0f} queries/s, p50 {1e3 * found['p50']:.1f} ms, "
            f"p99 {1e3 * found['p99']:.1f} ms, GPU busy {meter.share:.0%}, {load.failures} failures"
        )
        if load.rate > best:
            best, busy = load.rate, meter.share
    stats = opened.scorer.chain.scorer.stats()
    report.figure("saturated_qps", best, unit="queries/s")
    report.figure("gpu_busy_share", busy, goal=">= 0.9")
    report.note(f"scorer: {stats.rows} rows in {stats.batches} batches for {stats.requests} requests")
    return best


@contextmanager
def _switch_interval(seconds: float) -> Iterator[None]:
    """How long a thread may hold the GIL while others want it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _open(
    report: Report,
    opened: GpuPipeline,
    texts: list[str],
    rate: float,
    args: argparse.Namespace,
    *,
    suffix: str = "",
) -> None:
    """70% of the saturated rate, arriving at random, each query with its budget of 50 ms."""
    given_up: list[int] = []
    traces: list[Trace] = []

    def ask(text: str) -> None:
        page = opened.pipeline.search(text, budget_ms=BUDGET_MS)
        given_up.append(len(page.degradations))
        traces.append(page.trace)

    load = open_loop(ask, texts, rate=0.7 * rate, duration_s=args.seconds, seed=args.seed)
    label = f"open loop at {0.7 * rate:,.0f} queries/s, switch interval {1e3 * sys.getswitchinterval():g} ms"
    found = report.times(label, load.seconds)
    report.figure(f"open_loop_p99{suffix}_ms", 1e3 * found["p99"], unit="ms", goal="" if suffix else "< 30")
    report.figure(f"open_loop_degraded_share{suffix}", float(np.mean(np.array(given_up) > 0)))
    report.note(f"{label}: {len(load.seconds)} answers, {load.failures} failures")
    report.note(f"its slowest hundredth: {_slowest(traces)}")


def _slowest(traces: list[Trace]) -> str:
    """Where the time of the slowest hundredth of queries went, from their start: mean milliseconds."""
    last = sorted(traces, key=lambda trace: trace.total_ms)[-max(1, len(traces) // 100) :]
    stages = {
        span.stage: float(np.mean([s.ms for trace in last for s in trace.spans if s.stage == span.stage]))
        for span in last[0].spans
    }
    total = float(np.mean([trace.total_ms for trace in last]))
    return f"{total:.1f} ms = " + ", ".join(f"{name} {ms:.1f}" for name, ms in stages.items())


class PauseMeter:
    """The longest garbage collection of Python while it is on, in seconds; for one thread."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._begin = 0.0

    def __enter__(self) -> PauseMeter:
        gc.callbacks.append(self._heard)
        return self

    def __exit__(self, *unused: object) -> None:
        gc.callbacks.remove(self._heard)

    def _heard(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._begin = time.perf_counter()
        else:
            self.longest = max(self.longest, time.perf_counter() - self._begin)


def _soak(report: Report, opened: GpuPipeline, texts: list[str], count: int) -> None:
    """Memory of the device and the host over many queries of 16 callers; the first fifth warms up."""
    rate, done, part = 0.0, 0, max(1, count // _SOAK_PARTS)
    seen: list[tuple[int, int, int, int]] = []  # queries, bytes free on the device, and of the process
    while done < count + part:
        load = closed_loop(
            lambda text: opened.pipeline.search(text, budget_ms=math.inf),
            texts,
            callers=16,
            duration_s=part / rate if rate else 1.0,
        )
        done, rate = done + len(load.seconds), load.rate
        if done >= part * (len(seen) + 1):
            seen.append((done, driver_facts().devices[0].free_bytes, *_resident()))
    first, last = seen[0], seen[-1]
    report.figure("soak_queries", last[0] - first[0])
    report.figure("soak_device_drift_mib", (first[1] - last[1]) / 2**20, unit="MiB", goal="= 0")
    report.figure("soak_host_drift_mib", (last[2] - first[2]) / 2**20, unit="MiB")
    for place, kind in ((2, "of its own"), (3, "of mapped files, as queries reach more of the catalog")):
        points = ", ".join(f"{(one[place] - first[place]) / 2**20:+.1f} MiB after {one[0]:,}" for one in seen)
        report.note(f"soak, host memory {kind}: {points}")


def _resident() -> tuple[int, int]:
    """Bytes of this process in memory now: its own, and of files; all it ever had where nobody tells."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        kib = {
            name: int(value.split()[0])
            for name, _, value in (line.partition(":") for line in lines)
            if name in ("RssAnon", "RssFile")
        }
        return 1024 * kib["RssAnon"], 1024 * kib["RssFile"]
    except (OSError, KeyError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0


if __name__ == "__main__":
    main()
