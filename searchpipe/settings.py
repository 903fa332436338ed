"""Reading typed settings: a TOML table into a frozen struct, with errors that name the key and the cure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from searchpipe.decodable import decodable
from searchpipe.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table of the configuration."""


def convert(table: Mapping[str, Any], kind: type[T], *, where: str = "") -> T:
    """``table`` as a ``kind``, checked.

    Args:
        table: as read from TOML.
        kind: a struct that forbids unknown fields.
        where: name of the table in messages.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a wrong type
            or a value outside its limits, with the path of the key.
    """
    _refuse_unknown(table, kind, where)
    try:
        return msgspec.convert(dict(table), decodable(kind), strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
        match = re.search(r" - at `\$\.?([^`]*)`$", text)
        path = ".".join(p for p in (where, match.group(1) if match else "") if p)
        message = text[: match.start()] if match else text
        raise ConfigError(f"{path or 'The configuration'}: {message}.") from error


def _refuse_unknown(table: Mapping[str, Any], kind: type[msgspec.Struct], where: str) -> None:
    known = get_type_hints(kind)
    names = {f.encode_name: f.name for f in msgspec.structs.fields(kind)}
    for key, value in table.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            cure = f"Did you mean {near[0]!r}?" if near else f"Valid keys: {', '.join(sorted(names))}."
            raise ConfigError(f"Unknown key {path!r}.", cure=cure)
        inner = _struct_in(known[names[key]])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown(value, inner, path)
        elif inner is not None and isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, Mapping):
                    _refuse_unknown(item, inner, f"{path}[{place}]")


def _struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct type inside an annotation such as ``X | str`` or ``tuple[X, ...]``; None for none."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    for part in get_args(annotation):
        found = _struct_in(part)
        if found is not None:
            return found
    return None
