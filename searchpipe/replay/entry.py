"""One logged search, and how a line of a log becomes one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

MAX_TEXT = 10_000
"""Characters of a query; a longer one is a broken line."""

MAX_IDS = 10_000
"""Clicks or labels of one line."""

# No clock of a log runs before 1973 in milliseconds or beyond the year 5138 in seconds, and so on.
_MILLISECONDS_FROM = 1e11
_MICROSECONDS_FROM = 1e14
_NANOSECONDS_FROM = 1e17

_NAMES = {
    "ts": ("ts", "timestamp", "time", "@timestamp"),
    "query": ("query", "q", "text"),
    "k": ("k", "size"),
    "filters": ("filters",),
    "budget_ms": ("budget_ms", "budget"),
    "clicks": ("clicks", "clicked"),
    "labels": ("labels",),
    "context": ("context",),
}


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One search of a log. Immutable; also the line that :func:`searchpipe.replay.writer.write_log` writes.

    Attributes:
        ts: when it was asked, in seconds (since 1970 or any other start).
        query: what was typed.
        k: hits asked for; None for the pipeline's default.
        filters: see :func:`searchpipe.catalog.filters.parse_filters`.
        budget_ms: budget in milliseconds; None for the pipeline's default.
        clicks: ids of the products clicked.
        labels: product id -> gain, 0 or more.
        context: user and session features, handed to the rankers.
    """

    ts: float
    query: str
    k: int | None = None
    filters: dict[str, Any] | None = None
    budget_ms: float | None = None
    clicks: tuple[str, ...] = ()
    labels: dict[str, float] | None = None
    context: dict[str, Any] | None = None


class LineError(ValueError):
    """A line that holds no search; the text says why."""


def parse_row(row: Mapping[str, Any], *, needs_time: bool = True) -> Entry:
    """An entry from a decoded JSON object or a CSV record (whose values are strings).

    Keys: ``ts`` (also ``timestamp``, ``time``), ``query`` (``q``, ``text``), and optionally ``k``,
    ``filters``, ``budget_ms``, ``clicks``, ``labels``, ``context``; others are ignored. In a CSV cell,
    filters and context are a JSON object, clicks are a JSON array or ids separated by ``|``, and
    labels are a JSON object or ``id:gain`` separated by ``|``.

    Raises:
        LineError: a key is missing or its value cannot be used.
    """
    found = {field: _first(row, names) for field, names in _NAMES.items()}
    query = found["query"]
    if not isinstance(query, str) or not query.strip():
        raise LineError("no query" if query is None or query == "" else f"query is {_shown(query)}")
    if len(query) > MAX_TEXT:
        raise LineError(f"the query has {len(query)} characters, over {MAX_TEXT}")
    return Entry(
        _time(found["ts"], needs_time),
        query,
        _k(found["k"]),
        _object(found["filters"], "filters"),
        _budget(found["budget_ms"]),
        _clicks(found["clicks"]),
        _labels(found["labels"]),
        _object(found["context"], "context"),
    )


def parse_time(value: Any) -> float:
    """Seconds from seconds, milliseconds, microseconds or nanoseconds since 1970, or ISO 8601 text.

    The unit of a number is told by its size: from 1e11 on it is milliseconds (1e11 ms is in
    1973), from 1e14 microseconds, from 1e17 nanoseconds. ISO times without a zone are UTC.

    Raises:
        LineError: none of these.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            number = float(text) if re.fullmatch(r"[-+0-9.eE]+", text) else None
            if number is None:
                moment = datetime.fromisoformat(text)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError) as error:
            raise LineError(f"timestamp is {_shown(value)}") from error
        value = number
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LineError("no timestamp" if value is None else f"timestamp is {_shown(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise LineError("timestamp is too large") from error
    if not math.isfinite(number) or abs(number) >= 1e20:
        raise LineError(f"timestamp is {_shown(value)}")
    for least, unit in ((_NANOSECONDS_FROM, 1e9), (_MICROSECONDS_FROM, 1e6), (_MILLISECONDS_FROM, 1e3)):
        if abs(number) >= least:
            return number / unit
    return number


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = row.get(name)
        if value is not None:
            return value
    return None


def _time(value: Any, needed: bool) -> float:
    return 0.0 if value is None and not needed else parse_time(value)


def _number(value: Any, what: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise LineError(f"{what} is {_shown(value)}") from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e12:
        raise LineError(f"{what} is {_shown(value)}")
    return float(value)


def _k(value: Any) -> int | None:
    if value is None:
        return None
    number = _number(value, "k")
    if number != int(number) or not 1 <= number <= 1_000_000:
        raise LineError(f"k is {_shown(value)}")
    return int(number)


def _budget(value: Any) -> float | None:
    if value is None:
        return None
    number = _number(value, "budget_ms")
    if not 0 < number <= 600_000:
        raise LineError(f"budget_ms is {_shown(value)}, not over 0 and up to 600000")
    return number


def _json(text: str, what: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogatepass"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LineError(f"{what} is no JSON: {error}") from error


def _object(value: Any, what: str) -> dict[str, Any] | None:
    if isinstance(value, str):
        value = _json(value, what)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise LineError(f"{what} is {_shown(value)}, not an object")
    return value or None


def _clicks(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = (
            _json(value, "clicks")
            if value.lstrip().startswith("[")
            else [part.strip() for part in value.split("|") if part.strip()]
        )
    if not isinstance(value, list) or len(value) > MAX_IDS:
        raise LineError(f"clicks is {_shown(value)}, not a list of up to {MAX_IDS} ids")
    return tuple(dict.fromkeys(_id(item, "clicks") for item in value))


def _labels(value: Any) -> dict[str, float] | None:
    if isinstance(value, str):
        value = _json(value, "labels") if value.lstrip().startswith("{") else _label_pairs(value)
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_IDS:
        raise LineError(f"labels is {_shown(value)}, not an object of up to {MAX_IDS} ids and gains")
    labels = {_id(key, "labels"): _number(gain, "a gain") for key, gain in value.items()}
    if any(gain < 0 for gain in labels.values()):
        raise LineError("labels hold a negative gain")
    return labels or None


def _label_pairs(text: str) -> dict[str, str]:
    pairs = [part.rpartition(":") for part in text.split("|") if part.strip()]
    if any(not colon or not key.strip() for key, colon, _ in pairs):
        raise LineError(f"labels is {_shown(text)}, not id:gain separated by |")
    return {key.strip(): gain for key, _, gain in pairs}


def _id(value: Any, what: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise LineError(f"{what} hold {_shown(value)}, which is no id")
    return str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
