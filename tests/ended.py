"""A process that ends while its daemon threads are at work; run by ``tests/test_interpreter_end.py``."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import math
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from searchpipe import _core, interpreter_end
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.catalog.build import build_snapshot
from searchpipe.config import Config, load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.errors import ClosedError, SearchpipeError
from searchpipe.live.pipeline import LivePipeline
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from searchpipe.stages.base import Work
from searchpipe.stages.early_searches import EarlySearches

Step = Callable[[], object]
_THREADS = 3


class Found:
    """A source of recall that finds nothing, in no time."""

    name, early = "lexical", True

    def ready(self, _work: Work) -> bool:
        return True

    def search(self, _work: Work, _depth: int, _mask: object) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)


class Sleeper:
    """A stage that hangs."""

    name, reads, writes, essential = "prerank", ("candidates",), ("candidates",), False

    def run(self, work: Work) -> None:
        time.sleep(3600)

    def describe(self) -> str:
        return "hangs"


def core(_folder: str, _config: str) -> Step:
    histogram, values = _core.Histogram(), np.random.default_rng(0).random(100_000)
    return lambda: histogram.record_many(values)


def scorer(_folder: str, _config: str) -> Step:
    def compute(ids: np.ndarray, mask: np.ndarray, types: np.ndarray | None, out: np.ndarray) -> None:
        time.sleep(0.001)  # gives the GIL away in the scorer's own thread
        out[:] = 1.0

    one = _core.Scorer(_core.HostExecutor(compute, [(4, 16)]))
    return lambda: one.submit_texts(
        [np.array([7, 8], np.int32)], cls_id=1, sep_id=2, pad_id=0, max_tokens=16
    ).wait(10.0)


def engine(_folder: str, config: str) -> Step:
    one = OnnxCpuEngine(_encoder(config), threads=1)
    ids = np.ones((64, 128), np.int64)
    feeds = {name: ids.astype(dtype) for name, dtype in one.inputs.items()}
    return lambda: one.run(feeds)


def session(_folder: str, config: str) -> Step:
    path = _encoder(config)
    return lambda: OnnxCpuEngine(path, threads=1)


def build(folder: str, config: str) -> Step:
    settings, numbers = load_config(config), itertools.count()
    products = Path(folder).parent / "demo" / "products.jsonl"
    out = Path(sys.argv[4])
    return lambda: build_snapshot(products, out / str(next(numbers)), settings.index, models=settings.models)


def pipeline(folder: str, config: str) -> Step:
    one = Pipeline.open(folder, config)
    return lambda: one.search("shoes")


def gpu(folder: str, config: str) -> Step:
    table = tomllib.loads(Path(config).read_text("utf-8"))
    table |= {"gpu": {"use": "always", "reserve_mb": 32}, "recall": {"gpu": {"use": "always", "temp_mb": 16}}}
    one = Pipeline.open(folder, table)
    return lambda: one.search("shoes", budget_ms=math.inf)


def early(_folder: str, _config: str) -> Step:
    """Searches on threads of a pool that always find another one: they may not wait for an idle moment."""
    pool, query = ThreadPoolExecutor(_THREADS, "early"), Query("shoes", 10)
    searches, source = EarlySearches(pool), Found()

    def step() -> None:
        work = Work(query, Deadline(math.inf), CostModel())
        searches.begin(source, work, 10, None).join(work, optional=False)

    return step


def crowd(folder: str, config: str) -> Step:
    """More callers than threads, so that a thread always finds somebody who waits."""
    table = tomllib.loads(Path(config).read_text("utf-8"))
    one = Pipeline.open(folder, {**table, "pipeline": {"threads": 1, "admission": False}})
    runner = threading.local()

    async def several() -> None:
        await asyncio.gather(*(one.asearch("shoes", budget_ms=10_000) for _ in range(4)))

    def step() -> None:
        if not hasattr(runner, "loop"):
            runner.loop = asyncio.new_event_loop()
        runner.loop.run_until_complete(several())

    return step


def asked(folder: str, config: str) -> Step:
    one = Pipeline.open(folder, config)
    return lambda: asyncio.run(one.asearch("shoes"))


def swap(folder: str, config: str) -> Step:
    table = tomllib.loads(Path(config).read_text("utf-8")) | {"live": {"shadow": {"share": 0.0}}}
    one, numbers = LivePipeline.open(folder, table, state=sys.argv[4]), itertools.count(100)

    def step() -> None:
        if threading.current_thread().name == "0":
            one.swap(config={**table, "budget": {"default_ms": next(numbers)}})
        else:
            one.search("shoes")

    return step


def opening(folder: str, config: str) -> Step:
    """A swap is still opening its version when the interpreter begins to end, and fails by that."""

    def opener(build: Path, settings: Config) -> Pipeline:
        while opened:  # from the second version on
            with ThreadPoolExecutor(1) as pool:
                pool.submit(begun.set)
        opened.append(build)
        return Pipeline.open(build, settings)

    opened: list[Path] = []
    begun, over = threading.Event(), threading.Event()
    table = tomllib.loads(Path(config).read_text("utf-8"))
    one = LivePipeline.open(folder, table, state=sys.argv[4], opener=opener)
    swapping = threading.Lock()

    def step() -> None:
        if swapping.acquire(blocking=False):
            try:
                one.swap(config={**table, "budget": {"default_ms": 77}})
            finally:
                over.set()
        begun.wait()

    def tell() -> None:
        over.wait(30)
        print(one.history[-1].step, flush=True)

    atexit.register(tell)  # called before what is open is closed
    return step


def hanging(folder: str, config: str) -> Step:
    interpreter_end._WAIT_S = 0.3
    one = Pipeline.open(folder, config, replace={"prerank": Sleeper()})
    return lambda: one.search("shoes", budget_ms=10_000)


def _encoder(config: str) -> Path:
    return Path(load_config(config).models.encoder.source.removeprefix("file:"))


def main(kind: str, folder: str, config: str, _scratch: str) -> None:
    step = globals()[kind](folder, config)
    went = [0] * _THREADS

    def work(mine: int) -> None:
        with contextlib.suppress(ClosedError):
            while True:
                try:
                    step()
                except ClosedError:
                    raise
                except SearchpipeError:
                    time.sleep(0.001)
                except RuntimeError as error:
                    if "shutdown" in str(error):  # a pool's, when Python begins no more threads
                        return
                    raise
                went[mine] += 1

    for mine in range(_THREADS):
        threading.Thread(target=work, args=(mine,), name=str(mine), daemon=True).start()
    end = time.monotonic() + 60
    while kind not in ("hanging", "opening") and min(went) < 1 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    print(min(went), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
