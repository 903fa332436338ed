"""Packed rows with products of cuBLASLt: served where they can be had, and planned for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from searchpipe import _core, assemble_gpu
from searchpipe.backends.onnx_split import KINDS
from searchpipe.device.estimates import EPILOGUES
from searchpipe.errors import EngineError
from searchpipe.models import LocalModel
from searchpipe.pipeline import Pipeline
from searchpipe.runtime import open_chain
from searchpipe.runtime.open_chain import ChainOptions
from tests.conftest import World
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.gpu_world import Config

Opened = Callable[..., Any]


class Engine:
    """What :func:`open_chain` needs of a packed engine on a device that computes nothing."""

    def __init__(self, epilogues: Sequence[str], not_captured: dict[tuple[int, int], str]) -> None:
        self.epilogues = tuple(epilogues)
        self.not_captured = not_captured
        self.executor = _core.HostExecutor(lambda *_: None, [(4, 16)], output_width=1)
        self.closed = False

    def describe(self) -> str:
        return f"with {self.epilogues}"

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    (tmp_path / "model.onnx").write_bytes(b"")
    return LocalModel(
        name="ranker",
        kind="cross-encoder",
        model=tmp_path / "model.onnx",
        tokenizer=tmp_path / "tokenizer.json",
        sha256="",
        max_tokens=32,
        pooling="none",
        normalize=False,
        query_prefix="",
        document_prefix="",
    )


@pytest.fixture
def opening(device: _core.Device, monkeypatch: pytest.MonkeyPatch) -> Callable[[Opened], list[Engine]]:
    """Opens engines by a function instead of from a file; returns where they are kept."""

    def patched(open_one: Opened) -> list[Engine]:
        made: list[Engine] = []

        def open_onnx_cuda(*_: Any, epilogues: Sequence[str] = (), **__: Any) -> Engine:
            made.append(open_one(epilogues))
            return made[-1]

        monkeypatch.setattr(open_chain, "prepare_onnx", lambda source, *_: source)
        monkeypatch.setattr(open_chain, "open_onnx_cuda", open_onnx_cuda)
        return made

    return patched


def test_they_are_served_where_they_can_be_had(
    model: LocalModel, opening: Callable[[Opened], list[Engine]]
) -> None:
    made = opening(lambda epilogues: Engine(epilogues, {}))
    chain = open_chain.open_chain(model)
    assert [engine.epilogues for engine in made] == [KINDS]
    assert chain.states[0].description == f"with {KINDS}"
    chain.close()
    assert made[0].closed


def test_they_are_left_out_when_told_so(model: LocalModel, opening: Callable[[Opened], list[Engine]]) -> None:
    made = opening(lambda epilogues: Engine(epilogues, {}))
    open_chain.open_chain(model, ChainOptions(epilogues=())).close()
    assert [engine.epilogues for engine in made] == [()]


@pytest.mark.parametrize("how", ["raises", "is not captured"])
def test_without_them_the_engine_is_the_same_link(
    model: LocalModel,
    opening: Callable[[Opened], list[Engine]],
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    def one(epilogues: Sequence[str]) -> Engine:
        if epilogues and how == "raises":
            raise EngineError("cuBLASLt has a bad day.")
        return Engine(epilogues, {(4, 16): "no graph today"} if epilogues else {})

    made = opening(one)
    with caplog.at_level(logging.INFO, "searchpipe.gpu"):
        chain = open_chain.open_chain(model)
    assert chain.serving == "onnx-cuda-packed"
    assert chain.states[0].description == "with ()"
    assert made[-1].epilogues == ()
    assert not made[-1].closed
    assert all(engine.closed for engine in made[:-1])  # two of them do not fit everywhere
    [record] = caplog.records
    reason = "cuBLASLt has a bad day" if how == "raises" else "no graph today"
    assert "ranker on packed rows goes without cuBLASLt's epilogues" in record.getMessage()
    assert reason in record.getMessage()
    chain.close()


def parts(pipeline: Pipeline) -> list[str]:
    assert pipeline.gpu is not None
    assert pipeline.gpu.plan is not None
    return [part.name for part in pipeline.gpu.plan.parts]


def test_their_memory_is_planned_unless_it_is_too_much(
    world: World, gpu_config: Config, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []
    real = open_chain.open_chain

    def spy(local: LocalModel, options: ChainOptions) -> Any:
        asked.append(options.epilogues)
        return real(local, options)

    monkeypatch.setattr(open_chain, "open_chain", spy)
    texts, pages = world.queries[:3], []
    for wanted, settings, share in ((KINDS, {}, 0.5), ((), {"epilogues": False}, 0.5), ((), {}, 0.05)):
        asked.clear()
        monkeypatch.setattr(assemble_gpu, "_EPILOGUES_SHARE", share)
        with Pipeline.open(world.snapshot, gpu_config(recall={"use": "never"}, **settings)) as pipeline:
            assert (f"scorer {EPILOGUES}" in parts(pipeline)) == bool(wanted)
            assert not any(name == f"encoder {EPILOGUES}" for name in parts(pipeline))
            pages.append([[hit.id for hit in pipeline.search(text, budget_ms=5000.0)] for text in texts])
        assert asked == [(), wanted]  # the encoder's rows are padded
    assert pages[0] == pages[1] == pages[2]
