"""Rows of a JSON-lines file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from searchpipe.catalog.readers.lines import LineFile, excerpt_of
from searchpipe.catalog.readers.raw import RawRow


class JsonLines:
    """One JSON object a line, plain or gzip-compressed; blank lines are skipped. For one thread."""

    def __init__(self, path: Path, *, max_row_bytes: int) -> None:
        self._path = path
        self._limit = max_row_bytes
        self._lines = LineFile(path, max_line_bytes=max_row_bytes)
        self.bytes_total = self._lines.bytes_total

    @property
    def bytes_read(self) -> int:
        return self._lines.bytes_read

    def __iter__(self) -> Iterator[RawRow]:
        decode = msgspec.json.Decoder().decode
        for line, content, too_long in self._lines:
            if too_long:
                problem = f"the row is longer than {self._limit} bytes"
                yield RawRow(self._path, line, None, problem, excerpt_of(content))
                continue
            if not content or content.isspace():
                continue
            try:
                data = decode(content)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                yield RawRow(self._path, line, None, f"invalid JSON: {error}", excerpt_of(content))
                continue
            if isinstance(data, dict):
                yield RawRow(self._path, line, data)
            else:
                problem = f"a JSON object is expected, not {type(data).__name__}"
                yield RawRow(self._path, line, None, problem, excerpt_of(content))
