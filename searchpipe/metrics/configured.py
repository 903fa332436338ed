"""The observers that a configuration asks for."""

from __future__ import annotations

from contextlib import ExitStack

from searchpipe.metrics.observer import Observer
from searchpipe.metrics.settings import MetricsSettings


def open_observers(settings: MetricsSettings, owner: ExitStack) -> list[Observer]:
    """Open them; ``owner`` closes what needs closing.

    Raises:
        ConfigError: the slow-query log's file cannot be written.
    """
    observers: list[Observer] = []
    if settings.log.enabled:
        from searchpipe.metrics.query_log import QueryLog

        observers.append(QueryLog(settings.log))
    if settings.slow.file:
        from searchpipe.metrics.slow_log import SlowLog

        slow = SlowLog(settings.slow)
        owner.callback(slow.close)
        observers.append(slow)
    return observers
