"""Filters on feature columns: parsed from plain data, evaluated to a mask over all documents.

::

    {"price": {"gte": 10, "lte": 50}, "brand": "Acme", "category": ["Toys", "Games"], "rating": {"gte": 4}}

All columns must match. A plain value means equality, a list any of its values,
a mapping all of its operators: ``gt``, ``gte``, ``lt``, ``lte`` (numbers),
``eq``, ``in``, ``ne`` (a value or a list that must not match), ``not`` (any
condition that must not hold) and ``exists`` (true or false). A column with
several categories matches if any of them does. A missing value matches nothing
but ``exists: false``, ``ne`` and ``not``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from searchpipe.arrays import Array, Bool
from searchpipe.catalog.columns import Column, Columns, NumberColumn
from searchpipe.errors import FilterError

_ORDER = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}
_MAX_DEPTH = 32  # of conditions inside each other: deeper ones come from nobody who means them
_OPERATORS = (*_ORDER, "eq", "in", "ne", "not", "exists")
_Value: TypeAlias = str | float


class Filter(Protocol):
    """A condition on documents; immutable, and equal filters have equal ``repr``. Safe from many threads."""

    def mask(self, columns: Columns) -> Bool:
        """Which documents match: bool ``(count,)``."""
        ...


@dataclass(frozen=True)
class Order:
    """Numbers above or below a bound."""

    column: str
    operator: str
    bound: float

    def mask(self, columns: Columns) -> Bool:
        column = columns[self.column]
        assert isinstance(column, NumberColumn)
        matches: Bool = _ORDER[self.operator](column.values, self.bound)
        return matches


@dataclass(frozen=True)
class AnyOf:
    """Values equal to one of a few, which are sorted."""

    column: str
    values: tuple[_Value, ...]

    def mask(self, columns: Columns) -> Bool:
        column = columns[self.column]
        if isinstance(column, NumberColumn):
            return np.isin(column.values, np.array(self.values, np.float64))
        # One place more than there are categories: code -1, missing, reads the last.
        wanted = np.zeros(len(column.categories) + 1, np.bool_)
        codes = [column.code_of(str(value)) for value in self.values]
        wanted[[code for code in codes if code >= 0]] = True
        return _per_document(column, wanted[column.codes])


@dataclass(frozen=True)
class Exists:
    """Documents that have a value."""

    column: str

    def mask(self, columns: Columns) -> Bool:
        column = columns[self.column]
        if isinstance(column, NumberColumn):
            return ~np.isnan(column.values)
        return _per_document(column, column.codes >= 0)


@dataclass(frozen=True)
class Not:
    """Documents that do not match."""

    part: Filter

    def mask(self, columns: Columns) -> Bool:
        return ~self.part.mask(columns)


@dataclass(frozen=True)
class All:
    """Documents that match every part."""

    parts: tuple[Filter, ...]

    def mask(self, columns: Columns) -> Bool:
        matches = np.ones(columns.count, np.bool_)
        for part in self.parts:
            matches &= part.mask(columns)
        return matches


def parse_filters(filters: Mapping[str, Any] | None, columns: Columns) -> Filter | None:
    """Return the filter that ``filters`` describe, or None if they are empty.

    Raises:
        FilterError: for an unknown column or operator, or a value of the wrong type.

    """
    if filters is None:
        return None
    if not isinstance(filters, Mapping):
        raise FilterError(
            f"Filters are a mapping of column to condition, not {type(filters).__name__}.",
            cure='Write for example {"price": {"lte": 50}}.',
        )
    parts: list[Filter] = []
    for name, condition in filters.items():
        if not isinstance(name, str) or name not in columns:
            raise FilterError(
                f"There is no column {name!r} to filter on.", cure=_nearest(str(name), columns.names)
            )
        parts.append(_condition(name, condition, columns[name]))
    # Sorted, so that the same filters in another order share one cached mask.
    return All(tuple(sorted(parts, key=repr))) if parts else None


def _condition(name: str, condition: Any, column: Column, depth: int = 1) -> Filter:
    if depth > _MAX_DEPTH:
        raise FilterError(f"The filter on {name!r} holds more than {_MAX_DEPTH} conditions in each other.")
    if not isinstance(condition, Mapping):
        return _any_of(name, condition, column)
    if not condition:
        raise FilterError(
            f"The filter on {name!r} has no operator.", cure=f"Use one of {', '.join(_OPERATORS)}."
        )
    parts = [_operator(name, operator, value, column, depth) for operator, value in condition.items()]
    return parts[0] if len(parts) == 1 else All(tuple(sorted(parts, key=repr)))


def _operator(name: str, operator: Any, value: Any, column: Column, depth: int) -> Filter:
    if operator in _ORDER:
        if column.kind != "number":
            raise FilterError(
                f"Column {name!r} holds {_kind(column)}; {operator!r} needs numbers.", cure="Use 'in'."
            )
        return Order(name, operator, _number(name, value))
    if operator in ("eq", "in"):
        return _any_of(name, value, column)
    if operator == "ne":
        return Not(_any_of(name, value, column))
    if operator == "not":
        return Not(_condition(name, value, column, depth + 1))
    if operator == "exists":
        if not isinstance(value, bool):
            raise FilterError(f"'exists' on {name!r} takes true or false, not {value!r}.")
        return Exists(name) if value else Not(Exists(name))
    raise FilterError(
        f"There is no operator {operator!r} (on {name!r}).", cure=_nearest(str(operator), _OPERATORS)
    )


def _any_of(name: str, values: Any, column: Column) -> Filter:
    many = values if isinstance(values, list | tuple | set | frozenset) else [values]
    return AnyOf(name, tuple(sorted({_value(name, value, column) for value in many})))


def _value(name: str, value: Any, column: Column) -> _Value:
    if column.kind == "number":
        return _number(name, value)
    if column.kind == "bool":
        if isinstance(value, bool | np.bool_) or value in (0, 1):
            return float(value)
    elif isinstance(value, str):
        return value
    raise FilterError(f"Column {name!r} holds {_kind(column)}, not {type(value).__name__} ({value!r:.60}).")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise FilterError(
            f"Column {name!r} holds numbers, not {type(value).__name__} ({value!r:.60}).",
            cure="Give a number.",
        )
    try:
        number = float(value)
    except OverflowError:
        raise FilterError(f"The number in the filter on {name!r} is too large.") from None
    if math.isnan(number):
        raise FilterError(
            f"The filter on {name!r} compares with NaN, which equals nothing.", cure="Use 'exists'."
        )
    return number


def _kind(column: Column) -> str:
    return {"number": "numbers", "bool": "true or false"}.get(column.kind, "text")


def _per_document(column: Any, hits: Array) -> Bool:
    if column.kind == "category":
        return hits
    # Counts up to each end: a document matches if the count grows within its codes.
    counts = np.concatenate(([0], np.cumsum(hits)))[column.ends]
    matches: Bool = counts[1:] > counts[:-1]
    return matches


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    return f"There are: {', '.join(known)}."
