"""Real traffic, as the factory's steps draw from it: queries with strata, and pairs with documents."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Int32
from searchpipe.engine.query_log import DISTINCT_LIMIT, LoggedQuery, LogNotes, read_query_log
from searchpipe.engine.strata import (
    VOTERS,
    TokenCount,
    count_words,
    even_shares,
    length_stratum,
    main_category,
    merge_rare,
    traffic_strata,
)
from searchpipe.errors import FilterError, RecipeError

if TYPE_CHECKING:
    from searchpipe.catalog import Snapshot

STRATA = ("traffic", "category", "length")

MAX_QUERIES = 4000
"""Queries that are drawn from the log: each costs a search of the snapshot, about a millisecond."""

CANDIDATES = 128
"""Documents of a query that pairs are drawn from."""

# Pairs of one visit to a query: more queries for the same rows, and their documents are not all the best.
_ROWS_PER_QUERY = 8
_TOP = 16
# An exact search of so many vectors takes about 10 ms.
_CHEAP_VECTORS = 50_000


@dataclass(frozen=True, slots=True)
class TrafficQuery:
    """A query of the log. Immutable.

    Attributes:
        text: as it was typed.
        count: how often.
        strata: value by name of :data:`STRATA`.
        weight: how many different queries of the log it stands for.
        filters: of one of its searches.
        labels: product id -> grade, where the log has some.
    """

    text: str
    count: int
    strata: dict[str, str]
    weight: float = 1.0
    filters: Mapping[str, Any] | None = None
    labels: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class PairSample:
    """One pair to run a model on: a query's text, a document's ordinal, and the query's strata."""

    query_text: str
    doc: int
    strata: dict[str, str]


class Traffic:
    """Queries drawn from a log by traffic stratum, and what the snapshot recalls for them.

    Any thread may call anything.

    Args:
        queries: see :attr:`queries`.
        snapshot: recalls candidates; None for queries alone.
        notes: what the log was like.
    """

    def __init__(
        self, queries: Sequence[TrafficQuery], snapshot: Snapshot | None = None, notes: LogNotes | None = None
    ) -> None:
        self.queries: list[TrafficQuery] = list(queries)
        self.snapshot = snapshot
        self.notes = notes or LogNotes()
        self._dense_is_cheap = snapshot is not None and (
            snapshot.dense.info.kind != "flat" or snapshot.count <= _CHEAP_VECTORS
        )

    def shares(self) -> dict[str, dict[str, float]]:
        """Share of the searches by stratum: ``{"traffic": {"head": 0.5, ...}, ...}``."""
        sums: dict[str, dict[str, float]] = {}
        total = sum(q.count * q.weight for q in self.queries)
        for query in self.queries:
            for name, value in query.strata.items():
                of_name = sums.setdefault(name, {})
                of_name[value] = of_name.get(value, 0.0) + query.count * query.weight / total
        return sums

    def candidates(self, query: TrafficQuery, k: int = CANDIDATES) -> Int32:
        """Documents recalled for ``query``, the best first: int32 ``(m,)``, m <= k.

        What the lexical index finds under the query's filters, then the nearest neighbours of the
        first document found, where the vector index is cheap to ask.
        """
        snapshot = self._needed_snapshot()
        try:
            mask = snapshot.mask(query.filters)
        except FilterError:
            mask = None  # of a catalog that the snapshot is no longer like
        docs, _ = snapshot.lexical.search(query.text, k, mask=mask)
        if len(docs) and len(docs) < k and self._dense_is_cheap:
            near, _ = snapshot.dense.search(snapshot.vectors(docs[:1])[0], k, mask=mask)
            more = near[~np.isin(near, docs)]
            docs = np.concatenate((docs, more))[:k].astype(np.int32)
        return docs

    def pairs(self, seed: int, n_rows: int) -> list[PairSample]:
        """Draw different pairs, half of them evenly over the strata and half as the traffic is.

        The strata are crossed: each combination that occurs has its share. Of a query's candidates
        the best and the others come in turn. The same seed gives the same pairs.

        Returns:
            Up to ``n_rows`` pairs in random order; fewer where the snapshot gives no more.

        Raises:
            RecipeError: there is no snapshot.
        """
        self._needed_snapshot()
        rng = np.random.default_rng(seed)
        cells: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, query in enumerate(self.queries):
            cells[tuple(query.strata.values())].append(place)
        drawers = [_Drawer(self, cells[key], rng) for key in sorted(cells)]
        traffic = np.array([drawer.searches for drawer in drawers], np.float64)
        wanted = even_shares([n_rows] * len(drawers), n_rows // 2)
        wanted += rng.multinomial(n_rows - int(wanted.sum()), traffic / traffic.sum()) if len(traffic) else 0
        drawn: list[PairSample] = []
        while True:
            for drawer, rows in zip(drawers, wanted, strict=True):
                drawn += drawer.take(int(rows))
            drawers = [drawer for drawer in drawers if not drawer.empty]
            if len(drawn) >= n_rows or not drawers:
                break
            wanted = even_shares([n_rows] * len(drawers), n_rows - len(drawn))
        return [drawn[place] for place in rng.permutation(len(drawn))]

    def close(self) -> None:
        """Let go of the snapshot. Idempotent."""
        if self.snapshot is not None:
            self.snapshot.close()

    def _needed_snapshot(self) -> Snapshot:
        if self.snapshot is None:
            raise RecipeError(
                "Pairs need documents, and no snapshot was named.", cure="Name one with --snapshot."
            )
        return self.snapshot


def read_traffic(
    log: Path,
    snapshot: Snapshot | None,
    *,
    count_tokens: TokenCount = count_words,
    max_queries: int = MAX_QUERIES,
    distinct_limit: int = DISTINCT_LIMIT,
    seed: int = 7,
) -> Traffic:
    """Read a query log and find the strata of its queries.

    Args:
        log: see :func:`searchpipe.engine.query_log.read_query_log`.
        snapshot: gives categories and documents; closed with the result. Every category is ``none``
            without it.
        count_tokens: tokens of a text, for the stratum ``length``.
        max_queries: queries kept, as many as possible of head, torso and tail each.
        distinct_limit: different queries of the log held in memory.
        seed: of what is drawn.

    Raises:
        RecipeError: the log cannot be read or holds no query.
    """
    logged, notes = read_query_log(log, limit=distinct_limit, seed=seed)
    names = traffic_strata([q.count for q in logged], [q.weight for q in logged])
    kept = _drawn(logged, names, max_queries, seed)
    bare = Traffic([], snapshot, notes)
    categories = []
    for query, name in kept:
        plain = TrafficQuery(query.text, query.count, {"traffic": name}, filters=query.filters)
        docs = bare.candidates(plain, VOTERS) if snapshot is not None else np.empty(0, np.int32)
        categories.append(main_category(snapshot, docs) if snapshot is not None else "none")
    categories = merge_rare(categories, [query.weight for query, _ in kept])
    bare.queries = [
        TrafficQuery(
            query.text,
            query.count,
            {"traffic": name, "category": category, "length": length_stratum(count_tokens(query.text))},
            query.weight,
            query.filters,
            query.labels,
        )
        for (query, name), category in zip(kept, categories, strict=True)
    ]
    return bare


def open_traffic(
    log: Path | None, snapshot: Path | None, *, count_tokens: TokenCount = count_words, seed: int = 7
) -> Traffic:
    """:func:`read_traffic` of the files that a build names.

    Raises:
        RecipeError: there is no log, or it cannot be read.
        SnapshotError: the snapshot cannot be opened.
    """
    from searchpipe.catalog import Snapshot

    if log is None:
        raise RecipeError("Traffic is needed, and no query log was named.", cure="Name one with --log.")
    opened = Snapshot.open(snapshot) if snapshot is not None else None
    try:
        return read_traffic(log, opened, count_tokens=count_tokens, seed=seed)
    except BaseException:
        if opened is not None:
            opened.close()
        raise


def _drawn(
    logged: list[LoggedQuery], names: list[str], most: int, seed: int
) -> list[tuple[LoggedQuery, str]]:
    """At most ``most`` queries, evenly of each stratum, in the order of the log; weights grow accordingly."""
    rng = np.random.default_rng(seed)
    groups = {name: np.flatnonzero(np.array(names) == name) for name in sorted(set(names))}
    sizes = [len(places) for places in groups.values()]
    chosen: list[int] = []
    for places, number in zip(groups.values(), even_shares(sizes, most), strict=True):
        for place in rng.choice(places, int(number), replace=False).tolist():
            logged[place].weight *= len(places) / int(number)
            chosen.append(place)
    return [(logged[place], names[place]) for place in sorted(chosen)]


class _Drawer:
    """Draws pairs of the queries of one combination of strata, no pair twice. For one thread."""

    def __init__(self, traffic: Traffic, places: list[int], rng: np.random.Generator) -> None:
        self._traffic = traffic
        self._rng = rng
        self._queue = deque(traffic.queries[place] for place in rng.permutation(places))
        self._left: dict[int, list[int]] = {}
        self.searches = sum(q.count * q.weight for q in self._queue)

    @property
    def empty(self) -> bool:
        """Whether every pair was drawn."""
        return not self._queue

    def take(self, rows: int) -> list[PairSample]:
        """Up to ``rows`` pairs more."""
        drawn: list[PairSample] = []
        while len(drawn) < rows and self._queue:
            query = self._queue.popleft()
            left = self._left.get(id(query))
            if left is None:
                left = self._left[id(query)] = self._order(self._traffic.candidates(query))
            number = min(_ROWS_PER_QUERY, rows - len(drawn), len(left))
            drawn += [PairSample(query.text, doc, query.strata) for doc in left[:number]]
            del left[:number]
            if left:
                self._queue.append(query)
        return drawn

    def _order(self, docs: Int32) -> list[int]:
        """The best documents and the others in turn, each in random order."""
        best, others = self._rng.permutation(docs[:_TOP]), self._rng.permutation(docs[_TOP:])
        turns = min(len(best), len(others))
        mixed = np.stack((best[:turns], others[:turns]), axis=1).ravel()
        return [int(doc) for doc in np.concatenate((mixed, best[turns:], others[turns:]))]
