"""Reading a log of any size: line by line, broken lines counted and named, times put into order."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from searchpipe.catalog.readers.lines import excerpt_of
from searchpipe.catalog.readers.open import open_rows
from searchpipe.errors import CatalogError, LogError
from searchpipe.replay.entry import Entry, LineError, parse_row
from searchpipe.settings import Settings

# Judged before the end once so many lines were read and half of them are broken: a wrong file is
# not read to its end first, and a few bad lines at the start of a good one do not matter.
_EARLY_LINES = 1000
_EARLY_SHARE = 0.5
_EXCERPT = 120

_Count = Annotated[int, msgspec.Meta(ge=1)]


class ReadSettings(Settings, frozen=True):
    """How a log is read.

    Attributes:
        needs_time: a line without a timestamp is broken; else its time is 0.
        max_line_bytes: a longer line is broken.
        max_broken_share: a log with a larger share of broken lines is refused.
        keep_broken: how many broken lines are named, the first ones.
        window: lines held back to put late ones into the order of time.
    """

    needs_time: bool = True
    max_line_bytes: _Count = 1 << 20
    max_broken_share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.05
    keep_broken: Annotated[int, msgspec.Meta(ge=0)] = 20
    window: _Count = 1000


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """Where and why a line could not be used. Immutable."""

    line: int
    reason: str
    excerpt: str


@dataclass(slots=True)
class ReadNotes:
    """What was met in a log. Written by the reader's thread; whole once the reader is through.

    Attributes:
        lines: not blank, the broken ones included.
        entries: lines that are searches.
        broken: the others.
        reasons: how many lines were broken by each kind of reason.
        first_broken: the first of them.
        out_of_order: entries older than one before them.
        beyond_window: those of them that came too late to be sorted in; their time was raised.
        bytes_read, bytes_total: of the file.
    """

    lines: int = 0
    entries: int = 0
    broken: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first_broken: list[BrokenLine] = field(default_factory=list)
    out_of_order: int = 0
    beyond_window: int = 0
    bytes_read: int = 0
    bytes_total: int = 0

    def described(self) -> str:
        """The first broken lines in words."""
        return "; ".join(f"line {b.line}: {b.reason}" for b in self.first_broken[:5])


class LogReader:
    """Reads one log: ``.jsonl`` or ``.csv`` (or ``.tsv``, ``.parquet``), plain or ``.gz``. For one thread.

    Every iteration reads the file anew, from its start, into :attr:`notes`, and holds no more
    than ``window`` entries. Entries come in the order of time.

    Raises:
        LogError: there is no such file, or its name says no known format.
    """

    def __init__(self, path: Path, settings: ReadSettings | None = None) -> None:
        self.path = path
        self.settings = settings or ReadSettings()
        self.notes = ReadNotes()
        self.whole: ReadNotes | None = None
        """Notes of the last pass that came to the end."""
        if path.is_dir() or not path.exists():
            why = "it is a folder" if path.is_dir() else "there is no such file"
            raise LogError(f"The query log {path} cannot be read: {why}.", cure="Name a .jsonl or .csv file.")
        try:
            open_rows(path, max_row_bytes=self.settings.max_line_bytes)
        except (CatalogError, OSError) as error:
            raise LogError(f"The query log {path} cannot be read: {error}") from error

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries, ``ts`` never falling.

        Raises:
            LogError: the file cannot be read, holds no search, or too many lines are broken.
        """
        self.notes = ReadNotes()
        yield from in_order(self._entries(), self.settings.window, self.notes)
        self._judge(final=True)
        self.whole = self.notes
        if not self.notes.entries:
            raise LogError(
                f"The query log {self.path} holds no search" + self._named() + ".",
                cure='A line is a JSON object like {"ts": 1767571200.5, "query": "red shoes"}; '
                "a CSV has a header, ts,query, and a line for each search.",
            )

    def _entries(self) -> Iterator[Entry]:
        notes, settings = self.notes, self.settings
        try:
            rows = open_rows(self.path, max_row_bytes=settings.max_line_bytes)
            notes.bytes_total = rows.bytes_total
            for row in rows:
                notes.lines += 1
                notes.bytes_read = rows.bytes_read
                if row.data is None:
                    self._broken(row.line, row.problem, row.excerpt)
                    continue
                try:
                    entry = parse_row(row.data, needs_time=settings.needs_time)
                except LineError as error:
                    self._broken(row.line, str(error), row.excerpt or excerpt_of(repr(row.data)[:_EXCERPT]))
                    continue
                notes.entries += 1
                yield entry
        except CatalogError as error:
            if not notes.entries:
                raise LogError(f"The query log {self.path} cannot be read: {error}") from error
            # What was read before the file broke off is a log all the same.
            notes.lines += 1
            self._broken(notes.lines, f"the rest cannot be read: {error}", "")
        except OSError as error:
            raise LogError(f"The query log {self.path} cannot be read: {error}") from error
        notes.bytes_read = notes.bytes_total

    def _broken(self, line: int, reason: str, excerpt: str) -> None:
        notes = self.notes
        notes.broken += 1
        # Without the value, so that a million different values are one kind.
        notes.reasons[reason.split(":")[0].split(" is ")[0][:60]] += 1
        if len(notes.first_broken) < self.settings.keep_broken:
            notes.first_broken.append(BrokenLine(line, reason, excerpt[:_EXCERPT]))
        if len(notes.reasons) > 1000:
            notes.reasons = Counter(dict(notes.reasons.most_common(500)))
        self._judge(final=False)

    def _judge(self, *, final: bool) -> None:
        notes, limit = self.notes, self.settings.max_broken_share
        hopeless = notes.lines >= _EARLY_LINES and notes.broken > _EARLY_SHARE * notes.lines
        if notes.broken <= limit * notes.lines or not (final or hopeless):
            return
        raise LogError(
            f"{notes.broken:,} of the first {notes.lines:,} lines of {self.path} are broken, over the limit "
            f"of {limit:.1%}{self._named()}.",
            cure="Correct them, or raise --max-broken-share.",
        )

    def _named(self) -> str:
        return f" ({self.notes.described()})" if self.notes.first_broken else ""


def in_order(entries: Iterator[Entry], window: int, notes: ReadNotes) -> Iterator[Entry]:
    """Entries by rising time, as far as ``window`` of them held back can bring it about.

    One that is older than what was already given out keeps its place and gets that time: it is
    replayed as early as can be, and counted in ``notes.beyond_window``.
    """
    held: list[tuple[float, int, Entry]] = []
    newest = last = float("-inf")
    for number, entry in enumerate(entries):
        if entry.ts < newest:
            notes.out_of_order += 1
        newest = max(newest, entry.ts)
        heapq.heappush(held, (entry.ts, number, entry))
        if len(held) > window:
            given = _not_before(heapq.heappop(held)[2], last, notes)
            last = given.ts
            yield given
    while held:
        given = _not_before(heapq.heappop(held)[2], last, notes)
        last = given.ts
        yield given


def _not_before(entry: Entry, last: float, notes: ReadNotes) -> Entry:
    if entry.ts >= last:
        return entry
    notes.beyond_window += 1
    return msgspec.structs.replace(entry, ts=last)
