from __future__ import annotations

import json

import numpy as np
import pytest

from searchpipe.catalog import Snapshot
from searchpipe.config import load_config
from searchpipe.engine.ranker_rows import RankerRows
from searchpipe.errors import ModelError
from searchpipe.recalled import Recalled
from searchpipe.stages.ranker_inputs import RankerInputs
from searchpipe.train.ranker import definition_for
from searchpipe.train.ranker_data import MAX_WEIGHT, ListMaker, click_weights, from_clicks, ndcg
from tests.fakes.tiny_ranker import save_ranker


@pytest.fixture(scope="module")
def maker(world):
    with Snapshot.open(world.snapshot) as snapshot:
        recalled = Recalled(snapshot, load_config(world.config))
        inputs = RankerInputs(snapshot.columns, snapshot.tokens, definition_for())
        yield ListMaker(snapshot, recalled, inputs)
        recalled.close()


def test_what_recall_found_is_never_a_cached_page(world):
    config = load_config({**world.config, "cache": {"results_entries": 10}})
    with Snapshot.open(world.snapshot) as snapshot:
        recalled = Recalled(snapshot, config)
        first, other, again = (recalled.work(world.queries[n]) for n in (0, 1, 0))
        recalled.close()
    assert first is not None
    assert again not in (None, first, other)
    np.testing.assert_array_equal(again.candidates.docs, first.candidates.docs)


def test_clicks_count_by_the_inverse_propensity_of_their_position():
    shown = [f"p{n}" for n in range(1, 101)]
    assert click_weights(["p1", "p4"], shown, 0.5) == {"p1": 1.0, "p4": 2.0}
    assert click_weights(["p100"], shown, 1.0) == {"p100": MAX_WEIGHT}
    assert click_weights(["elsewhere"], shown, 1.0) == {"elsewhere": 1.0}
    assert click_weights(["p9", "p9"], None, 1.0) == {"p9": 2.0}


def test_lists_of_a_log(maker, world):
    lists = list(from_clicks(maker, world.files.query_log, eta=1.0, limit=10))
    rows = [json.loads(line) for line in world.files.query_log.read_text("utf-8").splitlines()]
    assert 0 < len(lists) <= 10
    by_query = {row["query"]: row for row in rows if row["clicks"]}
    for made in lists:
        clicked = {product for product, worth in zip(made.products, made.worth, strict=True) if worth}
        assert clicked
        assert clicked <= {p for row in rows if row["query"] == made.query for p in row["clicks"]}
        assert made.query in by_query
        assert made.categories.shape == (len(made.products), len(definition_for().categories))
        assert made.dense.shape == (len(made.products), len(definition_for().dense))


def test_a_query_without_text_or_candidates_has_no_list(maker):
    assert maker.make(" \n", {}) is None


def test_ndcg_against_a_hand_calculation():
    worth = np.array([0.0, 1.0, 0.1])
    ideal = np.array([1.0, 0.1])
    best = 1.0 + 0.1 / np.log2(3)
    assert ndcg(np.array([1, 2, 0]), worth, ideal) == pytest.approx(1.0)
    assert ndcg(np.array([0, 1, 2]), worth, ideal) == pytest.approx((1 / np.log2(3) + 0.05) / best)
    assert ndcg(np.array([0]), worth, np.zeros(0)) == 0.0


def test_the_factory_gets_what_the_stage_computes(world, tmp_path):
    """One pair at a time gives what the whole query gives, and strangers give nothing."""
    model = save_ranker(tmp_path / "r.onnx", {"fused": 1.0, "rating": 1.0, "text_overlap": 1.0})
    config = load_config(world.config)
    with Snapshot.open(world.snapshot) as snapshot:
        rows = RankerRows(snapshot, model, config)
        recalled = Recalled(snapshot, config)
        text = world.queries[0]
        work = recalled.work(text)
        docs = work.candidates.docs.tolist()
        inputs = RankerInputs(snapshot.columns, snapshot.tokens, rows._definition)
        expected = inputs.feeds(work)
        found = rows.feeds([(text, doc) for doc in docs])
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
        stranger = next(doc for doc in range(snapshot.count) if doc not in docs)
        odd = rows.feeds([("", docs[0]), (text, stranger)])
        assert not odd["dense"].any()
        assert odd["categories"].dtype == np.int64
        recalled.close()
        (tmp_path / "r.json").unlink()
        with pytest.raises(ModelError, match="cannot be read"):
            RankerRows(snapshot, model, config)
