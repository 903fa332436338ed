"""A whole pipeline opened with [gpu] on the fake driver: the CPU's pages, requests, settings."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from searchpipe import _core
from searchpipe.catalog.lexical import LexicalSearch
from searchpipe.errors import ConfigError
from searchpipe.pipeline import Pipeline
from searchpipe.stages.recall import Lexical
from tests.conftest import World
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.gpu_world import Config, ids, on_cpu

__all__ = ["on_cpu"]


def test_the_page_is_the_cpus(
    world: World, gpu_config: Config, on_cpu: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        assert not pipeline.gpu.reasons
        assert pipeline.gpu.recall is not None
        on_device: list[bool] = []
        search = pipeline.gpu.recall.gpu.search_many

        def searched(queries: Any, *arguments: Any, **options: Any) -> Any:
            on_device.append(hasattr(queries, "__cuda_array_interface__"))
            return search(queries, *arguments, **options)

        monkeypatch.setattr(pipeline.gpu.recall.gpu, "search_many", searched)
        for text in world.queries[:10]:
            for filters in (None, {"price": {"lte": 60}}):
                page = pipeline.search(text, k=12, budget_ms=math.inf, filters=filters)
                expected = on_cpu.search(text, k=12, budget_ms=math.inf, filters=filters)
                assert not page.degradations
                [recall] = [span for span in page.trace.spans if span.stage == "recall"]
                assert ("dense begun behind the encoder" in recall.decision) == (filters is None)
                assert ids(page) == ids(expected)
                for hit, same in zip(page, expected, strict=True):
                    assert hit.scores == pytest.approx(same.scores, abs=1e-4)
        described = pipeline.describe()
        scorer = pipeline.gpu.scorer
        assert scorer is not None
        stats = scorer.chain.scorer.stats()
    assert "Fake GPU" in described
    assert "encoder: onnx-cuda" in described
    assert "pairs at once" in described
    # Vectors stay on the device, and their places are used again.
    assert pipeline.gpu.places is not None
    assert pipeline.gpu.recall is not None
    assert on_device
    assert all(on_device)
    # One request a query, however many pairs it has.
    assert (stats.requests, stats.late_rows) == (20, 0)


def test_a_kept_vector_goes_to_the_device_again(
    world: World, gpu_config: Config, on_cpu: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**gpu_config(), "cache": {"embeddings_entries": 10}}
    with Pipeline.open(world.snapshot, config) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.recall is not None
        on_device: list[bool] = []
        search = pipeline.gpu.recall.gpu.search_many

        def searched(queries: Any, *arguments: Any, **options: Any) -> Any:
            on_device.append(hasattr(queries, "__cuda_array_interface__"))
            return search(queries, *arguments, **options)

        monkeypatch.setattr(pipeline.gpu.recall.gpu, "search_many", searched)
        text = world.queries[0]
        pages = [pipeline.search(text, budget_ms=math.inf) for _ in range(3)]
        assert all(ids(page) == ids(on_cpu.search(text, budget_ms=math.inf)) for page in pages)
        assert pages[0].hits == pages[1].hits == pages[2].hits
        assert not any(page.degradations for page in pages)
        decisions = [span.decision for page in pages for span in page.trace.spans if span.stage == "recall"]
        assert ["behind the encoder" in decision for decision in decisions] == [True, False, False]
        assert on_device == [False, False]  # the first was begun before
        assert (pipeline.caches["embeddings"].hits, pipeline.caches["embeddings"].misses) == (2, 1)


def test_many_callers_get_the_answers_of_one(world: World, gpu_config: Config) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        texts = world.queries[:8]
        expected = {text: ids(pipeline.search(text, budget_ms=math.inf)) for text in texts}
        wrong = []

        def go(first: int) -> None:
            for turn in range(len(texts)):
                text = texts[(first + turn) % len(texts)]
                if ids(pipeline.search(text, budget_ms=math.inf)) != expected[text]:
                    wrong.append(text)

        threads = [threading.Thread(target=go, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_lexical_recall_begins_on_threads_of_the_core_while_the_encoder_computes(
    world: World, gpu_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    lent: list[int] = []
    divided, share = Lexical.divided, LexicalSearch.share

    def watched(source: Lexical, work: Any, *arguments: Any) -> Any:
        begun.append(work.stage)
        assert work.vector is None or work.stage == "recall"
        return divided(source, work, *arguments)

    def lends(search: LexicalSearch, threads: _core.SearchThreads, wanted: int) -> int:
        lent.append(share(search, threads, wanted))
        return lent[-1]

    monkeypatch.setattr(Lexical, "divided", watched)
    monkeypatch.setattr(LexicalSearch, "share", lends)
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        for text in world.queries[:3]:
            pipeline.search(text, budget_ms=math.inf)
            pipeline.search(text, budget_ms=math.inf, filters={"price": {"lte": 60}})
        assert begun == ["encode"] * 6
        assert sum(lent) >= 1
        pipeline.search(world.queries[0], budget_ms=math.inf, without=["encode"])
        assert begun[6:] == [""]  # nobody will wait: before the first stage


def test_recall_may_be_kept_off_the_gpu(world: World, gpu_config: Config) -> None:
    with Pipeline.open(world.snapshot, gpu_config(recall={"use": "never"})) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.recall is None
        assert pipeline.gpu.scorer is not None
        assert not pipeline.gpu.reasons


def test_a_finite_budget_is_one_request_and_too_small_a_one_is_said(world: World, gpu_config: Config) -> None:
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        assert pipeline.gpu is not None
        scorer = pipeline.gpu.scorer
        assert scorer is not None
        pipeline.warm_up()
        before = scorer.chain.scorer.stats().requests
        page = pipeline.search(world.queries[0], budget_ms=30_000)
        assert not page.degradations
        assert scorer.chain.scorer.stats().requests == before + 1
        page = pipeline.search(world.queries[0], budget_ms=0.01)
        assert len(page) == 10
        assert page.degraded
        assert not [d for d in page.degradations if d.reason == "stage_failed"]


def test_stages_of_ones_own_need_no_gpu(world: World, gpu_config: Config, fake: FakeDriver) -> None:
    class Mine:
        name, reads, writes, essential = "score", ("candidates",), ("candidates",), False

        def run(self, work: Any) -> None:
            return

        def describe(self) -> str:
            return "mine"

    with Pipeline.open(world.snapshot, gpu_config(), replace={"score": Mine()}) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.scorer is None
        assert pipeline.gpu.encoder is not None
    plain = {**gpu_config(), "pipeline": {"stages": ["recall", "page"]}}
    plain["recall"] = {"sources": ["lexical"]}
    with Pipeline.open(world.snapshot, plain) as pipeline:
        assert pipeline.gpu is not None
        assert pipeline.gpu.lines() == []
    assert fake.device_bytes() == 0


def test_a_model_file_that_is_not_there_is_a_mistake_of_the_configuration(
    world: World, gpu_config: Config
) -> None:
    with pytest.raises(ConfigError, match=r"gpu\.scorer\.model: there is no file nowhere\.onnx"):
        Pipeline.open(world.snapshot, gpu_config("auto", scorer={"model": "nowhere.onnx"}))


def test_the_driver_of_these_tests_is_the_fake(fake: FakeDriver) -> None:
    assert _core.Device(0).name == "Fake GPU"
