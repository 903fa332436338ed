"""One driver for the whole process: the real one where there is a GPU, else the fake."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchpipe import _core
from tests.conftest import World
from tests.fakes.cuda_driver import FakeDriver, build, real_driver_present
from tests.runtime.row_model import ENGINES, Built, random_store
from tests.runtime.stream_work import StreamWork


@pytest.fixture(scope="session", autouse=True)
def _what_is_there_is_no_garbage() -> Iterator[None]:
    """What the tests of other folders left is looked through once, not before every test here: 0.2 s each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_garbage_collection(_what_is_there_is_no_garbage: None) -> Iterator[None]:
    """None inside a test, whatever the thread.

    On a stream's own thread, where models of the fake runtimes compute, freeing device memory would wait
    for that stream for ever; and garbage of an earlier test would count as memory of this one.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def cuda() -> FakeDriver | None:
    """Make CUDA usable; the fake's controls, or None on a real GPU."""
    if real_driver_present():
        assert _core.cuda_available()
        return None
    library = build()
    if library is None:
        pytest.skip("neither a GPU nor a compiler for the fake driver")
    os.environ.setdefault("SEARCHPIPE_LIBCUDA", str(library))
    status = _core.cuda_available()
    assert status, status.reason
    return FakeDriver(library)


@pytest.fixture
def device(cuda: FakeDriver | None) -> Iterator[_core.Device]:
    if cuda is not None:
        cuda.reset()
    yield _core.Device(0)
    if cuda is not None:
        cuda.reset()


@pytest.fixture
def work(device: _core.Device) -> Iterator[StreamWork]:
    one = StreamWork()
    yield one
    one.close()


@pytest.fixture
def fake(cuda: FakeDriver | None, device: _core.Device) -> FakeDriver:
    if cuda is None:
        pytest.skip("steers the fake driver")
    return cuda


@pytest.fixture
def gpu_config(
    world: World,
    fake: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., dict[str, Any]]:
    """Packages for a GPU as far as the process can tell, and the configuration of a pipeline on it."""
    pytest.importorskip("sympy")
    faiss_gpu = pytest.importorskip("tests.fakes.faiss_gpu")
    import onnxruntime

    from searchpipe import assemble_gpu
    from searchpipe.backends import onnx_prepare
    from searchpipe.recall import open as recall_open
    from searchpipe.runtime import open_chain
    from tests.fakes import onnxruntime_device

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
def store(tmp_path: Path) -> _core.TokenStore:
    """200 documents of 0 to 60 tokens."""
    return random_store(tmp_path / "tokens", documents=200, longest=60, seed=7)


@pytest.fixture
def packer() -> _core.PairPacker:
    return _core.PairPacker(cls_id=101, sep_id=102, max_query_tokens=8, max_doc_tokens=50, max_tokens=64)


@pytest.fixture(params=sorted(ENGINES))
def build_engine(request: pytest.FixtureRequest) -> Iterator[Callable[..., Built]]:
    """Build an engine of each kind around the row model: build_engine(buckets, output_width=1)."""
    open_engine = ENGINES[request.param]
    device = None if request.param.startswith("host") else request.getfixturevalue("device")
    built: list[Built] = []

    def make(buckets: list[tuple[int, int]], **options: int) -> Built:
        built.append(open_engine(device, buckets, **options))
        return built[-1]

    yield make
    for one in built:
        one.scorer.close(drain=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)
