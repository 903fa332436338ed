"""The model of these tests, exact in float32, on every kind of engine; and its plain NumPy reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32, Int32

_FAKES = Path(__file__).resolve().parents[1] / "fakes"
PTX = (_FAKES / "row_scores.ptx").read_text()
PACKED_PTX = (_FAKES / "packed_row_scores.ptx").read_text()
CLS, SEP = 101, 102


def row_scores(ids: Int32, mask: Int32, types: Int32 | None, width: int) -> Float32:
    places = np.arange(ids.shape[1])
    kinds = 0 if types is None else types.astype(np.int64)
    values = (ids.astype(np.int64) * 31 + places * 17 + kinds * 7) % 997
    sums = np.where(mask != 0, values, 0).sum(axis=1)
    return (sums[:, None] + np.arange(width)).astype(np.float32)


def expected_pairs(query: Int32, store: _core.TokenStore, docs: Sequence[int]) -> Float32:
    """Reference scores with the limits of the `packer` fixture: 8 query and 50 document tokens."""
    scores = []
    for doc in docs:
        kept, tokens = query[:8], store.tokens(int(doc))[:50]
        ids = np.concatenate([[CLS], kept, [SEP], tokens, [SEP]]).astype(np.int32)
        types = np.concatenate([np.zeros(len(kept) + 2), np.ones(len(tokens) + 1)]).astype(np.int32)
        scores.append(row_scores(ids[None], np.ones_like(ids)[None], types[None], 1)[0, 0])
    return np.array(scores, np.float32)


def expected_texts(texts: Sequence[Int32], width: int, max_tokens: int = 512) -> Float32:
    rows = []
    for text in texts:
        ids = np.concatenate([[CLS], text[: max_tokens - 2], [SEP]]).astype(np.int32)[None]
        rows.append(row_scores(ids, np.ones_like(ids), np.zeros_like(ids), width)[0])
    return np.array(rows, np.float32)


def random_store(path: Path, *, documents: int, longest: int, seed: int) -> _core.TokenStore:
    rng = np.random.default_rng(seed)
    writer = _core.TokenStoreWriter(path)
    for _ in range(documents):
        writer.append(rng.integers(1000, 30000, rng.integers(0, longest + 1)).astype(np.int32))
    writer.close()
    return _core.TokenStore(path)


@dataclass
class Built:
    """A scorer with what it is made of; `calls` counts enqueues and host computations by Python."""

    scorer: _core.Scorer
    executor: _core.Executor
    calls: list[tuple[int, int]] = field(default_factory=list)
    engines: list[_core.GraphEngine] = field(default_factory=list)


def kernel_engine(
    device: _core.Device,
    buckets: list[tuple[int, int]],
    calls: list[tuple[int, int]],
    *,
    output_width: int = 1,
    capture: bool = True,
) -> _core.GraphEngine:
    kernel = _core.Kernel(device, PTX, "row_scores")
    engine = _core.GraphEngine(device, buckets, output_width=output_width)
    ordered = engine.buckets

    def enqueue(index: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
        calls.append(bucket)
        assert ordered[index] == bucket
        rows, tokens = bucket
        kernel.launch(stream, (rows + 63) // 64, 64, [*inputs, output, rows, tokens, output_width])

    engine.set_enqueue(enqueue)
    engine.prepare(capture=capture)
    return engine


def packed_engine(
    device: _core.Device,
    buckets: list[tuple[int, int]],
    calls: list[tuple[int, int]],
    *,
    output_width: int = 1,
    capture: bool = True,
) -> _core.GraphEngine:
    """As kernel_engine, for packed rows: ``tokens`` of a bucket become those of two rows in three."""
    kernel = _core.Kernel(device, PACKED_PTX, "packed_row_scores")
    longest = max(tokens for _, tokens in buckets)
    packed = [(rows, max(2 * rows * tokens // 3, tokens)) for rows, tokens in buckets]
    engine = _core.GraphEngine(device, packed, inputs=6, output_width=output_width, longest_row=longest)

    def enqueue(index: int, bucket: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
        calls.append(bucket)
        rows, _ = bucket
        kernel.launch(stream, (rows + 63) // 64, 64, [*inputs, output, rows, longest, output_width])

    engine.set_enqueue(enqueue)
    engine.prepare(capture=capture)
    return engine


def _on_device(
    *, lanes: int = 1, capture: bool = True, make: Callable[..., _core.GraphEngine] = kernel_engine
) -> Callable[..., Built]:
    def build(
        device: _core.Device,
        buckets: list[tuple[int, int]],
        *,
        output_width: int = 1,
        slots: int = 3,
        **options: int,
    ) -> Built:
        calls: list[tuple[int, int]] = []
        engines = [
            make(device, buckets, calls, output_width=output_width, capture=capture) for _ in range(lanes)
        ]
        ring = _core.StagingRing(engines, slots=slots)
        return Built(_core.Scorer(ring, **options), ring, calls, engines)

    return build


def _on_host(
    device: None, buckets: list[tuple[int, int]], *, output_width: int = 1, slots: int = 2, **options: int
) -> Built:
    calls: list[tuple[int, int]] = []

    def compute(ids: Any, mask: Any, types: Any, output: Any) -> None:
        calls.append(ids.shape)
        output[:] = row_scores(ids, mask, types, output.shape[1])

    executor = _core.HostExecutor(compute, buckets, output_width=output_width, slots=slots)
    return Built(_core.Scorer(executor, **options), executor, calls)


ENGINES: dict[str, Callable[..., Built]] = {
    "graph": _on_device(),
    "graph-2-lanes": _on_device(lanes=2),
    "enqueue": _on_device(capture=False),
    "packed": _on_device(make=packed_engine),
    "packed-2-lanes": _on_device(make=packed_engine, lanes=2),
    "host": _on_host,
}
