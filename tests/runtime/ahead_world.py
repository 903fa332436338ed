"""An encoder on the fake driver and a FAISS index behind it: the stages encode and recall of one query."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.cost_model import CostModel
from searchpipe.deadline import ANSWERING, Deadline
from searchpipe.gate import ComputeGate
from searchpipe.query import Query
from searchpipe.recall.dispatcher import Dispatcher
from searchpipe.recall.fallback import FallbackIndex
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.recall.policy import CoalescePolicy
from searchpipe.recall.rule import Codes, IndexKind, choose_index
from searchpipe.recall.source import SharedDense
from searchpipe.runtime.device_vectors import DeviceVectors
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from searchpipe.runtime.text_encoder import ChainTextEncoder
from searchpipe.stages.base import Work
from searchpipe.stages.encode import Encode
from searchpipe.stages.recall import Recall
from tests.fakes import faiss_gpu
from tests.fakes.cuda_driver import FakeDriver, HostFunctions
from tests.runtime.row_model import kernel_engine

DIM, COUNT = 16, 3000


class Lexical:
    """A second source, which has its answer ready."""

    name = "lexical"

    def ready(self, work: Work) -> bool:
        return True

    def search(self, work: Work, depth: int, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        docs = np.array([5, 3, 8], np.int32)
        return docs[:depth], np.array([3, 2, 1], np.float32)[:depth]


class AheadWorld:
    def __init__(
        self,
        device: _core.Device,
        kind: IndexKind = "flat",
        codes: Codes | None = None,
        *,
        lexical: bool = False,
        limit: int = 256,
        slots: int = 3,
        lanes: int = 1,
        policy: CoalescePolicy | None = None,
        use_cuvs: bool = False,
    ) -> None:
        def engine() -> Opened:
            engines = [kernel_engine(device, [(1, 16), (4, 16)], [], output_width=DIM) for _ in range(lanes)]
            ring = _core.StagingRing(engines, slots=slots)

            def close() -> None:
                while engines:
                    engines.pop().close()

            return Opened(ring, close, on_gpu=True)

        self.chain = EngineChain([Link("gpu", engine)])
        model: Any = SimpleNamespace(kind="encoder", name="rows", max_tokens=16)
        tokenizer: Any = SimpleNamespace(cls_id=101, sep_id=102, pad_id=0)
        self.encoder = ChainTextEncoder(model, self.chain, tokenizer)
        self.places = DeviceVectors(device, DIM, limit=limit)
        rng = np.random.default_rng(5)
        self.vectors = rng.standard_normal((COUNT, DIM)).astype(np.float32)
        lists = 16 if "ivf" in kind else 0
        plan = choose_index(
            COUNT,
            DIM,
            1 << 30,
            kind=kind,
            codes=codes,
            lists=lists,
            probes=lists,
        )
        self.stream = _core.Stream(device)
        self.gpu = GpuIndex(plan, self.vectors, stream=self.stream.handle, faiss=faiss_gpu, use_cuvs=use_cuvs)
        self.dispatcher = Dispatcher(self.gpu, policy=policy)
        self.index = FallbackIndex(self.dispatcher, SimpleNamespace(search=_no_host), max_k=self.gpu.max_k)
        self.dense = SharedDense(self.index)
        sources: list[Any] = [Lexical(), self.dense] if lexical else [self.dense]
        self.recall = Recall(sources, lambda filters: np.arange(COUNT) % 2 == 0, depth=20)
        self.encode = Encode(self.encoder, ComputeGate(), places=self.places)
        self.functions = HostFunctions()

    def work(self, seed: int = 0, *, budget_ms: float = math.inf, **asked: Any) -> Work:
        query = Query("shoes", asked.pop("k", 10), asked.pop("filters", {}), **asked)
        work = Work(query, Deadline(budget_ms), CostModel())
        work.tokens = np.random.default_rng(seed).integers(1000, 30000, 3 + seed % 9).astype(np.int32)
        return work

    def encoded(self, work: Work, *, ahead: bool = True) -> Work:
        """After the stage encode; ``ahead``: recall may prepare while it waits."""
        work.stage, work.essential = "encode", False
        work.later = (self.recall,) if ahead else ()
        token = ANSWERING.set(work.deadline)
        try:
            self.encode.run(work)
        finally:
            ANSWERING.reset(token)
        return work

    def recalled(self, work: Work) -> Work:
        work.stage, work.essential = "recall", True
        self.recall.run(work)
        return work

    def stalled(self) -> threading.Event:
        """What the index's stream is given from now on waits for this."""
        go = threading.Event()
        self.functions.put(self.stream.handle, lambda: (go.wait(30), None)[1])
        return go

    def close(self) -> None:
        self.dispatcher.close()
        self.gpu.close()
        self.chain.close()
        self.places.free()


def _no_host(*asked: Any, **named: Any) -> Any:
    raise AssertionError("the CPU was asked")


def same(one: Work, other: Work) -> None:
    assert one.candidates is not None
    assert other.candidates is not None
    np.testing.assert_array_equal(one.candidates.docs, other.candidates.docs)
    assert list(one.candidates.scores) == list(other.candidates.scores)
    for name, column in one.candidates.scores.items():
        np.testing.assert_array_equal(column, other.candidates.scores[name])
    assert not one.degradations
    assert not other.degradations


Open = Callable[..., AheadWorld]


@pytest.fixture
def open_world(device: _core.Device, fake: FakeDriver) -> Iterator[Open]:
    opened: list[AheadWorld] = []

    def make(*asked: Any, **options: Any) -> AheadWorld:
        opened.append(AheadWorld(device, *asked, **options))
        return opened[-1]

    yield make
    while opened:
        opened.pop().close()
    gc.collect()
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)
