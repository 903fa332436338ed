"""Time MMR and DPP against NumPy (pyversity): one thread, same input, same picks.

Run ``python -m benchmarks.diversity [--json FILE]``. The two figures are for vectors in clusters, as products
of one query are, with random relevance; the table also has what is hardest for a lazy greedy algorithm:
independent vectors, and relevance that tells no candidate apart. Speedups compare the tenth percentiles: what
else runs on the machine only ever adds time, and adds more of it to the longer call.
"""

from __future__ import annotations

import os

# Before NumPy is imported: its BLAS reads these once. Both sides get one thread.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from dataclasses import dataclass  # noqa: E402
from functools import partial  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks.report import Report, measure  # noqa: E402
from searchpipe._core import Quota, Selection, dpp, mmr  # noqa: E402
from searchpipe.arrays import Float32, Int32  # noqa: E402

CANDIDATES, DIM, PLACES = 1000, 256, 10
ROUNDS = 200
DIVERSITY = 0.5  # pyversity's default; at 0.5 its DPP kernel and ours are the same with trade_off 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """One input of both implementations."""

    name: str
    relevance: Float32
    vectors: Float32


def cases(rng: np.random.Generator) -> list[Case]:
    """Clustered vectors first: that case gives the figures."""
    relevance = rng.random(CANDIDATES, np.float32)
    independent = rng.standard_normal((CANDIDATES, DIM), np.float32)
    centres = rng.standard_normal((40, DIM), np.float32)
    clustered = centres[rng.integers(0, 40, CANDIDATES)] + 0.5 * independent
    return [
        Case("clustered", relevance, clustered),
        Case("independent", relevance, independent),
        Case("clustered, best first", np.sort(relevance)[::-1].copy(), clustered),
        Case("independent, equal relevance", np.full(CANDIDATES, 0.5, np.float32), independent),
    ]


def check_same(method: str, case: Case, ours: Selection, theirs: Int32) -> None:
    """Refuse to time two programs that do different things."""
    if ours.order.tolist() != theirs.tolist():
        raise SystemExit(
            f"{method} of {case.name} picks {ours.order.tolist()}, pyversity {theirs.tolist()}: not equal"
        )


def compare(report: Report, case: Case) -> dict[str, float]:
    """Time both for one case; return how many times faster we are, by method."""
    from pyversity import Strategy, diversify

    def peer(strategy: Strategy) -> Int32:
        found: Int32 = diversify(
            case.vectors, case.relevance, PLACES, strategy=strategy, diversity=DIVERSITY
        ).indices
        return found

    def ours(method: str) -> Selection:
        if method == "dpp":
            return dpp(case.relevance, case.vectors, k=PLACES, trade_off=0.5)
        return mmr(case.relevance, case.vectors, k=PLACES, trade_off=1 - DIVERSITY, normalize="none")

    speedups = {}
    for method, strategy in (("dpp", Strategy.DPP), ("mmr", Strategy.MMR)):
        check_same(method, case, ours(method), peer(strategy))
        # In turns, so that a change in the machine's speed meets both.
        our_seconds: list[float] = []
        peer_seconds: list[float] = []
        for _ in range(10):
            our_seconds += measure(partial(ours, method), rounds=ROUNDS // 10)
            peer_seconds += measure(partial(peer, strategy), rounds=ROUNDS // 10)
        report.times(f"{method}, {case.name}: searchpipe", our_seconds)
        report.times(f"{method}, {case.name}: pyversity", peer_seconds)
        speedups[method] = float(np.quantile(peer_seconds, 0.1) / np.quantile(our_seconds, 0.1))
    return speedups


def main() -> None:
    """Run the benchmark."""
    report = Report.from_args(
        "diversity",
        f"Diversity: {CANDIDATES} candidates, d = {DIM}, k = {PLACES}, one thread",
        packages=("pyversity",),
    )
    rng = np.random.default_rng(report.seed)
    inputs = cases(rng)
    for number, case in enumerate(inputs):
        speedups = compare(report, case)
        if number == 0:
            report.figure("dpp_speedup_vs_numpy", speedups["dpp"], unit="x", goal=">= 10")
            report.figure("mmr_speedup_vs_numpy", speedups["mmr"], unit="x", goal=">= 5")
        else:
            name = case.name.replace(", ", "_").replace(" ", "_")
            report.figure(f"dpp_speedup_{name}", speedups["dpp"], unit="x")
            report.figure(f"mmr_speedup_{name}", speedups["mmr"], unit="x")
    brands = Quota(rng.integers(0, 50, CANDIDATES).astype(np.int32), limit=2, window=10)
    case = inputs[0]
    report.times(
        "dpp, clustered, 2 of a brand in any 10: searchpipe",
        measure(lambda: dpp(case.relevance, case.vectors, k=PLACES, quotas=[brands]), rounds=ROUNDS),
    )
    report.note("Every timed pair of calls made the same picks (checked before timing).")
    report.finish()


if __name__ == "__main__":
    main()
