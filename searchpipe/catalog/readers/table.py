"""Rows of a CSV file with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from searchpipe.catalog.readers.lines import LineFile, excerpt_of
from searchpipe.catalog.readers.raw import RawRow
from searchpipe.errors import CatalogError


class CsvTable:
    """Comma, semicolon or tab separated values, plain or gzip-compressed. For one thread.

    Every value is a string, empty ones are missing. Quoted values may span
    lines; a value over 131,072 characters, the csv module's limit, rejects its
    row, which also ends a quote that was never closed.
    """

    def __init__(self, path: Path, *, max_row_bytes: int) -> None:
        self._path = path
        self._limit = max_row_bytes
        self._lines = LineFile(path, max_line_bytes=max_row_bytes)
        self.bytes_total = self._lines.bytes_total
        self._line = 0
        self._too_long = False

    @property
    def bytes_read(self) -> int:
        return self._lines.bytes_read

    def __iter__(self) -> Iterator[RawRow]:
        texts = self._texts()
        first = next(texts, "")
        delimiter = max(",;\t", key=first.count)
        try:
            header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
        except csv.Error as error:  # such as a carriage return between two names
            raise CatalogError(
                f"The header line of {self._path} is not valid CSV: {error}.",
                cure="Name the columns in its first line, and end it with a line feed.",
            ) from error
        if not any(header):
            raise CatalogError(
                f"{self._path} has no header line.", cure="Name the columns in its first line."
            )
        # Strict, so that text after a closing quote is an error instead of part of the value.
        records = csv.reader(texts, delimiter=delimiter, strict=True)
        while True:
            start = self._line + 1
            self._too_long = False
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                yield RawRow(self._path, start, None, f"invalid CSV: {error}")
                continue
            if record:
                yield self._row(start, header, record)

    def _row(self, line: int, header: list[str], record: list[str]) -> RawRow:
        excerpt = excerpt_of(",".join(record)[:400])
        problem = ""
        if self._too_long:
            problem = f"the row is longer than {self._limit} bytes"
        elif len(record) != len(header):
            problem = f"the row has {len(record)} values, the header {len(header)}"
        elif any("\udc80" <= character <= "\udcff" for value in record for character in _odd(value)):
            problem = "invalid UTF-8"
        if problem:
            return RawRow(self._path, line, None, problem, excerpt)
        data = {name: value for name, value in zip(header, record, strict=True) if name and value.strip()}
        return RawRow(self._path, line, data, excerpt=excerpt)

    def _texts(self) -> Iterator[str]:
        for line, content, too_long in self._lines:
            self._line = line
            self._too_long |= too_long
            # Undecodable bytes become surrogates here and are found when the row is whole.
            yield content.decode("utf-8", "surrogateescape") + "\n"


def _odd(value: str) -> str:
    return "" if value.isascii() else value
