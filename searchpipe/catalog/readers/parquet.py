"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchpipe.catalog.optional import require
from searchpipe.catalog.readers.raw import RawRow
from searchpipe.errors import CatalogError


class ParquetRows:
    """A Parquet file in batches of rows; a row's number stands in for its line. For one thread."""

    def __init__(self, path: Path, *, max_row_bytes: int, batch_rows: int = 256) -> None:
        self._path = path
        self._limit = max_row_bytes
        self._batch_rows = batch_rows
        self.bytes_total = path.stat().st_size
        self._share = 0.0

    @property
    def bytes_read(self) -> int:
        return int(self._share * self.bytes_total)

    def __iter__(self) -> Iterator[RawRow]:
        pa = require("pyarrow", "cpu")
        parquet = require("pyarrow.parquet", "cpu")
        number = 0
        try:
            with parquet.ParquetFile(self._path) as file:
                total = max(1, file.metadata.num_rows)
                for batch in file.iter_batches(batch_size=self._batch_rows, use_threads=False):
                    for data in batch.to_pylist():
                        number += 1
                        yield self._row(number, data)
                    self._share = number / total
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CatalogError(
                f"{self._path} cannot be read as Parquet after row {number}: {error}.",
                cure="Write the file again, or check that it is a Parquet file.",
            ) from error

    def _row(self, number: int, data: dict[str, object]) -> RawRow:
        size = sum(len(value) for value in data.values() if isinstance(value, str | bytes))
        if size > self._limit:
            return RawRow(self._path, number, None, f"the row is longer than {self._limit} bytes")
        return RawRow(self._path, number, data)
