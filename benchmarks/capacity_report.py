"""What ``capacity_gpu`` tells of the systems that it measured: figures, and a line for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.capacity_systems import BUDGET, BUDGET_SCORED_SHARE, OURS, PEERS, Job, Result
from benchmarks.report import Report


def record(report: Report, results: dict[str, Result], job: Job) -> None:
    """Figures and a line for each system."""
    for found in results.values():
        report.note(line_of(found))
        if found.system != BUDGET:
            report.figure(f"{found.system}_qps", found.held.rate, unit="queries/s")
            report.figure(f"{found.system}_saturated_qps", found.held.saturated, unit="queries/s")
            report.figure(f"{found.system}_alone_ms", found.held.alone_ms, unit="ms")
    peers = {name: results[name] for name in PEERS if name in results}
    best = max(peers, key=lambda name: peers[name].held.rate, default=None)
    if best is not None:
        report.figure("best_peer_qps", peers[best].held.rate, unit="queries/s")
        if not peers[best].held.rate:
            report.note(f"No peer holds a P99 of {job.p99_ms:g} ms at any rate.")
    if OURS in results:
        _record_ours(report, results[OURS], peers, job)
        for name, found in peers.items():
            report.figure(f"{name}_same_top10", same_top(results[OURS].top, found.top))
    if BUDGET in results:
        _record_budget(report, results[BUDGET], job)


def _record_ours(report: Report, ours: Result, peers: dict[str, Result], job: Job) -> None:
    held = ours.held
    report.figure("ours_qps", held.rate, unit="queries/s")
    if held.fails_at is not None:
        report.figure("ours_fails_at_qps", held.fails_at, unit="queries/s")
    if peers:
        rate = max(found.held.rate for found in peers.values())
        if rate:
            report.figure("speedup_vs_best_peer", held.rate / rate, unit="x", goal=">= 3")
        most = max(found.held.saturated for found in peers.values())
        report.figure("speedup_vs_best_saturated_peer", held.rate / most if most else 0.0, unit="x")
    if ours.gpu_busy_share is not None:
        report.figure("gpu_busy_share", ours.gpu_busy_share, goal=">= 0.9")
    if ours.saturated_busy_share is not None:
        report.figure("saturated_gpu_busy_share", ours.saturated_busy_share, goal=">= 0.9")
    if held.confirmed is not None and held.confirmed.p99_ms is not None:
        report.figure("ours_p99_ms", held.confirmed.p99_ms, unit="ms", goal=f"<= {job.p99_ms:g}")
        report.figure("fully_scored_share", 1.0 - held.tally.shortened_share, goal="= 1")
    counts = ours.counts
    if counts.get("padded_tokens") and counts.get("batches"):
        report.figure("padding_waste", padding_waste(counts))
        report.figure("batch_fill", counts["rows"] / (counts["batches"] * job.candidates))


def _record_budget(report: Report, found: Result, job: Job) -> None:
    held = found.held
    report.note(
        f"{BUDGET} is no part of the comparison: each query has {job.budget_ms:g} ms, and at budget_qps at "
        f"least {BUDGET_SCORED_SHARE:.0%} of the {job.candidates} candidates are scored on average."
    )
    report.figure("budget_qps", held.rate, unit="queries/s")
    if held.confirmed is None or held.confirmed.p99_ms is None:
        return
    report.figure("budget_p99_ms", held.confirmed.p99_ms, unit="ms", goal=f"<= {job.p99_ms:g}")
    if found.gpu_busy_share is not None:
        report.figure("budget_gpu_busy_share", found.gpu_busy_share, goal=">= 0.9")
    report.figure("budget_pairs_per_query", held.tally.pairs_per_query)
    report.figure("budget_shortened_share", held.tally.shortened_share)


def line_of(found: Result) -> str:
    """What a reader wants to know of one system."""
    held = found.held
    parts = [f"{found.system}: {held.rate:,.1f} queries/s"]
    if held.rate and held.fails_at is not None:
        parts.append(f"fails at {held.fails_at:,.1f}")
    if held.confirmed is not None and held.confirmed.p99_ms is not None:
        parts.append(f"P50 {held.confirmed.p50_ms:.1f}, P99 {held.confirmed.p99_ms:.1f} ms")
    if held.tally.shortened:
        parts.append(f"{held.tally.pairs_per_query:.1f} pairs a query")
        parts.append(f"{held.tally.shortened_share:.1%} shortened")
    if found.gpu_busy_share is not None:
        parts.append(f"GPU busy {found.gpu_busy_share:.0%}")
    parts += [f"alone {held.alone_ms:.1f} ms", f"16 callers {held.saturated:,.1f}/s"]
    if found.saturated_busy_share is not None:
        parts.append(f"with them GPU busy {found.saturated_busy_share:.0%}")
    if found.counts.get("padded_tokens"):
        parts.append(f"padding {padding_waste(found.counts):.1%}")
    if found.counts.get("queries") and found.counts.get("batches"):
        parts.append(f"{found.counts['queries'] / found.counts['batches']:.2f} queries a batch")
    if found.trials:
        parts.append("tried " + ", ".join(f"{name}: {rate:,.1f}/s" for name, rate in found.trials.items()))
    if held.why:
        parts.append(held.why)
    return ", ".join(parts) + f" ({found.described}; open after {found.open_s:.1f} s)"


def padding_waste(counts: dict[str, float]) -> float:
    """Share of the computed tokens that were padding."""
    return 1.0 - counts["real_tokens"] / counts["padded_tokens"]


def same_top(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> float:
    """Mean share of the first ten documents that two systems have in common."""
    shares = [len(set(a) & set(b)) / max(len(a), len(b), 1) for a, b in zip(left, right, strict=True)]
    return float(np.mean(shares)) if shares else 0.0
