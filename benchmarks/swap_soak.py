"""Does anything go wrong while snapshots and engines are swapped under load and parts fail at random?

``python -m benchmarks.swap_soak [--minutes 30] [--json FILE]``. A generated catalog is published several
times; every version (a build, and settings of the cross-encoder) answers every query of a generated log
once, beforehand and without a limit: the oracle. Then threads replay the log while a snapshot is swapped
every 20 s and the engine's settings every 45 s, and stages raise, stall or give scores that are not finite.
Each page that was not degraded must be the oracle's for the version that it names. The models are hashed
words, so that two cores answer many queries; all else is the real pipeline.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report
from benchmarks.soak_parts import Faults, faulty_opener, publish_builds
from searchpipe.arrays import Float32
from searchpipe.config import Config, load_config
from searchpipe.errors import SearchpipeError
from searchpipe.live.pipeline import LivePipeline
from searchpipe.page import Page

_HUNG_S = 10.0  # a call with a budget of 100 ms that takes longer hangs
_BUDGETS_MS = (20.0, 50.0, 100.0)
_WEIGHTS = (0.8, 0.3)
_KEPT = 50_000  # latencies of each thread, the latest; allocated at once, so that memory stays flat
_ATTEMPTS = 5  # at a swap; a fault during the check refuses the version

Content = tuple[tuple[str, float, str], ...]


def content_of(page: Page) -> Content:
    """What must be equal for equal versions."""
    return tuple((hit.id, hit.score, repr(sorted(hit.fields.items()))) for hit in page)


def version_of(page: Page) -> tuple[str, str]:
    """The version that a page names."""
    return page.snapshot, page.engine


def settings(weight: float, queries: list[str]) -> Config:
    """One of the two engines; short trials, so that they end between two swaps."""
    return load_config(
        {
            "score": {"weight": weight},
            "live": {
                "keep_s": 10.0,
                "check": {"queries": queries[:5], "latency_slack_ms": 200.0},
                "shadow": {"share": 0.05, "seconds": 2.0, "max_failed": 0.5, "latency_slack_ms": 500.0},
                "watch": {
                    "seconds": 8.0,
                    "window_s": 5.0,
                    "min_samples": 100,
                    "max_errors": 0.05,
                    "max_degraded": 0.5,
                    "p99_slack_ms": 200.0,
                    "cool_down_s": 5.0,
                },
            },
        }
    )


@dataclass
class Tally:
    """What the callers saw. Each thread has its own."""

    pages: int = 0
    full: int = 0
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    versions: set[tuple[str, str]] = field(default_factory=set)
    seconds: Float32 = field(default_factory=lambda: np.full(_KEPT, np.nan, np.float32))
    began: float = 0.0


class Caller:
    """One thread that replays the log and checks every page."""

    def __init__(
        self,
        live: LivePipeline,
        queries: list[str],
        oracle: dict[tuple[tuple[str, str], str], Content],
        seed: int,
        over: threading.Event,
    ) -> None:
        self.tally = Tally()
        self._live = live
        self._queries = queries
        self._oracle = oracle
        self._draw = random.Random(seed)
        self._over = over
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        tally = self.tally
        while not self._over.is_set():
            text = self._draw.choice(self._queries)
            tally.began = begin = time.monotonic()
            try:
                page = self._live.search(text, budget_ms=self._draw.choice(_BUDGETS_MS))
            except SearchpipeError as error:
                tally.errors[error.code] += 1
                continue
            finally:
                tally.began = 0.0
            tally.seconds[tally.pages % _KEPT] = time.monotonic() - begin
            tally.pages += 1
            tally.versions.add(version_of(page))
            if page.degraded:
                tally.reasons.update(degradation.reason for degradation in page.degradations)
            else:
                tally.full += 1
                if self._oracle.get((version_of(page), text)) != content_of(page):
                    tally.wrong_count += 1
                    tally.wrong = [*tally.wrong[-9:], f"{text!r} on {version_of(page)}"]


def resident_mib() -> float:
    """Memory that this process has in RAM now, MiB; file mappings are not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(report: Report, args: argparse.Namespace, folder: Path) -> bool:
    """Soak and report; whether every goal was met."""
    faults = Faults(args.seed)
    opener = faulty_opener(faults)
    builds, queries = publish_builds(folder / "catalog", args.builds, args.products, args.queries)
    configs = [settings(weight, queries) for weight in _WEIGHTS]
    oracle: dict[tuple[tuple[str, str], str], Content] = {}
    for build in builds:
        for config in configs:
            with opener(build, config) as pipeline:
                for text in queries:
                    page = pipeline.search(text, budget_ms=60_000.0)
                    if page.degraded:
                        raise RuntimeError(f"The oracle was degraded: {page.degradations}")
                    oracle[version_of(page), text] = content_of(page)
    # A check that could not tell versions apart would find nothing.
    report.figure("oracle_pages_that_differ", len(set(oracle.values())) / len(oracle), goal="> 0.5")
    report.note(f"{len(builds) * len(configs)} versions, {len(queries)} queries, {args.threads} threads.")

    over = threading.Event()
    live = LivePipeline.open(builds[0], configs[0], opener=opener, state=folder / "state")
    callers = [Caller(live, queries, oracle, args.seed + n, over) for n in range(args.threads)]
    for caller in callers:
        caller.thread.start()
    begin = time.monotonic()
    end = begin + 60.0 * args.minutes
    next_snapshot, next_engine = begin + args.snapshot_s, begin + args.engine_s
    place = engine = swaps = given_up = hung = 0
    memory: list[tuple[float, float]] = []
    faults.active = True
    while (now := time.monotonic()) < end:
        hung = max(hung, sum(bool(c.tally.began) and now - c.tally.began > _HUNG_S for c in callers))
        memory.append((now - begin, resident_mib()))
        if now >= min(next_snapshot, next_engine):
            if now >= next_engine:
                engine, next_engine = engine + 1, next_engine + args.engine_s
            else:
                place, next_snapshot = place + 1, next_snapshot + args.snapshot_s
            done = False
            for _ in range(_ATTEMPTS):
                try:
                    live.swap(builds[place % len(builds)], configs[engine % len(configs)])
                    swaps, done = swaps + 1, True
                    break
                except SearchpipeError:
                    over.wait(0.2)  # the history has why
            given_up += not done
        over.wait(0.5)
    over.set()
    for caller in callers:
        caller.thread.join(_HUNG_S)
        hung += caller.thread.is_alive()
    live.close()
    return _report(report, [caller.tally for caller in callers], live, faults, swaps, given_up, hung, memory)


def _report(
    report: Report,
    tallies: list[Tally],
    live: LivePipeline,
    faults: Faults,
    swaps: int,
    given_up: int,
    hung: int,
    memory: list[tuple[float, float]],
) -> bool:
    pages = sum(tally.pages for tally in tallies)
    wrong = [text for tally in tallies for text in tally.wrong]
    errors = sum((tally.errors for tally in tallies), Counter[str]())
    rollbacks = sum(live.lineup.history.count("rolled_back").values())
    half = memory[len(memory) // 2 :]
    # Over the second half: the first fills caches and heaps.
    slope = (half[-1][1] - half[0][1]) / max(1.0, half[-1][0] - half[0][0]) * 3600.0
    wrong_count = sum(tally.wrong_count for tally in tallies)
    report.figure("wrong_answers", wrong_count, goal="= 0")
    report.figure("hung_calls", hung, goal="= 0")
    report.figure("failed_calls", sum(errors.values()), goal="= 0")
    report.figure("answers", pages)
    report.figure("answers_checked", sum(tally.full for tally in tallies))
    report.figure("degraded_share", 1 - sum(tally.full for tally in tallies) / max(1, pages))
    report.figure("swaps", swaps)
    report.figure("swaps_refused", sum(live.lineup.history.count("failed").values()))
    report.figure("swaps_given_up", given_up)
    report.figure("rollbacks", rollbacks)
    report.figure("versions_seen", len(set().union(*(tally.versions for tally in tallies))))
    report.figure("faults_injected", faults.injected)
    report.figure("memory_mib_start", memory[0][1], unit="MiB")
    report.figure("memory_mib_half", half[0][1], unit="MiB")
    report.figure("memory_mib_end", memory[-1][1], unit="MiB")
    report.figure("memory_mib_max", max(mib for _, mib in memory), unit="MiB")
    report.figure("memory_growth_mib_per_hour", slope, unit="MiB/h")
    seconds = np.concatenate([tally.seconds for tally in tallies])
    report.times("query", seconds[~np.isnan(seconds)])
    why = live.lineup.history.count("failed") | live.lineup.history.count("rolled_back")
    report.note(f"Refused and taken back, by code: {json.dumps(why)}.")
    reasons = sum((tally.reasons for tally in tallies), Counter[str]())
    report.note(f"Degradations: {json.dumps(dict(reasons))}; errors: {json.dumps(dict(errors))}.")
    for text in wrong[:10]:
        report.note(f"Wrong: {text}")
    report.finish()
    return not wrong_count and not hung and not errors


def main() -> None:
    """Soak; exit code 1 if an answer was wrong, or a call failed or hung."""
    parser = Report.parser("swap_soak", "Swaps under load, with faults")
    add: Any = parser.add_argument
    add("--minutes", type=float, default=30.0, help="(default: %(default)s)")
    add("--threads", type=int, default=4, help="that call (default: %(default)s)")
    add("--snapshot-s", type=float, default=20.0, help="between two snapshots (default: %(default)s)")
    add("--engine-s", type=float, default=45.0, help="between two engines (default: %(default)s)")
    add("--builds", type=int, default=5, help="of the catalog (default: %(default)s)")
    add("--products", type=int, default=2000, help="in each (default: %(default)s)")
    add("--queries", type=int, default=200, help="of the log (default: %(default)s)")
    args = parser.parse_args()
    report = Report.from_args("swap_soak", "Swaps under load, with faults", args=args)
    with tempfile.TemporaryDirectory() as folder:
        fine = run(report, args, Path(folder))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
