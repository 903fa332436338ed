"""The pipeline: stages in a row, one deadline, always an answer."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from searchpipe.config import Config, load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline
from searchpipe.errors import ClosedError, OverloadedError, PipelineError, QueryError
from searchpipe.page import Page
from searchpipe.query import Query, check_k, clean_text
from searchpipe.runner import StageRunner
from searchpipe.stages.base import Stage, Work

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.gpu_engines import GpuEngines


class Pipeline:
    """Answers queries over one snapshot.

    ``search`` may be called from any number of threads at once, ``asearch``
    from any number of event loops. ``close`` waits for running queries; after
    it every call raises ``ClosedError``, and a second ``close`` does nothing.

    Args:
        stages: in the order they run; see :class:`searchpipe.stages.base.Stage`.
        snapshot: closed with the pipeline; None if the user's stages need none.
        config: budgets and limits.
        gpu: what the stages run on beside the CPU, closed with the pipeline.

    Raises:
        PipelineError: the stages do not fit together.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        snapshot: Snapshot | None = None,
        config: Config | None = None,
        *,
        gpu: GpuEngines | None = None,
    ) -> None:
        self._config = config or Config()
        self._runner = StageRunner(stages, self._config.budget.shares, CostModel())
        self._snapshot = snapshot
        self._gpu = gpu
        self._version = snapshot.version if snapshot is not None else ""
        self._lock = threading.Condition()
        self._running = 0
        self._closed = False
        self._waiting = 0
        self._executor: ThreadPoolExecutor | None = None

    @classmethod
    def open(
        cls,
        snapshot: Snapshot | str | Path,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        *,
        replace: Mapping[str, Stage] | None = None,
    ) -> Pipeline:
        """Build the configured stages over a snapshot.

        Args:
            snapshot: open, or the folder that ``searchpipe index`` wrote.
            config: a :class:`Config`, a nested mapping, a TOML file, or None for the defaults.
            replace: name of a built-in stage -> the user's own, run in its place.

        Raises:
            SnapshotError: there is none, or it is damaged.
            ConfigError: the configuration is wrong.
            ModelError: a model cannot be had, or is not the one of the snapshot.
            EngineError: the configuration wants a GPU that cannot be had (``DeviceMemoryError``: or that
                has not the memory).
            PipelineError: the stages do not fit together.
        """
        from searchpipe.assemble import assemble
        from searchpipe.catalog.snapshot import Snapshot

        settings = load_config(config)
        opened = snapshot if isinstance(snapshot, Snapshot) else Snapshot.open(Path(snapshot))
        with ExitStack() as undo:
            if opened is not snapshot:
                undo.callback(opened.close)
            assembly = assemble(opened, settings, replace or {})
            undo.callback(assembly.engines.close)
            pipeline = cls(assembly.stages, opened, settings, gpu=assembly.engines)
            undo.pop_all()
        return pipeline

    def search(
        self,
        text: str,
        k: int = 10,
        budget_ms: float | None = None,
        filters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Page:
        """The best ``k`` products for a query, within a budget.

        Args:
            text: what the user typed.
            k: hits wanted; fewer come back if fewer match.
            budget_ms: milliseconds; the configured default if None, ``math.inf`` for no limit.
            filters: see :func:`searchpipe.catalog.filters.parse_filters`.
            context: user and session features for the rankers.

        Raises:
            QueryError: the text, k, budget or a filter is not valid. Nothing else that goes
                wrong raises: it is in the page's degradations.
            ClosedError: the pipeline was closed.
        """
        work = self._begin(text, k, budget_ms, filters, context)
        with self._entered():
            return self._runner.run(work, snapshot=self._version)

    async def asearch(
        self,
        text: str,
        k: int = 10,
        budget_ms: float | None = None,
        filters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Page:
        """Like :meth:`search`, on the pipeline's own threads.

        The budget runs from this call, waiting for a thread included. A
        cancelled call gives its thread back at the next step.

        Raises:
            OverloadedError: ``pipeline.max_waiting`` calls are already waiting.
        """
        work = self._begin(text, k, budget_ms, filters, context)
        executor = self._workers()
        with self._lock:
            limit = self._config.pipeline.max_waiting
            if self._waiting >= limit:
                raise OverloadedError(
                    f"{self._waiting} queries wait for a thread; the limit is {limit}.",
                    cure="Try again later, or raise pipeline.max_waiting or pipeline.threads.",
                )
            self._waiting += 1
        taken = threading.Event()

        def started() -> bool:
            # Exactly one side counts the query out of the queue.
            with self._lock:
                if taken.is_set():
                    return False
                taken.set()
                self._waiting -= 1
                return True

        def run() -> Page:
            started()
            with self._entered():
                return self._runner.run(work, snapshot=self._version)

        try:
            return await asyncio.get_running_loop().run_in_executor(executor, run)
        except asyncio.CancelledError:
            work.deadline.cancel()
            started()
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ClosedError("The pipeline was closed while the query waited.") from None
            raise

    def describe(self) -> str:
        """The stages as a table: name, what it reads and writes, share of the budget, settings.

        Behind it what runs on the GPU, and why something does not.
        """
        shares = self._config.budget.shares
        lines = [f"budget {self._config.budget.default_ms:g} ms, {len(self._runner.stages)} stages"]
        if self._snapshot is not None:
            lines[0] += f", snapshot {self._snapshot.version} with {self._snapshot.count} products"
        for stage in self._runner.stages:
            flow = f"{', '.join(stage.reads) or '-'} -> {', '.join(stage.writes) or '-'}"
            share = f"{shares[stage.name]:4.0%}" if stage.name in shares else "   -"
            lines.append(f"  {stage.name:<10} {share}  {flow:<34} {stage.describe()}")
        if self._gpu is not None:
            lines += [f"  gpu        {line}" for line in self._gpu.lines()]
        return "\n".join(lines)

    def warm_up(
        self,
        texts: Sequence[str] = ("wireless headphones", "running shoes for women size 8"),
        budget_ms: float = 500.0,
    ) -> float:
        """Answer queries for nobody, so that buffers are allocated and costs known; returns seconds."""
        begin = Deadline(math.inf)
        for text in (*texts, *texts):
            work = self._begin(text, 10, budget_ms, None, None)
            with self._entered():
                self._runner.run(work, snapshot=self._version)
        return begin.elapsed()

    @property
    def costs(self) -> CostModel:
        """What steps have cost so far."""
        return self._runner.costs

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that is served."""
        return self._snapshot

    @property
    def gpu(self) -> GpuEngines | None:
        """What runs on the GPU and why the rest does not; None for a pipeline made of stages."""
        return self._gpu

    def close(self) -> None:
        """Refuse new queries, wait for the running ones, free threads, the GPU and the snapshot."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(lambda: self._running == 0)
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        if self._gpu is not None:
            self._gpu.close()
        if self._snapshot is not None:
            self._snapshot.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(
        self,
        text: str,
        k: int,
        budget_ms: float | None,
        filters: Mapping[str, Any] | None,
        context: Mapping[str, Any] | None,
    ) -> Work:
        limits = self._config.pipeline
        deadline = Deadline(self._config.budget.default_ms if budget_ms is None else budget_ms)
        if self._closed:
            raise ClosedError("The pipeline was closed.", cure="Open a new one.")
        if filters:
            from searchpipe.catalog.filters import parse_filters

            if self._snapshot is None:
                raise PipelineError("Filters need a snapshot, and this pipeline has none.")
            parse_filters(filters, self._snapshot.columns)
        if context is not None and not isinstance(context, Mapping):
            raise QueryError(f"context is of type {type(context).__name__}.", cure="Give a mapping.")
        query = Query(
            clean_text(text, limits.max_query_chars), check_k(k, limits.max_k), filters or {}, context or {}
        )
        return Work(query, deadline, self._runner.costs)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ClosedError("The pipeline was closed.", cure="Open a new one.")
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._lock.notify_all()

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise ClosedError("The pipeline was closed.", cure="Open a new one.")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._config.pipeline.threads, "searchpipe")
            return self._executor
