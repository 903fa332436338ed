from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchpipe.catalog import Snapshot
from searchpipe.catalog.columns import CategoriesColumn, CategoryColumn, NumberColumn
from searchpipe.catalog.filters import parse_filters
from searchpipe.errors import FilterError
from tests.fakes.catalogs import snapshot_of


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    with snapshot_of(tmp_path_factory.mktemp("catalog")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, "abcde"),
        ({"price": {"lte": 80, "gte": 49.5}}, "ab"),
        ({"price": {"lt": 80, "gt": 49.5}}, ""),
        ({"price": 19.99}, "c"),
        ({"price": {"lte": 19.99}}, "c"),
        ({"price": [80, 120]}, "bd"),
        ({"price": {"not": {"lte": 80}}}, "de"),
        ({"brand": "Acme"}, "ab"),
        ({"brand": "acme"}, ""),
        ({"brand": ["Acme", "Zoom", "None"]}, "abe"),
        ({"brand": {"ne": "Acme"}}, "cde"),
        ({"brand": {"exists": False}}, "d"),
        ({"brand": []}, ""),
        ({"category": "Shoes"}, "abd"),
        ({"category": ["Boots", "Toys"]}, "de"),
        ({"category": {"not": ["Running", "Boots"]}}, "ce"),
        ({"category": "Running", "price": {"gt": 50}}, "b"),
        ({"is_sale": True}, "a"),
        ({"is_sale": {"exists": True}}, "ab"),
        ({"rating": {"gte": 4}}, "ab"),
        ({"rating": {"exists": False}}, "ce"),
        ({"color": {"in": ["red", "blue"]}}, "ab"),
        ({"rating_count": {"gte": np.int64(1)}}, "a"),
    ],
)
def test_filters_match_what_they_say(snapshot: Snapshot, filters: dict[str, Any], ids: str) -> None:
    mask = snapshot.mask(filters)
    found = "abcde" if mask is None else "".join(snapshot.id_of(np.flatnonzero(mask)))
    assert found == ids


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"prise": 5}, "no column 'prise'.*'price'"),
        ({"zzzz": 5}, "There are: brand, category"),
        ({5: 5}, "no column 5"),
        ({"price": "cheap"}, "holds numbers, not str"),
        ({"price": True}, "holds numbers, not bool"),
        ({"price": None}, "holds numbers"),
        ({"price": {"lte": float("nan")}}, "NaN"),
        ({"price": {"lte": 10**400}}, "too large"),
        ({"price": {"lessthan": 5}}, "no operator 'lessthan'"),
        ({"price": {}}, "has no operator"),
        ({"brand": 5}, "holds text, not int"),
        ({"brand": {"gt": "A"}}, "'gt' needs numbers"),
        ({"brand": {"exists": "yes"}}, "takes true or false"),
        ({"is_sale": "yes"}, "holds true or false, not str"),
        (["price"], "mapping of column"),
    ],
)
def test_bad_filters_say_what_is_wrong(snapshot: Snapshot, filters: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        snapshot.mask(filters)


def test_equal_filters_share_one_mask(snapshot: Snapshot) -> None:
    first = snapshot.mask({"brand": ["Acme", "Zoom"], "price": {"gte": 1, "lte": 60}})
    second = snapshot.mask({"price": {"lte": 60.0, "gte": 1}, "brand": ("Zoom", "Acme")})
    assert first is second
    assert first is not None
    assert not first.flags.writeable


def test_more_filters_than_are_kept_from_many_threads(snapshot: Snapshot) -> None:
    wrong: list[int] = []

    def work(offset: int) -> None:
        for bound in itertools.chain(range(offset, 200), range(offset)):
            mask = snapshot.mask({"price": {"lte": bound}})
            if mask is None or mask.sum() != sum(price <= bound for price in (49.5, 80, 19.99, 120.0)):
                wrong.append(bound)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_columns_give_values_codes_and_groups(snapshot: Snapshot) -> None:
    docs = np.array([4, 0, 2], np.int32)
    price, brand, category = (snapshot.columns[name] for name in ("price", "brand", "category"))
    assert isinstance(price, NumberColumn)
    np.testing.assert_array_equal(price.take(docs), [np.nan, 49.5, 19.99])
    assert price.take(docs).dtype == np.float64
    assert isinstance(brand, CategoryColumn)
    assert [brand.categories[code] for code in brand.take(docs)] == ["Zoom", "Acme", "Gartner"]
    np.testing.assert_array_equal(brand.groups(np.array([3, 0, 1], np.int32)), [-1, 0, 0])
    assert isinstance(category, CategoriesColumn)
    assert [[category.categories[c] for c in codes] for codes in category.take(docs)] == [
        ["Toys"],
        ["Shoes", "Running"],
        ["Garden"],
    ]
    tops = category.groups(np.array([0, 3, 4], np.int32), level=0)
    assert [category.categories[code] for code in tops] == ["Shoes", "Shoes", "Toys"]
    leaves = category.groups(np.array([0, 3, 4], np.int32))
    assert [category.categories[code] for code in leaves] == ["Running", "Boots", "Toys"]
    assert snapshot.columns.kinds["is_sale"] == "bool"


def test_columns_found_late_changed_or_without_values(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": str(number), "title": "t"} for number in range(6)]
    rows[1]["weight"] = 5
    rows[3]["weight"] = "heavy"  # another type than the first values
    rows[5]["late"] = "x"
    rows[4]["nested"] = {"a": 1}
    with snapshot_of(tmp_path, rows, chunk_rows=2) as snapshot:
        columns = snapshot.columns
        docs = np.arange(6, dtype=np.int32)
        np.testing.assert_array_equal(columns.numbers("weight", docs), [np.nan, 5, *[np.nan] * 4])
        late = columns["late"]
        assert isinstance(late, CategoryColumn)
        assert late.take(docs).tolist() == [-1] * 5 + [0]
        assert "nested" not in columns
        assert snapshot.mask({"category": "none"}).tolist() == [False] * 6  # type: ignore[union-attr]
        assert np.isnan(columns.numbers("no such column", docs)).all()


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
_OPERATORS = st.sampled_from(["gt", "gte", "lt", "lte", "eq", "in", "ne", "not", "exists", "x"])
_CONDITIONS = st.recursive(
    _SCALARS | st.lists(_SCALARS, max_size=3),
    lambda inner: st.dictionaries(_OPERATORS, inner, max_size=2),
    max_leaves=4,
)
_COLUMNS = st.sampled_from(["price", "brand", "category", "is_sale", "rating", "x"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_COLUMNS, _CONDITIONS, max_size=3))
def test_parsing_never_fails_in_another_way(snapshot: Snapshot, filters: dict[str, Any]) -> None:
    try:
        parsed = parse_filters(filters, snapshot.columns)
    except FilterError:
        return
    if parsed is not None:
        mask = parsed.mask(snapshot.columns)
        assert mask.shape == (5,)
        assert mask.dtype == np.bool_
