"""Head, torso or tail of each query of a log, found in a first pass in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from searchpipe.engine.query_log import DISTINCT_LIMIT, LoggedQuery, QueryCounter
from searchpipe.engine.strata import traffic_strata
from searchpipe.replay.entry import Entry

STRATA: Final = ("head", "torso", "tail")


class TrafficStrata:
    """Strata by how often a query is searched for: see :func:`searchpipe.engine.strata.traffic_strata`.

    Immutable: any thread may ask. Holds the texts of head and torso alone, at most
    ``DISTINCT_LIMIT`` of them.
    """

    def __init__(self, names: dict[str, str], *, sampled: float = 1.0) -> None:
        self._names = names
        self.sampled = sampled
        """Share of the different queries that were counted exactly; below 1 for huge logs."""

    def of(self, entry: Entry) -> str:
        """The query's stratum."""
        return self._names.get(_key(entry.query), "tail")


T = TypeVar("T")


def find_strata(entries: Iterable[Entry], *, limit: int = DISTINCT_LIMIT) -> TrafficStrata:
    """Count the queries of a log and find their strata."""
    return counted_strata(entries, lambda passing: deque(passing, maxlen=0), limit=limit)[0]


def counted_strata(
    entries: Iterable[Entry], use: Callable[[Iterator[Entry]], T], *, limit: int = DISTINCT_LIMIT
) -> tuple[TrafficStrata, T]:
    """The strata, and what ``use`` makes of the same pass over the entries (it must take all of them)."""
    counter = QueryCounter(limit)

    def passing() -> Iterator[Entry]:
        for entry in entries:
            counter.add(LoggedQuery(" ".join(entry.query.split()), 1))
            yield entry

    made = use(passing())
    queries = counter.queries()
    strata = traffic_strata([query.count for query in queries], [query.weight for query in queries])
    names = {_key(query.text): name for query, name in zip(queries, strata, strict=True) if name != "tail"}
    return TrafficStrata(names, sampled=counter.sampled), made


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()
