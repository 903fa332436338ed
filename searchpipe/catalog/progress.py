"""What a build tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Phase = Literal["read", "index", "publish", "done"]


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Where a build is.

    Attributes:
        phase: ``read`` (rows are read, encoded and written), ``index`` (the
            vector and lexical indexes are finished), ``publish``, ``done``.
        rows: rows read so far, bad ones included.
        rejected: bad rows among them.
        reused: products whose vector came from the previous build.
        bytes_read: bytes of the sources read so far, in the files' own compression.
        bytes_total: bytes of all sources.

    """

    phase: Phase
    rows: int
    rejected: int
    reused: int
    bytes_read: int
    bytes_total: int


Progress: TypeAlias = Callable[[BuildProgress], None]
