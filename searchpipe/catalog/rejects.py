"""The rejects file: every bad row with its place and the reason."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgspec

from searchpipe.catalog.readers import RawRow
from searchpipe.catalog.readers.lines import excerpt_of
from searchpipe.errors import CatalogError

# Judged early once this many rows were read and more than half of them are bad.
_EARLY_ROWS = 1000
_EARLY_SHARE = 0.5


class RejectLog:
    """Counts bad rows and writes one JSON line for each. For one thread.

    A line holds ``source``, ``line``, ``id`` (or null), ``reason`` and ``excerpt``.
    """

    def __init__(self, path: Path, owner: ExitStack, *, max_share: float) -> None:
        self.path = path
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self._max_share = max_share
        self._file = owner.enter_context(path.open("wb"))
        self._encoder = msgspec.json.Encoder()

    def add(self, row: RawRow, reason: str, product_id: str = "") -> None:
        """Record one bad row."""
        self.count += 1
        self.reasons[reason.split(":")[0].split("(")[0].strip()] += 1
        excerpt = row.excerpt or excerpt_of(_compact(row))
        entry = {
            "source": str(row.source),
            "line": row.line,
            "id": product_id or None,
            "reason": reason,
            "excerpt": excerpt,
        }
        self._file.write(self._encoder.encode(entry) + b"\n")

    def judge(self, rows: int, *, final: bool) -> None:
        """Stop when too many of the ``rows`` read so far were bad.

        Raises:
            CatalogError: at the end above the configured share; before it once
                1,000 rows were read and more than half of them were bad.

        """
        share = self.count / rows if rows else 0.0
        hopeless = rows >= _EARLY_ROWS and share > _EARLY_SHARE
        if share <= self._max_share or not (final or hopeless):
            return
        common = ", ".join(f"{reason} ({count:,})" for reason, count in self.reasons.most_common(3))
        raise CatalogError(
            f"{self.count:,} of {rows:,} rows are bad: {share:.1%}, over the limit of {self._max_share:.1%}, "
            f"mostly {common}. Each is listed in {self.path}.",
            cure="Correct the rows or the field names ([index.fields]), or raise max_reject_share.",
        )

    def close(self) -> None:
        """Write out what is buffered. Idempotent."""
        self._file.close()


def _compact(row: RawRow) -> str:
    if row.data is None:
        return ""
    # Long values are cut first: the row may be large and the excerpt is short.
    short = {name: value[:80] if isinstance(value, str) else value for name, value in row.data.items()}
    return msgspec.json.encode(short, enc_hook=str).decode("utf-8", "replace")
