from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from searchpipe.demo import DemoFiles, write_demo
from searchpipe.demo.products import product_id
from searchpipe.demo.queries import DAY, LOG_DAYS, LOG_START, MAX_RELEVANT
from searchpipe.demo.taxonomy import LEAVES
from searchpipe.errors import ConfigError
from searchpipe.evaluate import load_labelled_queries


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo(tmp_path_factory.mktemp("demo"), products=2500, queries=2000, labelled=60, seed=7)


def test_counts_and_ids(demo: DemoFiles) -> None:
    products = rows(demo.products)
    assert len(products) == demo.product_count == 2500
    assert len({row["id"] for row in products}) == 2500
    assert len(rows(demo.query_log)) == demo.log_count == 2000
    assert len(rows(demo.queries)) == demo.labelled_count == 60


def test_product_ids_do_not_repeat() -> None:
    assert len({product_id(number) for number in range(200_000)}) == 200_000
    assert product_id(0) != product_id((1 << 32) - 1)


def test_categories_are_many_and_a_tree(demo: DemoFiles) -> None:
    paths = {tuple(row["category"]) for row in rows(demo.products)}
    assert len({leaf.path for leaf in LEAVES}) == len(LEAVES) >= 40
    assert {leaf.path for leaf in LEAVES} <= paths
    assert len({path[0] for path in paths}) >= 10


def test_titles_are_unlike_each_other_of_believable_length_and_tidy(demo: DemoFiles) -> None:
    titles = [row["title"] for row in rows(demo.products)]
    lengths = sorted(len(title.split()) for title in titles)
    assert lengths[len(lengths) // 20] >= 8
    assert lengths[-len(lengths) // 20] <= 18
    assert len(set(titles)) > 0.99 * len(titles)
    for title in titles:
        assert "  " not in title
        assert ", ," not in title
        assert " ," not in title
        assert title == title.strip(" ,")
        assert "{" not in title


def test_fields_are_those_of_the_catalog_and_some_are_missing(demo: DemoFiles) -> None:
    products = rows(demo.products)
    types = {
        "id": str,
        "title": str,
        "text": str,
        "category": list,
        "brand": str,
        "color": str,
        "price": float,
    }
    types |= {"rating": float, "rating_count": int}
    for row in products:
        assert row.keys() <= types.keys()
        assert all(isinstance(value, types[name]) for name, value in row.items())
    for name in ("brand", "color", "price", "rating"):
        missing = sum(name not in row for row in products) / len(products)
        assert 0.01 < missing < 0.35, name
    assert any(row["text"] == "" for row in products)


def test_prices_ratings_and_brands_have_the_shapes_of_life(demo: DemoFiles) -> None:
    products = rows(demo.products)
    by_leaf = {leaf.path: leaf for leaf in LEAVES}
    ratios = [
        row["price"] / by_leaf[tuple(row["category"])].price
        for row in products
        if "price" in row and tuple(row["category"]) in by_leaf
    ]
    assert 0.8 < statistics.median(ratios) < 1.7
    counts = sorted(row["rating_count"] for row in products if "rating" in row)
    assert counts[-len(counts) // 100] > 10 * counts[len(counts) // 2]  # a heavy tail
    assert all(1.0 <= row["rating"] <= 5.0 for row in products if "rating" in row)
    leaf = Counter(row["brand"] for row in products if row["category"][-1] == "Dresses" and "brand" in row)
    assert leaf.most_common(1)[0][1] > 3 * statistics.median(leaf.values())  # Zipf, not a uniform draw


def test_the_log_has_a_head_a_tail_and_the_order_of_time(demo: DemoFiles) -> None:
    log = rows(demo.query_log)
    times = [row["ts"] for row in log]
    assert times == sorted(times)
    assert times[0] >= LOG_START
    assert times[-1] < LOG_START + LOG_DAYS * DAY
    counts = Counter(row["query"] for row in log)
    head = sum(count for _, count in counts.most_common(len(counts) // 10))
    assert head > 0.35 * len(log)
    assert sum(count == 1 for count in counts.values()) > 0.5 * len(counts)
    words = [len(row["query"].split()) for row in log]
    assert min(words) == 1
    assert max(words) >= 7
    assert any(row["query"].startswith(("what", "which", "where", "is there")) for row in log)
    known = {row["id"] for row in rows(demo.products)}
    assert {product for row in log for product in row["clicks"]} <= known
    assert 0.4 < sum(bool(row["clicks"]) for row in log) / len(log) < 0.8
    assert any("context" not in row for row in log)
    assert {key for row in log for key in row.get("context", {})} == {"user", "device", "recent_category"}


def test_labels_load_and_follow_from_the_products(demo: DemoFiles) -> None:
    known = {row["id"]: row for row in rows(demo.products)}
    labels = load_labelled_queries(demo.queries, demo.qrels, known=known.__contains__)
    assert len(labels) == 60
    assert not any(labels.notes.values())
    leaves = {leaf.path[-1] for leaf in LEAVES}
    for query, grades in labels.grades.items():
        relevant = [product for product, grade in grades.items() if grade >= 2]
        assert 1 <= len(relevant) <= MAX_RELEVANT
        assert 3 in grades.values()
        kinds = {known[product]["category"][-1] for product in relevant} & leaves
        assert len(kinds) <= 1, labels.texts[query]
        others = {known[product]["category"][-1] for product, grade in grades.items() if grade == 0}
        assert not others & kinds


def test_a_color_in_the_query_is_the_color_of_the_best_products(demo: DemoFiles) -> None:
    known = {row["id"]: row for row in rows(demo.products)}
    labels = load_labelled_queries(demo.queries, demo.qrels)
    checked = 0
    for query, text in labels.texts.items():
        if " purple " in f" {text} " or " navy " in f" {text} " or " teal " in f" {text} ":
            color = next(word for word in text.split() if word in ("purple", "navy", "teal"))
            for product, grade in labels.grades[query].items():
                if grade == 3 and "color" in known[product]:
                    assert known[product]["color"].lower() == color
                    checked += 1
    assert checked > 0


def test_same_seed_same_bytes_in_another_process_and_other_seed_other_bytes(tmp_path: Path) -> None:
    sizes = ["--products", "300", "--queries", "200", "--labelled", "10"]
    for out, seed, hash_seed in (("a", "7", "1"), ("b", "7", "2"), ("c", "8", "1")):
        subprocess.run(
            [sys.executable, "-m", "searchpipe.demo", "--out", str(tmp_path / out), "--seed", seed, *sizes],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
    for name in ("products.jsonl", "query_log.jsonl", "queries.jsonl", "qrels.tsv"):
        first, second, other = ((tmp_path / out / name).read_bytes() for out in "abc")
        assert first == second
        assert first != other


def test_the_bytes_of_a_seed_do_not_change_unnoticed(tmp_path: Path) -> None:
    # Pinned over Python versions and platforms. A new digest is a new demo for everybody: tell the changelog.
    files = write_demo(tmp_path, products=150, queries=50, labelled=5, seed=7)
    digest = hashlib.sha256()
    for path in (files.products, files.query_log, files.queries, files.qrels):
        digest.update(path.read_bytes())
    assert digest.hexdigest() == "541a8b33b1e706cd35dbc9443ab907d79027ab65b5dea4f222d0369414366624"


def test_a_catalog_of_one_and_none_of_the_rest(tmp_path: Path) -> None:
    files = write_demo(tmp_path, products=1, queries=0, labelled=5, seed=0)
    assert files.product_count == 1
    assert files.query_log.read_text() == ""
    assert files.labelled_count <= 5


@pytest.mark.parametrize(
    "bad", [{"products": 0}, {"queries": -1}, {"labelled": -1}, {"seed": -1}, {"products": 2**33}]
)
def test_numbers_outside_their_limits_are_refused(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        write_demo(tmp_path / "new", **bad)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_run_leaves_the_old_files_alone(tmp_path: Path) -> None:
    files = write_demo(tmp_path, products=20, queries=5, labelled=0)
    before = files.products.read_bytes()

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path, products=900, queries=5, seed=8, progress=stop)
    assert files.products.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "products.jsonl",
        "qrels.tsv",
        "queries.jsonl",
        "query_log.jsonl",
    ]


def test_the_command_line_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from searchpipe.demo.__main__ import main

    assert main(["--out", str(tmp_path), "--products", "0"]) == 1
    assert "products is 0" in capsys.readouterr().err
