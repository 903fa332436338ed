"""One JSON line a query, through ``logging``."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from searchpipe.metrics.observer import code_of
from searchpipe.metrics.settings import QueryLogSettings
from searchpipe.page import Page

LOGGER = "searchpipe.query"
_MAX_TEXT = 256  # characters of a refused query, which may be of any length


class QueryLog:
    """Logs a share of the answered queries, and the refused ones. Any thread may call anything.

    A record's message is the event's name and its attribute ``fields`` the rest, which
    :class:`JsonFormatter` writes. A caller who left is not logged: the metrics count them.

    Args:
        settings: what to log.
        logger: ``searchpipe.query`` if None.
        draw: a random number from 0 to 1, for the sample.
    """

    def __init__(
        self,
        settings: QueryLogSettings,
        *,
        logger: logging.Logger | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._logger = logger or logging.getLogger(LOGGER)
        self._draw = draw

    def answered(self, page: Page) -> None:
        """Log it, if it is drawn."""
        if not self._logger.isEnabledFor(logging.INFO) or self._draw() >= self._settings.sample:
            return
        self._logger.info("query", extra={"fields": summary(page, texts=self._settings.texts)})

    def refused(self, text: object, error: BaseException) -> None:
        """Log it with its code."""
        code = code_of(error)
        if code == "cancelled":
            return
        fields: dict[str, Any] = {"code": code}
        if self._settings.texts:
            fields["query"] = text[:_MAX_TEXT] if isinstance(text, str) else repr(text)[:_MAX_TEXT]
            fields["error"] = str(error)[: 2 * _MAX_TEXT]  # names the value that was refused
        self._logger.log(
            logging.ERROR if code == "internal" else logging.WARNING, "refused", extra={"fields": fields}
        )


def summary(page: Page, *, texts: bool) -> dict[str, Any]:
    """What one line says of an answer; times in milliseconds."""
    fields: dict[str, Any] = {"query": page.query} if texts else {}
    return fields | {
        "hits": len(page),
        "ms": round(page.trace.total_ms, 3),
        "budget_ms": page.trace.budget_ms if page.trace.budget_ms != float("inf") else None,
        "stages": {span.stage: round(span.ms, 3) for span in page.trace.spans},
        "degraded": [f"{d.stage}:{d.reason}" for d in page.degradations],
        "snapshot": page.snapshot,
        "cached": page.cached,
    }


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON: time (UTC), level, logger, event, and its ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # ASCII: a lone surrogate in a refused query must not break the stream that it is written to.
        return json.dumps(line, default=str)
