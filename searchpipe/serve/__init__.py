"""The HTTP service: a pipeline behind ``POST /search``. Needs the extra ``serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchpipe.serve.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module 'searchpipe.serve' has no attribute {name!r}")
    from searchpipe.catalog.optional import require

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "serve")
    from searchpipe.serve.app import create_app

    return create_app
