from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest

from searchpipe.config import load_config
from searchpipe.engine.manifest import SourceModel, Variant
from searchpipe.engine.registry import Registry
from searchpipe.errors import ModelError, RegistryError
from searchpipe.models.cache import sha256_of
from searchpipe.pipeline import Pipeline
from searchpipe.query import Query
from searchpipe.stages.learned import open_learned
from searchpipe.stages.prerank import Prerank
from searchpipe.stages.ranker_definition import (
    CATEGORIES,
    DENSE,
    FEATURES_VERSION,
    CategoryTable,
    RankerDefinition,
)
from searchpipe.stages.ranker_inputs import RankerInputs, hashed
from tests.fakes.catalogs import snapshot_of
from tests.fakes.engines import engine_manifest
from tests.fakes.tiny_ranker import save_ranker


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    with snapshot_of(tmp_path_factory.mktemp("learned")) as opened:
        yield opened


def everything():
    return RankerDefinition(
        features_version=FEATURES_VERSION,
        categories=tuple(CategoryTable(name, 1000) for name in CATEGORIES),
        dense=DENSE,
        model_sha256="",
    )


def feeds_of(snapshot, work, context=None):
    work.query = Query(work.query.text, 10, {}, context or {})
    inputs = RankerInputs(snapshot.columns, snapshot.tokens, everything())
    found = inputs.feeds(work)
    dense = {name: found["dense"][:, place] for place, name in enumerate(DENSE)}
    categories = {name: found["categories"][:, place] for place, name in enumerate(CATEGORIES)}
    assert found["dense"].dtype == np.float32
    assert found["categories"].dtype == np.int64
    assert (found["dense"] >= 0).all()
    assert (found["dense"] <= 1).all()
    return categories, dense


def test_categories_are_hashed_and_unknown_is_row_0(snapshot, make_work):
    categories, _ = feeds_of(snapshot, make_work(5), {"user": "u1", "device": None})
    assert categories["brand"].tolist() == [
        hashed(brand, 1000) for brand in ("Acme", "acme ", "Gartner", None, "Zoom")
    ]
    assert categories["brand"][3] == 0
    assert categories["category"].tolist() == [
        hashed(name, 1000) for name in ("Running", "Running", "Garden", "Boots", "Toys")
    ]
    assert categories["top_category"][3] == hashed("Shoes", 1000)
    assert set(categories["query_class"]) == {hashed("Running", 1000)}
    assert set(categories["user"]) == {hashed("u1", 1000)}
    assert set(categories["device"]) == {0}


def test_hashes_are_the_same_everywhere_and_stay_in_their_table():
    assert hashed("Acme", 4096) == hashed(" ACME", 4096) == 1680
    values = ["Acme", "", None, 7, True]
    assert [hashed(value, 2) for value in values] == [1, 0, 0, 1, 1]
    assert all(1 <= hashed(f"brand {n}", 16) < 16 for n in range(200))


def test_dense_features(snapshot, make_work):
    context = {"recent_category": "Shoes", "recent_brand": "Zoom"}
    _, dense = feeds_of(snapshot, make_work(5), context)
    assert dense["recent_category"].tolist() == [1, 1, 0, 1, 0]
    assert dense["recent_brand"].tolist() == [0, 0, 0, 0, 1]
    assert dense["price_place"].tolist() == [0.25, 0.5, 0.0, 0.75, 0.5]
    assert dense["has_price"].tolist() == [1, 1, 1, 1, 0]
    assert dense["category_share"].tolist() == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.2])
    assert dense["query_words"].tolist() == pytest.approx([0.2] * 5)
    assert dense["fused"].tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_overlap_counts_different_tokens_of_the_query(snapshot, make_work):
    work = make_work(5)
    first = np.array(snapshot.tokens.tokens(0))
    work.pair_tokens = np.array([first[0], first[0], 10**6], np.int32)
    _, dense = feeds_of(snapshot, work)
    expected = [float(first[0] in snapshot.tokens.tokens(doc)) / 2 for doc in range(5)]
    assert dense["text_overlap"].tolist() == pytest.approx(expected)
    assert dense["title_overlap"][0] == 0.5
    work.pair_tokens = work.tokens = None
    _, dense = feeds_of(snapshot, work)
    assert not dense["text_overlap"].any()


def test_a_catalog_without_the_columns_has_no_features(tmp_path, make_work):
    with snapshot_of(tmp_path, [{"id": "x", "title": "Red shoes"}, {"id": "y", "title": "Hat"}]) as bare:
        categories, dense = feeds_of(bare, make_work(2), {"recent_category": "Shoes", "recent_brand": 3})
    assert not any(column.any() for column in categories.values())
    assert dense["price_place"].tolist() == [0.5, 0.5]


def test_the_ranker_reorders_and_is_personal(snapshot, make_work, tmp_path):
    model = save_ranker(tmp_path / "r.onnx", {"recent_brand": 1.0, "fused": 0.1})
    ranker = open_learned(snapshot, str(model))
    assert ranker.describe() == "r, 2 categories and 2 dense features"
    stage = Prerank(ranker)
    work = make_work(5)
    stage.run(work)
    anonymous = work.candidates.docs.tolist()
    work = make_work(5)
    work.query = Query("red shoes", 10, {}, {"recent_brand": "Zoom"})
    stage.run(work)
    assert work.candidates.docs[0] == 4
    assert anonymous[0] != 4


def test_definitions_that_do_not_fit_are_refused(snapshot, tmp_path):
    save_ranker(tmp_path / "old.onnx", {"fused": 1.0}, version=FEATURES_VERSION + 1)
    with pytest.raises(ModelError, match="version 2 of the features"):
        open_learned(snapshot, str(tmp_path / "old.onnx"))
    save_ranker(tmp_path / "odd.onnx", {"fusd": 1.0})
    with pytest.raises(ModelError, match="fusd"):
        open_learned(snapshot, str(tmp_path / "odd.onnx"))
    save_ranker(tmp_path / "a.onnx", {"fused": 1.0})
    save_ranker(tmp_path / "b.onnx", {"fused": 1.0, "dense": 1.0})
    (tmp_path / "a.json").write_bytes((tmp_path / "b.json").read_bytes())
    with pytest.raises(ModelError, match="belongs to the model"):
        open_learned(snapshot, str(tmp_path / "a.onnx"))
    table = json.loads((tmp_path / "b.json").read_text())
    table["dense"] = ["fused"]
    (tmp_path / "b.json").write_text(json.dumps(table))
    with pytest.raises(ModelError, match="does not take the columns"):
        open_learned(snapshot, str(tmp_path / "b.onnx"))
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ModelError, match="not a ranker's definition"):
        open_learned(snapshot, str(tmp_path / "b.onnx"))
    (tmp_path / "b.json").unlink()
    with pytest.raises(ModelError, match=r"b\.json.*cannot be read"):
        open_learned(snapshot, str(tmp_path / "b.onnx"))
    with pytest.raises(ModelError, match=r"none\.onnx cannot be read"):
        open_learned(snapshot, str(tmp_path / "none.onnx"))


def test_the_pipeline_takes_it_from_the_configuration(world, tmp_path):
    model = save_ranker(tmp_path / "r.onnx", {"fused": 1.0, "rating": 0.5}, tables=(("category", 16),))
    config = load_config({**world.config, "prerank": {"model": str(model)}})
    with Pipeline.open(world.snapshot, config) as pipeline:
        assert "r, 1 categories" in pipeline.describe()
        page = pipeline.search(world.queries[0], budget_ms=math.inf)
    assert not page.degraded
    assert "prerank" in page[0].scores


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHPIPE_STORE", str(tmp_path / "store"))
    return Registry(tmp_path / "store")


def check_in(store, folder, task="ranker"):
    trained = save_ranker(folder / "shoes.onnx", {"fused": 1.0, "recent_brand": 2.0})
    source = SourceModel("shoes.onnx", sha256_of(trained), 1)
    # The export is another file than what was trained.
    exported = onnx.load(trained)
    exported.producer_name = "export"
    onnx.save(exported, folder / "fp32.onnx")
    files = {"fp32": folder / "fp32.onnx", "shoes.json": folder / "shoes.json"}
    manifest = engine_manifest(
        files, "shoes", task=task, model=source, chosen="fp32", variants={"fp32": Variant(True, "fp32.onnx")}
    )
    made = store.check_in(manifest, files)
    store.promote("shoes", made.version)


def test_an_engine_of_the_store_is_served_with_its_definition(snapshot, make_work, store, tmp_path):
    check_in(store, tmp_path)
    ranker = open_learned(snapshot, "engine:shoes")
    assert "shoes@v1" in ranker.describe()
    work = make_work(5)
    work.query = Query("red shoes", 10, {}, {"recent_brand": "Gartner"})
    Prerank(ranker).run(work)
    assert work.candidates.docs[0] == 2


def test_engines_that_are_no_rankers_are_refused(snapshot, store, tmp_path):
    check_in(store, tmp_path, task="pair")
    with pytest.raises(ModelError, match="is a pair, not a feature ranker"):
        open_learned(snapshot, "engine:shoes")
    with pytest.raises(RegistryError):
        open_learned(snapshot, "engine:unknown")
