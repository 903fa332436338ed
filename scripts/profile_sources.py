"""What ran on a GPU and when, read from what the profilers write.

Three sources: the SQLite export of Nsight Systems, the Chrome trace of PyTorch's profiler (for hosts
without Nsight Systems; it records everything that the process runs on the GPU, PyTorch or not), and
the CSV of Nsight Compute, which has no time line but measures inside of each kernel.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["kernel", "copy", "memset"]

_COPY_KINDS = {1: "host to device", 2: "device to host", 8: "device to device", 10: "peer to peer"}


@dataclass(frozen=True, slots=True)
class Event:
    """One piece of work on the GPU; times in nanoseconds of one clock."""

    kind: Kind
    name: str
    start: int
    end: int
    stream: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """A named range of a host thread; times in nanoseconds of the events' clock."""

    name: str
    start: int
    end: int


@dataclass(slots=True)
class Timeline:
    """Everything that a trace holds."""

    events: list[Event] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KernelMetrics:
    """One kernel launch as Nsight Compute measured it: metric name -> value, in the unit of the file."""

    name: str
    metrics: dict[str, float]


class TraceError(Exception):
    """A file that is no trace, or one without any work on a GPU."""


def read_timeline(path: Path) -> Timeline:
    """Read a ``.sqlite`` of Nsight Systems or a ``.json`` of PyTorch's profiler.

    Raises:
        TraceError: the file cannot be read, or holds no work on a GPU.
    """
    if not path.exists():
        raise TraceError(f"{path} does not exist.")
    with path.open("rb") as file:
        head = file.read(16)
    timeline = _from_sqlite(path) if head.startswith(b"SQLite format 3") else _from_chrome(path)
    if not timeline.events:
        raise TraceError(f"{path} holds no work on a GPU: was the program profiled with CUDA tracing?")
    timeline.events.sort(key=lambda event: (event.start, event.end))
    return timeline


def read_ncu_csv(path: Path) -> list[KernelMetrics]:
    """Read the CSV of ``ncu --csv``, one metric a row; lines before its header are the program's own.

    Raises:
        TraceError: the file cannot be read, or has no such header.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}.") from error
    start = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise TraceError(f"{path} has no table of Nsight Compute: did the program run any kernel?")
    found: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(lines[start:]):
        name, metric = row.get("Kernel Name") or "", row.get("Metric Name") or ""
        value = _number(row.get("Metric Value") or "")
        if not metric or value is None:
            continue
        scale = {"usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6, "second": 1e9, "s": 1e9}
        found.setdefault(row["ID"], (name, {}))[1][metric] = value * scale.get(
            row.get("Metric Unit") or "", 1
        )
    return [KernelMetrics(name, metrics) for name, metrics in found.values()]


def _from_sqlite(path: Path) -> Timeline:
    timeline = Timeline()
    base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        base.row_factory = sqlite3.Row
        tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        names = dict(base.execute("SELECT id, value FROM StringIds")) if "StringIds" in tables else {}
        for row in _rows(base, tables, "CUPTI_ACTIVITY_KIND_KERNEL"):
            name = names.get(row.get("shortName"), names.get(row.get("demangledName"), "kernel"))
            timeline.events.append(Event("kernel", name, row["start"], row["end"], row.get("streamId") or 0))
        for row in _rows(base, tables, "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"):
            name = f"graph {row.get('graphId') or ''}".strip()
            timeline.events.append(Event("kernel", name, row["start"], row["end"], row.get("streamId") or 0))
        for row in _rows(base, tables, "CUPTI_ACTIVITY_KIND_MEMCPY"):
            name = _COPY_KINDS.get(row.get("copyKind") or 0, "other copy")
            stream, size = row.get("streamId") or 0, row.get("bytes") or 0
            timeline.events.append(Event("copy", name, row["start"], row["end"], stream, size))
        for row in _rows(base, tables, "CUPTI_ACTIVITY_KIND_MEMSET"):
            stream, size = row.get("streamId") or 0, row.get("bytes") or 0
            timeline.events.append(Event("memset", "memset", row["start"], row["end"], stream, size))
        for row in _rows(base, tables, "NVTX_EVENTS"):
            text = row.get("text") or names.get(row.get("textId"))
            if text and row.get("end") is not None:
                timeline.ranges.append(Range(text, row["start"], row["end"]))
    except sqlite3.DatabaseError as error:
        raise TraceError(f"{path} is not an export of Nsight Systems: {error}.") from error
    finally:
        base.close()
    return timeline


def _rows(base: sqlite3.Connection, tables: set[str], table: str) -> Iterable[dict[str, Any]]:
    """Rows of a table, which an export has only if there was such work."""
    if table in tables:
        for row in base.execute(f"SELECT * FROM {table}"):
            yield dict(row)


def _from_chrome(path: Path) -> Timeline:
    try:
        content = json.loads(path.read_bytes())
        entries = content["traceEvents"] if isinstance(content, dict) else content
    except (ValueError, KeyError) as error:
        raise TraceError(f"{path} is neither an export of Nsight Systems nor a Chrome trace.") from error
    timeline = Timeline()
    kinds: dict[str, Kind] = {"kernel": "kernel", "gpu_memcpy": "copy", "gpu_memset": "memset"}
    for entry in entries:
        if entry.get("ph") != "X":
            continue
        start = round(float(entry["ts"]) * 1e3)
        end = start + round(float(entry.get("dur", 0)) * 1e3)
        category, name = entry.get("cat", ""), entry.get("name", "")
        arguments = entry.get("args") or {}
        if category in kinds:
            stream, size = int(arguments.get("stream") or 0), int(arguments.get("bytes") or 0)
            timeline.events.append(
                Event(kinds[category], _copy_name(category, name), start, end, stream, size)
            )
        elif category == "user_annotation":
            timeline.ranges.append(Range(name, start, end))
    return timeline


def _copy_name(category: str, name: str) -> str:
    if category != "gpu_memcpy":
        return name
    directions = {"HtoD": "host to device", "DtoH": "device to host", "DtoD": "device to device"}
    return next((text for short, text in directions.items() if short in name), "other copy")


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
