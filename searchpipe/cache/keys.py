"""What a page depends on, as a key: equal keys only for queries that get equal pages."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from searchpipe.query import Query

MAX_KEY_CHARS = 32_768
"""Of filters and context together; a longer one is not worth its place."""

_MAX_DEPTH = 32
_SIMPLE_DTYPES = "biufcSUmM"  # all that their bytes and the name of their dtype tell everything of
_PLAIN = (str, int, float, bool, bytes, type(None))

Key = tuple[str, str, str, int, tuple[str, ...], str, str]
"""Snapshot, engine, text, k, stages left out, filters, context."""


class _NoKeyError(Exception):
    """A value whose content cannot be told."""


def key_of(query: Query, snapshot: str, engine: str) -> Key | None:
    """The key of a query, or None for one that has none.

    Text and k count as they are, filters and context by type and value: ``0``, ``0.0`` and ``False``
    are three things, a list keeps its order, mappings and sets do not. Budget and priority do not count:
    a page that was answered in full is the answer within any budget.

    Args:
        query: checked.
        snapshot: version of the data.
        engine: version of models and settings.
    """
    try:
        filters, context = canonical(query.filters), canonical(query.context)
    except Exception:  # also changed meanwhile by another thread, or numbers too long to be written
        return None
    if len(filters) + len(context) > MAX_KEY_CHARS:
        return None
    return snapshot, engine, query.text, query.k, tuple(sorted(query.without)), filters, context


def size_of(key: Key) -> int:
    """Bytes of a key beside those of the versions, which all keys share; an estimate from above."""
    _, _, text, _, without, filters, context = key
    return 4 * (len(text) + len(filters) + len(context)) + sum(64 + len(name) for name in without)


def canonical(value: Any, depth: int = 0) -> str:
    """Text that is equal for values that are equal in type and content, and for no others.

    Plain values, lists, tuples, sets and dictionaries of them, NumPy's arrays and scalars.

    Raises:
        _NoKeyError: something else is in it, or it is too deep.
    """
    kind = type(value)  # exactly: what a subclass means is its own affair
    if kind in _PLAIN:
        return repr(value)
    if depth > _MAX_DEPTH:
        raise _NoKeyError
    if kind is list or kind is tuple:
        return f"{kind.__name__}[{','.join([canonical(item, depth + 1) for item in value])}]"
    if kind is dict or kind is OrderedDict:
        pairs = [f"{canonical(name, depth + 1)}:{canonical(item, depth + 1)}" for name, item in value.items()]
        return f"{{{','.join(sorted(pairs))}}}"
    if kind is set or kind is frozenset:
        return f"set[{','.join(sorted([canonical(item, depth + 1) for item in value]))}]"
    if (kind is np.ndarray or isinstance(value, np.generic)) and value.dtype.kind in _SIMPLE_DTYPES:
        return f"{kind.__name__}[{value.dtype.str},{value.shape},{value.tobytes()!r}]"
    raise _NoKeyError
