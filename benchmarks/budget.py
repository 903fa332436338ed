"""Does an answer come back in time, whatever happens?

    python -m benchmarks.budget [--json FILE]

500 ESCI queries one after the other, then the same by 8 threads at once, each
with a budget of 50 ms. A result is late if it came after the budget plus the
longest stretch of work in its own trace that could not be interrupted.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.esci import load_queries, snapshot_folder
from benchmarks.report import Report
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline

BUDGET_MS = 50.0
QUERIES = 500
THREADS = 8


class Tally:
    """Outcomes of many queries; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pages: list[Page] = []
        self.exceptions: list[Exception] = []

    def ask(self, pipeline: Pipeline, text: str) -> None:
        """One query."""
        try:
            page = pipeline.search(text, k=10, budget_ms=BUDGET_MS)
        except Exception as error:
            with self._lock:
                self.exceptions.append(error)
            return
        with self._lock:
            self.pages.append(page)

    def late_pages(self) -> list[Page]:
        """Results later than the budget plus one step."""
        return [p for p in self.pages if p.trace.total_ms > BUDGET_MS + p.trace.longest_step_ms]

    def degradations(self) -> Counter[str]:
        """Queries by what they gave up."""
        return Counter(d for p in self.pages for d in {f"{d.stage}: {d.reason}" for d in p.degradations})


def main() -> None:
    """Measure and report."""
    report = Report.from_args(
        "budget",
        "Does an answer come back in time?",
        packages=("numpy", "onnxruntime", "faiss-cpu", "tokenizers"),
    )
    texts = load_queries()
    texts = [texts[n % len(texts)] for n in range(QUERIES)]
    with Pipeline.open(snapshot_folder()) as pipeline:
        pipeline.warm_up()
        alone, together = Tally(), Tally()
        for text in texts:
            alone.ask(pipeline, text)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda text: together.ask(pipeline, text), texts))
    for name, tally in (("one caller", alone), (f"{THREADS} callers", together)):
        report.times(name, [p.trace.total_ms / 1e3 for p in tally.pages])
        for what, count in tally.degradations().most_common():
            report.note(f"{name}: {count} of {len(tally.pages)} gave up {what}")
        for page in tally.late_pages()[:3]:
            report.note(f"{name}: late: {page.trace}")
        scored = [
            s.decision
            for p in tally.pages
            for s in p.trace.spans
            if s.stage == "score" and " of " in s.decision
        ]
        pairs = [int(d.split()[0]) for d in scored]
        report.note(f"{name}: pairs scored per query, mean {np.sum(pairs) / max(1, len(tally.pages)):.2f}")
    pages = alone.pages + together.pages
    totals = [p.trace.total_ms for p in pages]
    report.figure("exceptions", len(alone.exceptions) + len(together.exceptions), goal="= 0")
    report.figure("late_results", len(alone.late_pages()) + len(together.late_pages()), goal="= 0")
    report.figure("p50_ms", float(np.quantile(totals, 0.5)), unit="ms")
    report.figure("p99_ms", float(np.quantile(totals, 0.99)), unit="ms")
    report.figure("degraded_share", sum(p.degraded for p in pages) / len(pages))
    report.finish()


if __name__ == "__main__":
    main()
