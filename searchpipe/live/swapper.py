"""Loads, warms, checks and shadows a new version beside the live one, and lets it serve."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.config import Config
from searchpipe.errors import ClosedError, SearchpipeError, SwapError
from searchpipe.interpreter_end import ending
from searchpipe.live.check import STANDARD, check
from searchpipe.live.compare import Comparison
from searchpipe.live.history import Step
from searchpipe.live.lineup import Lineup
from searchpipe.live.relay import rehearsal
from searchpipe.live.settings import LiveSettings
from searchpipe.live.shadow import Shadow
from searchpipe.live.spec import VersionSpec
from searchpipe.live.version import Version
from searchpipe.metrics.settings import MetricsSettings
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline

Opener = Callable[[Path, Config], Pipeline]
"""Opens a pipeline over a build's folder; for pipelines with stages of the user's own."""

_CLOSED = "The pipeline was closed, or the interpreter began to end, while a version was loaded."
_RECENT = 20  # queries that stand in for golden ones


@dataclass(frozen=True, slots=True)
class SwapReport:
    """A version that was taken on.

    ``check`` compares golden queries, ``shadow`` live ones; None if there was no shadow.
    """

    version: int
    identity: str
    seconds: float
    check: Comparison
    shadow: Comparison | None


def open_build(build: Path, config: Config) -> Pipeline:
    """The ordinary pipeline."""
    return Pipeline.open(build, config)


class Openers:
    """Opens versions and numbers them. Any thread may call anything."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._numbers = itertools.count(1)

    def open(self, spec: VersionSpec) -> Version:
        """Open and warm a version.

        Raises:
            SearchpipeError: of the kind that says why it cannot be opened.
        """
        # Observers belong to the live pipeline: two versions must not write one log.
        config = msgspec.structs.replace(spec.config, metrics=MetricsSettings())
        try:
            pipeline = self._opener(spec.build, config)
        except SearchpipeError:
            raise
        except Exception as error:
            raise SwapError(f"Version {spec.identity} cannot be opened: {error!r}.") from error
        try:
            pipeline.warm_up()
        except Exception as error:
            pipeline.close()
            raise SwapError(f"Version {spec.identity} cannot be warmed up: {error!r}.") from error
        return Version(next(self._numbers), spec, pipeline)


class Swapper:
    """Takes new versions on, one at a time. Any thread may call anything; a second swap waits.

    Args:
        lineup: who serves.
        openers: opens versions.
        settings: the limits of check and shadow.
        closing: whether the live pipeline is being closed.
    """

    def __init__(
        self, lineup: Lineup, openers: Openers, settings: LiveSettings, closing: threading.Event
    ) -> None:
        self._lineup = lineup
        self._openers = openers
        self._settings = settings
        self._closing = closing
        self._lock = threading.Lock()
        self._shadow: Shadow | None = None
        self._recent: list[str] = [""] * _RECENT
        self._asked = 0
        self.last: SwapReport | None = None

    def heard(self, text: str, options: Mapping[str, Any], page: Page) -> None:
        """A caller was answered; called on the caller's thread, so it does next to nothing."""
        self._asked += 1  # a race loses a count, no more
        self._recent[self._asked % _RECENT] = text
        shadow = self._shadow
        if shadow is not None:
            shadow.offer(text, options, page)

    def take_on(self, spec: VersionSpec) -> SwapReport:
        """Prepare a version and let it serve.

        Raises:
            SwapError: it failed its check or its shadow, or too many versions are still closing.
            SearchpipeError: it cannot be opened.
            ClosedError: the live pipeline was closed meanwhile, or the interpreter is ending.
        """
        with self._lock:
            begin = time.monotonic()
            self._go_on()
            history, record = self._lineup.history, self._lineup.record
            number = 0

            def step(name: Step) -> None:
                self._go_on()
                history.add(name, number, spec.identity)

            record.trying(spec)
            new: Version | None = None
            try:
                self._lineup.refuse_if_crowded()
                step("loading")
                new = self._openers.open(spec)
                number = new.number
                step("checking")
                checked = check(
                    new.pipeline, self._ask_live, self._golden(), self._settings.check, go_on=self._go_on
                )
                shadowed = None
                if self._settings.shadow.share > 0 and self._settings.shadow.seconds > 0:
                    step("shadowing")
                    shadowed = self._run_shadow(new)
                self._go_on()
                self._lineup.switch(new)
            except BaseException as error:
                over = self._over()
                if over:
                    record.ended()
                else:
                    record.gave_up(spec)
                if new is not None:
                    new.retire()
                    new.wait_closed()
                what: Step = "given_up" if over else "failed"
                code = error.code if isinstance(error, SearchpipeError) else type(error).__name__
                history.add(what, number, spec.identity, code=code, reason=str(error))
                if over and isinstance(error, Exception):
                    raise ClosedError(_CLOSED) from error
                raise
            report = SwapReport(number, spec.identity, time.monotonic() - begin, checked, shadowed)
            self.last = report
            return report

    def reopen(self, spec: VersionSpec) -> Version:
        """Open a version for a rollback, when no swap is under way.

        Raises:
            SearchpipeError: it cannot be opened.
            ClosedError: the live pipeline was closed meanwhile, or the interpreter is ending.
        """
        with self._lock:
            self._go_on()
            try:
                return self._openers.open(spec)
            except SearchpipeError as error:
                if self._over():
                    raise ClosedError(_CLOSED) from error
                raise

    def wait(self, seconds: float = -1) -> None:
        """Wait for a swap that is under way, for ``seconds`` at most; negative: as long as it takes."""
        if self._lock.acquire(timeout=seconds):
            self._lock.release()

    def _over(self) -> bool:
        """Whether what has failed did so because the live pipeline is being closed, or the process ends."""
        return self._closing.is_set() or ending()

    def _go_on(self) -> None:
        if self._closing.is_set():
            raise ClosedError(_CLOSED)

    def _golden(self) -> list[str]:
        chosen = self._settings.check.queries or [text for text in self._recent if text]
        return list(dict.fromkeys(chosen)) or list(STANDARD)

    def _ask_live(self, text: str) -> Page:
        with rehearsal(), self._lineup.lease() as version:
            return version.pipeline.search(text, budget_ms=self._settings.check.budget_ms)

    def _run_shadow(self, new: Version) -> Comparison:
        shadow = Shadow(new.pipeline, self._settings.shadow)
        self._shadow = shadow
        try:
            return shadow.run(self._go_on)
        finally:
            self._shadow = None
