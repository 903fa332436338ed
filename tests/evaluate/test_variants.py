from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from searchpipe.catalog.build import build_snapshot
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.cli.evaluate import evaluate_command, parse_gains, run_evaluation
from searchpipe.config import Config, load_config
from searchpipe.errors import CatalogError, ConfigError, SnapshotNotFoundError
from searchpipe.evaluate.variants import VARIANTS, SnapshotFacts, variant_rankers
from searchpipe.models import ModelSettings, ModelsSettings
from tests.fakes.tiny_onnx import TinyModel
from tests.fakes.tiny_tokenizer import save_tokenizer

COLORS, KINDS, GROUPS = ("red", "blue", "green"), ("shoe", "hat"), ("men", "women")


@dataclass(frozen=True)
class World:
    """A small catalog on disk with models, configuration and labels."""

    snapshot: Path
    config: Path
    queries: Path
    qrels: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    products = [
        {"id": f"{color}-{kind}-{group}-{i}", "title": f"{color} {kind} for {group}", "brand": f"B{i % 3}"}
        for color, kind, group in itertools.product(COLORS, KINDS, GROUPS)
        for i in range(4)
    ]
    del products[0]["brand"]
    catalog = folder / "products.jsonl"
    catalog.write_text("".join(json.dumps(row) + "\n" for row in products))

    tokenizer = f"file:{save_tokenizer(folder / 'tokenizer.json')}"
    encoder = TinyModel().save_encoder(folder / "encoder.onnx")
    cross = TinyModel(outputs=1, seed=1).save_cross_encoder(folder / "cross.onnx")
    models = {
        "encoder": ModelSettings(
            source=f"file:{encoder}", tokenizer=tokenizer, kind="encoder", max_tokens=32
        ),
        "scorer": ModelSettings(
            source=f"file:{cross}", tokenizer=tokenizer, kind="cross-encoder", max_tokens=64
        ),
    }
    build_snapshot(catalog, folder / "snapshot", models=ModelsSettings(**models))

    config = folder / "searchpipe.toml"
    tables = []
    for name, settings in models.items():
        tables.append(f"[models.{name}]")
        tables += [f'{key} = "{getattr(settings, key)}"' for key in ("source", "tokenizer", "kind")]
        tables.append(f"max_tokens = {settings.max_tokens}")
    config.write_text("\n".join(tables))

    queries, qrels = folder / "queries.jsonl", folder / "qrels.tsv"
    texts = {f"q-{color}-{kind}": f"{color} {kind}" for color, kind in itertools.product(COLORS, KINDS)}
    queries.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in texts.items()))
    labels = []
    for query in texts:
        _, color, kind = query.split("-")
        for row in products:
            same = (row["id"].split("-")[0] == color) + (row["id"].split("-")[1] == kind)
            labels.append(f"{query}\t{row['id']}\t{(0, 1, 3)[same]}\n")
    qrels.write_text("".join(labels))
    return World(folder / "snapshot", config, queries, qrels)


@pytest.fixture
def snapshot(world: World) -> Iterator[Snapshot]:
    with Snapshot.open(world.snapshot) as opened:
        yield opened


def test_each_variant_runs_its_stages(world: World, snapshot: Snapshot) -> None:
    with variant_rankers(snapshot, load_config(world.config)) as variants:
        assert list(variants.rankers) == list(VARIANTS)
        ranked = {name: ranker("red shoe", 20) for name, ranker in variants.rankers.items()}
    # Words alone find red things and shoes, never a blue hat; vectors have an opinion on everything.
    assert all("red" in product or "shoe" in product for product, _ in ranked["lexical"])
    assert len(ranked["dense"]) == 20
    assert [p for p, _ in ranked["dense"]] != [p for p, _ in ranked["lexical"]]
    assert {p for p, _ in ranked["lexical"][:8]} == {
        p for p, _ in ranked["lexical"] if p.startswith("red-shoe")
    }
    orders = [[p for p, _ in ranked[name]] for name in ("fused", "cross-encoder")]
    assert orders[0] != orders[1]
    assert not variants.degradations
    for found in ranked.values():
        assert len({product for product, _ in found}) == len(found)


def test_variants_equal_a_pipeline_of_the_same_stages(world: World, snapshot: Snapshot) -> None:
    from searchpipe.pipeline import Pipeline

    config = load_config(world.config)
    with variant_rankers(snapshot, config) as variants:
        for name in ("fused", "prerank", "cross-encoder", "diversity"):
            pipeline = Pipeline.open(snapshot, config.with_stages(VARIANTS[name]))
            expected = [hit.id for hit in pipeline.search("blue hat for women", 10, float("inf"))]
            for _ in range(2):  # the second time, the cross-encoder's answer is remembered
                assert [
                    product for product, _ in variants.rankers[name]("blue hat for women", 10)
                ] == expected


def test_the_page_of_a_diversified_variant_does_not_depend_on_the_depth(
    world: World, snapshot: Snapshot
) -> None:
    with variant_rankers(snapshot, load_config(world.config)) as variants:
        shallow = variants.rankers["diversity"]("green hat", 10)
        deep = variants.rankers["diversity"]("green hat", 48)
        assert deep[:10] == shallow
        fused = {product for product, _ in variants.rankers["fused"]("green hat", 48)}
        assert len(deep) == 48
        assert {product for product, _ in deep} == fused


def test_a_failing_model_shows_as_degradation(
    world: World, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchpipe.backends.cross_encoder import PairScorer

    def broken(*_: object) -> np.ndarray:
        raise RuntimeError("no scores today")

    monkeypatch.setattr(PairScorer, "score", broken)
    with variant_rankers(snapshot, load_config(world.config), ["prerank", "cross-encoder"]) as variants:
        before = variants.rankers["prerank"]("red hat", 10)
        after = variants.rankers["cross-encoder"]("red hat", 10)
        assert [p for p, _ in before] == [p for p, _ in after]
        assert variants.degradations == {"cross-encoder: score: stage_failed": 1}


def test_variants_follow_the_configuration(world: World, snapshot: Snapshot) -> None:
    config = load_config(world.config)
    with variant_rankers(snapshot, config.with_stages(["recall", "page"])) as variants:
        assert list(variants.rankers) == ["lexical"]
    with variant_rankers(snapshot, config, ["dense", "lexical"]) as variants:
        assert list(variants.rankers) == ["lexical", "dense"]
    for names, message in ((["vague"], "no variant 'vague'"), (["dense"], "needs the stages")):
        short = config.with_stages(["recall", "page"])
        with pytest.raises(ConfigError, match=message), variant_rankers(snapshot, short, names):
            pass


def test_lexical_alone_needs_no_model(snapshot: Snapshot) -> None:
    config = load_config({"models": {"encoder": {"source": "file:/nowhere/model.onnx", "kind": "encoder"}}})
    with variant_rankers(snapshot, config, ["lexical"]) as variants:
        assert variants.rankers["lexical"]("red shoe", 5)


def test_snapshot_facts(snapshot: Snapshot) -> None:
    facts = SnapshotFacts(snapshot)
    ids = ["red-shoe-men-0", "red-shoe-men-1"]
    assert facts.brands(ids) == [None, "B1"]
    assert facts.vectors(ids).shape == (2, 8)
    assert facts.knows(ids[0])
    assert not facts.knows("purple-shoe")
    with pytest.raises(KeyError, match="purple"):
        facts.brands(["purple-shoe"])


def test_evaluation_of_a_snapshot(world: World) -> None:
    evaluation, content = run_evaluation(world.snapshot, world.queries, world.qrels, config=world.config)
    assert evaluation.baseline == "fused"
    assert evaluation["lexical"].figures["ndcg@10"].mean == pytest.approx(1.0)
    assert evaluation["dense"].figures["ndcg@10"].mean < 1.0
    assert content["products"] == 48
    assert content["degradations"] == {}
    assert content["variants"]["diversity"]["diversity"]["brands@10"] > 1


APP = typer.Typer()
APP.command()(evaluate_command)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_prints_a_table_and_writes_json(world: World, tmp_path: Path) -> None:
    arguments = ("--snapshot", world.snapshot, "--queries", world.queries, "--qrels", world.qrels)
    arguments += ("--config", world.config)
    out = tmp_path / "new" / "evaluation.json"
    text = run(
        *arguments, "--json", out, "--variants", "lexical,fused", "--baseline", "lexical", "--test", "t"
    )
    assert "Quality over 6 queries" in text
    assert "Diversity of the first 10" in text
    content = json.loads(out.read_text())
    assert list(content["variants"]) == ["lexical", "fused"]
    assert content["baseline"] == "lexical"
    assert content["settings"]["test"] == "t"
    assert [path.name for path in out.parent.iterdir()] == ["evaluation.json"]
    assert run(*arguments, "--variants", "lexical", "--markdown").startswith("| variant |")


def test_command_refuses_what_it_cannot_do(world: World, tmp_path: Path) -> None:
    files = ("--queries", world.queries, "--qrels", world.qrels)
    with pytest.raises(SnapshotNotFoundError):
        run("--snapshot", tmp_path / "none", *files)
    with pytest.raises(CatalogError, match="cannot be read"):
        run("--snapshot", world.snapshot, "--queries", tmp_path / "none", "--qrels", world.qrels)
    with pytest.raises(ConfigError, match="randomization"):
        run("--snapshot", world.snapshot, *files, "--test", "luck")
    with pytest.raises(ConfigError, match="none of the variants"):
        run("--snapshot", world.snapshot, *files, "--variants", "lexical", "--baseline", "dense")
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="Cannot write"):
        run(
            "--snapshot",
            world.snapshot,
            *files,
            "--variants",
            "lexical",
            "--json",
            tmp_path / "file" / "x.json",
        )


def test_gains_are_read_from_text() -> None:
    assert parse_gains("3=1,2=0.1, 0=0") == {3: 1.0, 2: 0.1, 0: 0.0}
    for bad in ("", "3", "3=", "a=1", "3=1,3=2", "3=1,,"):
        with pytest.raises(ConfigError, match="not a grade"):
            parse_gains(bad)


def test_default_configuration_evaluates_every_variant() -> None:
    stages = set(Config().pipeline.stages)
    assert all(set(needed) <= stages for needed in VARIANTS.values())
