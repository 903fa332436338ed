"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def published(path: Path) -> Iterator[IO[str]]:
    """Open a text file (UTF-8, LF) that takes its name only when it was written to the end.

    A file that had the name before stays until then. For one thread.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Publish ``content`` as readable JSON at ``path``, making its folder.

    Raises:
        OSError: it cannot be written.
        ValueError: it holds NaN or infinity, which JSON has no word for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
