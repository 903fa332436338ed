from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import QueryError
from searchpipe.query import check_k, clean_text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  red   shoes\n", "red shoes"),
        ("red\x00shoes", "red shoes"),
        ("a\x1b[31mb\x7f", "a [31mb"),
        ("caf\u00e9 \ud83d", "caf\u00e9 \ufffd"),
        ("🎁🎁", "🎁🎁"),
        ("赤い靴 rote Schuhe", "赤い靴 rote Schuhe"),
    ],
)
def test_text_is_cleaned(raw, clean):
    assert clean_text(raw, 100) == clean


@pytest.mark.parametrize("bad", ["", "   ", "\n\t", "\x00\x01", "\u2028"])
def test_a_query_without_text_is_refused(bad):
    with pytest.raises(QueryError, match="holds no text"):
        clean_text(bad, 100)


def test_a_megabyte_is_refused_with_the_limit():
    with pytest.raises(QueryError, match="1048576 characters; the limit is 2048"):
        clean_text("x" * 2**20, 2048)


@pytest.mark.parametrize("bad", [None, 5, b"bytes", ["list"]])
def test_only_a_string_is_a_query(bad):
    with pytest.raises(QueryError, match="of type"):
        clean_text(bad, 100)


@given(st.text(alphabet=st.characters(), max_size=200))
def test_whatever_comes_out_is_valid_and_visible(text):
    try:
        out = clean_text(text, 200)
    except QueryError:
        return
    out.encode()
    assert out.strip() == out
    assert "\x00" not in out
    assert clean_text(out, 400) == out


@pytest.mark.parametrize("good", [1, 10, 1000, np.int64(7)])
def test_k_is_a_count(good):
    assert check_k(good, 1000) == int(good)


@pytest.mark.parametrize("bad", [0, -1, 1001, 2.5, "10", None, True])
def test_a_bad_k_is_refused(bad):
    with pytest.raises(QueryError, match="k is"):
        check_k(bad, 1000)
