"""searchpipe: an embedded e-commerce search pipeline that answers inside a deadline.

The names below are loaded when they are first used, so that ``import
searchpipe`` costs next to nothing and needs none of the engines.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchpipe.catalog.build import build_snapshot
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config, load_config
    from searchpipe.errors import SearchpipeError
    from searchpipe.page import Degradation, Hit, Page
    from searchpipe.pipeline import Pipeline

__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "Degradation": "page",
    "Hit": "page",
    "Page": "page",
    "Pipeline": "pipeline",
    "SearchpipeError": "errors",
    "Snapshot": "catalog.snapshot",
    "build_snapshot": "catalog.build",
    "load_config": "config",
}

__all__ = [
    "Config",
    "Degradation",
    "Hit",
    "Page",
    "Pipeline",
    "SearchpipeError",
    "Snapshot",
    "build_snapshot",
    "load_config",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'searchpipe' has no attribute {name!r}")
    value = getattr(import_module(f"searchpipe.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
