"""A pipeline opened with [gpu] on the fake driver, for the tests of it; the packages of a GPU are fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import onnxruntime
import pytest

from searchpipe import assemble_gpu
from searchpipe.backends import onnx_prepare
from searchpipe.pipeline import Pipeline
from searchpipe.recall import open as recall_open
from searchpipe.runtime import open_chain
from tests.conftest import World
from tests.fakes import onnxruntime_device
from tests.fakes.cuda_driver import FakeDriver

pytest.importorskip("sympy")
faiss_gpu = pytest.importorskip("tests.fakes.faiss_gpu")

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def gpu_config(
    world: World,
    fake: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Config:
    """Packages for a GPU as far as the process can tell, and the configuration of a pipeline on it."""
    monkeypatch.setenv("SEARCHPIPE_CACHE", str(tmp_path_factory.getbasetemp() / "gpu-cache"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", onnxruntime_device.get_available_providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", onnxruntime_device.InferenceSession)
    monkeypatch.setattr(assemble_gpu, "faiss_without_gpu", lambda: "")
    monkeypatch.setattr(recall_open, "require_gpu_faiss", lambda: faiss_gpu)
    monkeypatch.setattr(recall_open, "_has_cupy", lambda: False)

    def in_float32(model: Any, out: Any, options: Any = None) -> Any:
        # So that a page can be compared with the CPU's; half precision swaps near ties.
        return onnx_prepare.prepare_onnx(model, out, replace(options, fp16=False))

    monkeypatch.setattr(open_chain, "prepare_onnx", in_float32)

    def config(use: str = "always", *, recall: dict[str, Any] | None = None, **gpu: Any) -> dict[str, Any]:
        return {
            **world.config,
            "gpu": {"use": use, "reserve_mb": 32, **gpu},
            "recall": {"gpu": {"temp_mb": 16, **(recall or {})}},
        }

    return config


@pytest.fixture
def on_cpu(world: World) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, {**world.config, "gpu": {"use": "never"}}) as pipeline:
        yield pipeline


def ids(page: Any) -> list[str]:
    return [hit.id for hit in page]
