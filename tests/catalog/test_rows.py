from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from searchpipe.catalog.readers import RawRow
from searchpipe.catalog.rows import Product, RowChecker, RowError
from searchpipe.catalog.settings import FieldMap, IndexSettings
from searchpipe.catalog.template import TextTemplate
from searchpipe.catalog.values import infer_kind, to_bool, to_categories, to_number


def check(data: dict[str, Any], **settings: Any) -> Product:
    return RowChecker(IndexSettings(**settings)).check(RawRow(Path("p.jsonl"), 1, data))


def test_fields_are_mapped_converted_and_cleaned() -> None:
    product = check(
        {
            "sku": 12,
            "name": " Shoe\0s ",
            "cat": "Toys > Games|Board",
            "cost": "9.50",
            "text": ["a", "b"],
            "x": 1,
        },
        fields=FieldMap(id="sku", title="name", category="cat", price="cost"),
    )
    assert product.id == "12"
    assert product.values == {
        "title": "Shoe s",
        "text": "a\nb",
        "category": ["Toys", "Games", "Board"],
        "price": 9.5,
        "x": 1,
    }


def test_an_unmapped_key_does_not_pass_for_a_canonical_field() -> None:
    product = check({"id": "a", "name": "Shoe", "title": "Mr"}, fields=FieldMap(title="name"))
    assert product.values["title"] == "Shoe"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "no id"),
        ({"id": "  "}, "no id"),
        ({"id": 1.5}, "id: text or a whole number"),
        ({"id": True}, "id: text or a whole number"),
        ({"id": "x" * 600}, "id: longer than 512"),
        ({"id": "a\0b"}, "id: contains characters"),
        ({"id": "a\ud800"}, "id: contains characters"),
        ({"title": None}, "no title"),
        ({"title": 5}, "title: text is expected, not int"),
        ({"text": {"a": 1}}, "text: text is expected, not dict"),
        ({"price": "cheap"}, "price: a number is expected, not 'cheap'"),
        ({"price": True}, "price: a number is expected, not bool"),
        ({"price": [1]}, "price: a number is expected, not list"),
        ({"price": math.inf}, "price: a finite number"),
        ({"price": 10**400}, "price: a number"),
        ({"brand": ["A"]}, "brand: text is expected, not list"),
        ({"category": 5.5}, "category: a list of texts"),
        ({"category": ["A", {}]}, "category: text is expected, not dict"),
    ],
)
def test_bad_fields_are_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        check({"id": "a", "title": "t"} | change)


def test_missing_values_are_no_errors() -> None:
    product = check(
        {"id": "a", "title": "t", "price": None, "rating": "", "brand": " ", "category": [], "x": None}
    )
    assert product.values == {"title": "t", "text": ""}
    assert check({"id": "a", "title": "t", "price": math.nan}).values == {"title": "t", "text": ""}


def test_the_error_carries_the_id() -> None:
    with pytest.raises(RowError) as caught:
        check({"id": "a", "title": "t", "price": "cheap"})
    assert caught.value.product_id == "a"


def test_a_configured_kind_is_enforced_and_an_ignored_column_is_not_lost() -> None:
    with pytest.raises(RowError, match="stock"):
        check({"id": "a", "title": "t", "stock": "many"}, columns={"stock": "number"})
    assert check({"id": "a", "title": "t", "brand": "B"}, columns={"brand": "ignore"}).values["brand"] == "B"


def test_values_convert() -> None:
    assert to_number(" 1e3 ") == 1000.0
    assert [to_bool(value) for value in (True, 0, "Yes", "false")] == [1.0, 0.0, 1.0, 0.0]
    assert to_categories(["A", "B", "A", None, " "], ">") == ["A", "B"]
    assert to_categories("A > B", "") == ["A > B"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5], "number"),
        (["1", "2.5"], "number"),
        ([True, False], "bool"),
        (["true", "False"], "bool"),
        (["red", "1"], "category"),
        ([["a"], ["b", "c"]], "categories"),
        ([{"a": 1}], None),
        ([[1]], None),
        ([1, "x"], None),
    ],
)
def test_kinds_are_inferred(values: list[Any], kind: str | None) -> None:
    assert infer_kind(values) == kind


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"title": "Red  boot", "brand": "Acme", "text": "a b c d"}, "Red boot, Acme. a b"),
        ({"title": "Red boot", "text": "a b c d"}, "Red boot. a b"),
        ({"title": "Red boot", "brand": ["Acme", "Co"]}, "Red boot, Acme Co"),
        ({"brand": "Acme"}, ", Acme"),
        ({}, ""),
    ],
)
def test_a_missing_field_takes_the_text_before_it_along(values: dict[str, object], text: str) -> None:
    assert TextTemplate("{title}, {brand}. {text:2}").render(values) == text
