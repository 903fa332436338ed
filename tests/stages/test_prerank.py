from __future__ import annotations

import numpy as np
import pytest

from searchpipe.candidates import Candidates
from searchpipe.errors import ConfigError, ModelError
from searchpipe.stages.features import Features
from searchpipe.stages.prerank import Formula, Prerank


class Columns:
    def __init__(self, **columns):
        self.columns = {name: np.array(values, float) for name, values in columns.items()}
        self.count = max((len(values) for values in self.columns.values()), default=0)
        self.kinds = {**dict.fromkeys(columns, "number"), "brand": "category"}

    def numbers(self, name, docs):
        return self.columns[name][docs] if name in self.columns else np.full(len(docs), np.nan)


def formula(weights, **columns):
    return Prerank(Formula(Features(Columns(**columns)), weights))


def test_the_formula_reorders(make_work):
    work = make_work(3)
    formula({"fused": 0.1, "column:stock": 1.0}, stock=[0, 5, 10]).run(work)
    assert work.candidates.docs.tolist() == [2, 1, 0]
    assert work.candidates.scores["prerank"].tolist() == pytest.approx([1.0, 0.55, 0.1])
    assert work.orders["prerank"].tolist() == [2, 1, 0]


def test_ties_and_missing_values_keep_the_fused_order(make_work):
    work = make_work(4)
    formula({"column:stock": 1.0}, stock=[np.nan, np.nan, np.nan, np.nan]).run(work)
    assert work.candidates.docs.tolist() == [0, 1, 2, 3]


def test_features_are_bounded_and_ratings_are_drawn_to_the_mean(make_work):
    features = Features(Columns(rating=[5, 4.7, np.nan, 1], rating_count=[1, 1000, np.nan, 1e9]))
    names = ["fused", "fused_rank", "lexical", "dense", "popularity", "rating"]
    features.check(names)
    matrix = features.matrix(names, make_work(4))
    assert matrix.dtype == np.float32
    assert matrix.min() >= 0
    assert matrix.max() <= 1
    rating = matrix[:, names.index("rating")]
    assert rating[1] > rating[0] > rating[3] > rating[2] == 0


def test_an_unknown_feature_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no feature 'colum:stock'.*column:stock"):
        formula({"colum:stock": 1.0}, stock=[1.0])
    with pytest.raises(ConfigError, match="no feature 'column:brand'"):
        formula({"column:brand": 1.0}, stock=[1.0])


class Ranker:
    def __init__(self, scores):
        self.scores = scores

    def score(self, work):
        return self.scores

    def describe(self):
        return "test"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_learned_ranker_that_gives_nonsense_is_given_up(make_work, bad):
    work = make_work(3)
    Prerank(Ranker(np.array([1, bad, 0]))).run(work)
    assert work.candidates.docs.tolist() == [0, 1, 2]
    assert [d.reason for d in work.degradations] == ["bad_scores"]


def test_a_ranker_of_the_wrong_shape_is_named(make_work):
    with pytest.raises(ModelError, match=r"shape \(2,\) for 3 candidates"):
        Prerank(Ranker(np.zeros(2))).run(make_work(3))


@pytest.mark.parametrize("seed", range(20))
def test_the_default_formula_is_bit_for_bit_that_of_numpy(make_work, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 700))
    work = make_work(n)
    docs = rng.permutation(1000)[:n].astype(np.int32)
    fused = np.sort(rng.choice(rng.random(n), n)).astype(np.float32)[::-1].copy()
    lexical = np.where(rng.random(n) < 0.4, np.nan, 20 * rng.random(n)).astype(np.float32)
    work.candidates = Candidates.of(docs, {"fused": fused, "lexical": lexical})

    expected = np.zeros(n, np.float32)
    for column, weight in ((fused, 1.0), (lexical, 0.5)):
        known = np.isfinite(column)
        feature = np.zeros(n, np.float32)
        if known.any():
            low, high = column[known].min(), column[known].max()
            feature[known] = 1.0 if low == high else (column[known] - low) / (high - low)
        expected += feature * np.float32(weight)
    order = np.argsort(-expected, kind="stable")

    formula({"fused": 1.0, "lexical": 0.5}).run(work)
    assert work.candidates.docs.dtype == np.int32
    np.testing.assert_array_equal(work.candidates.docs, docs[order])
    np.testing.assert_array_equal(work.orders["prerank"], docs[order])
    assert list(work.candidates.scores) == ["fused", "lexical", "prerank"]
    for name, column in (("fused", fused), ("lexical", lexical), ("prerank", expected)):
        assert work.candidates.scores[name].dtype == np.float32
        np.testing.assert_array_equal(work.candidates.scores[name], column[order])
