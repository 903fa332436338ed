"""The pipeline: stages in a row, one deadline, always an answer."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from searchpipe.config import Config, load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline, QueryCancelled
from searchpipe.errors import ClosedError, OverloadedError, PipelineError, QueryError
from searchpipe.page import Page, Span, Trace
from searchpipe.query import Query, check_k, clean_text
from searchpipe.stages.base import Stage, Work

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot


class Pipeline:
    """Answers queries over one snapshot.

    ``search`` may be called from any number of threads at once, ``asearch``
    from any number of event loops. ``close`` waits for running queries; after
    it every call raises ``ClosedError``, and a second ``close`` does nothing.

    Args:
        stages: in the order they run; see :class:`searchpipe.stages.base.Stage`.
        snapshot: closed with the pipeline; None if the user's stages need none.
        config: budgets and limits.

    Raises:
        PipelineError: the stages do not fit together.
    """

    def __init__(
        self, stages: Sequence[Stage], snapshot: Snapshot | None = None, config: Config | None = None
    ) -> None:
        self._config = config or Config()
        self._stages = tuple(stages)
        self._snapshot = snapshot
        self._costs = CostModel()
        self._lock = threading.Condition()
        self._running = 0
        self._closed = False
        self._waiting = 0
        self._executor: ThreadPoolExecutor | None = None
        check_stages(self._stages)

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
            PipelineError: the stages do not fit together.
        """
        from searchpipe.assemble import assemble
        from searchpipe.catalog.snapshot import Snapshot

        settings = load_config(config)
        opened = snapshot if isinstance(snapshot, Snapshot) else Snapshot.open(Path(snapshot))
        try:
            return cls(assemble(opened, settings, replace or {}), opened, settings)
        except BaseException:
            if opened is not snapshot:
                opened.close()
            raise

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
            return self._answer(work)

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
                return self._answer(work)

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
        """The stages as a table: name, what it reads and writes, share of the budget, settings."""
        shares = self._config.budget.shares
        lines = [f"budget {self._config.budget.default_ms:g} ms, {len(self._stages)} stages"]
        if self._snapshot is not None:
            lines[0] += f", snapshot {self._snapshot.version} with {self._snapshot.count} products"
        for stage in self._stages:
            flow = f"{', '.join(stage.reads) or '-'} -> {', '.join(stage.writes) or '-'}"
            share = f"{shares[stage.name]:4.0%}" if stage.name in shares else "   -"
            lines.append(f"  {stage.name:<10} {share}  {flow:<34} {stage.describe()}")
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
                self._answer(work)
        return begin.elapsed()

    @property
    def costs(self) -> CostModel:
        """What steps have cost so far."""
        return self._costs

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that is served."""
        return self._snapshot

    def close(self) -> None:
        """Refuse new queries, wait for the running ones, free the snapshot and threads."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(lambda: self._running == 0)
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
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
        return Work(query, deadline, self._costs)

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

    def _answer(self, work: Work) -> Page:
        spans: list[Span] = []
        for place, stage in enumerate(self._stages):
            work.deadline.check_cancelled()
            begin = work.deadline.elapsed()
            n_in = _size(work)
            self._run_stage(place, stage, work)
            work.mark()
            seconds = work.deadline.elapsed() - begin
            spans.append(Span(stage.name, begin * 1e3, seconds * 1e3, n_in, _size(work), work.decision))
        total = work.deadline.elapsed()
        trace = Trace(total * 1e3, work.deadline.budget_s * 1e3, work.longest_step_s * 1e3, tuple(spans))
        version = self._snapshot.version if self._snapshot is not None else ""
        return Page(
            work.query.text, tuple(work.hits or ()), tuple(work.degradations), trace, version, work.extras
        )

    def _run_stage(self, place: int, stage: Stage, work: Work) -> None:
        work.stage, work.decision = stage.name, ""
        missing = [slot for slot in stage.reads if not work.holds(slot)]
        if missing:
            # An earlier stage that gave up has said why; this one only follows.
            if not any(d.stage != stage.name for d in work.degradations):
                work.degrade("missing_input", f"{stage.name} (no {', '.join(missing)})")
            work.decision = f"skipped: no {', '.join(missing)}"
            return
        work.reserve_s = self._reserve(place, work)
        if not stage.essential and not work.deadline.unlimited and work.allowance() <= 0:
            work.degrade("deadline", stage.name)
            work.decision = "skipped: no time left"
            return
        begin = work.deadline.elapsed()
        try:
            stage.run(work)
        except QueryCancelled:
            raise
        except Exception as error:
            work.degrade("stage_failed", f"{stage.name} ({type(error).__name__}: {error})")
            work.decision = f"failed: {error}"
            return
        # `stage:` keeps whole stages apart from the steps inside them.
        self._costs.observe(f"stage:{stage.name}", 1, work.deadline.elapsed() - begin)

    def _reserve(self, place: int, work: Work) -> float:
        """Seconds to keep for the stages after ``place``: what they cost lately, within their shares."""
        if work.deadline.unlimited:
            return 0.0
        budget, total = work.deadline.budget_s, 0.0
        for stage in self._stages[place + 1 :]:
            share = self._config.budget.shares.get(stage.name)
            if share is None:
                continue  # takes what is left
            expected = self._costs.predict(f"stage:{stage.name}", 1)
            total += min(share * budget, expected if expected is not None else math.inf)
        return total


def check_stages(stages: Sequence[Stage]) -> None:
    """Refuse stages that cannot run in this order.

    Raises:
        PipelineError: no stages, two of one name, not a stage, a slot that is read
            before any stage has written it, or no ``hits`` at the end.
    """
    names: set[str] = set()
    filled: set[str] = set()
    for stage in stages:
        if not isinstance(stage, Stage):
            raise PipelineError(
                f"{stage!r} is not a stage.",
                cure="It needs name, reads, writes, essential, run() and describe().",
            )
        if stage.name in names:
            raise PipelineError(f"Two stages are named {stage.name!r}.", cure="Rename one.")
        names.add(stage.name)
        for slot in stage.reads:
            if slot not in filled:
                raise PipelineError(
                    f"Stage {stage.name!r} reads {slot!r}, which no stage before it writes.",
                    cure=f"Written so far: {', '.join(sorted(filled)) or 'nothing'}.",
                )
        filled.update(stage.writes)
    if "hits" not in filled:
        raise PipelineError("No stage writes 'hits'.", cure="End with the stage 'page' or one of your own.")


def _size(work: Work) -> int:
    if work.hits is not None:
        return len(work.hits)
    return len(work.candidates) if work.candidates is not None else 0
