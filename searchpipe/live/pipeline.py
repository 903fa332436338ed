"""The face of a pipeline over versions that come and go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from searchpipe.errors import ClosedError, ForkedError, SearchpipeError
from searchpipe.forks import Inherited
from searchpipe.interpreter_end import LIVE, close_at_end
from searchpipe.live.follower import Follower
from searchpipe.live.history import Event, History
from searchpipe.live.lineup import Lineup
from searchpipe.live.record import Record
from searchpipe.live.serving import Serving
from searchpipe.live.spec import ConfigSource, VersionSpec, Wanted
from searchpipe.live.start import start_version
from searchpipe.live.swapper import Opener, Openers, Swapper, SwapReport, open_build
from searchpipe.live.version import Version
from searchpipe.live.watcher import Watcher
from searchpipe.metrics.observer import Observer, Observers
from searchpipe.page import Page

_LOG = logging.getLogger("searchpipe.live")


class LivePipeline(Serving):
    """Like :class:`searchpipe.pipeline.Pipeline`, but its snapshot, engines and settings can be replaced.

    Every query runs wholly on one version, which its page names (``snapshot`` and ``engine``); none fails
    because of a switch. Any thread may call anything, in the process that opened it. ``swap``, ``reload``
    and ``rollback`` are for a thread that can wait.
    """

    def __init__(
        self,
        wanted: Wanted,
        first: Version,
        openers: Openers,
        record: Record,
        history: History,
        observers: Observers,
        clock: Callable[[], float],
    ) -> None:
        settings = wanted.config.live
        self._wanted = wanted
        self._settings = settings
        self._observers = observers
        self._own = ExitStack()
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._woken = threading.Event()
        self._forked = False
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        watcher = Watcher(settings.watch, clock)
        self._lineup = Lineup(first, settings, watcher, record, history, observers, clock)
        self._swapper = Swapper(self._lineup, openers, settings, self._closing)
        self._follower = Follower(
            lambda: self._wanted, self._lineup, self._swapper.take_on, settings.poll_s, clock
        )
        _open_pipelines.add(self)

    @classmethod
    def open(
        cls,
        snapshot: str | Path,
        config: ConfigSource = None,
        *,
        state: str | Path | None = None,
        opener: Opener = open_build,
        observers: Iterable[Observer] = (),
        listener: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        watch: bool = True,
    ) -> LivePipeline:
        """Open and warm the last good version, or what is published if there is none.

        If the last good version (of the same snapshot folder) is not what is wanted now, it serves
        nevertheless; :meth:`reload` and :meth:`follow` take on what is wanted.

        Args:
            snapshot: the folder that ``searchpipe index`` writes.
            config: as :meth:`searchpipe.pipeline.Pipeline.open` takes it; ``[live]`` is read from here
                once, for as long as this object lives.
            state: folder of the last good version; ``live.state`` if None.
            opener: opens the pipeline of a version.
            observers: told of every query, beside those that ``[metrics]`` asks for.
            listener: told of every step of a swap, on the thread that swaps.
            clock: monotonic seconds.
            watch: judge new versions on a thread of its own; without it nothing is taken back
                unless :meth:`tick` is called.

        Raises:
            SnapshotError, ConfigError, ModelError, EngineError, PipelineError, RegistryError: as for a
                pipeline; only when the last good version cannot be opened either.
        """
        from searchpipe.metrics.configured import open_observers

        wanted = Wanted.read(snapshot, config)
        settings = wanted.config.live
        folder = Path(state) if state is not None else Path(settings.state) if settings.state else None
        record = Record(folder, wanted.root)
        history = History(record, listener)
        openers = Openers(opener)
        told = Observers()
        with ExitStack() as undo:
            own = undo.enter_context(ExitStack())
            for observer in (*open_observers(wanted.config.metrics, own), *observers):
                told.add(observer)
            first = start_version(wanted, openers, record, history)
            undo.callback(first.pipeline.close)
            live = cls(wanted, first, openers, record, history, told, clock)
            live._own.push(own.pop_all())
            undo.pop_all()
        if watch and settings.watch.seconds > 0:
            live._begin("watch", live._watch)
        return live

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
        """See :meth:`searchpipe.pipeline.Pipeline.search`."""
        with self._leased(text) as version:
            page = version.pipeline.search(
                text, k, budget_ms, filters, context, priority=priority, without=without
            )
        self._heard(text, k, budget_ms, filters, context, without, page)
        return page

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
        """See :meth:`searchpipe.pipeline.Pipeline.asearch`."""
        with self._leased(text) as version:
            page = await version.pipeline.asearch(
                text, k, budget_ms, filters, context, priority=priority, without=without
            )
        self._heard(text, k, budget_ms, filters, context, without, page)
        return page

    def swap(self, snapshot: str | Path | None = None, config: ConfigSource = None) -> SwapReport:
        """Take on another snapshot folder, or other settings, or both; what is not given stays wanted.

        The new version is loaded, warmed, checked and shadowed beside the one that serves, and then
        serves every query that begins. On any error the old one serves on.

        Raises:
            SwapError: it failed its check or its shadow.
            SearchpipeError: it cannot be opened; the class says why.
        """
        self._check_usable()
        before = self._wanted
        wanted = Wanted.read(
            before.root if snapshot is None else snapshot, before.source if config is None else config
        )
        report = self._swapper.take_on(self._pin(wanted))
        self._wanted = wanted
        return report

    def reload(self) -> SwapReport | None:
        """Take on what is published and promoted now, a configuration file read anew; None if that serves.

        Raises:
            SwapError, SearchpipeError: see :meth:`swap`.
        """
        self._check_usable()
        wanted = Wanted.read(self._wanted.root, self._wanted.source)
        spec = self._pin(wanted)
        self._wanted = wanted
        if spec.identity == self._lineup.current.spec.identity:
            return None
        return self._swapper.take_on(spec)

    def rollback(self, reason: str = "asked for") -> None:
        """Let the version before serve again, reopened if need be; the present one is not followed again.

        Raises:
            SwapError: there is none.
            SearchpipeError: it cannot be opened again; the present one serves on.
        """
        self._check_usable()
        self._lineup.roll_back("manual", reason, self._swapper.reopen)

    def follow(self) -> None:
        """Take on by itself, from now on, what is published in the folder and promoted in the store."""
        self._check_usable()
        self._begin("follow", self._follow)

    def request_reload(self) -> None:
        """Have the following thread :meth:`reload` soon; returns at once. Needs :meth:`follow`."""
        self._woken.set()

    def tick(self) -> None:
        """Judge the version on trial once, as the watching thread does every ``live.watch.every_s``."""
        self._lineup.tick(self._swapper.reopen)

    def observe(self, observer: Observer) -> None:
        """See :meth:`searchpipe.pipeline.Pipeline.observe`; whichever version answers."""
        self._observers.add(observer)

    @property
    def history(self) -> list[Event]:
        """What happened to the versions, the oldest first."""
        return self._lineup.history.events

    @property
    def lineup(self) -> Lineup:
        """Which versions are open, and how they do."""
        return self._lineup

    @property
    def last_swap(self) -> SwapReport | None:
        """How the last version that was taken on compared with the one before it."""
        return self._swapper.last

    def close(self) -> None:
        """Refuse new queries, end a swap under way, let running queries end, close all. Idempotent."""
        if self._forked:
            return
        with self._lock:
            self._closing.set()
            self._woken.set()
        self._swapper.wait()
        self._lineup.record.ended()
        self._lineup.close()
        for thread in self._threads.values():
            if thread is not threading.current_thread():
                thread.join()
        self._own.close()
        _open_pipelines.discard(self)

    def end(self, seconds: float) -> None:
        """Close because the interpreter ends; a swap under way ends at its next step, or is left."""
        if self._forked:
            return
        self._closing.set()
        self._woken.set()
        self._lineup.record.ended()
        due = time.monotonic() + seconds
        self._swapper.wait(seconds / 2)
        for version in self._lineup.open_versions():
            version.end(max(0.0, due - time.monotonic()))
        self._own.close()

    def __enter__(self) -> LivePipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forsake(self) -> None:
        """Called in the child of a fork."""
        self._forked = True

    def _pin(self, wanted: Wanted) -> VersionSpec:
        try:
            return wanted.pin()
        except SearchpipeError as error:
            self._lineup.history.add("failed", 0, "", code=error.code, reason=str(error))
            raise

    def _check_usable(self) -> None:
        if self._forked:
            raise ForkedError
        if self._closing.is_set():
            raise ClosedError("The pipeline was closed.", cure="Open a new one.")

    @contextmanager
    def _leased(self, text: object) -> Iterator[Version]:
        try:
            self._check_usable()
        except SearchpipeError as error:
            self._observers.refused(text, error)
            raise
        with self._lineup.lease() as version:
            yield version

    def _heard(
        self,
        text: str,
        k: int,
        budget_ms: float | None,
        filters: Mapping[str, Any] | None,
        context: Mapping[str, Any] | None,
        without: Collection[str],
        page: Page,
    ) -> None:
        options = {
            "k": k,
            "budget_ms": budget_ms,
            "filters": filters,
            "context": context,
            "without": without,
        }
        self._swapper.heard(text, options, page)

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        with self._lock:
            if name in self._threads or self._closing.is_set():
                return
            thread = threading.Thread(target=work, name=f"searchpipe-live-{name}", daemon=True)
            self._threads[name] = thread
            thread.start()

    def _watch(self) -> None:
        while not self._closing.wait(self._settings.watch.every_s):
            try:
                self.tick()
            except Exception:
                _LOG.exception("The version on trial could not be judged")

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                self._follower.look()
                if self._woken.wait(self._settings.poll_s):
                    self._woken.clear()
                    self.reload()
            except ClosedError:
                return
            except SearchpipeError as error:
                _LOG.warning("Not reloaded: %s", error)  # the history has it too
            except Exception:
                _LOG.exception("Not reloaded")


_open_pipelines = Inherited()
close_at_end(LIVE, _open_pipelines)
