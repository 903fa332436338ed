from __future__ import annotations

import pytest

from searchpipe.cli.filters import parse_expressions
from searchpipe.errors import FilterError


def test_expressions_become_the_filter_mapping():
    assert parse_expressions(
        ["price<=50", "price > 9.5", "brand=Acme & Co", "category=Toys|Games", "is_book=false", "color!=red"]
    ) == {
        "price": {"lte": 50, "gt": 9.5},
        "brand": "Acme & Co",
        "category": ["Toys", "Games"],
        "is_book": False,
        "color": {"ne": "red"},
    }


@pytest.mark.parametrize("bad", ["price", "=5", "price<=", "<=3", ""])
def test_what_cannot_be_read_is_refused(bad):
    with pytest.raises(FilterError, match="cannot be read"):
        parse_expressions([bad])


@pytest.mark.parametrize("pair", [("a=1", "a=2"), ("a<=1", "a<=2"), ("a=1", "a<2")])
def test_what_clashes_is_refused(pair):
    with pytest.raises(FilterError, match="repeats one on 'a'"):
        parse_expressions(pair)
