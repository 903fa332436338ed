"""Looks at the pointers: a snapshot folder's CURRENT, and what is promoted in the engine store."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from searchpipe.errors import ClosedError, SearchpipeError, SwapError
from searchpipe.live.lineup import Lineup
from searchpipe.live.spec import VersionSpec, Wanted

_LOG = logging.getLogger("searchpipe.live")
_LONGEST_S = 300.0  # between two attempts to load what cannot be loaded


class Follower:
    """Takes on what the pointers name, once. One thread calls :meth:`look`.

    A version that was taken back, or refused by its check, is left alone until the pointers move.
    One that cannot be loaded is tried again after a pause that doubles each time.

    Args:
        wanted: gives what the owner wants now.
        lineup: who serves.
        take_on: swaps.
        poll_s: seconds between two looks; the first pause.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        wanted: Callable[[], Wanted],
        lineup: Lineup,
        take_on: Callable[[VersionSpec], object],
        poll_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._wanted = wanted
        self._lineup = lineup
        self._take_on = take_on
        self._poll_s = poll_s
        self._clock = clock
        self._seen: tuple[Wanted, tuple[str, ...]] | None = None
        self._failures = 0
        self._again = -math.inf

    def look(self) -> None:
        """Look once, and swap if there is something new; raises nothing but :class:`ClosedError`."""
        wanted = self._wanted()
        seen = (wanted, wanted.pointers())
        if seen == self._seen and self._clock() < self._again:
            return
        if seen != self._seen:
            self._failures = 0
        if self._lineup.watcher.cooling_s > 0:
            return
        self._seen, self._again = seen, math.inf
        spec: VersionSpec | None = None
        try:
            spec = wanted.pin()
            if spec.identity == self._lineup.current.spec.identity:
                return
            if self._lineup.record.refuses(spec.identity):
                _LOG.info("Version %s is left alone: it was taken back before", spec.identity)
                return
            self._take_on(spec)
        except ClosedError:
            raise
        except SwapError:
            return  # told by the swap
        except SearchpipeError as error:
            if spec is None:
                self._lineup.history.add("failed", 0, "", code=error.code, reason=str(error))
            self._again = self._clock() + min(_LONGEST_S, self._poll_s * 2**self._failures)
            self._failures = min(self._failures + 1, 30)
        except Exception:
            _LOG.exception("A new version could not be taken on")
