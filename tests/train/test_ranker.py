from __future__ import annotations

import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from searchpipe.catalog import Snapshot  # noqa: E402
from searchpipe.config import load_config  # noqa: E402
from searchpipe.errors import CatalogError  # noqa: E402
from searchpipe.pipeline import Pipeline  # noqa: E402
from searchpipe.stages.learned import open_learned  # noqa: E402
from searchpipe.train.ranker import definition_for, formula_scores, train_ranker  # noqa: E402
from searchpipe.train.ranker_data import RankingList  # noqa: E402
from searchpipe.train.ranker_model import DeepFM, RankerTraining, scores_of, train  # noqa: E402

FORMULA = {"fused": 1.0, "lexical": 0.5}
QUICK = RankerTraining(epochs=2, hidden=8, width=4)


def lists_where(rule, count=40, n=12, seed=0):
    rng = np.random.default_rng(seed)
    definition = definition_for()
    made = []
    for _ in range(count):
        categories = np.stack([rng.integers(0, t.rows, n) for t in definition.categories], axis=1)
        dense = rng.random((n, len(definition.dense))).astype(np.float32)
        worth = rule(categories, dense).astype(np.float32)
        made.append(RankingList("q", tuple(f"p{k}" for k in range(n)), categories, dense, worth))
    return made


def test_it_starts_at_the_formula():
    torch.manual_seed(1)
    (made,) = lists_where(lambda c, d: d[:, 0] > 2, count=1)
    model = DeepFM(definition_for(), RankerTraining(), FORMULA)
    order = np.argsort(-scores_of(model, made))
    assert order[0] == np.argmax(formula_scores(made, FORMULA))


def test_it_learns_what_the_formula_does_not_see():
    column = definition_for().dense.index("recent_category")
    best = lists_where(lambda c, d: d[:, column] == d[:, column].max(), count=100)
    training = RankerTraining(epochs=12, rate=0.02, lists=4)
    model, history = train(best, definition_for(), training, FORMULA)
    assert history[-1]["loss"] < history[1]["loss"]
    assert max(epoch["ndcg"] for epoch in history) > history[0]["ndcg"]
    unseen = lists_where(lambda c, d: d[:, column] == d[:, column].max(), seed=9)
    hits = [made.worth[scores_of(model, made).argmax()] for made in unseen]
    plain = [made.worth[formula_scores(made, FORMULA).argmax()] for made in unseen]
    assert sum(hits) > sum(plain) + 10


def test_the_same_seed_gives_the_same_model():
    lists = lists_where(lambda c, d: d[:, 1] > 0.9)
    first, second = (train(lists, definition_for(), QUICK, FORMULA)[0] for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("source", ["clicks", "labels"])
def test_from_a_snapshot_to_a_served_ranker(world, tmp_path, source):
    files = world.files
    config = load_config(world.config)
    clicks = files.query_log if source == "clicks" else None
    report = train_ranker(
        world.snapshot,
        tmp_path,
        QUICK,
        clicks=clicks,
        queries=files.queries,
        labels=files.qrels,
        config=config,
    )
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["trained_from"] == source
    assert report["onnx_difference"] < 1e-4
    assert report["bytes"] < 8_000_000
    assert 0 < report["ndcg10"]["learned"] <= 1
    model = tmp_path / "ranker.onnx"
    with Snapshot.open(world.snapshot) as snapshot:
        assert "6 categories and 14 dense" in open_learned(snapshot, str(model)).describe()
    served = load_config({**world.config, "prerank": {"model": str(model)}})
    with Pipeline.open(world.snapshot, served) as pipeline:
        page = pipeline.search(
            world.queries[0], budget_ms=math.inf, context={"user": "u1", "device": "phone"}
        )
    assert not page.degraded
    assert len(page)


def test_nothing_to_learn_from_is_refused(world, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"query": "shoes", "clicks": []}\n')
    with pytest.raises(CatalogError, match="nothing to train from"):
        train_ranker(world.snapshot, tmp_path, QUICK, clicks=log, config=load_config(world.config))
