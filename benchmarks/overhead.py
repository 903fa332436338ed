"""What searchpipe itself costs: its import, and a query through stages that answer at once.

    python -m benchmarks.overhead [--json FILE]

The import is timed in fresh interpreters, less the start of an interpreter
that imports nothing; the query runs through seven stages with the built-in
names, slots and shares, so that every check, clock and span is paid for.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from benchmarks.report import Report, measure
from searchpipe.candidates import Candidates
from searchpipe.page import Hit
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Stage, Work

HEAVY = ("faiss", "onnxruntime", "torch", "tensorrt", "cupy", "pyarrow", "tokenizers")


class Instant:
    """A stage that fills its slots with what was made beforehand."""

    def __init__(
        self, name: str, reads: tuple[str, ...], writes: tuple[str, ...], values: dict[str, object]
    ) -> None:
        self.name = name
        self.reads = reads
        self.writes = writes
        self.essential = name in ("recall", "page")
        self._values = values

    def run(self, work: Work) -> None:
        """Hand over the prepared values in one step, as the real stages do."""
        with work.step(self.name, 1):
            for slot, value in self._values.items():
                setattr(work, slot, value)

    def describe(self) -> str:
        """One line."""
        return "instant"


def stages() -> list[Stage]:
    """Seven stages that do nothing but pass on."""
    docs = np.arange(300, dtype=np.int32)
    candidates = Candidates.of(docs, {"fused": np.linspace(1, 0, 300, dtype=np.float32)})
    hits = [Hit(n + 1, str(n), 1.0, {}, {}, ()) for n in range(10)]
    flow: list[tuple[str, tuple[str, ...], dict[str, object]]] = [
        ("tokenize", (), {"tokens": docs[:4]}),
        ("encode", ("tokens",), {"vector": np.zeros(384, np.float32)}),
        ("recall", (), {"candidates": candidates}),
        ("prerank", ("candidates",), {"candidates": candidates}),
        ("score", ("tokens", "candidates"), {"candidates": candidates}),
        ("diversify", ("candidates",), {"candidates": candidates}),
        ("page", ("candidates",), {"hits": hits}),
    ]
    return [Instant(name, reads, tuple(values), values) for name, reads, values in flow]


def seconds_to_run(code: str) -> float:
    """Seconds of a fresh interpreter that runs ``code``, the best of its own clock."""
    program = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(done.stdout)


def imported_heavies() -> list[str]:
    """Heavy modules that ``import searchpipe`` loads."""
    code = f"import searchpipe, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return [str(m) for m in eval(done.stdout)]


def main() -> None:
    """Measure and report."""
    report = Report.from_args("overhead", "What does searchpipe itself cost?", packages=("numpy", "msgspec"))
    imports = [seconds_to_run("import searchpipe") for _ in range(5)]
    report.times("import searchpipe", imports)
    report.times(
        "import searchpipe.pipeline", [seconds_to_run("import searchpipe.pipeline") for _ in range(5)]
    )
    with Pipeline(stages()) as pipeline:
        queries = measure(lambda: pipeline.search("red running shoes"), rounds=5000, warm_up=500)
    report.times("query through seven instant stages", queries)
    report.figure("import_s", float(np.median(imports)), unit="s", goal="< 0.3")
    report.figure("pipeline_overhead_us_p50", 1e6 * float(np.median(queries)), unit="us", goal="< 300")
    report.figure("heavy_modules_imported", len(imported_heavies()), goal="= 0")
    report.finish()


if __name__ == "__main__":
    main()
