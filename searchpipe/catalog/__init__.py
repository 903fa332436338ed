"""The catalog: from product files to a published snapshot, and back into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchpipe.catalog.build import BuildReport, build_snapshot
    from searchpipe.catalog.progress import BuildProgress, Progress
    from searchpipe.catalog.settings import FieldMap, IndexSettings
    from searchpipe.catalog.snapshot import Snapshot

_HOMES = {
    "BuildProgress": "progress",
    "BuildReport": "build",
    "FieldMap": "settings",
    "IndexSettings": "settings",
    "Progress": "progress",
    "Snapshot": "snapshot",
    "build_snapshot": "build",
}

__all__ = [
    "BuildProgress",
    "BuildReport",
    "FieldMap",
    "IndexSettings",
    "Progress",
    "Snapshot",
    "build_snapshot",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: settings alone must not load NumPy and pyarrow."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"searchpipe.catalog.{_HOMES[name]}"), name)
