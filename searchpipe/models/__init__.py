"""Models: where they come from, and the cache that holds them."""

from __future__ import annotations

from searchpipe.models.builtin import BUILTIN
from searchpipe.models.resolve import resolve
from searchpipe.models.settings import (
    DEFAULT_CROSS_ENCODER,
    DEFAULT_ENCODER,
    LocalModel,
    ModelSettings,
    ModelsSettings,
)

__all__ = [
    "BUILTIN",
    "DEFAULT_CROSS_ENCODER",
    "DEFAULT_ENCODER",
    "LocalModel",
    "ModelSettings",
    "ModelsSettings",
    "resolve",
]
