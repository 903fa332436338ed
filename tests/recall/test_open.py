"""A snapshot built on a CPU host becomes a GPU index, planned before anything is taken."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from searchpipe.catalog.dense import DenseIndex
from searchpipe.catalog.dense_writer import DenseWriter
from searchpipe.catalog.settings import IndexSettings
from searchpipe.device.facts import DeviceFacts
from searchpipe.device.plan import MIB, DevicePlan, Part
from searchpipe.errors import DeviceMemoryError, EngineError
from searchpipe.recall import open as opening
from searchpipe.recall.exact_gpu import DeviceMatrix
from searchpipe.recall.open import open_recall, plan_recall
from searchpipe.recall.settings import GpuRecallSettings
from searchpipe.settings import convert

GIB = 1 << 30
FACTS = DeviceFacts(0, "Test GPU", (9, 0), 4 * GIB, 3 * GIB, 132)


@pytest.fixture
def snapshot(tmp_path, vectors):
    def build(kind):
        folder = tmp_path / kind
        settings = IndexSettings(dense_index=kind, ivf_lists=32, hnsw_build_effort=16)
        with ExitStack() as owner:
            writer = DenseWriter(folder, settings, 32, owner)
            writer.append(vectors)
            return DenseIndex(folder, writer.close(), len(vectors))

    return build


@pytest.fixture
def on_fake_or_gpu(monkeypatch, faiss_gpu):
    monkeypatch.setattr(opening, "require_gpu_faiss", lambda: faiss_gpu)
    if faiss_gpu.__name__ == "faiss":
        return None  # a real GPU: real facts
    monkeypatch.setattr(opening, "_has_cupy", lambda: False)
    return FACTS


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("index", [None, "ivf-flat", "cagra"])
def test_every_cpu_snapshot_is_searched_on_a_gpu(snapshot, on_fake_or_gpu, queries, kind, index):
    dense = snapshot(kind)
    shown = []
    settings = GpuRecallSettings(index=index, lists=32, probes=32)
    recall = open_recall(dense, settings, reserve_bytes=16 * MIB, facts=on_fake_or_gpu, show=shown.append)
    assert "recall index" in shown[0]
    for query in queries[:4]:
        docs, scores, reason = recall.index.search_saying(query, 20)
        best, best_scores = dense.search(query, 20)
        assert not reason
        assert len(np.intersect1d(docs, best)) >= 18
        np.testing.assert_allclose(scores[0], best_scores[0], atol=1e-5)
    assert recall.dispatcher.stats().lookups == 4
    assert recall.gpu.plan.line() in recall.describe()
    recall.close()
    recall.close()
    assert "closed" in recall.index.search_saying(queries[0], 5)[2]


def test_lists_learned_on_the_cpu_are_not_learned_again(snapshot, on_fake_or_gpu):
    dense = snapshot("ivf")
    recall = open_recall(dense, GpuRecallSettings(index="ivf-flat", lists=32), facts=on_fake_or_gpu)
    learned = dense.to_faiss().quantizer.reconstruct_n(0, 32)
    quantizer = recall.gpu._kept[-1]
    np.testing.assert_array_equal(getattr(quantizer, "index", quantizer).reconstruct_n(0, 32), learned)
    recall.close()


def test_what_does_not_fit_is_refused_before_anything_is_made(snapshot, on_fake_or_gpu, monkeypatch):
    if on_fake_or_gpu is None:
        pytest.skip("the device under test has memory enough")
    monkeypatch.setattr(opening, "GpuIndex", lambda *args, **options: pytest.fail("made an index"))
    with pytest.raises(DeviceMemoryError, match="MiB are available"):
        open_recall(snapshot("flat"), facts=FACTS, others=(Part("scorer", 3 * GIB - 600 * MIB),))


def test_an_empty_catalog_has_no_gpu_index(vectors):
    class Empty:
        count, dim = 0, 32

    with pytest.raises(EngineError, match="empty"):
        open_recall(Empty())


def test_without_a_gpu_the_reason_is_said(snapshot, faiss_gpu):
    if faiss_gpu.__name__ == "faiss":
        pytest.skip("there is a GPU")
    with pytest.raises(Exception, match=r"GPU") as caught:
        open_recall(snapshot("flat"))
    assert caught.value.code == "missing_dependency"


def test_the_copy_for_filters_never_costs_the_index_its_precision(monkeypatch):
    monkeypatch.setattr(opening, "_has_cupy", lambda: True)
    settings = GpuRecallSettings(temp_mb=16)
    seen = set()
    for gib in (1, 1.5, 2, 3, 4, 8):
        device = DevicePlan((), int(gib * GIB), int(gib * GIB), 0)
        with_copy = plan_recall(1_000_000, 384, settings, device)
        without = plan_recall(1_000_000, 384, GpuRecallSettings(exact_filters=False, temp_mb=16), device)
        assert with_copy.index == without.index
        device.with_parts(with_copy.parts()).check()
        seen.add(with_copy.exact_filters)
    assert seen == {False, True}
    assert DeviceMatrix.nbytes(1_000_000, 384) > 1_000_000 * 384 * 2


def test_recall_may_be_given_less_than_is_free(monkeypatch):
    monkeypatch.setattr(opening, "_has_cupy", lambda: True)
    device = DevicePlan((), 64 * GIB, 64 * GIB, 0)
    plan = plan_recall(1_000_000, 384, GpuRecallSettings(memory_mb=1024), device)
    assert sum(part.nbytes for part in plan.parts()) <= GIB
    assert plan.index.kind == "ivf-pq"


def test_the_settings_are_a_table_of_the_configuration():
    assert convert({"use": "never", "max_delay_ms": 0.2}, GpuRecallSettings).max_delay_ms == 0.2
