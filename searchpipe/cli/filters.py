"""Filters as they are typed on a command line: ``price<=50``, ``brand=Acme``, ``category=Toys|Games``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from searchpipe.errors import FilterError

_OPERATORS = {"<=": "lte", ">=": "gte", "<": "lt", ">": "gt", "!=": "ne"}
_EXPRESSION = re.compile(r"^\s*([^<>=!\s]+)\s*(<=|>=|!=|<|>|=)\s*([^=\s].*?)\s*$")


def parse_expressions(expressions: Iterable[str]) -> dict[str, Any]:
    """The filter mapping of :meth:`searchpipe.pipeline.Pipeline.search`; expressions are joined by *and*.

    Raises:
        FilterError: an expression that is not ``COLUMN OPERATOR VALUE``, or two that clash.
    """
    filters: dict[str, Any] = {}
    for expression in expressions:
        match = _EXPRESSION.match(expression)
        if match is None:
            raise FilterError(
                f"The filter {expression!r} cannot be read.",
                cure="Write COLUMN=VALUE, COLUMN<=NUMBER or COLUMN=A|B.",
            )
        column, operator, text = match.groups()
        value: Any = [_typed(part) for part in text.split("|")] if "|" in text else _typed(text)
        if operator == "=":
            clash = column in filters
            filters[column] = value
        else:
            ranges = filters.setdefault(column, {})
            name = _OPERATORS[operator]
            clash = not isinstance(ranges, dict) or name in ranges
            if not clash:
                ranges[name] = value
        if clash:
            raise FilterError(f"The filter {expression!r} repeats one on {column!r}.", cure="Give it once.")
    return filters


def _typed(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        return text
