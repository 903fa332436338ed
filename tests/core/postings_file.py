"""A postings index from documents that are lists of terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchpipe._core import PostingsIndex, PostingsWriter


def write(path: Path, documents: Any, fields: int, memory_bytes: int = 1 << 20) -> PostingsIndex:
    with PostingsWriter(path, fields=fields, memory_bytes=memory_bytes) as writer:
        for document in documents:
            writer.append(document)
        assert len(writer) == len(documents)
    return PostingsIndex(path)
