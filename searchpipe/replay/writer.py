"""Writing a log that :class:`searchpipe.replay.reader.LogReader` reads."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.errors import LogError
from searchpipe.replay.entry import Entry
from searchpipe.replay.figures import schema_of


def write_log(path: Path, entries: Iterable[Entry]) -> int:
    """Write JSON lines, gzip-compressed if the name ends in ``.gz``; returns how many.

    The file appears whole or not at all. For one thread.

    Raises:
        LogError: the name is not ``.jsonl`` or ``.jsonl.gz``, or the file cannot be written.
    """
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise LogError(f"A log cannot be written as {path.name}.", cure="Name it .jsonl or .jsonl.gz.")
    encoder = msgspec.json.Encoder()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with temporary.open("wb") as raw:
            packed = path.name.lower().endswith(".gz")
            # No time in the header: the same entries give the same bytes.
            stream: Any = gzip.GzipFile("", "wb", 6, raw, mtime=0) if packed else raw
            for entry in entries:
                stream.write(_encoded(encoder, entry) + b"\n")
                count += 1
            if packed:
                stream.close()
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LogError(f"Cannot write {path}: {error.strerror or error}.") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return count


def log_schema() -> dict[str, Any]:
    """JSON schema of one line as it is written; a reader takes more, see :mod:`searchpipe.replay.entry`."""
    return schema_of(Entry, "A line of a query log")


def _encoded(encoder: msgspec.json.Encoder, entry: Entry) -> bytes:
    try:
        return encoder.encode(entry)
    except UnicodeEncodeError:
        # Lone surrogates are no UTF-8; the pipeline would replace them as well.
        clean = entry.query.encode("utf-8", "replace").decode("utf-8")
        return encoder.encode(msgspec.structs.replace(entry, query=clean))
