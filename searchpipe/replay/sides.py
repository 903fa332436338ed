"""The two sides of a comparison, as the command line names them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from searchpipe.config import load_config
from searchpipe.errors import ConfigError
from searchpipe.replay.open_target import open_target

if TYPE_CHECKING:
    from searchpipe.replay.targets import Target

_OVERRIDE = re.compile(r"^([a-z_]\w*(?:\.[a-z_]\w*)+)=(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Side:
    """What one side runs. Immutable.

    Attributes:
        name: as it was named.
        snapshot: folder; None with a URL.
        config: nested mapping of the configuration; None with a URL.
        url: of a service.
    """

    name: str
    snapshot: Path | None = None
    config: Mapping[str, Any] | None = field(default=None)
    url: str | None = None

    def open(self, *, k: int | None, budget_ms: float | None) -> Target:
        """Open it; see :func:`searchpipe.replay.open_target.open_target`."""
        return open_target(snapshot=self.snapshot, config=self.config, url=self.url, k=k, budget_ms=budget_ms)


def parse_side(text: str, *, snapshot: Path | None = None, config: Path | None = None) -> Side:
    """A side out of parts separated by commas, on top of what both sides share.

    A part is a TOML file (configuration), a folder (snapshot), ``engine:NAME`` or
    ``engine:NAME@VERSION`` (the cross-encoder of that engine), ``table.key=VALUE`` (one setting, in
    TOML), or the URL of a service.

    Args:
        text: such as ``new.toml`` or ``snapshots/b`` or ``base.toml,score.depth=20``.
        snapshot: of sides that name none.
        config: likewise.

    Raises:
        ConfigError: a part that is none of these, or no snapshot at all.
    """
    url = None
    source = config
    settings: list[tuple[str, Any]] = []
    for part in _parts(text):
        match = _OVERRIDE.match(part)
        path = Path(part)
        if part.startswith(("http://", "https://")):
            url = part
        elif part.startswith("engine:"):
            settings.append(("models.scorer", part))
        elif path.is_dir():
            snapshot = path
        elif part.endswith(".toml"):
            source = path
        elif match is not None:
            settings.append((match.group(1), _value(match.group(2))))
        else:
            raise ConfigError(
                f"The side {text!r} names {part!r}, which is no TOML file, snapshot folder, engine:NAME, "
                "table.key=VALUE or URL."
            )
    if url is not None:
        if len(_parts(text)) > 1:
            raise ConfigError(f"The side {text!r} names a URL and more; a service has its own settings.")
        return Side(text, url=url)
    if snapshot is None:
        raise ConfigError(f"The side {text!r} names no snapshot.", cure="Name one for both with --snapshot.")
    return Side(text, snapshot, _with(_table(source), settings))


def _parts(text: str) -> list[str]:
    """Split at commas outside brackets, braces and quotes."""
    parts, depth, quote, begin = [], 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append(text[begin:place].strip())
            begin = place + 1
    parts.append(text[begin:].strip())
    return [part for part in parts if part] or [text]


def _table(source: Path | None) -> dict[str, Any]:
    if source is None:
        return {}
    load_config(source)  # says what is wrong with the file as it is
    return tomllib.loads(source.read_text(encoding="utf-8"))


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a string without its quotes


def _with(table: dict[str, Any], settings: list[tuple[str, Any]]) -> dict[str, Any]:
    for path, value in settings:
        *tables, key = path.split(".")
        inner = table
        for name in tables:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path!r} cannot be set: {name!r} is no table.")
        inner[key] = value
    msgspec.to_builtins(load_config(table))
    return table
