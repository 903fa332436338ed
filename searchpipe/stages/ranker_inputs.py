"""A learned ranker's inputs: hashed categories and dense features of a query's candidates."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from searchpipe._core import TokenStore
from searchpipe.arrays import Array, Bool, Float32, Int32, Int64
from searchpipe.candidates import Candidates
from searchpipe.stages.base import Work
from searchpipe.stages.features import Columns, Features
from searchpipe.stages.ranker_definition import RankerDefinition

_TITLE_TOKENS, _TEXT_TOKENS = 24, 96
_CLASS_FROM, _SHARE_FROM = 10, 20  # first candidates that say what a query is about
_WORDS = 10.0
_OF_FORMULA = frozenset(("fused", "lexical", "dense", "fused_rank", "popularity", "rating"))
_NONE = -1


class RankerInputs:
    """Computes what a :class:`RankerDefinition` names. Any thread may call anything.

    Args:
        columns: of the snapshot; ``brand``, ``category``, ``price``, ``rating`` and ``rating_count`` are
            read, each of which may be missing.
        tokens: the documents' tokens; their beginning is taken for the title.
        definition: what is wanted, in which order.
    """

    def __init__(self, columns: Columns, tokens: TokenStore, definition: RankerDefinition) -> None:
        self.definition = definition
        self._columns = columns
        self._tokens = tokens
        self._features = Features(columns)
        self._lock = threading.Lock()
        self._hashed: dict[tuple[str, int], Int64] = {}

    def feeds(self, work: Work) -> dict[str, Array]:
        """``categories`` int64 ``[n, c]`` and ``dense`` float32 ``[n, d]`` of ``n`` candidates."""
        assert work.candidates is not None
        view = _View(self._columns, work.candidates)
        context = work.query.context
        return {
            "categories": self._categories(view, context),
            "dense": self._dense(view, work, context),
        }

    def _categories(self, view: _View, context: Mapping[str, Any]) -> Int64:
        out = np.zeros((view.count, len(self.definition.categories)), np.int64)
        for place, table in enumerate(self.definition.categories):
            if table.name in ("device", "user"):
                out[:, place] = hashed(context.get(table.name), table.rows)
                continue
            column = "brand" if table.name == "brand" else "category"
            codes = view.codes(table.name)
            rows = self._rows(column, table.rows)
            known = codes >= 0
            out[known, place] = rows[codes[known]] if len(rows) else 0
        return out

    def _rows(self, column: str, rows: int) -> Int64:
        """Table row by category code, hashed once a column."""
        with self._lock:
            found = self._hashed.get((column, rows))
            if found is None:
                values = getattr(_column(self._columns, column), "categories", [])
                found = np.array([hashed(value, rows) for value in values], np.int64)
                self._hashed[column, rows] = found
            return found

    def _dense(self, view: _View, work: Work, context: Mapping[str, Any]) -> Float32:
        out = np.zeros((view.count, len(self.definition.dense)), np.float32)
        formula = [name for name in self.definition.dense if name in _OF_FORMULA]
        plain = dict(zip(formula, self._features.matrix(formula, work).T, strict=True))
        query = work.pair_tokens if work.pair_tokens is not None else work.tokens
        overlaps = {"title_overlap", "text_overlap"} & set(self.definition.dense)
        shared = self._overlaps(query, view.docs) if overlaps else {}
        made: dict[str, Callable[[], Any]] = {
            "price_place": view.price_place,
            "has_price": view.has_price,
            "category_share": view.category_share,
            "recent_category": lambda: view.in_category(context.get("recent_category")),
            "recent_brand": lambda: view.of_brand(context.get("recent_brand")),
            "query_words": lambda: min(1.0, len(work.query.text.split()) / _WORDS),
        }
        for place, name in enumerate(self.definition.dense):
            if name in plain:
                out[:, place] = plain[name]
            elif name in shared:
                out[:, place] = shared[name]
            elif name in made:
                out[:, place] = made[name]()
        return out

    def _overlaps(self, query: Int32 | None, docs: Int32) -> dict[str, Float32]:
        """Share of the query's different tokens among the first tokens of each document."""
        wanted = np.unique(query) if query is not None else np.empty(0, np.int32)
        zeros = np.zeros(len(docs), np.float32)
        if not len(wanted) or not len(docs):
            return {"title_overlap": zeros, "text_overlap": zeros}
        begun = [self._tokens.tokens(doc)[:_TEXT_TOKENS] for doc in docs.tolist()]
        lengths = np.array([len(tokens) for tokens in begun])
        flat = np.concatenate(begun)
        # Document and place of the flat tokens that are the query's.
        found = np.searchsorted(wanted, flat)
        hits = np.flatnonzero(wanted[np.minimum(found, len(wanted) - 1)] == flat)
        doc = np.repeat(np.arange(len(docs)), lengths)[hits]
        place = hits - (np.cumsum(lengths) - lengths)[doc]
        shares = {}
        for name, limit in (("title_overlap", _TITLE_TOKENS), ("text_overlap", _TEXT_TOKENS)):
            seen = np.zeros((len(docs), len(wanted)), bool)
            near = place < limit
            seen[doc[near], found[hits[near]]] = True
            shares[name] = seen.mean(axis=1).astype(np.float32)
        return shares


class _View:
    """One query's candidates beside their columns. One thread."""

    def __init__(self, columns: Columns, candidates: Candidates) -> None:
        self._columns = columns
        self.docs = candidates.docs
        self.count = len(candidates)
        fused = candidates.scores.get("fused")
        order = np.arange(self.count) if fused is None else np.argsort(-np.nan_to_num(fused), kind="stable")
        self._first = order
        self._leaf = self._codes("category")

    def codes(self, name: str) -> Int32:
        """Code by candidate of a categorical feature, -1 where it is not known."""
        if name == "brand":
            return self._codes("brand")
        if name == "top_category":
            return self._codes("category", level=0)
        return self._query_class() if name == "query_class" else self._leaf

    def _query_class(self) -> Int32:
        known = self._leaf[self._first[:_CLASS_FROM]]
        known = known[known >= 0]
        code = _NONE
        if len(known):
            values, counts = np.unique(known, return_counts=True)
            code = int(values[counts.argmax()])
        return np.full(self.count, code, np.int32)

    def category_share(self) -> Array:
        first = self._leaf[self._first[:_SHARE_FROM]]
        equal: Bool = (self._leaf[:, None] == first[None, :]) & (self._leaf[:, None] >= 0)
        return equal.mean(axis=1) if len(first) else np.zeros(self.count)

    def price_place(self) -> Array:
        prices = self._columns.numbers("price", self.docs)
        known = np.isfinite(prices)
        out = np.full(self.count, 0.5)
        if known.any():
            ordered = np.sort(prices[known])
            out[known] = np.searchsorted(ordered, prices[known]) / len(ordered)
        return out

    def has_price(self) -> Array:
        return np.isfinite(self._columns.numbers("price", self.docs))

    def in_category(self, wanted: Any) -> Array:
        """Whether ``wanted`` is one of a product's categories."""
        column = _column(self._columns, "category")
        if column is None or not isinstance(wanted, str):
            return np.zeros(self.count)
        code = column.code_of(wanted)
        if code < 0:
            return np.zeros(self.count)
        if column.kind == "category":
            same: Array = column.take(self.docs) == code
            return same
        return np.array([code in codes for codes in column.take(self.docs)], bool)

    def of_brand(self, wanted: Any) -> Array:
        column = _column(self._columns, "brand")
        if column is None or not isinstance(wanted, str) or (code := column.code_of(wanted)) < 0:
            return np.zeros(self.count)
        same: Array = self._codes("brand") == code
        return same

    def _codes(self, name: str, **options: int) -> Int32:
        column = _column(self._columns, name)
        if column is None:
            return np.full(self.count, _NONE, np.int32)
        options = options if column.kind == "categories" else {}
        codes: Int32 = column.groups(self.docs, **options)
        return codes


def hashed(value: Any, rows: int) -> int:
    """Row of a value in a table of ``rows``: 0 for none, else 1 to rows - 1, the same on every machine."""
    text = str(value).strip() if isinstance(value, str | int) else ""
    if not text:
        return 0
    return 1 + zlib.crc32(text.casefold().encode("utf-8", "replace")) % (rows - 1)


def _column(columns: Columns, name: str) -> Any:
    """A column of categories; None where there is none."""
    get = getattr(columns, "get", None)
    column = get(name) if get is not None else None
    return column if getattr(column, "kind", "") in ("category", "categories") else None


def empty_feeds(definition: RankerDefinition, rows: Sequence[int]) -> dict[str, Array]:
    """Inputs of ``len(rows)`` rows about which nothing is known."""
    return {
        "categories": np.zeros((len(rows), len(definition.categories)), np.int64),
        "dense": np.zeros((len(rows), len(definition.dense)), np.float32),
    }
