"""``models.scorer = "auto"``: the small cross-encoder on the CPU, the large one on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from searchpipe.errors import EngineError
from searchpipe.models import BUILTIN, DEFAULT_CROSS_ENCODER, ModelSettings, builtin, resolve
from searchpipe.models.builtin import BuiltinModel
from searchpipe.models.settings import DEFAULT_GPU_CROSS_ENCODER
from searchpipe.pipeline import Pipeline
from tests.conftest import World

pytest.importorskip("sympy")
ABSENT = f"pypi:not-there==1.0#sha256={'0' * 64}&path=model.onnx"


@pytest.fixture
def defaults(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the small world's scorer in the place of both default ones; one of them cannot be had if asked."""

    def put(*, absent: str = "") -> None:
        for name in (DEFAULT_CROSS_ENCODER, DEFAULT_GPU_CROSS_ENCODER):
            settings = msgspec.convert({**world.config["models"]["scorer"], "name": name}, ModelSettings)
            if name == absent:
                settings = msgspec.structs.replace(settings, source=ABSENT)
            monkeypatch.setitem(BUILTIN, name, BuiltinModel(settings, 1, "a stand-in"))
        monkeypatch.setenv("SEARCHPIPE_OFFLINE", "1")

    return put


def auto(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "models": {"encoder": config["models"]["encoder"]}}


def test_each_device_has_its_own(
    world: World,
    gpu_config: Callable[..., dict[str, Any]],
    defaults: Callable[..., None],
) -> None:
    defaults()
    with Pipeline.open(world.snapshot, auto(gpu_config())) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.scorer is not None
        assert pipeline.gpu.scorer.model.name == DEFAULT_GPU_CROSS_ENCODER
        assert not pipeline.search(world.queries[0], budget_ms=math.inf).degraded
    with Pipeline.open(world.snapshot, auto(gpu_config("never"))) as pipeline:
        assert f"{DEFAULT_CROSS_ENCODER}, up to" in pipeline.describe()


def test_where_the_large_one_cannot_be_had_the_cpu_scores_with_the_small_one(
    world: World,
    gpu_config: Callable[..., dict[str, Any]],
    defaults: Callable[..., None],
) -> None:
    defaults(absent=DEFAULT_GPU_CROSS_ENCODER)
    with Pipeline.open(world.snapshot, auto(gpu_config("auto"))) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.scorer is None
        assert pipeline.gpu.encoder is not None
        assert "is not in the cache" in pipeline.gpu.reasons["scorer"]
        assert f"{DEFAULT_CROSS_ENCODER}, up to" in pipeline.describe()
        assert not pipeline.search(world.queries[0], budget_ms=math.inf).degraded
    with pytest.raises(EngineError, match="wants scorer on the GPU"):
        Pipeline.open(world.snapshot, auto(gpu_config("always")))


def test_a_model_made_for_cpus_stays_there_when_it_is_named(
    world: World,
    gpu_config: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As ``models.scorer = "tiny-cross"`` on a machine with a GPU."""
    assert BUILTIN[DEFAULT_CROSS_ENCODER].settings.sha256 in builtin.MADE_FOR_CPUS
    model = resolve(msgspec.convert(world.config["models"]["scorer"], ModelSettings))
    monkeypatch.setattr(builtin, "MADE_FOR_CPUS", frozenset({model.sha256}))
    with Pipeline.open(world.snapshot, gpu_config("auto")) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.scorer is None
        assert pipeline.gpu.encoder is not None
        assert "is made for CPUs" in pipeline.gpu.reasons["scorer"]
        assert not pipeline.search(world.queries[0], budget_ms=math.inf).degraded
    with pytest.raises(EngineError, match=r'made for CPUs.*models\.scorer = "auto"'):
        Pipeline.open(world.snapshot, gpu_config("always"))
