"""Settings of a recipe that a command line replaces, and a recipe as the TOML that says so."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from searchpipe.errors import ConfigError

if TYPE_CHECKING:
    from searchpipe.engine.recipe import Recipe

_CURE = "Write it as --set calibration.batch_rows=2; texts need no quotes."


def override(table: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's table with settings replaced.

    Args:
        table: of the TOML file.
        assignments: ``section.key=value`` (or ``key=value``) each; values are TOML, or plain text.

    Raises:
        ConfigError: one is not of this form.
    """
    made = {name: dict(value) if isinstance(value, dict) else value for name, value in table.items()}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        section, dot, key = path.strip().rpartition(".")
        if not equals or not key or "." in section or (dot and not section):
            raise ConfigError(f"{assignment!r} sets nothing of a recipe.", cure=_CURE)
        into = made.setdefault(section, {}) if section else made
        if not isinstance(into, dict):
            raise ConfigError(f"{assignment!r}: {section} is no section of a recipe.", cure=_CURE)
        into[key] = _value(text.strip())
    return made


def as_toml(recipe: Recipe) -> str:
    """Every setting of ``recipe`` as TOML that reads back as the same recipe."""
    content: Mapping[str, Any] = msgspec.to_builtins(recipe)
    lines = [f"{key} = {_written(value)}" for key, value in content.items() if not isinstance(value, dict)]
    for section, settings in content.items():
        if isinstance(settings, dict):
            lines += ["", f"[{section}]"]
            # TOML knows no null: what is not set is left out.
            lines += [f"{key} = {_written(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _written(value: Any) -> str:
    # JSON's numbers, booleans, lists and texts are TOML's, but for surrogate pairs and a bare DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
