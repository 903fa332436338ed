from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from searchpipe._core import TokenStore, TokenStoreWriter
from searchpipe.backends import open_pair_scorer
from searchpipe.backends.dequantize import float_model
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.engine.recipe import load_recipe
from searchpipe.errors import ConfigError, ModelError
from searchpipe.models import BUILTIN, DEFAULT_CROSS_ENCODER, ModelsSettings, resolve, sources
from searchpipe.models.cache import sha256_of
from searchpipe.models.settings import AUTO, DEFAULT_GPU_CROSS_ENCODER
from searchpipe.models.shipped import engines_folder
from searchpipe.models.sources import ShippedSource, parse_source
from searchpipe.models.tokenizer import TextTokenizer

QUERY = "waterproof hiking boots for men"
TEXTS = [
    "Columbia Men's Newton Ridge Plus II Waterproof Hiking Boot, leather",
    "KEEN women's sandals for the beach",
    "Stainless steel garlic press with cleaning brush",
]


def test_the_default_scorer_needs_no_network(tmp_path: Path) -> None:
    model = resolve(DEFAULT_CROSS_ENCODER, cache_dir=tmp_path / "empty", offline=True)
    assert model.kind == "cross-encoder"
    assert model.model.parent == model.tokenizer.parent == engines_folder()
    assert sha256_of(model.model) == BUILTIN[model.name].settings.sha256
    assert sha256_of(model.tokenizer) == BUILTIN[model.name].settings.tokenizer_sha256
    assert model.model.stat().st_size < 8_000_000
    assert BUILTIN[model.name].bytes == model.model.stat().st_size + model.tokenizer.stat().st_size
    assert not (tmp_path / "empty").exists()


def test_one_snapshot_serves_both_default_scorers() -> None:
    models = ModelsSettings()
    assert (models.scorer, models.cpu_scorer, models.gpu_scorer) == (AUTO, "tiny-cross", "minilm-l12-cross")
    hashes = {
        BUILTIN[name].settings.tokenizer_sha256 for name in (DEFAULT_CROSS_ENCODER, DEFAULT_GPU_CROSS_ENCODER)
    }
    assert len(hashes) == 1


def test_a_named_scorer_is_meant_for_every_device() -> None:
    models = msgspec.convert({"scorer": "tiny-cross"}, ModelsSettings)
    assert models.cpu_scorer == models.gpu_scorer == "tiny-cross"


def test_it_ranks_what_was_asked_for_first(tmp_path: Path) -> None:
    model = resolve(DEFAULT_CROSS_ENCODER)
    tokenizer = TextTokenizer(model.tokenizer, max_tokens=64)
    scorer = open_pair_scorer(model, threads=1)
    with TokenStoreWriter(str(tmp_path / "tokens.bin"), vocab_size=tokenizer.vocab_size) as writer:
        for text in TEXTS:
            writer.append(tokenizer.ids(text))
    store = TokenStore(str(tmp_path / "tokens.bin"))
    docs = np.arange(len(TEXTS), dtype=np.int32)
    logits = scorer.score(tokenizer.ids(QUERY), store, docs)
    assert list(np.argsort(-logits)) == [0, 1, 2]
    # fp32 activations: batch mates and padding change nothing that matters.
    alone = [scorer.score(tokenizer.ids(QUERY), store, docs[n : n + 1])[0] for n in docs]
    np.testing.assert_allclose(alone, logits, atol=1e-4)
    scorer.close()


def test_rows_are_cut_to_its_positions(tmp_path: Path) -> None:
    model = resolve(DEFAULT_CROSS_ENCODER)
    scorer = open_pair_scorer(model, threads=1, max_query_tokens=32, max_doc_tokens=256)
    with TokenStoreWriter(str(tmp_path / "tokens.bin")) as writer:
        writer.append(np.full(300, 2000, np.int32))
    store, docs = TokenStore(str(tmp_path / "tokens.bin")), np.zeros(1, np.int32)
    assert scorer.lengths(np.full(32, 2001, np.int32), store, docs).tolist() == [model.max_tokens]
    assert np.isfinite(scorer.score(np.full(32, 2001, np.int32), store, docs)).all()
    scorer.close()


def test_recipes_are_valid_and_name_models_that_exist() -> None:
    recipes = sorted(engines_folder().glob("*.toml"))
    assert "tiny-cross.toml" in [path.name for path in recipes]
    for path in recipes:
        recipe = load_recipe(path)
        assert recipe.name == path.stem
        assert recipe.source.model in BUILTIN or (path.parent / recipe.source.model).is_file()


def test_every_shipped_model_has_a_card_and_is_small() -> None:
    for path in engines_folder().glob("*.onnx"):
        assert path.stat().st_size < 8_000_000
        assert path.with_suffix(".md").is_file()


def test_a_damaged_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "engines_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="a part of searchpipe, is missing"):
        resolve(DEFAULT_CROSS_ENCODER)


@pytest.mark.parametrize("text", ["shipped:", "shipped:../x.onnx", "shipped:a/b.onnx", "shipped:.hidden"])
def test_shipped_names_stay_in_their_folder(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_source(text)


def test_a_shipped_source_by_name() -> None:
    source = parse_source("shipped:tiny-cross.onnx")
    assert source == ShippedSource("tiny-cross.onnx")
    assert str(source) == "shipped:tiny-cross.onnx"
    assert str(source.sibling("tokenizer.json")) == "shipped:tokenizer.json"


def test_its_float32_twin_scores_the_same(tmp_path: Path) -> None:
    """What a GPU would be given, whose runtimes take no 8-bit tables."""
    model = resolve(DEFAULT_CROSS_ENCODER).model
    twin = float_model(model, tmp_path)
    assert twin != model
    ids = np.random.default_rng(1).integers(1000, 20000, (4, 40))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    first, second = (OnnxCpuEngine(path, threads=1).run(feeds) for path in (model, twin))
    np.testing.assert_allclose(first, second, atol=1e-4)
