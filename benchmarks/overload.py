"""Does the pipeline still answer in time when far more queries come than it can answer?

    python -m benchmarks.overload [--seconds 60] [--http] [--json FILE]

A generated catalog with the default models of a CPU. First the capacity is searched, admission control being
on and any lighter service being allowed: the highest rate of Poisson arrivals of which at least 99% are
answered within the budget from their intended start, in the median of three short trials (see
:mod:`benchmarks.overload_capacity`). Then come 1, 2 and 5 times that rate, and half of it. Every query ends
as an answer, a typed error, or ``hung``. Goodput is the number of answers a second, of any service, within
the budget from the intended start; its ratios are to that of the minute at the capacity.

The pipeline runs in a process of its own, asked through ``asearch`` behind a socket of 127.0.0.1; the
generator runs in another one, because in the same process both would wait for one interpreter lock, and the
generator would send late just when the load is highest. What crosses the socket (one line a query, one an
answer) is small, but it and the refusals are paid for by the pipeline's process. ``--http`` asks
``searchpipe serve`` instead, whose requests cost more than many answers. The pipeline is given a little less
than the caller's budget, for the way there and back. ``--without-admission`` runs the same rates with
admission control switched off too, for comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.overload_capacity import CAPACITY, GOODPUT, described, search, settings_of, trial
from benchmarks.overload_http import HttpServer
from benchmarks.overload_load import Server
from benchmarks.overload_server import Opener, open_pipeline
from benchmarks.report import Report
from searchpipe.catalog.build import build_snapshot
from searchpipe.config import load_config
from searchpipe.demo.generate import write_demo
from searchpipe.replay.capacity import Capacity, Run
from searchpipe.replay.outcome import Outcome

TITLE = "Overload: 1, 2 and 5 times the capacity, and the way back"
CACHE = Path(__file__).resolve().parent.parent / ".bench"
MULTIPLES = (1, 2, 5)
_INDEX = {"dense_text": "{title}, {brand}"}
_WINDOW_S = 1.0
_GRID_S = 0.1


@dataclass(frozen=True, slots=True)
class Phase:
    """What came of one rate."""

    name: str
    rate: float
    seconds: float
    outcomes: list[Outcome]
    facts: dict[str, Any]
    budget_ms: float
    cores: float = 0.0
    generator_cores: float = 0.0

    @property
    def answered(self) -> list[Outcome]:
        """Those with a page."""
        return [outcome for outcome in self.outcomes if outcome.kind == "answered"]

    @property
    def goodput(self) -> float:
        """Answers within the budget, a second."""
        return sum(o.latency_ms <= self.budget_ms for o in self.answered) / self.seconds

    def share(self, kind: str) -> float:
        """Of all queries, those that ended so."""
        return sum(o.kind == kind for o in self.outcomes) / max(1, len(self.outcomes))

    @property
    def p99_ms(self) -> float:
        """Of the answers; 0 without any."""
        return quantile([o.latency_ms for o in self.answered], 0.99)

    @property
    def lag_p99_ms(self) -> float:
        """How late the generator was."""
        return quantile([(o.started - o.at) * 1e3 for o in self.outcomes], 0.99)

    def given_up(self) -> dict[str, float]:
        """Share of the answers, by what they gave up and why."""
        answered = self.answered
        found = Counter(
            key
            for o in answered
            if o.answer is not None
            for key in {f"{stage}: {reason}" for stage, reason, _ in o.answer.degradations}
        )
        return {key: round(count / len(answered), 4) for key, count in found.most_common()}

    def degraded(self, reason: str) -> float:
        """Share of the answers that gave something up for ``reason``."""
        answered = self.answered
        pages = [o.answer for o in answered if o.answer is not None]
        return sum(any(why == reason for _, why, _ in p.degradations) for p in pages) / max(1, len(pages))


def quantile(values: Sequence[float], point: float) -> float:
    """By linear interpolation; 0 of nothing."""
    return float(np.quantile(np.asarray(values), point)) if values else 0.0


def recovery_s(outcomes: Sequence[Outcome], seconds: float, budget_ms: float) -> float:
    """Seconds until the P99 of the arrivals of one second is within the budget again.

    Arrivals without an answer count as late. ``seconds`` if it never is.
    """
    late = np.array([o.kind != "answered" or o.latency_ms > budget_ms for o in outcomes])
    at = np.array([o.at for o in outcomes])
    for start in np.arange(0.0, seconds - _WINDOW_S + _GRID_S / 2, _GRID_S):
        window = late[(at >= start) & (at < start + _WINDOW_S)]
        # The P99 of fewer than 100 values is their maximum, more or less: one late one is let pass.
        if window.sum() <= max(1.0, 0.01 * len(window)):
            return round(float(start), 3)
    return seconds


def world(products: int, queries: int) -> tuple[Path, list[str]]:
    """A generated catalog's snapshot with the default models, built now if there is none, and its log."""
    config = load_config({"index": _INDEX})
    import searchpipe

    package = Path(searchpipe.__file__).parent
    key = hashlib.sha256(repr((products, queries, config.index, config.models)).encode())
    for path in sorted([*(package / "catalog").rglob("*.py"), *(package / "demo").rglob("*.py")]):
        key.update(path.read_bytes())
    folder = CACHE / f"overload-{key.hexdigest()[:12]}"
    log, snapshot = folder / "queries.json", folder / "snapshot"
    if not log.exists():
        with tempfile.TemporaryDirectory() as made:
            files = write_demo(Path(made), products=products, queries=queries)
            build_snapshot(files.products, snapshot, config.index, models=config.models)
            lines = files.query_log.read_text("utf-8").splitlines()
        log.write_text(json.dumps([json.loads(line)["query"] for line in lines]), encoding="utf-8")
    return snapshot, json.loads(log.read_text("utf-8"))


class Bench:
    """One pipeline under load. For one thread.

    Args:
        server: asked.
        queries: texts, drawn from by the seed.
        args: of the command line.
    """

    def __init__(self, server: Server | HttpServer, queries: list[str], args: argparse.Namespace) -> None:
        self._server = server
        self._queries = queries
        self._args = args
        self._number = 0
        self._cpu_s = 0.0

    def phase(self, name: str, rate: float, seconds: float) -> Phase:
        """Load at a rate."""
        self._number += 1
        begin, own = time.perf_counter(), time.process_time()
        outcomes = self._server.load(self._queries, rate, seconds, self._args.seed + self._number)
        own, took = time.process_time() - own, time.perf_counter() - begin
        facts = self._server.facts()
        used, self._cpu_s = facts["cpu_s"] - self._cpu_s, facts["cpu_s"]
        budget_ms = self._args.budget_ms
        return Phase(name, rate, seconds, outcomes, facts, budget_ms, used / took, own / took)

    def capacity(self) -> Capacity:
        """The highest rate that holds, and what was tried.

        Raises:
            SystemExit: not even the lowest does.
        """
        args = self._args

        def probe(rate: float, number: int) -> Run:
            del number
            seen = self.phase("probe", rate, args.probe_s)
            run = trial(rate, args.probe_s, seen.outcomes, args.budget_ms)
            p99 = "no answer" if run.p99_ms is None else f"{run.p99_ms:.1f} ms"
            print(f"  {rate:7.1f}/s  P99 of all {p99}  failed {run.failed_share:.2%}", flush=True)
            return run

        found = search(probe, settings_of(args.budget_ms, args.start_rate, args.repeats))
        if found.rate is None:
            raise SystemExit("Not even the lowest rate holds: the machine is busy, or too slow.")
        return found


def run(
    report: Report,
    args: argparse.Namespace,
    made: tuple[Path, list[str]] | None = None,
    opener: Opener = open_pipeline,
) -> bool:
    """Measure and report; whether every goal was met. ``made``: a snapshot and queries to take instead."""
    snapshot, queries = made or world(args.products, args.queries)
    rate: float = args.rate

    def server_of(*, admission: bool) -> Server | HttpServer:
        config, budget_ms = {"pipeline": {"admission": admission}}, args.budget_ms - args.way_ms
        if args.http:
            return HttpServer(snapshot, config, budget_ms)
        return Server(snapshot, config, budget_ms, opener)

    with server_of(admission=True) as server:
        bench = Bench(server, queries, args)
        bench.phase("warm-up", args.start_rate, args.warm_up_s)
        if not rate:
            found = bench.capacity()
            rate = found.rate or 0.0
            for line in described(found):
                report.note(line)
        phases = [bench.phase(f"{n}x", n * rate, args.seconds) for n in MULTIPLES]
        back = bench.phase("back", 0.5 * rate, args.back_s)
    plain: list[Phase] = []
    if args.without_admission:
        with server_of(admission=False) as server:
            bench = Bench(server, queries, args)
            bench.phase("warm-up", args.start_rate, args.warm_up_s)
            plain = [bench.phase(f"plain_{n}x", n * rate, args.seconds) for n in MULTIPLES]
    return _report(report, args, rate, phases, back, plain)


def _report(
    report: Report,
    args: argparse.Namespace,
    rate: float,
    phases: list[Phase],
    back: Phase,
    plain: list[Phase],
) -> bool:
    first = phases[0]
    report.figure("capacity_qps", rate, unit="/s")
    report.note("Capacity" + (", given, not searched" if args.rate else "") + f": {CAPACITY}.")
    report.note(f"Goodput: {GOODPUT}.")
    report.note(f"Budget: {args.budget_ms:g} ms, of which {args.way_ms:g} ms are kept for the way.")
    for phase in (*phases, back, *plain):
        report.figure(f"goodput_{phase.name}", phase.goodput, unit="/s")
        report.figure(f"good_share_{phase.name}", phase.goodput * phase.seconds / max(1, len(phase.outcomes)))
        report.figure(f"p99_ms_{phase.name}", phase.p99_ms, unit="ms")
        report.figure(f"shed_share_{phase.name}", phase.share("shed"))
        report.figure(f"degraded_for_admission_share_{phase.name}", phase.degraded("admission"))
        report.figure(f"longest_queue_{phase.name}", phase.facts["longest_queue"], goal="<= max_waiting")
        report.figure(f"generator_lag_p99_ms_{phase.name}", phase.lag_p99_ms, unit="ms")
        report.figure(f"cores_{phase.name}", phase.cores, goal="busy, of the pipeline's process")
        report.figure(f"generator_cores_{phase.name}", phase.generator_cores)
        report.note(f"{phase.name}: {phase.rate:.0f}/s, gave up {json.dumps(phase.given_up())}")
        report.note(f"{phase.name}: so far {json.dumps(phase.facts)}")
    base = max(first.goodput, 1e-9)
    ratios = [phase.goodput / base for phase in phases[1:]]
    for phase, ratio in zip(phases[1:], ratios, strict=True):
        report.figure(f"goodput_ratio_{phase.name}", ratio, goal=">= 0.9")
    for phase in plain:
        report.figure(f"goodput_ratio_{phase.name}", phase.goodput / base)
    # A capacity that was found too low, on a busy machine, would flatter the ratios above; this it cannot.
    best = max(phase.goodput for phase in (*phases, *plain))
    report.figure("goodput_5x_to_best_seen", phases[-1].goodput / max(best, 1e-9))
    ours = [*phases, back]
    hung = sum(o.kind == "timeout" for phase in ours for o in phase.outcomes)
    untyped = sum(o.kind == "error" for phase in ours for o in phase.outcomes)
    memory = [phase.facts["memory_mib"] for phase in ours]
    recovered = recovery_s(back.outcomes, back.seconds, args.budget_ms)
    report.figure("recovery_s", recovered, unit="s", goal="<= 2")
    report.figure("hung_calls", hung, goal="= 0")
    report.figure("lost_calls", untyped, goal="= 0")
    report.figure("memory_mib_1x", memory[0], unit="MiB")
    report.figure("memory_mib_end", memory[-1], unit="MiB")
    report.figure("memory_growth_mib", memory[-1] - memory[0], unit="MiB")
    for phase in ours:
        if phase.answered:
            report.times(phase.name, [o.latency_ms / 1e3 for o in phase.answered])
    errors = Counter(f"{o.kind}: {o.code}" for phase in ours for o in phase.outcomes if o.code)
    report.note(f"Without an answer, by kind and code: {json.dumps(dict(errors))}.")
    report.finish()
    return min(ratios) >= 0.9 and recovered <= 2.0 and not hung and not untyped


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = Report.parser("overload", TITLE)
    add: Any = made.add_argument
    add("--seconds", type=float, default=60.0, help="at each rate (default: %(default)s)")
    add("--back-s", type=float, default=15.0, help="at half the capacity (default: %(default)s)")
    add("--warm-up-s", type=float, default=5.0, help="(default: %(default)s)")
    add("--probe-s", type=float, default=6.0, help="of the search for the capacity (default: %(default)s)")
    add("--repeats", type=int, default=3, help="at each rate of that search, odd (default: %(default)s)")
    add("--start-rate", type=float, default=50.0, help="of that search (default: %(default)s)")
    add("--rate", type=float, default=0.0, help="take this as the capacity instead of searching")
    add("--budget-ms", type=float, default=50.0, help="of a caller (default: %(default)s)")
    add("--way-ms", type=float, default=10.0, help="of it, for the way there and back (default: %(default)s)")
    add("--products", type=int, default=2000, help="in the catalog (default: %(default)s)")
    add("--queries", type=int, default=2000, help="in the log (default: %(default)s)")
    add("--http", action="store_true", help="ask the HTTP service")
    add("--without-admission", action="store_true", help="also the same without admission control")
    return made


def main() -> None:
    """Measure; exit code 1 if a goal was missed."""
    args = parser().parse_args()
    packages = ("onnxruntime", "faiss-cpu", "tantivy", "tokenizers")
    report = Report.from_args("overload", TITLE, packages=packages, args=args)
    sys.exit(0 if run(report, args) else 1)


if __name__ == "__main__":
    main()
