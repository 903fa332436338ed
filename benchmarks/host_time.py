"""What does one query cost the host, if the GPU's engines answered at once?

    python -m benchmarks.host_time [--rounds 5] [--json FILE]

The pipeline as it is assembled for a GPU, over 20,000 generated products: recall of twice 300, the
prerank formula, 256 pairs in one request, MMR, a page of 10. Engines, dense and lexical index give answers
that they gave before; everything around them is real. Counted is the CPU time of the query's own
thread (``time.thread_time``), less that of calls into the C++ core which release the GIL; apart from it,
what later stages prepare in the gap while the cross-encoder works, which no caller waits for. By wall
clock, what follows the scores after a wait for them as on a GPU, with and without a rehearsal before it ends;
and four threads at once.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from benchmarks.host_parts import open_host_pipeline, open_world
from benchmarks.report import Report
from searchpipe import _core
from searchpipe.config import Config, load_config
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import EarlyStage, PreparingStage, Stage, Work

DEPTH = 256
_THREADS = 4
_WAIT_S, _LAST_S = 3e-3, 150e-6  # for a GPU's scores; of it, what follows a rehearsal
_BUDGET_MS = 5000.0  # finite, so that every forecast and reserve is paid for


class Timed:
    """A stage with a stopwatch; one thread at a time."""

    def __init__(self, stage: Stage, seconds: dict[str, list[float]]) -> None:
        self.name, self.reads, self.writes = stage.name, stage.reads, stage.writes
        self.essential = stage.essential
        self.prepares = isinstance(stage, PreparingStage) and stage.prepares
        self._stage = stage
        self._early = stage if isinstance(stage, EarlyStage) else None  # asked once: it takes microseconds
        self._seconds = seconds

    def run(self, work: Work) -> None:
        """Run it."""
        begin = time.thread_time()
        self._stage.run(work)
        self._seconds[self.name].append(time.thread_time() - begin)

    def start_early(self, work: Work) -> None:
        """Begin it, if it can."""
        if self._early is not None:
            begin = time.thread_time()
            self._early.start_early(work)
            self._seconds["begin early"].append(time.thread_time() - begin)

    def prepare(self, work: Work) -> None:
        """Make ready what it can."""
        if isinstance(self._stage, PreparingStage):
            self._stage.prepare(work)

    def rehearse(self, work: Work) -> None:
        """Do it beforehand, if it can."""
        if hasattr(self._stage, "rehearse"):
            self._stage.rehearse(work)

    def describe(self) -> str:
        """As the stage."""
        return self._stage.describe()


def thread_seconds(pipeline: Pipeline, texts: list[str], rounds: int) -> list[float]:
    """CPU seconds of this thread, a query."""
    found = []
    for _ in range(rounds):
        for text in texts:
            begin = time.thread_time()
            page = pipeline.search(text)
            found.append(time.thread_time() - begin)
            assert not page.degraded, page.degradations
    return found


@contextmanager
def released(seconds: dict[str, float]) -> Iterator[None]:
    """Add up what this thread spends in calls into the core that release the GIL; one thread at a time."""
    owners: list[tuple[Any, str]] = [(_core.Scorer, "run"), (_core.RequestCost, "seconds")]
    owners += [(_core.Scorer, "prepare_pairs"), (_core.TextPacker, "prepare")]
    with ExitStack() as undo:
        for owner, name in owners:
            call = getattr(owner, name)

            def timed(*args: Any, call: Any = call, name: str = name, **named: Any) -> Any:
                begin = time.thread_time()
                try:
                    return call(*args, **named)
                finally:
                    seconds[name] += time.thread_time() - begin

            setattr(owner, name, timed)
            undo.callback(setattr, owner, name, call)
        yield


@contextmanager
def replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    """``method`` instead of another while the body runs."""
    call = getattr(owner, name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, call)


def parts(pipeline: Pipeline, texts: list[str], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a query before its pairs are given, in the gap, and since the scores are back."""
    found: dict[str, list[float]] = defaultdict(list)
    given, run, prepare = _core.Scorer.prepare_pairs, _core.Scorer.run, Work.prepare_later
    begin = back = 0.0

    def asked(*args: Any, **named: Any) -> Any:
        found["before the pairs are given"].append(time.thread_time() - begin)
        return given(*args, **named)

    def ran(*args: Any) -> bool:
        nonlocal back
        ended = run(*args)
        back = time.thread_time()
        return ended

    def prepared(work: Work) -> None:
        since = time.thread_time()
        prepare(work)
        found["gap"].append(time.thread_time() - since)

    with (
        replaced(_core.Scorer, "prepare_pairs", asked),
        replaced(_core.Scorer, "run", ran),
        replaced(Work, "prepare_later", prepared),
    ):
        for text in rounds * texts:
            begin = time.thread_time()
            pipeline.search(text)
            found["since the scores are back"].append(time.thread_time() - back)
    return found


def after_a_wait(pipeline: Pipeline, texts: list[str], rounds: int) -> dict[bool, list[float]]:
    """Seconds from scores that took a while to the page, unrehearsed and rehearsed in turn."""
    found: dict[bool, list[float]] = {False: [], True: []}
    run = _core.Scorer.run
    rehearsed, back = False, 0.0

    def waited(
        scorer: Any, ticket: Any, timeout: Any = None, meanwhile: Any = None, before_end: Any = None
    ) -> bool:
        nonlocal back
        ended = run(scorer, ticket, timeout, meanwhile)
        if before_end is not None:
            time.sleep(_WAIT_S)
            if rehearsed:
                before_end()
            time.sleep(_LAST_S)
        back = time.perf_counter()
        return ended

    with replaced(_core.Scorer, "run", waited):
        for text in rounds * texts:
            for rehearsed in (False, True):
                pipeline.search(text)
                found[rehearsed].append(time.perf_counter() - back)
    return found


def together(pipeline: Pipeline, texts: list[str], rounds: int) -> float:
    """Queries a second of four threads at once."""

    def ask(first: int) -> None:
        for _ in range(rounds):
            for text in texts[first::_THREADS]:
                pipeline.search(text)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(_THREADS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rounds * len(texts) / (time.perf_counter() - begin)


def settings(weights: dict[str, float] | None = None) -> Config:
    """As for a GPU: 256 pairs a query."""
    content: dict[str, object] = {"score": {"depth": DEPTH}, "budget": {"default_ms": _BUDGET_MS}}
    if weights is not None:
        content["prerank"] = {"weights": weights}
    return load_config(content)


def main() -> None:
    """Measure and report."""
    parser = Report.parser("host_time", "What does one query cost the host?")
    parser.add_argument("--rounds", type=int, default=5, help="over all queries (default: %(default)s)")
    args = parser.parse_args()
    report = Report.from_args("host_time", "What does one query cost the host?", args=args)
    world = open_world()
    texts = world.texts
    with ExitStack() as owner:
        owner.callback(world.snapshot.close)
        pipeline, stages = open_host_pipeline(world, settings(), owner)
        # Those that have enough candidates, or the figure would be of smaller queries.
        texts = [text for text in texts if pipeline.search(text).trace.spans[4].units == DEPTH]
        seconds = thread_seconds(pipeline, texts, args.rounds)
        by_stage: dict[str, list[float]] = defaultdict(list)
        timed = Pipeline([Timed(stage, by_stage) for stage in stages], None, settings())
        thread_seconds(timed, texts, 1)
        by_stage.clear()
        whole = thread_seconds(timed, texts, args.rounds)
        outside: dict[str, float] = defaultdict(float)
        with released(outside):
            thread_seconds(pipeline, texts, args.rounds)
        around = parts(pipeline, texts, args.rounds)
        waited = after_a_wait(pipeline, texts, 1)
        rate = together(pipeline, texts, args.rounds)
        timed.close()
        pipeline.close()
    report.times("one query, CPU of its thread", seconds)
    for name, found in by_stage.items():
        report.times(f"  {name}", found)
    before, back = around["before the pairs are given"], around["since the scores are back"]
    report.times("  in the gap", around["gap"])
    between = float(np.median(whole)) - sum(float(np.median(found)) for found in by_stage.values())
    unlocked = {name: 1e6 * total / len(seconds) for name, total in outside.items()}
    python = 1e6 * float(np.median(seconds)) - sum(unlocked.values())
    report.figure("between_stages_us", 1e6 * between, unit="us")
    report.figure("released_us_per_query_256", sum(unlocked.values()), unit="us")
    gap = 1e6 * float(np.median(around["gap"]))
    report.figure("python_us_per_query_256", python, unit="us")
    report.figure("python_us_in_the_gap", gap, unit="us", goal="<= 100")
    report.figure("python_us_outside_the_gap", python - gap, unit="us", goal="<= 450")
    report.figure("before_the_pairs_are_given_us", 1e6 * float(np.median(before)), unit="us", goal="<= 250")
    report.figure("since_the_scores_are_back_us", 1e6 * float(np.median(back)), unit="us", goal="<= 150")
    for rehearsed, name in ((False, "after_a_wait_us"), (True, "after_a_wait_rehearsed_us")):
        report.figure(name, 1e6 * float(np.median(waited[rehearsed])), unit="us")
    report.figure("four_threads_qps", rate, unit="queries/s")
    calls = ", ".join(f"{name} {us:.0f}" for name, us in unlocked.items())
    report.note(f"with the GIL released, us of this thread's CPU: {calls}")
    report.note("between stages: with the time that the stopwatches take, some 2 us each")
    report.note(f"{len(texts)} queries over {world.snapshot.count:,} products, {args.rounds} rounds")
    report.finish()


if __name__ == "__main__":
    main()
