"""The main job on a small real world: every built-in stage, the command line, threads, budgets."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest

from searchpipe.config import load_config
from searchpipe.errors import ConfigError, FilterError, ModelError, PipelineError, QueryError, SnapshotError
from searchpipe.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(world):
    with Pipeline.open(world.snapshot, world.config) as opened:
        opened.warm_up()
        yield opened


def searchpipe(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "searchpipe", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_every_stage_takes_part(pipeline, world):
    page = pipeline.search(world.queries[0], k=8, budget_ms=math.inf)
    assert not page.degraded
    assert len(page) == 8
    assert [s.stage for s in page.trace.spans] == list(pipeline._config.pipeline.stages)
    first = page[0]
    assert first.fields["title"]
    assert {"fused", "prerank", "score", "blend"} <= set(first.scores)
    assert any("rank" in reason for reason in first.reasons)
    assert len({hit.id for hit in page}) == 8
    json.dumps(page.to_dict())


def test_a_product_is_found_by_its_own_title(world):
    # Without the scorer: the tiny model's opinions are random.
    config = load_config(world.config).with_stages(["tokenize", "encode", "recall", "prerank", "page"])
    rows = [json.loads(line) for line in world.files.products.read_text("utf-8").splitlines()]
    with Pipeline.open(world.snapshot, config) as pipeline:
        pages = [pipeline.search(row["title"], k=5, budget_ms=math.inf) for row in rows[:40]]
    found = [row["id"] in [hit.id for hit in page] for row, page in zip(rows, pages, strict=False)]
    assert sum(found) >= 38


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        ({"price": {"lte": 20}}, lambda f: f["price"] <= 20),
        ({"price": {"gte": 10, "lt": 30}}, lambda f: 10 <= f["price"] < 30),
        ({"rating": {"gte": 4}, "price": {"lte": 100}}, lambda f: f["rating"] >= 4 and f["price"] <= 100),
    ],
)
def test_filters_hold_on_every_hit(pipeline, world, filters, holds):
    pages = [pipeline.search(text, k=10, budget_ms=math.inf, filters=filters) for text in world.queries[:10]]
    hits = [hit for page in pages for hit in page]
    assert hits
    assert all(holds(hit.fields) for hit in hits)


def test_a_brand_filter_finds_all_of_the_brand(pipeline, world):
    rows = [json.loads(line) for line in world.files.products.read_text("utf-8").splitlines()]
    brand = next(row["brand"] for row in rows if row.get("brand"))
    mine = {row["id"] for row in rows if row.get("brand") == brand}
    page = pipeline.search(brand, k=400, budget_ms=math.inf, filters={"brand": brand})
    assert {hit.id for hit in page} == mine


def test_filters_that_match_nothing_give_an_empty_page(pipeline):
    page = pipeline.search("anything", filters={"price": {"lt": -1}})
    assert len(page) == 0
    assert "match no product" in page.trace.spans[2].decision


def test_k_beyond_the_catalog_gives_what_there_is(pipeline, world):
    page = pipeline.search(world.queries[0], k=1000, budget_ms=math.inf)
    assert 0 < len(page) <= 400
    assert len({hit.id for hit in page}) == len(page)


@pytest.mark.parametrize(
    "text",
    [
        "🎁🎁",
        "日本語の靴",
        "ab\x00cd",
        "\ud83dshoe",
        "zzzz qqqq",
        'AND OR NOT ( ) "',
        "a" * 2000,
        "red 红色 أحمر",
    ],
)
def test_odd_queries_get_an_answer(pipeline, text):
    page = pipeline.search(text, budget_ms=math.inf)
    assert not [d for d in page.degradations if d.reason == "stage_failed"]


def test_a_query_of_unknown_tokens_says_so(pipeline):
    page = pipeline.search("🎁🎁")
    assert "unknown_tokens" in [d.reason for d in page.degradations]


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"text": "  "}, QueryError),
        ({"text": "x" * 2**20}, QueryError),
        ({"k": 0}, QueryError),
        ({"budget_ms": -5}, QueryError),
        ({"budget_ms": math.nan}, QueryError),
        ({"filters": {"pricee": 5}}, FilterError),
        ({"filters": {"price": {"lte": "cheap"}}}, FilterError),
        ({"filters": ["price"]}, FilterError),
    ],
)
def test_bad_input_is_refused(pipeline, kwargs, error):
    with pytest.raises(error):
        pipeline.search(**{"text": "shoes", **kwargs})


def test_eight_threads_get_the_answers_of_one(pipeline, world):
    expected = {
        text: [h.id for h in pipeline.search(text, budget_ms=math.inf)] for text in world.queries[:12]
    }
    wrong = []

    def go():
        for text, ids in expected.items():
            if [h.id for h in pipeline.search(text, budget_ms=math.inf)] != ids:
                wrong.append(text)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_tiny_budget_still_answers_and_says_what_was_given_up(pipeline, world):
    page = pipeline.search(world.queries[0], budget_ms=0.01)
    assert len(page) == 10
    assert page.degraded
    assert page.trace.total_ms <= 0.01 + page.trace.longest_step_ms * 2 + 50


def test_asearch_gives_the_same_page(pipeline, world):
    text = world.queries[1]
    page = asyncio.run(pipeline.asearch(text, budget_ms=math.inf))
    assert [h.id for h in page] == [h.id for h in pipeline.search(text, budget_ms=math.inf)]


def test_scores_that_are_not_numbers_leave_the_order_before(world, monkeypatch):
    from searchpipe.backends.cross_encoder import PairScorer

    monkeypatch.setattr(PairScorer, "score", lambda self, q, s, docs: np.full(len(docs), np.nan, np.float32))
    with Pipeline.open(world.snapshot, world.config) as pipeline:
        page = pipeline.search(world.queries[0], budget_ms=math.inf)
    assert len(page) == 10
    assert ("score", "bad_scores") in [(d.stage, d.reason) for d in page.degradations]


def test_a_stage_of_ones_own_takes_a_built_in_ones_place(world):
    class Mine:
        name, reads, writes, essential = "prerank", ("candidates",), ("candidates",), False

        def run(self, work):
            assert work.query.context == {"user": 7}
            work.candidates = work.candidates.take(np.arange(len(work.candidates))[::-1])

        def describe(self):
            return "backwards"

    config = {
        **world.config,
        "pipeline": {"stages": ["recall", "prerank", "page"]},
        "recall": {"sources": ["lexical"]},
    }
    with (
        Pipeline.open(world.snapshot, config) as plain,
        Pipeline.open(world.snapshot, config, replace={"prerank": Mine()}) as own,
    ):
        assert "backwards" in own.describe()
        text = world.queries[0]
        forward = [h.id for h in plain.search(text, k=1000)]
        backward = [h.id for h in own.search(text, k=1000, context={"user": 7})]
    assert sorted(forward) == sorted(backward)
    assert forward != backward


def test_what_does_not_fit_is_refused_at_construction(world):
    with pytest.raises(PipelineError, match="replace names 'rerank'"):
        Pipeline.open(world.snapshot, world.config, replace={"rerank": None})
    with pytest.raises(ConfigError, match="no column 'seller'"):
        Pipeline.open(
            world.snapshot, {**world.config, "diversify": {"quotas": [{"column": "seller", "limit": 1}]}}
        )
    with pytest.raises(ConfigError, match="no feature"):
        Pipeline.open(world.snapshot, {**world.config, "prerank": {"weights": {"magic": 1.0}}})
    swapped = {"models": {**world.config["models"], "encoder": world.config["models"]["scorer"]}}
    with pytest.raises(ModelError):
        Pipeline.open(world.snapshot, swapped)
    with pytest.raises(SnapshotError):
        Pipeline.open(world.snapshot / "nowhere", world.config)


@pytest.mark.parametrize("part", ["encoder", "scorer"])
def test_a_model_file_that_is_not_one_is_refused_by_name(world, tmp_path, part):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    models = json.loads(json.dumps(world.config["models"]))
    models[part]["source"] = f"file:{broken}"
    with pytest.raises(ModelError, match=r"broken\.onnx|built with"):
        Pipeline.open(world.snapshot, {"models": models})


def test_the_command_line_does_the_main_job(world, tmp_path):
    out = tmp_path / "snapshot"
    searchpipe("index", world.files.products, "--out", out, "--config", world.config_file)
    shown = searchpipe(
        "search", world.queries[0], "-s", out, "-c", world.config_file, "--trace", "-f", "price<=500"
    )
    assert "Trace" in shown.stdout
    assert "recall" in shown.stdout
    page = json.loads(
        searchpipe(
            "search", world.queries[0], "-s", out, "-c", world.config_file, "--json", "--budget-ms", 0
        ).stdout
    )
    assert len(page["hits"]) == 10
    assert page["trace"]["budget_ms"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "x", "-s", "nowhere"], "nowhere"),
        (["search", " ", "-s", "SNAPSHOT", "-c", "CONFIG"], "holds no text"),
        (["search", "x", "-s", "SNAPSHOT", "-c", "CONFIG", "-f", "colr=red"], "colr"),
        (["search", "x", "-s", "SNAPSHOT", "-c", "nowhere.toml"], "Cannot read the configuration"),
        (["index", "nowhere.jsonl", "--out", "out"], "nowhere.jsonl"),
    ],
)
def test_mistakes_on_the_command_line_are_one_readable_line(world, tmp_path, arguments, message):
    names = {"SNAPSHOT": str(world.snapshot), "CONFIG": str(world.config_file), "out": str(tmp_path / "out")}
    done = searchpipe(*(names.get(a, a) for a in arguments), check=False)
    assert done.returncode not in (0, 1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_importing_needs_no_engine():
    code = (
        "import sys, searchpipe; "
        "bad = {'faiss', 'onnxruntime', 'torch', 'tensorrt', 'cupy', 'numpy'} & set(sys.modules); "
        "assert not bad, bad; searchpipe.Pipeline; searchpipe.Config"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
