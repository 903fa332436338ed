"""Imports of optional packages with a message that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from searchpipe.errors import MissingDependencyError


def require(module: str, extra: str) -> Any:
    """Return the imported module.

    Raises:
        MissingDependencyError: when it is not installed; the cure names the extra.

    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"The package {module!r} is needed here and cannot be imported: {error}.",
            cure=f"Install it with: pip install 'searchpipe[{extra}]'",
        ) from error
