#!/usr/bin/env python3
"""Turn a profile into a table: top kernels, gaps, copies overlapped with compute, GPU busy share.

python scripts/profile_table.py report.sqlite [--top 15] [--range stage:score] [--json FILE]
python scripts/profile_table.py trace.json          (PyTorch's profiler)
python scripts/profile_table.py kernels.csv         (ncu --csv)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.profile_sources import (
    Event,
    KernelMetrics,
    Range,
    Timeline,
    TraceError,
    read_ncu_csv,
    read_timeline,
)

Interval = tuple[int, int]
_LONG_GAP = 10_000  # ns: longer than any hand-over between two kernels that were both already launched
_US = 1e-3


@dataclass(frozen=True, slots=True)
class Overview:
    """A time line in numbers. Times in microseconds, shares from 0 to 1.

    Attributes:
        span: from the first piece of work to the end of the last.
        kernel_share: of the span, with at least one kernel running: the GPU busy share.
        busy_share: of the span, with a kernel, copy or memset running.
        copy_overlap: of the time in which something is copied, with a kernel running beside it.
        gaps: time between two kernels in which none runs.
    """

    span: float
    kernel_share: float
    busy_share: float
    copy_time: float
    copy_overlap: float
    gaps: tuple[float, ...]

    @property
    def long_gaps(self) -> list[float]:
        """Gaps of more than 10 us: the GPU waits for the host."""
        return [gap for gap in self.gaps if gap > _LONG_GAP * _US]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time, as intervals that neither touch nor overlap, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif end > start:
            merged.append((start, end))
    return merged


def length(intervals: Iterable[Interval]) -> int:
    """Their lengths added."""
    return sum(end - start for start, end in intervals)


def common(left: Sequence[Interval], right: Sequence[Interval]) -> int:
    """Length of the time that two unions share."""
    shared = at = 0
    for start, end in left:
        while at < len(right) and right[at][1] <= start:
            at += 1
        place = at
        while place < len(right) and right[place][0] < end:
            shared += min(end, right[place][1]) - max(start, right[place][0])
            place += 1
    return shared


def overview(events: Sequence[Event]) -> Overview:
    """Sum up the work of a time line, which must hold some."""
    first, last = min(event.start for event in events), max(event.end for event in events)
    span = max(1, last - first)
    kernels = union((e.start, e.end) for e in events if e.kind == "kernel")
    copies = union((e.start, e.end) for e in events if e.kind == "copy")
    everything = union((e.start, e.end) for e in events)
    gaps = tuple((after[0] - before[1]) * _US for before, after in pairwise(kernels))
    copying = length(copies)
    return Overview(
        span=span * _US,
        kernel_share=length(kernels) / span,
        busy_share=length(everything) / span,
        copy_time=copying * _US,
        copy_overlap=common(copies, kernels) / copying if copying else 0.0,
        gaps=gaps,
    )


def within(timeline: Timeline, name: str) -> Timeline:
    """Only the work that began inside of a range with ``name`` in its own name.

    Raises:
        TraceError: there is no such range, or no work in it.
    """
    chosen = union((r.start, r.end) for r in timeline.ranges if name in r.name)
    if not chosen:
        known = sorted({r.name for r in timeline.ranges})[:20]
        raise TraceError(f"No range has {name!r} in its name; there are: {', '.join(known) or 'none'}.")
    events = [e for e in timeline.events if any(start <= e.start < end for start, end in chosen)]
    if not events:
        raise TraceError(f"No work began inside of the ranges {name!r}.")
    return Timeline(events, timeline.ranges)


def totals(items: Iterable[Any], key: Callable[[Any], str]) -> list[tuple[str, int, float, float]]:
    """Group by name: (name, count, total us, longest us), the largest total first."""
    found: dict[str, list[float]] = defaultdict(list)
    for item in items:
        found[key(item)].append((item.end - item.start) * _US)
    rows = [(name, len(times), sum(times), max(times)) for name, times in found.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def render(timeline: Timeline, top: int) -> str:
    """The tables of a time line as text."""
    events = timeline.events
    seen = overview(events)
    gaps = sorted(seen.gaps)
    waiting = sum(seen.long_gaps)
    lines = [
        f"span                    {seen.span / 1e3:12.3f} ms",
        f"GPU busy (kernels)      {seen.kernel_share:12.1%}",
        f"GPU busy (with copies)  {seen.busy_share:12.1%}",
        f"copies                  {seen.copy_time / 1e3:12.3f} ms, {seen.copy_overlap:.1%} beside a kernel",
        f"gaps between kernels    {sum(gaps) / 1e3:12.3f} ms in {len(gaps)}: "
        f"p50 {_at(gaps, 0.5):.1f} us, p99 {_at(gaps, 0.99):.1f} us, longest {_at(gaps, 1.0):.1f} us",
        f"of them over 10 us      {waiting / 1e3:12.3f} ms in {len(seen.long_gaps)}",
    ]
    kernels = [event for event in events if event.kind == "kernel"]
    lines += _section("kernel", totals(kernels, lambda e: e.name), top)
    moved: dict[str, int] = defaultdict(int)
    for event in events:
        if event.kind == "copy":
            moved[event.name] += event.nbytes
    copies = totals((e for e in events if e.kind != "kernel"), lambda e: e.name)
    lines += _section("copy", [(_sized(n, moved), c, t, m) for n, c, t, m in copies], top)
    lines += _section("stream", totals(events, lambda e: f"stream {e.stream}"), top)
    lines += _section("range of the host", totals(timeline.ranges, lambda r: r.name), top)
    return "\n".join(lines)


def render_metrics(kernels: Sequence[KernelMetrics], top: int) -> str:
    """The table of Nsight Compute's metrics as text, the kernels with the largest total time first."""
    time_metric = "gpu__time_duration.sum"
    groups: dict[str, list[KernelMetrics]] = defaultdict(list)
    for kernel in kernels:
        groups[_short(kernel.name)].append(kernel)
    others = sorted({m for kernel in kernels for m in kernel.metrics} - {time_metric})

    def spent(group: Sequence[KernelMetrics]) -> float:
        return sum(kernel.metrics.get(time_metric, 0.0) for kernel in group)

    everything = spent(kernels) or 1.0
    lines = [f"{len(kernels)} launches, {everything / 1e6:.3f} ms"]
    lines += [f"m{n}: {metric} (mean)" for n, metric in enumerate(others)]
    heads = "".join(f"{f'm{n}':>10}" for n in range(len(others)))
    lines.append(f"\n{'kernel':<60}{'count':>7}{'total us':>12}{'share':>8}{heads}")
    ordered = sorted(groups.items(), key=lambda item: -spent(item[1]))
    for name, group in ordered[:top]:
        cells = "".join(f"{_mean([k.metrics[m] for k in group if m in k.metrics]):>10.1f}" for m in others)
        time = spent(group)
        lines.append(f"{name[:58]:<60}{len(group):>7}{time / 1e3:>12.1f}{time / everything:>8.1%}{cells}")
    return "\n".join(lines)


def figures(timeline: Timeline) -> dict[str, float]:
    """The numbers that a benchmark keeps."""
    seen = overview(timeline.events)
    return {
        "span_ms": seen.span / 1e3,
        "gpu_busy_share": seen.kernel_share,
        "gpu_busy_share_with_copies": seen.busy_share,
        "copy_overlap_share": seen.copy_overlap,
        "gap_us_p99": _at(sorted(seen.gaps), 0.99),
        "long_gap_ms": sum(seen.long_gaps) / 1e3,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--top", type=int, default=15, help="rows of each table (default: %(default)s)")
    parser.add_argument("--range", default="", metavar="NAME", help="only work inside of the ranges so named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    args = parser.parse_args(arguments)
    try:
        if args.trace.suffix == ".csv":
            print(render_metrics(read_ncu_csv(args.trace), args.top))
            return 0
        timeline = read_timeline(args.trace)
        if args.range:
            timeline = within(timeline, args.range)
    except TraceError as error:
        print(error, file=sys.stderr)
        return 1
    print(render(timeline, args.top))
    if args.json:
        args.json.write_text(json.dumps(figures(timeline), indent=2) + "\n", encoding="utf-8")
    return 0


def _section(title: str, rows: Sequence[tuple[str, int, float, float]], top: int) -> list[str]:
    if not rows:
        return []
    everything = sum(row[2] for row in rows) or 1.0
    lines = ["", f"{title:<60}{'count':>8}{'total us':>14}{'share':>8}{'mean us':>10}{'max us':>10}"]
    for name, count, total, longest in rows[:top]:
        cells = f"{count:>8}{total:>14.1f}{total / everything:>8.1%}{total / count:>10.2f}{longest:>10.1f}"
        lines.append(f"{_short(name)[:58]:<60}{cells}")
    if len(rows) > top:
        rest = rows[top:]
        time = sum(row[2] for row in rest)
        lines.append(
            f"{f'{len(rest)} more':<60}{sum(row[1] for row in rest):>8}{time:>14.1f}{time / everything:>8.1%}"
        )
    return lines


def _short(name: str) -> str:
    """A kernel's name without its arguments; template arguments are kept, shortened by the column."""
    return name.removeprefix("void ").split("(", 1)[0] if not name.startswith("(") else name


def _sized(name: str, moved: dict[str, int]) -> str:
    return f"{name}, {moved[name] / 2**20:.2f} MiB" if moved.get(name) else name


def _at(ordered: Sequence[float], point: float) -> float:
    return ordered[min(len(ordered) - 1, int(point * len(ordered)))] if ordered else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


__all__ = [
    "Overview",
    "Range",
    "common",
    "figures",
    "length",
    "main",
    "overview",
    "render",
    "union",
    "within",
]

if __name__ == "__main__":
    sys.exit(main())
