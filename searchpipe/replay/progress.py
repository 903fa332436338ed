"""A line on the terminal while a replay runs."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from searchpipe.replay.run import ReplayState

_PLAIN_EVERY_S = 10.0


class LiveLine:
    """Shows rate, P50 and P99 of the last second; a line every 10 s where there is no terminal.

    ``tell`` is called from one thread, the rest from the one that made it.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._status = console.status("Reading the log") if console is not None else None
        self._printed = time.monotonic()
        self._before_s = 0.0

    def __enter__(self) -> LiveLine:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, state: ReplayState) -> None:
        """Show a state."""
        if self._console is None or self._status is None:
            return
        text = self._line(state)
        if self._console.is_terminal:
            self._status.update(text)
        elif time.monotonic() - self._printed >= _PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, state: ReplayState) -> str:
        live = state.live
        seconds = max(1e-9, state.elapsed_s - self._before_s)
        rate = live.recent / seconds
        self._before_s = state.elapsed_s
        failed = f", {live.failed:,} failed" if live.failed else ""
        return (
            f"{state.elapsed_s:,.0f} s, {state.share:.0%} of the log: {live.answered:,} answered{failed}, "
            f"{rate:,.0f}/s, P50 {_ms(live.p50_ms)}, P99 {_ms(live.p99_ms)}, {state.in_flight} in flight"
        )


def _ms(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f} ms"
