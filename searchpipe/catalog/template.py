"""Text templates such as ``"{title} {text:40}"``: fields, each with an optional limit in words."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from searchpipe.errors import ConfigError


class TextTemplate:
    """Renders one text from a product's fields. Immutable, so safe to share among threads.

    A missing or empty field is left out together with the text before it, lists
    are joined by spaces and runs of white space become one space.

    Raises:
        ConfigError: for a template that names no field or has another form.

    """

    def __init__(self, template: str) -> None:
        self.template = template
        self._parts: list[tuple[str, str, int]] = []
        try:
            parsed = list(Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(f"Text template {template!r}: {error}.") from None
        for literal, name, limit, conversion in parsed:
            if name is None:
                self._parts.append((literal, "", 0))
                continue
            if not name or conversion or (limit and not limit.isdecimal()):
                raise ConfigError(
                    f"Text template {template!r} has a part that is not a field.",
                    cure="Write {title}, or {text:40} for its first 40 words.",
                )
            self._parts.append((literal, name, int(limit) if limit else 0))
        if not any(name for _, name, _ in self._parts):
            raise ConfigError(
                f"Text template {template!r} names no field.", cure="Write for example {title}."
            )

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text for one product."""
        text = ""
        for literal, name, limit in self._parts:
            if not name:
                text += literal
                continue
            value = as_text(values.get(name))
            found = " ".join(value.split(None, limit)[:limit]) if limit else value.strip()
            if found:
                text += literal + found
        return " ".join(text.split())


def as_text(value: Any) -> str:
    """Return a field's value as text: empty for None, lists joined by spaces."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return " ".join(as_text(item) for item in value)
    return str(value)
