"""When does a lone query's thread do what, while the GPU computes and between?

    python -m benchmarks.host_timeline [--json FILE] [--products N] [--rounds N]

The pipeline of ``pipeline_gpu``, one query at a time and without a profiler, which would slow the driver's
calls down: stopwatches around the steps in which the host hands work to the device or takes results from it.
Told is the median time from each mark to the next, for the way that most queries take (some have a plan
before the device has answered, some do not).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu_pipeline import build_catalog, open_pipeline, query_texts
from benchmarks.host_time import replaced
from benchmarks.report import Report
from searchpipe.device.facts import driver_facts
from searchpipe.pipeline import Pipeline
from searchpipe.runtime.begun_scores import BegunScores, PlannedScores
from searchpipe.runtime.text_encoder import ChainTextEncoder
from searchpipe.stages.base import Work
from searchpipe.stages.device_wait import DeviceWait
from searchpipe.stages.early_search import EarlySearch
from searchpipe.stages.recall import Recall
from searchpipe.stages.score import Score

_WATCHED: tuple[tuple[type, str, str], ...] = (
    (ChainTextEncoder, "encode_row", "encoder asked"),
    (Work, "prepare_later", "device has it, spare time"),
    (Recall, "_begin_behind", "dense search put behind"),
    (Recall, "_begin_early", "lexical search begun"),
    (Recall, "run", "recall"),
    (DeviceWait, "use", "wait for dense used"),
    (EarlySearch, "help", "lexical search helped"),
    (PlannedScores, "rehearse", "pairs rehearsed"),
    (DeviceWait, "over", "dense is there"),
    (PlannedScores, "begin", "pairs begun"),
    (BegunScores, "finish", "scores awaited"),
    (Score, "_settle", "scores blended"),
    (Score, "rehearse", "blend rehearsed"),
)
_WARM_UP = 600
_QUERIES = 100


class Step(NamedTuple):
    """From one mark to the next, in seconds: the median and the tenth and ninetieth of a hundred."""

    name: str
    p10: float
    p50: float
    p90: float


class Way(NamedTuple):
    """Queries with the same marks: how many, their median time in seconds, and the steps between marks."""

    queries: int
    seconds: float
    steps: list[Step]


Marks = list[tuple[str, float]]


@contextmanager
def watched(marks: Marks) -> Iterator[None]:
    """Note when each step begins and ends; for one thread, and as long as the body runs."""
    with ExitStack() as undo:
        for owner, method, name in _WATCHED:
            call = getattr(owner, method)

            def timed(*args: Any, call: Callable[..., Any] = call, name: str = name, **named: Any) -> Any:
                marks.append((f"{name} >", time.perf_counter()))
                try:
                    return call(*args, **named)
                finally:
                    marks.append((f"< {name}", time.perf_counter()))

            undo.enter_context(replaced(owner, method, timed))
        yield


def ways(pipeline: Pipeline, texts: list[str], rounds: int) -> list[Way]:
    """The ways that queries take, the most frequent first."""
    found: dict[tuple[str, ...], list[list[float]]] = defaultdict(list)
    marks: Marks = []
    with watched(marks):
        for text in rounds * texts:
            marks.clear()
            begin = time.perf_counter()
            pipeline.search(text)
            seen = [("query", begin), *marks, ("answer", time.perf_counter())]
            found[tuple(name for name, _ in seen)].append([at for _, at in seen])
    told = []
    for names, times in sorted(found.items(), key=lambda one: -len(one[1])):
        matrix = np.array(times)
        between = np.diff(matrix, axis=1)
        steps = [
            Step(f"{first} .. {second}", *(float(q) for q in np.quantile(column, (0.1, 0.5, 0.9))))
            for first, second, column in zip(names, names[1:], between.T, strict=False)
        ]
        told.append(Way(len(times), float(np.median(matrix[:, -1] - matrix[:, 0])), steps))
    return told


def main() -> None:
    """Measure and report."""
    title = "When does a lone query's thread do what?"
    parser = Report.parser("host_timeline", title)
    parser.add_argument("--products", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="over the first 100 queries")
    args = parser.parse_args()
    facts = driver_facts()
    if not facts.available:
        raise SystemExit(f"This benchmark needs a GPU: {facts.reason}.")
    report = Report.from_args(
        "host_timeline", title, packages=("onnxruntime-gpu", "faiss-gpu-cuvs"), args=args
    )
    report.note(facts.devices[0].line())
    catalog = build_catalog(args.products, args.seed)
    opened = open_pipeline(catalog, lanes=1, slots=3, budget_ms=50.0, plan=None)
    try:
        texts = query_texts(catalog)
        for turn in range(_WARM_UP):
            opened.pipeline.search(texts[turn % len(texts)], budget_ms=math.inf)
        found = ways(opened.pipeline, texts[:_QUERIES], args.rounds)
    finally:
        opened.close()
    usual, total = found[0], sum(way.queries for way in found)
    report.figure("usual_way_share", usual.queries / total)
    report.figure("usual_way_ms_p50", 1e3 * usual.seconds, unit="ms")
    for step in usual.steps:
        report.note(f"{1e6 * step.p50:6.0f} us ({1e6 * step.p10:.0f} to {1e6 * step.p90:.0f})  {step.name}")
    report.note(f"{len(found)} ways of {total} queries; told is that of {usual.queries}")
    report.finish()


if __name__ == "__main__":
    main()
