"""What a step's inputs are, in a few hex digits: steps run again when it changes."""

from __future__ import annotations

from pathlib import Path

from searchpipe.errors import RecipeError
from searchpipe.models.cache import sha256_of


def file_key(path: Path | None) -> str:
    """SHA-256 of a file, empty for none.

    Raises:
        RecipeError: it cannot be read.
    """
    if path is None:
        return ""
    try:
        return sha256_of(path)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from error


def snapshot_key(folder: Path | None) -> str:
    """Checksum of a snapshot's manifest, empty for none.

    Raises:
        SnapshotError: there is none in ``folder``.
    """
    from searchpipe.catalog.layout import SnapshotFolder
    from searchpipe.catalog.manifest import read_manifest

    return "" if folder is None else read_manifest(SnapshotFolder(folder).resolve()).checksum
