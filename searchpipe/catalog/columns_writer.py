"""Writes the typed feature columns, chunk by chunk, with bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from searchpipe.catalog.columns import ColumnInfo
from searchpipe.catalog.rows import Product
from searchpipe.catalog.settings import CANONICAL_COLUMNS, ColumnKind, IndexSettings
from searchpipe.catalog.storage import ArrayWriter
from searchpipe.catalog.values import infer_kind, to_bool, to_categories, to_category, to_number

# A column found by looking at the rows is dropped as "no category" (an URL, a
# description) once it has this many values and more than half are distinct.
_TOO_MANY_CATEGORIES = 100_000
_NOT_COLUMNS = frozenset({"id", "title", "text"})


class ColumnsWriter:
    """Columns for products appended in the order of their ordinals. For one thread.

    The kind of a column comes from the settings or, for fields that they do not
    know, from the values in the first chunk that has any. A value of another
    kind in such a column counts as missing and is counted in ``mistyped``.
    """

    def __init__(self, folder: Path, settings: IndexSettings, owner: ExitStack) -> None:
        self._folder = folder
        self._owner = owner
        self._settings = settings
        self._rows = 0
        self._dropped: set[str] = set()
        self._writers: dict[str, _ColumnWriter] = {}
        self.mistyped: dict[str, int] = {}
        folder.mkdir()
        kinds = {**CANONICAL_COLUMNS, **settings.columns}
        for name, kind in kinds.items():
            if kind == "ignore":
                self._dropped.add(name)
            else:
                self._open(name, kind, inferred=False)

    def append(self, products: list[Product]) -> None:
        """Append one chunk."""
        self._discover(products)
        for name, writer in list(self._writers.items()):
            bad = writer.append([product.values.get(name) for product in products])
            if bad:
                self.mistyped[name] = self.mistyped.get(name, 0) + bad
            if writer.inferred and writer.too_diverse:
                writer.discard()
                del self._writers[name]
                self._dropped.add(name)
        self._rows += len(products)

    def close(self) -> dict[str, ColumnInfo]:
        """Finish all files; name -> what the reader needs to know."""
        return {name: writer.close() for name, writer in self._writers.items()}

    def _discover(self, products: list[Product]) -> None:
        names = dict.fromkeys(name for product in products for name in product.values)
        for name in names:
            if name in self._writers or name in self._dropped or name in _NOT_COLUMNS:
                continue
            present = [product.values[name] for product in products if name in product.values]
            kind = infer_kind(present)
            if kind is None:
                self._dropped.add(name)
            else:
                self._open(name, kind, inferred=True)

    def _open(self, name: str, kind: ColumnKind, *, inferred: bool) -> None:
        # Field names may hold any character, file names not: a number stands for each.
        stem = self._folder / f"c{len(self._writers) + len(self._dropped):04d}"
        made = _NumberWriter if kind in ("number", "bool") else _CategoryWriter
        self._writers[name] = made(stem, kind, inferred, self._settings.list_separators, self._owner)
        missing = 0
        while missing < self._rows:
            step = min(65536, self._rows - missing)
            self._writers[name].append([None] * step)
            missing += step


class _ColumnWriter:
    too_diverse = False

    def __init__(self, stem: Path, kind: ColumnKind, inferred: bool, separators: str) -> None:
        self.stem = stem
        self.kind = kind
        self.inferred = inferred
        self.separators = separators
        self.files: list[ArrayWriter] = []

    def append(self, values: list[Any]) -> int:
        raise NotImplementedError

    def close(self) -> ColumnInfo:
        raise NotImplementedError

    def release(self) -> None:
        for file in self.files:
            file.close()

    def discard(self) -> None:
        self.release()
        for file in self.files:
            file.path.unlink()


class _NumberWriter(_ColumnWriter):
    def __init__(
        self, stem: Path, kind: ColumnKind, inferred: bool, separators: str, owner: ExitStack
    ) -> None:
        super().__init__(stem, kind, inferred, separators)
        # float64: prices such as 19.99 must compare equal to the caller's own.
        self._values = ArrayWriter(stem.with_suffix(".f64"), np.float64, owner)
        self.files = [self._values]
        self._convert: Callable[[Any], float] = to_bool if kind == "bool" else to_number
        self._ready = frozenset({bool if kind == "bool" else float, type(None)})

    def append(self, values: list[Any]) -> int:
        if self._ready.issuperset(map(type, values)):  # as the check of rows leaves the known fields
            ready = np.array(values, np.float64)  # None becomes NaN
            if not np.isinf(ready).any():
                self._values.append(ready)
                return 0
        numbers = np.full(len(values), math.nan)
        bad = 0
        for row, value in enumerate(values):
            try:
                numbers[row] = self._convert(value)
            except ValueError:
                bad += 1
        self._values.append(numbers)
        return bad

    def close(self) -> ColumnInfo:
        self.release()
        return ColumnInfo(kind=self.kind, stem=self.stem.name)


class _CategoryWriter(_ColumnWriter):
    def __init__(
        self, stem: Path, kind: ColumnKind, inferred: bool, separators: str, owner: ExitStack
    ) -> None:
        super().__init__(stem, kind, inferred, separators)
        self._codes = ArrayWriter(stem.with_suffix(".i32"), np.int32, owner)
        self.files = [self._codes]
        self._many = kind == "categories"
        self._code_of: dict[str, int] = {}
        self._present = 0
        if self._many:
            self._ends = ArrayWriter(stem.with_suffix(".ends"), np.int64, owner)
            self._ends.append([0])
            self.files.append(self._ends)

    @property
    def too_diverse(self) -> bool:  # type: ignore[override]
        return len(self._code_of) > _TOO_MANY_CATEGORIES and 2 * len(self._code_of) > self._present

    def append(self, values: list[Any]) -> int:
        codes: list[int] = []
        ends: list[int] = []
        bad = 0
        for value in values:
            code = self._code_of.get(value) if type(value) is str and not self._many else None
            if code is not None:
                codes.append(code)
                self._present += 1
                continue
            try:
                found: Sequence[str | None] = (
                    to_categories(value, self.separators) if self._many else [to_category(value)]
                )
            except ValueError:
                bad += 1
                found = [] if self._many else [None]
            for item in found:
                if item is None:
                    codes.append(-1)
                else:
                    codes.append(self._code_of.setdefault(item, len(self._code_of)))
                    self._present += 1
            ends.append(self._codes.size + len(codes))
        self._codes.append(codes)
        if self._many:
            self._ends.append(ends)
        return bad

    def close(self) -> ColumnInfo:
        self.release()
        self.stem.with_suffix(".json").write_bytes(msgspec.json.encode(list(self._code_of)))
        return ColumnInfo(
            kind=self.kind, stem=self.stem.name, categories=len(self._code_of), codes=self._codes.size
        )
