"""The versions that are open: the one that serves, the one before it, and those that are closing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from searchpipe.errors import ClosedError, SearchpipeError, SwapError
from searchpipe.live.history import History
from searchpipe.live.record import Record
from searchpipe.live.relay import Relay
from searchpipe.live.settings import LiveSettings
from searchpipe.live.spec import VersionSpec
from searchpipe.live.version import Version
from searchpipe.live.watcher import Watcher
from searchpipe.metrics.observer import Observers

Reopen = Callable[[VersionSpec], Version]


class Lineup:
    """Who serves. Any thread may call anything; queries take no lock that a swap holds for long.

    Args:
        first: serves from now on.
        settings: how long the version before is kept.
        watcher: judges new versions.
        record: what survives the process.
        history: told of every change.
        observers: hear every query of the version that serves.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        first: Version,
        settings: LiveSettings,
        watcher: Watcher,
        record: Record,
        history: History,
        observers: Observers,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self.watcher = watcher
        self.record = record
        self.history = history
        self._observers = observers
        self._clock = clock
        self._lock = threading.RLock()
        self._current = first
        self._previous: Version | None = None
        self._previous_spec: VersionSpec | None = None
        self._switched = clock()
        self._closing: list[Version] = []
        self._heard: set[int] = set()
        self._closed = False
        self._hear(first)
        watcher.serve(first.number)

    @property
    def current(self) -> Version:
        """The version that serves."""
        return self._current

    @property
    def previous(self) -> Version | None:
        """The version before it, while it is kept open."""
        return self._previous

    def open_versions(self) -> list[Version]:
        """All that are not closed yet, the serving one first."""
        with self._lock:
            self._closing = [one for one in self._closing if not one.closed]
            kept = [self._previous] if self._previous is not None else []
            return [self._current, *kept, *self._closing]

    @contextmanager
    def lease(self) -> Iterator[Version]:
        """The version that serves; it is not closed before the block ends, whatever is switched meanwhile.

        Raises:
            ClosedError: the live pipeline was closed.
        """
        while not self._closed:
            version = self._current
            with version.lease() as leased:
                if leased:
                    yield version
                    return
        raise ClosedError("The pipeline was closed.", cure="Open a new one.")

    def refuse_if_crowded(self) -> None:
        """SwapError if too many replaced versions are still answering."""
        with self._lock:
            self.open_versions()
            if len(self._closing) > self._settings.max_closing:
                raise SwapError(
                    f"{len(self._closing)} replaced versions still answer their last queries; "
                    f"live.max_closing is {self._settings.max_closing}.",
                    cure="Look for queries without a budget, or wait.",
                )

    def switch(self, new: Version) -> None:
        """Let ``new`` serve every query from now on; those that run end on the version they began on.

        Raises:
            ClosedError: the live pipeline was closed; ``new`` is still the caller's.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("The pipeline was closed while a version was loaded.")
            old = self._current
            self._hear(new)
            old_is_good = self.watcher.begin(new.number)
            self._current = new
            self._switched = self._clock()
            if old_is_good:
                stale, self._previous, self._previous_spec = self._previous, old, old.spec
                if self.record.good != old.spec:
                    self.record.proven(old.spec)
            else:
                stale = old  # never proven: a rollback goes to the one before it
            self._retire(stale)
            self.history.add("switched", new.number, new.spec.identity)
            if not self.watcher.on_trial:
                self._prove(new)
            self._drop_previous_if_due()

    def roll_back(
        self, code: str, reason: str, reopen: Reopen, *, only: int | None = None, cool: bool = False
    ) -> None:
        """Let the version before serve again; the one that serves now is not taken on by itself any more.

        Args:
            code: short, for metrics.
            reason: in words, for the history.
            reopen: opens the version before, if it is closed.
            only: do nothing unless this version serves.
            cool: begin the cool-down.

        Raises:
            SwapError: there is no version before this one.
            SearchpipeError: it could not be opened again; the one that serves stays.
        """
        with self._lock:
            bad, target, spec = self._current, self._previous, self._previous_spec
            if only is not None and bad.number != only:
                return
            if spec is None:
                raise SwapError("There is no version before this one to go back to.")
            if target is not None:
                self._take_over(bad, target, code, reason, cool=cool)
                return
        target = reopen(spec)
        with self._lock:
            if self._closed or self._current is not bad:
                self._retire(target)
                return
            self._take_over(bad, target, code, reason, cool=cool)

    def tick(self, reopen: Reopen) -> None:
        """Act on the watcher's verdict, and close the version before when its time is up."""
        verdict = self.watcher.decide()
        if verdict is not None and verdict.good:
            with self._lock:
                if self._current.number == verdict.version:
                    self._prove(self._current)
        elif verdict is not None:
            try:
                self.roll_back(verdict.metric, verdict.reason, reopen, only=verdict.version, cool=True)
            except ClosedError as error:
                self.history.add("given_up", verdict.version, "", code=error.code, reason=verdict.reason)
            except SearchpipeError as error:
                why = f"{verdict.reason}; no rollback: {error}"
                self.history.add("failed", verdict.version, "", code=error.code, reason=why)
        with self._lock:
            self._drop_previous_if_due()

    def close(self) -> None:
        """Refuse new queries, let the running ones end, close all versions. Idempotent."""
        with self._lock:
            self._closed = True
            self._retire(self._previous)
            self._previous = None
            self._current.retire()
            left = self.open_versions()
        for version in left:
            version.wait_closed()

    def _take_over(self, bad: Version, target: Version, code: str, reason: str, *, cool: bool) -> None:
        self._hear(target)
        self.watcher.serve(target.number)
        if cool:
            self.watcher.cool_down()
        self._current = target
        self._previous, self._previous_spec = None, None
        self.record.refuse(bad.spec.identity)
        if self.record.good != target.spec:
            self.record.proven(target.spec)
        self._retire(bad)
        self.history.add("rolled_back", bad.number, bad.spec.identity, code=code, reason=reason)

    def _prove(self, version: Version) -> None:
        self.record.proven(version.spec)
        self.history.add("good", version.number, version.spec.identity)

    def _drop_previous_if_due(self) -> None:
        if self._previous is not None and self._clock() - self._switched >= self._settings.keep_s:
            self._retire(self._previous)
            self._previous = None

    def _hear(self, version: Version) -> None:
        if version.number not in self._heard:
            self._heard.add(version.number)
            version.pipeline.observe(Relay(version.number, self.watcher, self._observers))

    def _retire(self, version: Version | None) -> None:
        if version is None:
            return
        self._heard.discard(version.number)
        version.retire()
        self._closing = [one for one in self._closing if not one.closed]
        self._closing.append(version)
        self.history.add("retired", version.number, version.spec.identity)
