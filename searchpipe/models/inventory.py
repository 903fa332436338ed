"""What the cache holds of the built-in models, and whether it is still intact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from searchpipe.models.builtin import BUILTIN
from searchpipe.models.cache import sha256_of
from searchpipe.models.resolve import entry_of, sources_of
from searchpipe.models.settings import ModelSettings
from searchpipe.models.sources import LOCAL


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A built-in model's card; ``bytes`` counts the model file and its tokenizer."""

    name: str
    kind: str
    licence: str
    bytes: int
    cached: bool
    source: str
    card: str


@dataclass(frozen=True, slots=True)
class FileCheck:
    """Outcome of reading one file whole and comparing its hash; ``found`` is empty when it is missing."""

    model: str
    file: str
    state: Literal["ok", "missing", "changed"]
    expected: str
    found: str


def is_cached(settings: ModelSettings, cache_dir: Path) -> bool:
    """Whether every file is on this machine, by the same cheap check that opening a model makes."""
    return all(
        source.path.is_file()
        if isinstance(source, LOCAL)
        else entry_of(source, cache_dir).get(source.path) is not None
        for source in sources_of(settings)
    )


def list_builtin(cache_dir: Path) -> list[ModelFacts]:
    """Return the cards of all built-in models."""
    return [
        ModelFacts(
            name=name,
            kind=builtin.settings.kind,
            licence=builtin.settings.licence,
            bytes=builtin.bytes,
            cached=is_cached(builtin.settings, cache_dir),
            source=builtin.settings.source,
            card=builtin.card,
        )
        for name, builtin in BUILTIN.items()
    ]


def verify_model(name: str, settings: ModelSettings, cache_dir: Path) -> list[FileCheck]:
    """Hash every file of a model; compare with the stated hash, or else with that of the fetch."""
    checks = []
    stated = (settings.sha256.lower(), settings.tokenizer_sha256.lower())
    for source, expected in zip(sources_of(settings), stated, strict=True):
        if isinstance(source, LOCAL):
            path = source.path
        else:
            entry = entry_of(source, cache_dir)
            path = entry.folder / source.path
            known = entry.record().get(source.path)
            expected = expected or (known.sha256 if known else "")
        try:
            found = sha256_of(path)
        except OSError:
            checks.append(FileCheck(name, str(path), "missing", expected, ""))
            continue
        same = not expected or found == expected
        checks.append(FileCheck(name, str(path), "ok" if same else "changed", expected, found))
    return checks
