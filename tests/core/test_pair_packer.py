from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe._core import PairPacker, TokenStore, TokenStoreWriter

CLS, SEP, PAD = 101, 102, 3
DOCUMENT_COUNT = 60
UNTOUCHED = -77


@pytest.fixture(scope="module", params=[30522, 0], ids=["uint16", "uint32"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    rng = np.random.default_rng(11)
    path: Path = tmp_path_factory.mktemp("store") / "tokens"
    with TokenStoreWriter(path, vocab_size=request.param) as writer:
        for length in rng.permutation(DOCUMENT_COUNT):
            writer.append(rng.integers(1000, 30000, length // 2, dtype=np.int32))
    return TokenStore(path)


def reference(
    pairs: list[tuple[list[int], list[int]]], max_query: int, max_doc: int, max_tokens: int
) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Rows of (ids, types) longest first, and the position of each."""
    rows = []
    for position, (query, document) in enumerate(pairs):
        query = query[:max_query]
        document = document[:max_doc][: max_tokens - 3 - len(query)]
        ids = [CLS, *query, SEP, *document, SEP]
        rows.append((ids, [0] * (len(query) + 2) + [1] * (len(document) + 1), position))
    rows.sort(key=lambda row: -len(row[0]))
    return [(ids, types) for ids, types, _ in rows], [position for *_, position in rows]


def padded(row: list[int], width: int, pad: int) -> list[int]:
    return row + [pad] * (width - len(row))


LAYOUTS: dict[str, Callable[[int, int, Any], np.ndarray[Any, Any]]] = {
    "contiguous": lambda rows, width, dtype: np.full((rows, width), UNTOUCHED, dtype),
    "wide stride": lambda rows, width, dtype: np.full((rows, width + 5), UNTOUCHED, dtype)[:, 2 : width + 2],
    "every third row": lambda rows, width, dtype: np.full((3 * rows, width), UNTOUCHED, dtype)[::3],
    "upside down": lambda rows, width, dtype: np.full((rows, width), UNTOUCHED, dtype)[::-1],
}

outputs = st.tuples(
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([np.int32, np.int64]),
    st.integers(0, 9),
    st.integers(0, 3),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rows_equal_the_reference(store: TokenStore, data: st.DataObject) -> None:
    max_query = data.draw(st.integers(1, 12))
    max_doc = data.draw(st.integers(1, 40))
    max_tokens = data.draw(st.integers(max_query + 3, 50))
    token = st.integers(0, 30521)
    queries = data.draw(st.lists(st.lists(token, max_size=16), min_size=1, max_size=4))
    docs = data.draw(st.lists(st.integers(0, DOCUMENT_COUNT - 1), max_size=20))
    one_query = len(queries) == 1
    query_of_row = [data.draw(st.integers(0, len(queries) - 1)) for _ in docs]
    rows, permutation = reference(
        [(queries[query], store.tokens(doc).tolist()) for query, doc in zip(query_of_row, docs, strict=True)],
        max_query,
        max_doc,
        max_tokens,
    )
    width = max((len(ids) for ids, _ in rows), default=0)

    packer = PairPacker(
        cls_id=CLS,
        sep_id=SEP,
        pad_id=PAD,
        max_query_tokens=max_query,
        max_doc_tokens=max_doc,
        max_tokens=max_tokens,
    )
    buffers = []
    for layout_name, dtype, extra_width, extra_rows in (data.draw(outputs) for _ in range(3)):
        buffers.append(LAYOUTS[layout_name](len(docs) + extra_rows, width + extra_width, dtype))
    ids, mask, types = buffers
    wanted_types = data.draw(st.booleans())
    given_types = types if wanted_types else None
    arrays = [np.array(query, np.int32) for query in queries]
    doc_array, row_array = np.array(docs, np.int32), np.array(query_of_row, np.int32)
    if one_query:
        plan = packer.layout(arrays[0], store, doc_array)
        layout = packer.pack(arrays[0], store, doc_array, ids, mask, given_types)
        in_their_order = packer.lengths(arrays[0], store, doc_array)
        assert in_their_order.dtype == np.int32
        assert in_their_order[plan.permutation].tolist() == plan.lengths.tolist()
    else:
        plan = packer.layout_many(arrays, row_array, store, doc_array)
        layout = packer.pack_many(arrays, row_array, store, doc_array, ids, mask, given_types)

    for result in (plan, layout):
        assert (result.rows, result.width) == (len(docs), width)
        assert result.lengths.tolist() == [len(row) for row, _ in rows]
        assert result.permutation.tolist() == permutation
        assert result.total_tokens == sum(len(row) for row, _ in rows)
        assert result.lengths.dtype == result.permutation.dtype == np.int32
    for row, (expected_ids, expected_types) in enumerate(rows):
        assert ids[row].tolist() == padded(expected_ids, ids.shape[1], PAD)
        assert mask[row].tolist() == padded([1] * len(expected_ids), mask.shape[1], 0)
        if wanted_types:
            assert types[row].tolist() == padded(expected_types, types.shape[1], 0)
    for buffer in (ids, mask, types):
        assert (buffer[len(docs) :] == UNTOUCHED).all()
        whole = buffer if buffer.base is None else buffer.base
        written = len(docs) * buffer.shape[1] if buffer is not types or wanted_types else 0
        assert np.count_nonzero(whole == UNTOUCHED) == whole.size - written


def test_equal_to_a_bert_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing

    words = [f"w{i}" for i in range(50)]
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    rng = np.random.default_rng(5)
    query = " ".join(rng.choice(words, 6))
    documents = [" ".join(rng.choice(words, size)) for size in rng.integers(0, 40, 50)]
    with TokenStoreWriter(tmp_path / "tokens", vocab_size=len(vocabulary)) as writer:
        for document in documents:
            writer.append(np.array(tokenizer.encode(document, add_special_tokens=False).ids, np.int32))
    query_ids = np.array(tokenizer.encode(query, add_special_tokens=False).ids, np.int32)

    tokenizer.enable_truncation(24, strategy="only_second")
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch([(query, document) for document in documents])
    packer = PairPacker(cls_id=2, sep_id=3, pad_id=0, max_doc_tokens=1000, max_tokens=24, max_query_tokens=8)
    docs = np.arange(50, dtype=np.int32)
    store = TokenStore(tmp_path / "tokens")
    ids, mask, types = (np.empty((50, 24), np.int64) for _ in range(3))
    order = packer.pack(query_ids, store, docs, ids, mask, types).permutation
    assert ids.tolist() == [encodings[position].ids for position in order]
    assert mask.tolist() == [encodings[position].attention_mask for position in order]
    assert types.tolist() == [encodings[position].type_ids for position in order]


def pack_into(store: TokenStore, **changed: Any) -> np.ndarray[Any, Any]:
    """Pack 3 pairs with one argument changed; returns input_ids."""
    packer = PairPacker(cls_id=CLS, sep_id=SEP)
    arguments: dict[str, Any] = {
        "query": np.array([7, 8], np.int32),
        "docs": np.array([0, 1, 2], np.int32),
        "input_ids": np.full((3, 80), UNTOUCHED, np.int64),
        "attention_mask": np.full((3, 80), UNTOUCHED, np.int64),
        "token_type_ids": np.full((3, 80), UNTOUCHED, np.int64),
    }
    arguments.update(changed)
    try:
        packer.pack(store=store, **arguments)
    except Exception:
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            array = arguments[name]
            if isinstance(array, np.ndarray) and array.dtype == np.int64:
                assert (array == UNTOUCHED).all()
        raise
    return np.asarray(arguments["input_ids"])


def read_only() -> np.ndarray[Any, Any]:
    array = np.full((3, 80), UNTOUCHED, np.int64)
    array.flags.writeable = False
    return array


def misaligned() -> np.ndarray[Any, Any]:
    raw = np.zeros(3 * 80 * 4 + 1, np.uint8)
    return raw[1:].view(np.int32).reshape(3, 80)


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "token_type_ids"])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (read_only, ValueError, "read-only"),
        (lambda: np.zeros((3, 80), np.float32), TypeError, "float32, not int32 or int64"),
        (lambda: np.zeros((3, 80), ">i8"), TypeError, "int32 or int64"),
        (lambda: [[0] * 80] * 3, TypeError, "of type list"),
        (lambda: np.full(240, UNTOUCHED, np.int64), ValueError, "1 dimensions, not 2"),
        (lambda: np.full((80, 3), UNTOUCHED, np.int64).T, ValueError, "rows are contiguous"),
        (lambda: np.full((3, 160), UNTOUCHED, np.int64)[:, ::2], ValueError, "rows are contiguous"),
        (lambda: np.full((2, 80), UNTOUCHED, np.int64), ValueError, "2 rows, 3 pairs"),
        (lambda: np.full((3, 5), UNTOUCHED, np.int64), ValueError, "5 columns, the longest row takes"),
        (misaligned, ValueError, "not aligned"),
        (
            lambda: np.lib.stride_tricks.as_strided(np.full(400, UNTOUCHED, np.int64), (3, 80), (8, 8)),
            ValueError,
            "do not overlap",
        ),
    ],
)
def test_unusable_outputs(
    store: TokenStore, name: str, make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"{name} .*{message}"):
        pack_into(store, **{name: make()})


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"docs": np.array([0, 60, 1], np.int32)}, IndexError, "document 60 .* 60 documents"),
        ({"docs": np.array([0, -1, 1], np.int32)}, IndexError, "document -1"),
        ({"docs": np.array([0, 1, 2])}, TypeError, "docs has dtype int64"),
        ({"docs": np.zeros((3, 1), np.int32)}, ValueError, "docs has 2 dimensions"),
        ({"query": [7, 8]}, TypeError, "query is of type list"),
        ({"query": np.array([7, -8], np.int32)}, ValueError, "token 1 of query 0 is -8"),
    ],
)
def test_unusable_inputs(
    store: TokenStore, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pack_into(store, **changed)


def test_lengths_refuse_what_packing_refuses(store: TokenStore) -> None:
    packer = PairPacker(cls_id=CLS, sep_id=SEP)
    query, docs = np.array([7], np.int32), np.array([0, 1], np.int32)
    with pytest.raises(IndexError, match=f"document {DOCUMENT_COUNT} is outside"):
        packer.lengths(query, store, np.array([1, DOCUMENT_COUNT], np.int32))
    with pytest.raises(IndexError, match="document -1 is outside"):
        packer.lengths(query, store, np.array([-1], np.int32))
    with pytest.raises(ValueError, match="token 1 of query 0 is -4"):
        packer.lengths(np.array([7, -4], np.int32), store, docs)
    with pytest.raises(TypeError, match="docs has dtype int64"):
        packer.lengths(query, store, docs.astype(np.int64))  # type: ignore[arg-type]
    assert packer.lengths(query, store, docs[:0]).tolist() == []


def test_unusable_batches_of_several_queries(store: TokenStore) -> None:
    packer = PairPacker(cls_id=CLS, sep_id=SEP)
    query, docs = np.array([7], np.int32), np.array([0, 1], np.int32)
    with pytest.raises(IndexError, match=r"query_of_row\[1\] is 2, outside of the 2 queries"):
        packer.layout_many([query, query], np.array([0, 2], np.int32), store, docs)
    with pytest.raises(IndexError, match="is -1"):
        packer.layout_many([query, query], np.array([-1, 0], np.int32), store, docs)
    with pytest.raises(ValueError, match="query_of_row has 1 entries and docs 2"):
        packer.layout_many([query, query], np.array([0], np.int32), store, docs)
    with pytest.raises(ValueError, match="query_of_row has 0 entries and docs 2"):
        packer.layout_many([query], np.array([], np.int32), store, docs)
    with pytest.raises(TypeError, match=r"queries\[1\] has dtype float64"):
        packer.layout_many([query, np.zeros(1)], np.array([0, 1], np.int32), store, docs)  # type: ignore[list-item]
    nothing = packer.layout_many([], np.array([], np.int32), store, np.array([], np.int32))
    assert (nothing.rows, nothing.width, nothing.total_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_query_tokens": 0}, "max_query_tokens is 0"),
        ({"max_doc_tokens": 0}, "max_doc_tokens 0"),
        ({"max_tokens": 34}, "lower max_query_tokens"),
        ({"max_tokens": 2**20 + 1}, "max_tokens is 1048577"),
        ({"max_tokens": -(2**31)}, "max_tokens is -2147483648"),
        ({"pad_id": -1}, "not negative"),
    ],
)
def test_impossible_limits(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairPacker(**{"cls_id": CLS, "sep_id": SEP, **changed})


def test_the_document_gives_way(store: TokenStore) -> None:
    longest = int(np.argmax(store.lengths()))
    packer = PairPacker(cls_id=CLS, sep_id=SEP, max_query_tokens=7, max_doc_tokens=20, max_tokens=10)
    ids, mask = (np.empty((1, 10), np.int32) for _ in range(2))
    packer.pack(np.arange(9, dtype=np.int32), store, np.array([longest], np.int32), ids, mask)
    assert ids.tolist() == [[CLS, 0, 1, 2, 3, 4, 5, 6, SEP, SEP]]
    packer.pack(np.arange(5, dtype=np.int32), store, np.array([longest], np.int32), ids, mask)
    assert ids.tolist() == [[CLS, 0, 1, 2, 3, 4, SEP, *store.tokens(longest)[:2].tolist(), SEP]]


def test_one_packer_in_many_threads(store: TokenStore) -> None:
    packer = PairPacker(cls_id=CLS, sep_id=SEP)
    docs = np.arange(DOCUMENT_COUNT, dtype=np.int32)
    expected = np.empty((DOCUMENT_COUNT, 64), np.int64)
    packer.pack(np.array([5], np.int32), store, docs, expected, np.empty_like(expected))
    failures: list[int] = []

    def work(number: int) -> None:
        ids, mask = np.empty((DOCUMENT_COUNT, 64), np.int64), np.empty((DOCUMENT_COUNT, 64), np.int32)
        for _ in range(100):
            ids.fill(UNTOUCHED)
            packer.pack(np.array([5], np.int32), store, docs, ids, mask)
            if not np.array_equal(ids, expected):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
