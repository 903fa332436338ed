"""From whatever a catalog holds to the typed value of a column."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from searchpipe.catalog.settings import ColumnKind

_TRUE = frozenset({"true", "yes", "1", "t", "y"})
_FALSE = frozenset({"false", "no", "0", "f", "n"})


def is_missing(value: Any) -> bool:
    """Whether a value stands for nothing: None, NaN, white space or an empty list."""
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, list | tuple) and not value


def clean_text(text: str) -> str:
    """Text without NUL and lone surrogates, which no index can hold, and without outer white space."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ").strip()


def to_number(value: Any) -> float:
    """Return a finite float from a number or a string of one; NaN if missing. ValueError otherwise."""
    if is_missing(value):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError(f"a number is expected, not {type(value).__name__}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"a number is expected, not {str(value)[:40]!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"a finite number is expected, not {number}")
    return number


def to_bool(value: Any) -> float:
    """1.0, 0.0 or NaN if missing. ValueError for anything that is not a truth value."""
    if is_missing(value):
        return math.nan
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return float(value)
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return float(value.strip().lower() in _TRUE)
    raise ValueError(f"true or false is expected, not {str(value)[:40]!r}")


def to_category(value: Any) -> str | None:
    """One category; None if missing. ValueError for what is neither text nor a whole number."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        return clean_text(value) or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"text is expected, not {type(value).__name__}")


def to_categories(value: Any, separators: str) -> list[str]:
    """Distinct categories in their order, from a list or a string split at ``separators``."""
    if is_missing(value):
        return []
    if isinstance(value, str):
        for separator in separators[1:]:
            value = value.replace(separator, separators[0])
        value = value.split(separators[0]) if separators else [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f"a list of texts is expected, not {type(value).__name__}")
    found = (to_category(item) for item in value)
    return list(dict.fromkeys(item for item in found if item is not None))


def infer_kind(values: list[Any]) -> ColumnKind | None:
    """Return the column kind that fits all of ``values`` (none of them missing); None if there is none."""
    if all(isinstance(value, bool) for value in values):
        return "bool"
    if all(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values):
        return "number"
    if all(isinstance(value, str) for value in values):
        if all(value.strip().lower() in ("true", "false") for value in values):
            return "bool"
        try:
            for value in values:
                to_number(value)
        except ValueError:
            return "category"
        return "number"
    lists = all(isinstance(value, list | tuple) for value in values)
    if lists and all(isinstance(item, str) for value in values for item in value):
        return "categories"
    return None
