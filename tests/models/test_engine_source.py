"""``engine:NAME`` as a model: the files of the store that fit this machine, in a pipeline."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import searchpipe
from searchpipe.engine import machine as machines
from searchpipe.engine.machine import Machine
from searchpipe.engine.registry import Registry
from searchpipe.engine.run import run_build
from searchpipe.engine.signing import KEY_VARIABLE, Trust
from searchpipe.engine.signing_keys import HMAC, make_key, write_key
from searchpipe.engine.step import Inputs
from searchpipe.engine.steps.check_in import CheckInStep
from searchpipe.errors import ConfigError, ModelError, RegistryError
from searchpipe.models import ModelSettings, resolve
from searchpipe.models.sources import EngineSource, parse_engine
from tests.conftest import World
from tests.fakes.engines import H200, engine_files, engine_manifest, factory_steps, machine, recipe


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SEARCHPIPE_STORE", str(tmp_path / "store"))
    return Registry(tmp_path / "store", trust=Trust())


def add(registry: Registry, folder: Path, name: str = "tiny", **changes: object) -> None:
    files = engine_files(folder, salt=name, plan=H200)
    registry.check_in(engine_manifest(files, name, **changes), files)
    registry.promote(name)


def test_names_of_engines() -> None:
    assert parse_engine("engine:tiny") == EngineSource("tiny")
    assert parse_engine("engine:tiny@v3") == EngineSource("tiny", "v3")
    assert str(EngineSource("tiny", "v3")) == "engine:tiny@v3"
    assert parse_engine("minilm-l6") is None
    assert parse_engine("file:engine:tiny") is None
    for text in ("engine:", "engine:Tiny", "engine:tiny@", "engine:../x", "engine:tiny@newest", "engine:a b"):
        with pytest.raises(ConfigError, match="names no engine"):
            parse_engine(text)


def test_an_engine_stands_for_its_source_model(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path / "made")
    model = resolve("engine:tiny")
    folder = registry.store.folder_of("tiny", "v1")
    assert model.name == "tiny@v1 (int8 ONNX)"
    assert (model.model, model.tokenizer) == (folder / "int8.onnx", folder / "tokenizer.json")
    # Snapshots remember the source model, and every precision of it reads them.
    assert model.identity == "a" * 64
    assert model.sha256 == hashlib.sha256(model.model.read_bytes()).hexdigest()
    assert (model.kind, model.max_tokens, model.pooling) == ("cross-encoder", 128, "none")
    assert (model.plan, model.gpu_model) == (None, None)
    settings = ModelSettings(source="engine:tiny@v1", kind="cross-encoder", sha256="A" * 64)
    assert resolve(settings) == model


def test_what_contradicts_the_engine(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path / "made")
    add(registry, tmp_path / "ranker", "prerank", task="ranker")
    for settings, message in (
        (ModelSettings(source="engine:tiny", kind="encoder"), "of the kind cross-encoder"),
        (
            ModelSettings(source="engine:tiny", kind="cross-encoder", tokenizer="file:t"),
            "brings its tokenizer",
        ),
        (
            ModelSettings(source="engine:tiny", kind="cross-encoder", sha256="0" * 64),
            "made of the model aaaa",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(settings)
    with pytest.raises(ModelError, match="is a ranker, not a model of texts"):
        resolve("engine:prerank")
    with pytest.raises(RegistryError, match="Did you mean 'tiny'"):
        resolve("engine:tinny")
    with pytest.raises(ConfigError, match="engine:NAME stands for a whole model"):
        resolve(ModelSettings(source="file:m.onnx", kind="encoder", tokenizer="engine:tiny"))
    with pytest.raises(ConfigError, match="engine of the store, engine:NAME"):
        resolve("tiny")


def test_a_key_in_the_environment_asks_for_its_signature(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, tmp_path / "made")
    resolve("engine:tiny")
    write_key(make_key(HMAC), tmp_path / "key.json")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key.json"))
    with pytest.raises(RegistryError, match="not signed"):
        resolve("engine:tiny")


@pytest.fixture
def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Machine:
    here = machine(H200, tensorrt="11.1.0.7")
    monkeypatch.setattr(machines, "this_machine", lambda: here)
    return here


def test_a_fitting_plan_goes_to_the_chain(registry: Registry, tmp_path: Path, with_a_gpu: Machine) -> None:
    add(registry, tmp_path / "made", target="sm_90")
    model = resolve("engine:tiny")
    folder = registry.store.folder_of("tiny", "v1")
    assert (model.plan, model.gpu_model, model.gpu_prepared) == (
        folder / "fp16.plan",
        folder / "int8.onnx",
        True,
    )


def test_the_pipeline_runs_the_promoted_engine(registry: Registry, tmp_path: Path, world: World) -> None:
    """A build of the world's own cross-encoder; the promoted engine gives its scores, and reload follows."""
    scorer = Path(world.config["models"]["scorer"]["source"].removeprefix("file:"))
    tokenizer = Path(world.config["models"]["scorer"]["tokenizer"].removeprefix("file:"))
    steps = factory_steps(tokenizer=tokenizer, onnx=dict.fromkeys(("fp32", "int8"), scorer))
    check_in = CheckInStep(registry, "name = 'tiny'\n")
    run_build([*steps, check_in], Inputs(recipe(), tmp_path), tmp_path / "build", say=lambda line: None)
    config = {"models": {**world.config["models"], "scorer": "engine:tiny"}}
    with pytest.raises(RegistryError, match="searchpipe engine promote tiny"):
        searchpipe.Pipeline.open(world.snapshot, config)
    registry.promote("tiny")
    found = {}
    for name, chosen in (("file", world.config), ("engine", config)):
        pipeline = searchpipe.Pipeline.open(world.snapshot, chosen)
        try:
            page = pipeline.search(world.queries[0], k=5, budget_ms=60_000)
            found[name] = [(hit.id, hit.score) for hit in page]
        finally:
            pipeline.close()
    assert found["file"]
    assert [id for id, _ in found["engine"]] == [id for id, _ in found["file"]]
    np.testing.assert_allclose([s for _, s in found["engine"]], [s for _, s in found["file"]], rtol=1e-5)
    model = registry.store.folder_of("tiny", "v1") / "int8.onnx"
    assert hashlib.sha256(model.read_bytes()).digest() == hashlib.sha256(scorer.read_bytes()).digest()
    model.write_bytes(model.read_bytes()[:-7])
    with pytest.raises(RegistryError, match=r"int8.onnx is truncated"):
        searchpipe.Pipeline.open(world.snapshot, config)
