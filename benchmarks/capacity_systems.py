"""One system of ``capacity_gpu`` in a process of its own: opened, compared, measured, written down.

    python -m benchmarks.capacity_systems JOB.json

A process of its own, because some of these libraries want versions of others that exclude each other, and
so that one that fails takes nothing with it. The load is put on the system in the same process.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from benchmarks.capacity_policy import Held, Needs, Timing
from benchmarks.capacity_search import Ranked, System, hold_p99
from benchmarks.gpu_load import BusyMeter, closed_loop
from searchpipe.files import write_json

if TYPE_CHECKING:
    from benchmarks.capacity_world import PeerWorld

OURS, BUDGET, FULL = "searchpipe", "searchpipe_budget", "searchpipe_full"
PEERS = ("sentence_transformers", "infinity", "pytriton", "torch_batched")
_WARM_UP = 24
_COMPARED = 12
_TRIAL_S = 1.0
_TRIAL_CALLERS = 8
BUDGET_SCORED_SHARE = 0.9
"""Of the candidates that :data:`BUDGET` must score, on average over the queries."""

T = TypeVar("T")


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to measure.

    Attributes:
        system: one of :data:`OURS`, :data:`BUDGET`, :data:`FULL`, :data:`PEERS`.
        catalog: snapshot.
        texts: folder of the pair texts.
        encoder, cross_encoder: folders of the models.
        queries: asked in turn.
        candidates: of each query.
        p99_ms: target in milliseconds.
        seed: of order and arrivals.
        gpu: whether to use GPU 0.
        timing: lengths of the runs.
        out: file of the result.
        lanes, slots: of our engines.
        budget_ms: of a query of :data:`BUDGET`, in milliseconds.
    """

    system: str
    catalog: str
    texts: str
    encoder: str
    cross_encoder: str
    queries: list[str]
    candidates: int
    p99_ms: float
    seed: int
    gpu: bool
    timing: Timing
    out: str
    lanes: int = 1
    slots: int = 3
    budget_ms: float = 25.0

    @property
    def needs(self) -> Needs:
        """What counts as holding: under a budget fewer pairs, but an answer for everyone."""
        if self.system == BUDGET:
            return Needs(self.p99_ms, scored_share=BUDGET_SCORED_SHARE, failed_share=0.0)
        return Needs(self.p99_ms)


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured of one system.

    Counters and GPU share are of the longer run at ``held.rate``, or of the last longer load if none held;
    ``saturated_busy_share`` is with callers that never pause.
    """

    system: str
    described: str
    open_s: float
    held: Held
    top: list[list[int]]
    counts: dict[str, float]
    gpu_busy_share: float | None
    trials: dict[str, float]
    saturated_busy_share: float | None = None


def main() -> None:
    """Measure one system."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    result = measure(job)
    write_json(Path(job.out), msgspec.to_builtins(result))


def measure(job: Job) -> Result:
    """Open the best of the system's variants and find its capacity."""
    begin = time.perf_counter()
    system, trials = best_variant(variants(job), job.queries)
    open_s = time.perf_counter() - begin
    try:
        top = [list(system.ask(text).documents[:10]) for text in job.queries[:_COMPARED]]
        watched = Watched(system, gpu=job.gpu)
        held = hold_p99(
            system,
            job.queries,
            needs=job.needs,
            candidates=job.candidates,
            seed=job.seed,
            timing=job.timing,
            around=watched,
        )
        seen, saturated = watched.at(held.rate), watched.at(math.inf)
        return Result(
            job.system,
            system.describe(),
            open_s,
            held,
            top,
            seen.counts,
            seen.busy_share,
            trials,
            saturated.busy_share,
        )
    finally:
        system.close()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the system counted in one load, and the share of its time in which the GPU was busy."""

    counts: dict[str, float] = field(default_factory=dict)
    busy_share: float | None = None


class Watched:
    """Runs loads and keeps what was seen beside each, by rate. For one thread."""

    def __init__(self, system: System, *, gpu: bool) -> None:
        self._system = system
        self._gpu = gpu
        self._seen: dict[float, Seen] = {}
        self._last = Seen()

    def at(self, rate: float) -> Seen:
        """Beside the last load at ``rate``; beside the last of all if there was none at it."""
        return self._seen.get(rate, self._last)

    def __call__(self, rate: float, measured: Callable[[], T], /) -> T:
        """As :class:`benchmarks.capacity_search.Around`."""
        before = self._system.counts()
        busy = None
        if self._gpu:
            with BusyMeter() as meter:
                found = measured()
            busy = None if math.isnan(meter.share) else meter.share
        else:
            found = measured()
        counts = {name: value - before.get(name, 0.0) for name, value in self._system.counts().items()}
        self._last = self._seen[rate] = Seen(counts, busy)
        return found


def best_variant(
    makers: dict[str, Callable[[], System]], queries: list[str]
) -> tuple[System, dict[str, float]]:
    """Open each in turn and keep the one with the most answers a second with a few callers.

    Raises:
        Exception: what the last of them raised, if none could be opened.
    """
    best: tuple[float, System] | None = None
    trials: dict[str, float] = {}
    failure: Exception | None = None
    for name, make in makers.items():
        try:
            system = make()
            warm_up(system, queries)
        except Exception as error:
            if len(makers) == 1:
                raise
            failure = error
            print(f"  {name}: {type(error).__name__}: {error}", flush=True)
            continue
        if len(makers) == 1:
            return system, trials
        callers = min(_TRIAL_CALLERS, system.threads)
        rate = closed_loop(system.ask, queries, callers=callers, duration_s=_TRIAL_S).rate
        trials[name] = rate
        if best is None or rate > best[0]:
            best, worse = (rate, system), best
        else:
            worse = rate, system
        if worse is not None:
            worse[1].close()
    if best is None:
        assert failure is not None
        raise failure
    return best[1], trials


def warm_up(system: System, queries: list[str]) -> None:
    """A few queries one by one, then from several threads; raises what the first raise."""
    last: Ranked | None = None
    for text in queries[:_WARM_UP]:
        last = system.ask(text)
    assert last is not None
    closed_loop(system.ask, queries, callers=min(8, system.threads), duration_s=0.5)


def variants(job: Job) -> dict[str, Callable[[], System]]:
    """Settings of the system that are worth a trial, by name."""
    if job.system in (OURS, BUDGET, FULL):
        from benchmarks.capacity_ours import PipelineSystem

        return {
            "": partial(
                PipelineSystem,
                Path(job.catalog),
                candidates=job.candidates,
                full=job.system == FULL,
                budget_ms=job.budget_ms if job.system == BUDGET else math.inf,
                gpu=job.gpu,
                lanes=job.lanes,
                slots=job.slots,
            )
        }
    from benchmarks.capacity_corpus import FlatIndex, Texts
    from benchmarks.capacity_world import PeerWorld
    from benchmarks.gpu_pipeline import MAX_PAIR_TOKENS
    from searchpipe.catalog.snapshot import Snapshot

    with Snapshot.open(Path(job.catalog), verify=False) as snapshot:
        index = FlatIndex(snapshot, gpu=job.gpu)
    world = PeerWorld(
        Path(job.encoder),
        Path(job.cross_encoder),
        Texts(Path(job.texts)),
        index,
        job.candidates,
        MAX_PAIR_TOKENS,
        job.gpu,
    )
    return peer_variants(job.system, world)


def peer_variants(name: str, world: PeerWorld) -> dict[str, Callable[[], System]]:
    """Settings of a system beside ours."""
    if name == "sentence_transformers":
        from benchmarks.peer_sentence import SentenceTransformersSystem

        return {f"batch {n}": partial(SentenceTransformersSystem, world, batch=n) for n in (256, 64)}
    if name == "torch_batched":
        from benchmarks.peer_batched import BatchedSystem

        return {f"{n} queries": partial(BatchedSystem, world, max_queries=n) for n in (1, 4)}
    if name == "infinity":
        from benchmarks.peer_infinity import InfinitySystem

        return {f"batch {n}": partial(InfinitySystem, world, batch=n) for n in (256, 64)}
    if name == "pytriton":
        from benchmarks.peer_triton import TritonSystem

        kinds = {"1 query, 2 instances": (1, 2), "4 queries, 1 instance": (4, 1)}
        return {
            label: partial(TritonSystem, world, max_queries=queries, instances=instances)
            for label, (queries, instances) in kinds.items()
        }
    raise SystemExit(f"There is no system {name!r}; there are {', '.join((OURS, *PEERS, BUDGET, FULL))}.")


if __name__ == "__main__":
    main()
