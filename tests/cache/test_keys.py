"""Queries that may get different pages have different keys."""

from __future__ import annotations

import datetime
import enum
import types
from collections import OrderedDict, UserDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.cache.keys import MAX_KEY_CHARS, Key, key_of, size_of
from searchpipe.query import Query

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, 1.0, 2.5, float("inf")]),
    st.text(alphabet="ab0,:[]{}'\"\\é\ud800", max_size=4),
    st.binary(max_size=2),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.frozensets(LEAVES, max_size=3),
    ),
    max_leaves=6,
)


def key(**fields: Any) -> Key | None:
    return key_of(Query(**{"text": "red shoes", "k": 10, **fields}), "s1", "e1")


def same(one: Any, other: Any) -> bool:
    """Equal in type and content, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, frozenset):
        return {(type(item), repr(item)) for item in one} == {(type(item), repr(item)) for item in other}
    return repr(one) == repr(other)


@given(VALUES, VALUES)
def test_keys_are_equal_for_equal_values_alone(one: Any, other: Any) -> None:
    keys = [key(context={"value": value}) for value in (one, other)]
    assert None not in keys
    assert (keys[0] == keys[1]) == same(one, other)


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"text": "red shoe"},
    {"text": "Red shoes"},
    {"text": "caf\u00e9"},
    {"text": "cafe\u0301"},
    {"k": 11},
    {"without": frozenset({"score"})},
    {"without": frozenset({"score", "diversify"})},
    *({"filters": {"is_sale": value}} for value in (0, 0.0, False, "0", None, [0], [False])),
    {"filters": {"brand": ["Acme", "Zoom"]}},
    {"filters": {"brand": ["Zoom", "Acme"]}},
    {"filters": {"brand": ("Acme", "Zoom")}},
    {"filters": {"brand": "Acme,Zoom"}},
    {"filters": {"brand": "'Acme','Zoom'"}},
    {"filters": {"brand": {"ne": "Acme"}}},
    {"filters": {"brand": {"not": "Acme"}}},
    {"filters": {"brand": {"not": {"in": "Acme"}}}},
    {"context": {"brand": {"ne": "Acme"}}},
    {"context": {"v": np.array([1, 2], np.int32)}},
    {"context": {"v": np.array([1, 2], np.int64)}},
    {"context": {"v": np.array([[1, 2]], np.int32)}},
    {"context": {"v": np.float32(1)}},
    {"context": {"v": 1.0}},
]


def test_whatever_differs_has_another_key() -> None:
    keys = [key(**fields) for fields in DIFFERENT]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    query = Query("red shoes", 10)
    assert len({key_of(query, s, e) for s in ("s1", "s2") for e in ("e1", "e2")}) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"filters": {"a": 1, "b": 2}}, {"filters": {"b": 2, "a": 1}}),
        ({"filters": {"a": {"gte": 1, "lte": 2}}}, {"filters": {"a": {"lte": 2, "gte": 1}}}),
        ({"context": {"s": {"x", "y", "z"}}}, {"context": {"s": {"z", "y", "x"}}}),
        ({"context": OrderedDict(a=1)}, {"context": {"a": 1}}),
        ({"priority": 5}, {"priority": -5}),
        ({"without": frozenset("ab")}, {"without": frozenset("ba")}),
    ],
)
def test_what_does_not_matter_is_not_in_the_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(**one) == key(**other)


class Colour(enum.StrEnum):
    RED = "red"


def _deep() -> Any:
    value: Any = []
    for _ in range(40):
        value = [value]
    return value


def _endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Colour.RED,
        datetime.date(2026, 1, 1),
        UserDict(a=1),
        types.MappingProxyType({"a": 1}),
        np.ma.masked_array([1, 2], [True, False]),
        np.array([object()]),
        np.zeros(2, [("a", "i4")]),
        lambda: None,
        10**5000,
        _deep(),
        _endless(),
        "x" * MAX_KEY_CHARS,
        np.zeros(MAX_KEY_CHARS, np.uint8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_told_has_no_key(value: Any) -> None:
    assert key(context={"value": value}) is None


def test_a_mapping_whose_own_code_fails_has_no_key() -> None:
    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise OSError("gone")

    assert key(context=Broken(a=1)) is None


def test_sizes_grow_with_what_is_in_the_key() -> None:
    small, large = key(), key(filters={"brand": "A" * 1000})
    assert small is not None
    assert large is not None
    assert size_of(large) - size_of(small) >= 1000
