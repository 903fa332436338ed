"""The pipeline: stages in a row, one deadline, always an answer."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchpipe.admission import Admission
from searchpipe.admitted_work import AdmittedWork
from searchpipe.cache.answers import Answers
from searchpipe.cache.bypass import uncached
from searchpipe.config import Config, load_config
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Deadline, QueryCancelled
from searchpipe.described import described
from searchpipe.errors import ClosedError, ForkedError
from searchpipe.forks import Inherited
from searchpipe.interpreter_end import PIPELINES, close_at_end
from searchpipe.metrics.observer import Observer, Observers
from searchpipe.page import Page
from searchpipe.query import checked_query
from searchpipe.reception import Reception
from searchpipe.runner import StageRunner
from searchpipe.stage_breakers import StageBreakers
from searchpipe.stages.base import Stage, Work

if TYPE_CHECKING:
    from searchpipe.cache import CacheStats
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.gpu_engines import GpuEngines

_LOG = logging.getLogger("searchpipe.pipeline")


class Pipeline:
    """Answers queries over one snapshot.

    ``search`` may be called from any number of threads at once, ``asearch`` from any number of event
    loops. ``close`` waits for running queries; after it every call raises ``ClosedError``, and a second
    ``close`` does nothing. In the child of a fork every call but ``close`` raises ``ForkedError``.

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
        breakers = StageBreakers.configured(self._config)
        self._runner = StageRunner(stages, self._config.budget.shares, CostModel(), breakers)
        self._snapshot = snapshot
        self._gpu = gpu
        self._answers = Answers.of(self._runner, self._config, snapshot)
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)  # told when nothing runs any more, while closing
        self._running = 0
        self._closed = self._forked = False
        self._room: Reception | None = None
        self._observers = Observers()
        self._own_observers = ExitStack()
        _open_pipelines.add(self)

    @classmethod
    def open(
        cls,
        snapshot: Snapshot | str | Path,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        *,
        replace: Mapping[str, Stage] | None = None,
        observers: Iterable[Observer] = (),
    ) -> Pipeline:
        """Build the configured stages over a snapshot.

        Args:
            snapshot: open, or the folder that ``searchpipe index`` wrote.
            config: a :class:`Config`, a nested mapping, a TOML file, or None for the defaults.
            replace: name of a built-in stage -> the user's own, run in its place.
            observers: told of every query, beside those that ``[metrics]`` asks for; see :meth:`observe`.

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
        from searchpipe.metrics.configured import open_observers

        settings = load_config(config)
        opened = snapshot if isinstance(snapshot, Snapshot) else Snapshot.open(Path(snapshot))
        with ExitStack() as undo:
            if opened is not snapshot:
                undo.callback(opened.close)
            assembly = assemble(opened, settings, replace or {})
            undo.callback(assembly.engines.close)
            pipeline = cls(assembly.stages, opened, settings, gpu=assembly.engines)
            own = undo.enter_context(ExitStack())
            for observer in (*open_observers(settings.metrics, own), *observers):
                pipeline.observe(observer)
            pipeline._own_observers.push(own.pop_all())
            undo.pop_all()
        return pipeline

    def search(
        self,
        text: str,
        k: int = 10,
        budget_ms: float | None = None,
        filters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        without: Collection[str] = (),
    ) -> Page:
        """The best ``k`` products for a query, within a budget.

        Args:
            text: what the user typed.
            k: hits wanted; fewer come back if fewer match.
            budget_ms: milliseconds; the configured default if None, ``math.inf`` for no limit.
            filters: see :func:`searchpipe.catalog.filters.parse_filters`.
            context: user and session features for the rankers.
            priority: higher goes first wherever queries wait for each other, -100 to 100.
            without: names of stages to leave out; none that is essential.

        Raises:
            QueryError: the text, k, budget, priority, a stage or a filter is not valid. Nothing else
                that goes wrong raises: it is in the page's degradations.
            ClosedError: the pipeline was closed.
            ForkedError: this process is a fork of the one that opened the pipeline.
        """
        try:
            deadline = Deadline(self._config.budget.of(budget_ms))
            return self._answer(self._begin(text, k, deadline, filters, context, priority, without))
        except Exception as error:
            self._observers.refused(text, error)
            raise

    async def asearch(
        self,
        text: str,
        k: int = 10,
        budget_ms: float | None = None,
        filters: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        without: Collection[str] = (),
    ) -> Page:
        """Like :meth:`search`, on the pipeline's own threads.

        The budget runs from this call, waiting included. The most urgent query gets the next free thread.
        A cancelled call gives its thread back at the next step. When many come, they get a lighter service
        (see :mod:`searchpipe.admission`), which their pages name as ``admission``.

        Raises:
            OverloadedError: it would be late even so, ``pipeline.max_waiting`` calls at least as urgent
                wait already, or it gave its place up to a more urgent one.
        """
        try:
            deadline = Deadline(self._config.budget.of(budget_ms))
            if self._room is not None and not self._answers.caching:
                self._room.check(deadline, priority)
            work = self._begin(text, k, deadline, filters, context, priority, without)
            if (page := self._answers.ready(work)) is not None:
                self._observers.answered(page)
                return page
            future = (room := self._reception()).submit(work, self._answer)
        except Exception as error:
            self._observers.refused(text, error)
            raise
        try:
            return await room.answer(work, future)
        except asyncio.CancelledError:
            work.deadline.cancel()
            room.leave(future)
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                closed = ClosedError("The pipeline was closed while the query waited.")
                self._observers.refused(text, closed)
                raise closed from None
            self._observers.refused(text, QueryCancelled())
            raise
        except Exception as error:
            self._observers.refused(text, error)
            raise

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of every query from now on; the caller closes it, if it needs closing.

        Raises:
            TypeError: it is no :class:`searchpipe.metrics.observer.Observer`.
        """
        self._observers.add(observer)

    def describe(self) -> str:
        """The stages as a table (slots, share of the budget, settings), then caches, breakers and GPU."""
        return described(self)

    def warm_up(
        self,
        texts: Sequence[str] = ("wireless headphones", "running shoes for women size 8"),
        budget_ms: float = 500.0,
    ) -> float:
        """Answer queries for nobody, so that buffers are allocated and costs known; returns seconds."""
        begin = Deadline(math.inf)
        with uncached():
            for text in (*texts, *texts):
                self._answer(self._begin(text, 10, Deadline(budget_ms), None, None), told=False)
        return begin.elapsed()

    @property
    def costs(self) -> CostModel:
        """What steps have cost so far."""
        return self._runner.costs

    @property
    def breakers(self) -> StageBreakers:
        """What leaves failing and slow stages out for a while."""
        return self._runner.breakers

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot that is served."""
        return self._snapshot

    @property
    def gpu(self) -> GpuEngines | None:
        """What runs on the GPU and why the rest does not; None for a pipeline made of stages."""
        return self._gpu

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, in the order they run."""
        return self._runner.stages

    @property
    def caches(self) -> dict[str, CacheStats]:
        """``results`` and ``embeddings`` -> figures of each cache that is on."""
        return self._answers.stats()

    @property
    def config(self) -> Config:
        """What the pipeline was told."""
        return self._config

    @property
    def admission(self) -> Admission | None:
        """The policy of ``asearch``; None before its first call, or if it is switched off."""
        return None if self._room is None else self._room.admission

    @property
    def load(self) -> tuple[int, int]:
        """Queries that run now, and ``asearch`` calls that wait for a thread."""
        return self._running, len(self._room or ())

    def close(self) -> None:
        """Refuse new queries, wait for the running ones, free threads, the GPU and the snapshot."""
        self._close(None)

    def end(self, seconds: float) -> None:
        """Close because the interpreter ends; queries that run on after ``seconds`` keep what they use."""
        if not self._close(seconds):
            _LOG.warning("%d queries run on while the interpreter ends", self._running)

    def _close(self, seconds: float | None) -> bool:
        """Whether that was done in ``seconds``; None: it may take what it takes."""
        if self._forked:
            return True
        with self._lock:
            self._closed = True
            if not self._idle.wait_for(lambda: self._running == 0, seconds):
                return False
            room, self._room = self._room, None
        if room is not None:
            room.close()
        self._own_observers.close()
        self._answers.close()
        _open_pipelines.discard(self)
        if self._gpu is not None:
            self._gpu.close()
        if self._snapshot is not None:
            self._snapshot.close()
        return True

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forsake(self) -> None:
        """Called in the child of a fork, which has the object but not its threads, locks and GPU."""
        self._forked = True

    def _begin(
        self,
        text: str,
        k: int,
        deadline: Deadline,
        filters: Mapping[str, Any] | None,
        context: Mapping[str, Any] | None,
        priority: int = 0,
        without: Collection[str] = (),
    ) -> AdmittedWork:
        self._check_usable()
        limits, stages = self._config.pipeline, self._runner.stages
        query = checked_query(text, k, filters, context, priority, without, limits, self._snapshot, stages)
        return AdmittedWork(query, deadline, self._runner.costs)

    def _answer(self, work: Work, *, told: bool = True) -> Page:
        counted = False  # in one stroke with the count, and given back before any call: see "Interrupts"
        try:
            with self._lock:
                self._check_usable()
                self._running += 1
                counted = True
            page = self._answers.run(work)
            if told:
                self._observers.answered(page)
            return page
        finally:
            if counted:
                with self._lock:
                    self._running -= 1
                    if self._closed and not self._running:
                        self._idle.notify_all()

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedError
        if self._closed:
            raise ClosedError("The pipeline was closed.", cure="Open a new one.")

    def _reception(self) -> Reception:
        with self._lock:
            self._check_usable()
            if self._room is None:
                self._room = Reception(self._config, self._runner.stages, lambda: self._running)
            return self._room


_open_pipelines = Inherited()
close_at_end(PIPELINES, _open_pipelines)
