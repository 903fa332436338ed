"""One row as it stands in a catalog file, and what reads such rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(slots=True)
class RawRow:
    """A row before its fields are checked.

    Attributes:
        source: the file.
        line: 1 for the first line; in Parquet files, the row's number.
        data: the fields, or None where the row cannot be read.
        problem: why not; empty otherwise.
        excerpt: the row's first characters, for the rejects file.

    """

    source: Path
    line: int
    data: dict[str, Any] | None
    problem: str = ""
    excerpt: str = ""


class RowReader(Protocol):
    """Reads one file once, in bounded memory. For one thread."""

    bytes_total: int

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed so far, for progress."""
        ...

    def __iter__(self) -> Iterator[RawRow]:
        """Yield the rows. Raises CatalogError when the file itself cannot be read on."""
        ...
