"""Live queries answered a second time by a version that does not serve yet."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from searchpipe.cache import uncached
from searchpipe.errors import SearchpipeError, SwapError
from searchpipe.live import compare
from searchpipe.live.compare import Comparison
from searchpipe.live.settings import ShadowSettings
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline

_FEW = 20  # timed queries; the ninth decile of fewer says nothing
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asked for, and got."""

    text: str
    options: Mapping[str, Any]
    page: Page


class Shadow:
    """Compares on a thread of its own. Any thread may :meth:`offer`, which never waits.

    Args:
        new: the version that does not serve yet; must outlive :meth:`run`.
        settings: the limits.
        draw: a random number from 0 to 1.
    """

    def __init__(
        self, new: Pipeline, settings: ShadowSettings, *, draw: Callable[[], float] = random.random
    ) -> None:
        self._new = new
        self._settings = settings
        self._draw = draw
        self._queue: queue.Queue[Asked] = queue.Queue(settings.queue)
        self._over = threading.Event()
        self._failed = 0
        self._dropped = 0
        self._empty = 0
        self._degraded = 0
        self._why = ""
        self._overlaps: list[float] = []
        self._differences: list[float] = []
        self._new_ms: list[float] = []
        self._live_ms: list[float] = []

    def offer(self, text: str, options: Mapping[str, Any], page: Page) -> None:
        """A query was answered by the live version; perhaps it is compared."""
        if self._over.is_set() or self._draw() >= self._settings.share:
            return
        try:
            self._queue.put_nowait(Asked(text, dict(options), page))
        except queue.Full:
            self._dropped += 1  # a race loses a count, no more

    def run(self, go_on: Callable[[], None] = lambda: None) -> Comparison:
        """Compare until there were enough queries or the time is up; then judge.

        Args:
            go_on: called every now and then; may raise.

        Raises:
            SwapError: too many queries failed, or the new version is too slow.
        """
        worker = threading.Thread(target=self._work, name="searchpipe-shadow", daemon=True)
        end = time.monotonic() + self._settings.seconds
        worker.start()
        try:
            while time.monotonic() < end and self._done < self._settings.queries:
                go_on()
                self._over.wait(_LOOK_S)
        finally:
            self._over.set()
            worker.join()
        found = self._result()
        self._judge(found)
        return found

    @property
    def _done(self) -> int:
        return len(self._overlaps) + self._failed

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                asked = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            self._compare(asked)

    def _compare(self, asked: Asked) -> None:
        try:
            with uncached():
                page = self._new.search(asked.text, **{**asked.options, "priority": -100})
        except SearchpipeError as error:
            self._failed += 1
            self._why = str(error)
            return
        broken = compare.broken_parts(page)
        if broken and not compare.broken_parts(asked.page):
            self._failed += 1
            self._why = broken[0]
            return
        self._overlaps.append(compare.page_overlap(asked.page, page))
        self._differences.append(compare.score_difference(asked.page, page))
        self._empty += bool(asked.page.hits) and not page.hits
        self._degraded += page.degraded
        if asked.page.cached:
            return  # its time is not the live version's
        spans = asked.page.trace.spans
        # Waiting for a thread is not the version's doing.
        self._live_ms.append(asked.page.trace.total_ms - (spans[0].start_ms if spans else 0.0))
        self._new_ms.append(page.trace.total_ms)

    def _result(self) -> Comparison:
        compared = len(self._overlaps)
        return Comparison(
            compared=compared,
            failed=self._failed,
            dropped=self._dropped,
            overlap=compare.mean_of(self._overlaps),
            score_difference=compare.mean_of(self._differences),
            new_ms=compare.quantile(self._new_ms, 0.9),
            live_ms=compare.quantile(self._live_ms, 0.9),
            emptied=self._empty / compared if compared else 0.0,
            degraded=self._degraded / compared if compared else 0.0,
        )

    def _judge(self, found: Comparison) -> None:
        limits = self._settings
        done = found.compared + found.failed
        if found.failed > limits.max_failed * done:
            raise SwapError(
                f"In the shadow {found.failed} of {done} queries failed, the last one so: {self._why}",
            )
        most = found.live_ms * limits.latency_ratio + limits.latency_slack_ms
        if len(self._live_ms) >= _FEW and found.new_ms > most:
            raise SwapError(
                f"In the shadow nine of ten queries take up to {found.new_ms:.1f} ms, "
                f"and {found.live_ms:.1f} ms on the live version; {most:.1f} ms are allowed.",
                cure="See live.shadow.latency_ratio and live.shadow.latency_slack_ms.",
            )
