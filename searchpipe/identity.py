"""Names for what computes an answer: the models and the settings that pages depend on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from searchpipe.config import Config
    from searchpipe.stages.base import Stage

_NOT_IN_ANSWERS = ("serve", "metrics", "live", "index", "cache")
"""Tables of the configuration that no page depends on."""


def digest_of(config: Config) -> str:
    """The first 12 hexadecimal digits of SHA-256 over the settings that pages depend on."""
    table = {
        name: value for name, value in msgspec.to_builtins(config).items() if name not in _NOT_IN_ANSWERS
    }
    return hashlib.sha256(msgspec.json.encode(table, order="sorted")).hexdigest()[:12]


def engine_version(config: Config, stages: Iterable[Stage]) -> str:
    """What a page names beside its snapshot: the scorer (if it is run) and the digest of the settings."""
    scorer = config.models.scorer
    name = scorer if isinstance(scorer, str) else scorer.name or scorer.source
    digest = digest_of(config)
    return f"{name}:{digest}" if any(stage.name == "score" for stage in stages) else digest
