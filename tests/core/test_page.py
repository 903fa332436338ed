"""What a page is made of: reasons and scores by row, and objects with slots."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.page import Hit, Span

SOURCES = ("lexical", "dense")
NAMES = (*SOURCES, "fused", "prerank", "score", "diversify")

orders = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.integers(0, 30), max_size=20, unique=True), max_size=len(NAMES)
)


def reference(doc, given):
    """By definition, one document at a time."""
    reasons, before = [], 0
    for name, order in given.items():
        place = order.index(doc) + 1 if doc in order else 0
        if name in SOURCES:
            reasons.append(f"{name} rank {place}" if place else f"not found by {name} recall")
            continue
        if name == "fused":
            reasons.append(f"fused rank {place}")
        elif place and before and place != before:
            reasons.append(f"{name} moved it {'up' if place < before else 'down'} {abs(before - place)}")
        before = place or before
    return tuple(reasons)


def write(
    docs, *, scores=None, given=None, moved=None, sources=SOURCES, fused="fused", ids=None, fields=None
):
    """Hits of documents whose ids and fields say which they are."""
    docs = np.asarray(docs, np.int32)
    writer = _core.HitWriter(Hit, ranked=NAMES, sources=sources, fused=fused, final=("blend", "fused"))
    ids = [f"P{doc}" for doc in docs] if ids is None else ids
    fields = [{"doc": int(doc)} for doc in docs] if fields is None else fields
    return writer.write(docs, ids, fields, scores or {}, given or {}, moved or {})


@given(docs=st.lists(st.integers(0, 30), max_size=12), given=orders, more=st.sampled_from([1, 40]))
def test_reasons_say_where_each_order_put_a_document(docs, given, more):
    arrays = {name: np.array(order, np.int32) for name, order in given.items()}
    arrays["score"] = None
    known = {name: given[name] for name in NAMES if given.get(name) and name != "score"}
    docs = (docs * more)[: 12 * more]  # few and many are looked up in ways of their own
    found = [hit.reasons for hit in write(docs, given=arrays)]
    assert found == [reference(doc, known) for doc in docs]


@given(
    order=st.lists(st.integers(0, 400), min_size=100, max_size=400),
    docs=st.lists(st.integers(0, 400), max_size=8),
)
def test_of_a_document_that_is_twice_in_an_order_the_first_place_counts(order, docs):
    found = write(docs, given={"fused": np.array(order, np.int32), "own": "not ranked"})
    places = [order.index(doc) + 1 if doc in order else 0 for doc in docs]
    assert [hit.reasons for hit in found] == [(f"fused rank {place}",) for place in places]


def test_orders_of_other_arrays_are_refused():
    docs = np.arange(3, dtype=np.int32)
    with pytest.raises(TypeError, match=r"orders\[score\] has dtype int64"):
        write(docs, given={"score": docs.astype(np.int64)})
    with pytest.raises(ValueError, match="docs has 2 dimensions"):
        write(docs[None], ids="abc", fields="abc")


def test_what_else_moved_a_document_is_said_last():
    order = np.array([4, 2], np.int32)
    found = write(order, given={"fused": order}, moved={2: "a quota was relaxed", 4: "", 7: "not here"})
    assert [hit.reasons for hit in found] == [("fused rank 1",), ("fused rank 2", "a quota was relaxed")]


def test_hits_are_those_of_the_class():
    scores = {"fused": np.array([0.5, 0.25, 0.125], np.float32), "blend": np.array([2, np.nan], np.float32)}
    first, second = write([3, 1], scores=scores, ids=iter(["a", "b"]), fields=({"t": 1}, {"t": 2}))
    assert first == Hit(1, "a", 2.0, {"fused": 0.5, "blend": 2.0}, {"t": 1}, ())
    assert second == Hit(2, "b", 0.25, {"fused": 0.25}, {"t": 2}, ())
    assert dataclasses.asdict(first) == dataclasses.asdict(Hit(1, "a", 2.0, first.scores, {"t": 1}, ()))
    assert list(first.scores) == ["fused", "blend"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.rank = 2
    assert [hit.score for hit in write([1])] == [0.0]
    assert write([]) == []


def test_as_many_ids_and_fields_as_documents_are_wanted():
    with pytest.raises(ValueError, match="ids: 1 values for 2 documents"):
        write([1, 2], ids=["a"])
    with pytest.raises(ValueError, match="fields: 3 values for 2 documents"):
        write([1, 2], fields=[{}, {}, {}])
    with pytest.raises(TypeError):
        write([1, 2], ids=None, fields=5)


def test_hits_hold_and_drop_their_values():
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    [hit] = write([1], fields=[{"value": value}])
    del value
    assert gone() is not None
    hit.fields["cycle"] = hit
    del hit
    gc.collect()
    assert gone() is None


def test_another_class_than_a_hit_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Open:
        rank: int
        id: str
        score: float
        scores: dict
        fields: dict
        reasons: tuple

    with pytest.raises(TypeError, match="rank is no slot of Open"):
        _core.HitWriter(Open, ranked=(), sources=(), fused="", final=())
    with pytest.raises(TypeError, match="a hit has the fields rank, id"):
        _core.HitWriter(Span, ranked=(), sources=(), fused="", final=())


@given(
    columns=st.dictionaries(
        st.text(max_size=5), st.lists(st.floats(width=32), min_size=8, max_size=8), max_size=4
    ),
    rows=st.integers(0, 8),
    kinds=st.lists(st.sampled_from(["f4", "f8", "strided", "object"]), min_size=4, max_size=4),
)
def test_scores_are_dicts_without_nan(columns, rows, kinds):
    def array(values, kind):
        if kind == "strided":
            return np.repeat(np.array(values, np.float32), 2)[::2]
        return np.array(values, {"object": object}.get(kind, kind))

    arrays = {name: array(v, kind) for (name, v), kind in zip(columns.items(), kinds, strict=False)}
    found = [hit.scores for hit in write(range(rows), scores=arrays)]
    assert found == [
        {name: values[row] for name, values in columns.items() if values[row] == values[row]}
        for row in range(rows)
    ]
    assert all(type(value) is float for row in found for value in row.values())


def test_a_column_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"scores\[score\] has 2 values; 3 rows are wanted"):
        write([1, 2, 3], scores={"score": np.ones(2, np.float32)})


def test_whole_numbers_and_own_objects_stay_what_they_are():
    class Unequal:
        def __eq__(self, other):
            return False

        __hash__ = None

    kept = np.array([Unequal(), "text"], object)
    found = write([1, 2], scores={"int": np.array([1, 2]), "own": kept})
    assert [hit.scores for hit in found] == [{"int": 1}, {"int": 2, "own": "text"}]


def test_slotted_objects_are_those_of_the_class():
    rows = [("recall", 0.5, 1.5, 0, 300, "x", 3), ("page", 2.0, 1.0, 300, 10, "", 0)]
    spans = _core.slotted(Span, iter(rows))
    assert spans == [Span(*row) for row in rows]
    assert dataclasses.asdict(spans[0]) == dataclasses.asdict(Span(*rows[0]))
    assert hash(spans[1]) == hash(Span(*rows[1]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spans[0].stage = "other"
    [hit] = _core.slotted(Hit, [(1, "a", 0.5, {"s": 1.0}, {"title": "A"}, ("r",))])
    assert repr(hit) == repr(Hit(1, "a", 0.5, {"s": 1.0}, {"title": "A"}, ("r",)))
    assert _core.slotted(Hit, []) == []


def test_slotted_objects_hold_and_drop_their_values():
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    [hit] = _core.slotted(Hit, [(1, "a", 0.5, {}, {"value": value}, ())])
    del value
    assert gone() is not None
    hit.fields["cycle"] = hit
    del hit
    gc.collect()
    assert gone() is None


def test_one_object_is_that_of_the_class():
    values = ("recall", 0.5, 1.5, 0, 300, "x", 3)
    span = _core.made(Span, *values)
    assert span == Span(*values)
    assert repr(span) == repr(Span(*values))
    assert pickle.loads(pickle.dumps(span)) == span
    with pytest.raises(dataclasses.FrozenInstanceError):
        span.stage = "other"
    with pytest.raises(TypeError, match="2 values for 7 fields"):
        _core.made(Span, "recall", 0.5)
    for wrong in ((), (3,), (object, 1)):
        with pytest.raises((TypeError, AttributeError)):
            _core.made(*wrong)


def test_objects_of_many_classes_are_their_own():
    kinds = [dataclasses.make_dataclass(f"Kind{n}", "ab"[: 1 + n % 2], slots=True) for n in range(20)]
    for _ in range(2):
        for n, kind in enumerate(kinds):
            values = range(n, n + 1 + n % 2)
            assert _core.made(kind, *values) == kind(*values)


def test_what_has_no_slots_is_refused():
    @dataclasses.dataclass
    class Plain:
        a: int = 0

    with pytest.raises(TypeError, match="a is no slot of Plain"):
        _core.slotted(Plain, [(1,)])
    for row in [(1,), [1, 2], "ab", None]:
        with pytest.raises(TypeError, match="no tuple of 6 values"):
            _core.slotted(Hit, [row])
