"""Counting the queries of a log of any size in bounded memory."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from searchpipe.catalog.readers.lines import LineFile
from searchpipe.decodable import decodable
from searchpipe.errors import CatalogError, RecipeError

MAX_LINE_BYTES = 1 << 20
# A pasted page is not what people search for; beyond, a text is cut.
MAX_TEXT = 1000
DISTINCT_LIMIT = 200_000
"""Different queries held at once, about 300 bytes each."""

_NAMED_LINES = 5
_HASH_RANGE = 1 << 64


class _Line(msgspec.Struct):
    """What is read of a line; other keys are of no use here."""

    query: str
    count: Annotated[int, msgspec.Meta(ge=1, le=10**12)] = 1
    filters: dict[str, Any] | None = None
    labels: dict[str, Annotated[int, msgspec.Meta(ge=0, le=1000)]] | None = None


@dataclass(slots=True)
class LoggedQuery:
    """A query of the log.

    Attributes:
        text: as first spelled, white space collapsed.
        count: how often it was searched for.
        weight: how many different queries it stands for: 1, more where a huge log was sampled.
        filters: of one of its searches, drawn evenly among them.
        labels: product id -> grade, of its last labelled search.
    """

    text: str
    count: int
    weight: float = 1.0
    filters: Mapping[str, Any] | None = None
    labels: Mapping[str, int] | None = None


@dataclass(slots=True)
class LogNotes:
    """What was met on the way.

    Attributes:
        lines: of the file that are not blank.
        searches: sum of the counts.
        blank: lines whose query is empty.
        broken: lines that are no query.
        examples: line number and reason of the first broken lines.
        sampled: share of the different queries that were counted; 1 unless there were too many.
        count_error: counts of frequent queries may be too low by so much, where sampled.
    """

    lines: int = 0
    searches: int = 0
    blank: int = 0
    broken: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    sampled: float = 1.0
    count_error: int = 0


class QueryCounter:
    """Counts queries: exactly while they fit, then the frequent ones and a sample of the rest.

    Once more than ``limit`` different queries were seen, those whose hash is below a threshold,
    halved as often as needed, are kept with their exact counts: an even sample of the different
    queries (distinct sampling, Gibbons, VLDB 2001). Frequent queries are found beside it with
    counters that lose at most ``searches / limit * 4`` of a count (Misra and Gries 1982, purged in
    bulk). For one thread.
    """

    def __init__(self, limit: int = DISTINCT_LIMIT, seed: int = 0) -> None:
        self._limit = max(limit, 8)
        self._threshold = _HASH_RANGE
        self._sample: dict[str, LoggedQuery] = {}
        self._frequent: dict[str, LoggedQuery] | None = None
        self._error = 0
        self._random = random.Random(seed)

    def add(self, line: LoggedQuery) -> None:
        """Count one line of the log."""
        key = line.text.casefold()
        if self._frequent is not None:
            self._count_frequent(key, line)
            if _hash(key) >= self._threshold:
                return
        self._merge(self._sample, key, line)
        while len(self._sample) > self._limit:
            self._halve()

    @property
    def sampled(self) -> float:
        """Share of the different queries that is held."""
        return self._threshold / _HASH_RANGE

    @property
    def error(self) -> int:
        """Counts of frequent queries that are not in the sample may be too low by so much."""
        return self._error

    def queries(self) -> list[LoggedQuery]:
        """Different queries, the most frequent first; weights are the inverse of the chance to be here."""
        found = []
        # Whatever occurred more than twice the error is certain to be among the counters.
        frequent = {k: q for k, q in (self._frequent or {}).items() if q.count > self._error}
        for key, query in frequent.items():
            exact = self._sample.get(key)
            found.append(exact if exact is not None else query)
        for key, query in self._sample.items():
            if key not in frequent:
                query.weight = 1.0 / self.sampled
                found.append(query)
        return sorted(found, key=lambda q: (-q.count, q.text))

    def _merge(self, held: dict[str, LoggedQuery], key: str, line: LoggedQuery) -> None:
        known = held.get(key)
        if known is None:
            held[key] = LoggedQuery(line.text, line.count, 1.0, line.filters, line.labels)
            return
        known.count += line.count
        if self._random.random() < line.count / known.count:
            known.filters = line.filters
        if line.labels:
            known.labels = line.labels

    def _halve(self) -> None:
        if self._frequent is None:
            self._frequent = {
                key: LoggedQuery(q.text, q.count, 1.0, q.filters, q.labels) for key, q in self._sample.items()
            }
            self._purge()
        self._threshold //= 2
        self._sample = {key: q for key, q in self._sample.items() if _hash(key) < self._threshold}

    def _count_frequent(self, key: str, line: LoggedQuery) -> None:
        assert self._frequent is not None
        self._merge(self._frequent, key, line)
        if len(self._frequent) > self._limit // 2:
            self._purge()

    def _purge(self) -> None:
        assert self._frequent is not None
        keep = self._limit // 4
        lost = heapq.nlargest(keep + 1, (q.count for q in self._frequent.values()))[-1]
        self._error += lost
        for query in self._frequent.values():
            query.count -= lost
        self._frequent = {key: q for key, q in self._frequent.items() if q.count > 0}


def read_query_log(
    path: Path, *, limit: int = DISTINCT_LIMIT, max_broken_share: float = 0.2, seed: int = 0
) -> tuple[list[LoggedQuery], LogNotes]:
    """Read JSON Lines of queries (gzip too): ``{"query": str, "count": int, "filters": {}, "labels": {}}``.

    Only ``query`` must be there. Texts that differ in case and white space alone are one query.

    Args:
        path: the log.
        limit: different queries held at once.
        max_broken_share: a larger share of broken lines is refused.
        seed: of the filters drawn.

    Returns:
        The different queries, the most frequent first, and what was met on the way.

    Raises:
        RecipeError: the file cannot be read, holds no query, or too many lines are broken.
    """
    counter = QueryCounter(limit, seed)
    notes = LogNotes()
    decoder = msgspec.json.Decoder(decodable(_Line))
    try:
        for number, content, too_long in LineFile(path, max_line_bytes=MAX_LINE_BYTES):
            if not content.strip():
                continue
            notes.lines += 1
            try:
                if too_long:
                    raise msgspec.ValidationError(f"longer than {MAX_LINE_BYTES:,} bytes")
                line = decoder.decode(content)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                notes.broken += 1
                if len(notes.examples) < _NAMED_LINES:
                    notes.examples.append((number, str(error)))
                continue
            text = " ".join(line.query[: 2 * MAX_TEXT].split())[:MAX_TEXT]
            if not text:
                notes.blank += 1
                continue
            notes.searches += line.count
            counter.add(LoggedQuery(text, line.count, 1.0, line.filters or None, line.labels or None))
    except (OSError, CatalogError) as error:
        raise RecipeError(f"The query log {path} cannot be read: {error}") from error
    named = "; ".join(f"line {number}: {reason}" for number, reason in notes.examples)
    if notes.broken > max_broken_share * notes.lines:
        raise RecipeError(
            f"{notes.broken:,} of {notes.lines:,} lines of {path} are no queries ({named}).",
            cure='Each line must be a JSON object like {"query": "red shoes"}.',
        )
    if not notes.searches:
        raise RecipeError(f"The query log {path} holds no query.", cure="Name a log of real searches.")
    notes.sampled, notes.count_error = counter.sampled, counter.error
    return counter.queries(), notes


def _hash(key: str) -> int:
    # surrogatepass: JSON may hold lone surrogates.
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
