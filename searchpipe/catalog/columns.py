"""Typed feature columns of a snapshot: prices, ratings, brands, categories, whatever the catalog has."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Int32
from searchpipe.catalog.settings import ColumnKind
from searchpipe.catalog.storage import open_array


class ColumnInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One column's entry in the manifest: ``codes`` is the total number of codes on disk."""

    kind: ColumnKind
    stem: str
    categories: int = 0
    codes: int = 0


class NumberColumn:
    """Numbers (kind ``number``) or truth values as 1 and 0 (kind ``bool``). Safe from many threads.

    Attributes:
        values: float64 ``(count,)``, NaN where missing; memory-mapped.

    """

    def __init__(self, name: str, kind: ColumnKind, values: NDArray[np.float64]) -> None:
        self.name = name
        self.kind = kind
        self.values = values

    def take(self, docs: Int32) -> NDArray[np.float64]:
        """Return the values of ``docs``: float64 ``(n,)``."""
        return self.values[docs]

    def groups(self, docs: Int32) -> Int32:
        """Equal numbers for equal values, -1 where missing: int32 ``(n,)``."""
        values = self.take(docs)
        codes = np.unique(values, return_inverse=True)[1].astype(np.int32)
        codes[np.isnan(values)] = -1
        return codes


class _Dictionary:
    """Categories by code, read when they are first asked for."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._lock = threading.Lock()
        self._categories: list[str] | None = None
        self._code_of: dict[str, int] | None = None

    @property
    def categories(self) -> list[str]:
        with self._lock:
            if self._categories is None:
                found = msgspec.json.decode(self._path.read_bytes(), type=list[str])
                if len(found) != self._count:
                    raise ValueError(f"{self._path} has {len(found)} categories instead of {self._count}")
                self._categories = found
            return self._categories

    def code_of(self, category: str) -> int:
        categories = self.categories
        with self._lock:
            if self._code_of is None:
                self._code_of = {value: code for code, value in enumerate(categories)}
            return self._code_of.get(category, -1)


class CategoryColumn:
    """One category a document. Safe from many threads.

    Attributes:
        codes: int32 ``(count,)`` into ``categories``, -1 where missing; memory-mapped.

    """

    kind: ColumnKind = "category"

    def __init__(self, name: str, codes: Int32, dictionary: _Dictionary) -> None:
        self.name = name
        self.codes = codes
        self._dictionary = dictionary

    @property
    def categories(self) -> list[str]:
        """Category by code."""
        return self._dictionary.categories

    def code_of(self, category: str) -> int:
        """Return the code of ``category``, -1 if no document has it."""
        return self._dictionary.code_of(category)

    def take(self, docs: Int32) -> Int32:
        """Return the codes of ``docs``: int32 ``(n,)``."""
        return self.codes[docs]

    def groups(self, docs: Int32) -> Int32:
        """Return the codes of ``docs``, for quotas: int32 ``(n,)``, -1 where missing."""
        return self.take(docs)


class CategoriesColumn:
    """Several categories a document, such as a path from the top level down. Safe from many threads.

    Attributes:
        ends: int64 ``(count + 1,)``; document d has the codes from ``ends[d]`` to ``ends[d + 1]``.
        codes: int32, into ``categories``; both are memory-mapped.

    """

    kind: ColumnKind = "categories"

    def __init__(self, name: str, ends: NDArray[np.int64], codes: Int32, dictionary: _Dictionary) -> None:
        self.name = name
        self.ends = ends
        self.codes = codes
        self._dictionary = dictionary

    @property
    def categories(self) -> list[str]:
        """Category by code."""
        return self._dictionary.categories

    def code_of(self, category: str) -> int:
        """Return the code of ``category``, -1 if no document has it."""
        return self._dictionary.code_of(category)

    def take(self, docs: Int32) -> list[Int32]:
        """Return the codes of each of ``docs``."""
        return [self.codes[self.ends[doc] : self.ends[doc + 1]] for doc in np.asarray(docs).tolist()]

    def groups(self, docs: Int32, level: int = -1) -> Int32:
        """One code a document, for quotas: int32 ``(n,)``, -1 where missing.

        ``level`` 0 is the first (top) category, -1 the last (most specific)
        one; a document with fewer levels gives its last.
        """
        first = self.ends[docs]
        last = self.ends[np.asarray(docs) + 1] - 1
        place = last if level < 0 else np.minimum(first + level, last)
        codes = np.full(len(first), -1, np.int32)
        present = last >= first
        codes[present] = self.codes[np.maximum(place, first)[present]]
        return codes


Column: TypeAlias = NumberColumn | CategoryColumn | CategoriesColumn


class Columns(Mapping[str, Column]):
    """The columns of a snapshot by name. Safe from many threads."""

    def __init__(self, folder: Path, infos: Mapping[str, ColumnInfo], count: int) -> None:
        self.count = count
        self._columns = {name: _open(folder, name, info, count) for name, info in infos.items()}

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @cached_property
    def names(self) -> list[str]:
        """All column names, sorted."""
        return sorted(self._columns)

    @property
    def kinds(self) -> dict[str, ColumnKind]:
        """Kind by column name."""
        return {name: column.kind for name, column in self._columns.items()}

    def numbers(self, name: str, docs: Int32) -> NDArray[np.float64]:
        """Return the numbers of ``docs`` in a column, all NaN if there is no such column of numbers."""
        column: Any = self._columns.get(name)
        if not isinstance(column, NumberColumn):
            return np.full(len(docs), np.nan)
        return column.take(docs)


def _open(folder: Path, name: str, info: ColumnInfo, count: int) -> Column:
    stem = folder / info.stem
    if info.kind in ("number", "bool"):
        return NumberColumn(name, info.kind, open_array(stem.with_suffix(".f64"), np.float64, (count,)))
    dictionary = _Dictionary(stem.with_suffix(".json"), info.categories)
    codes = open_array(stem.with_suffix(".i32"), np.int32, (info.codes,))
    if info.kind == "category":
        return CategoryColumn(name, codes, dictionary)
    ends = open_array(stem.with_suffix(".ends"), np.int64, (count + 1,))
    return CategoriesColumn(name, ends, codes, dictionary)
