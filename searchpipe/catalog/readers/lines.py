"""Lines of a plain or gzip-compressed file, none of them ever larger in memory than a limit."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from searchpipe.errors import CatalogError

_BLOCK = 1 << 18
_EXCERPT = 512


class LineFile:
    """The lines of one file. For one thread.

    A UTF-8 byte order mark is dropped, CRLF is taken for LF, and the last line
    needs no end.
    """

    def __init__(self, path: Path, *, max_line_bytes: int) -> None:
        self.path = path
        self.bytes_total = path.stat().st_size
        self._limit = max_line_bytes
        self._raw: BinaryIO | None = None

    @property
    def bytes_read(self) -> int:
        return self._raw.tell() if self._raw is not None and not self._raw.closed else self.bytes_total

    def __iter__(self) -> Iterator[tuple[int, bytes, bool]]:
        """Line number, content, and whether the line was over the limit (then only its start is there)."""
        line = 1
        head = b""
        too_long = False
        for block in self._blocks():
            pieces = block.split(b"\n")
            for piece in pieces[:-1]:
                whole = head if too_long else head + piece
                yield line, *self._bounded(whole, too_long)
                line, head, too_long = line + 1, b"", False
            if not too_long:
                head += pieces[-1]
                if len(head) > self._limit + 1:
                    head, too_long = head[:_EXCERPT], True
        if head:
            yield line, *self._bounded(head, too_long)

    def _bounded(self, content: bytes, too_long: bool) -> tuple[bytes, bool]:
        content = content.removesuffix(b"\r")
        if too_long or len(content) > self._limit:
            return content[:_EXCERPT], True
        return content, False

    def _blocks(self) -> Iterator[bytes]:
        first = True
        with self.path.open("rb") as raw:
            self._raw = raw
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            while True:
                try:
                    block = stream.read(_BLOCK)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise CatalogError(
                        f"{self.path} is a broken gzip file ({error}).",
                        cure="It was probably cut short: fetch or write it again.",
                    ) from error
                if not block:
                    return
                if first:
                    block = self._without_mark(block)
                    first = False
                yield block

    def _without_mark(self, block: bytes) -> bytes:
        if block.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise CatalogError(f"{self.path} is UTF-16 text.", cure="Convert it to UTF-8.")
        return block.removeprefix(b"\xef\xbb\xbf")


def excerpt_of(content: bytes | str, limit: int = 200) -> str:
    """Return the first characters of a row, printable."""
    text = content if isinstance(content, str) else content[: 4 * limit].decode("utf-8", "replace")
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
