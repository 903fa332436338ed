"""A variant on a GPU: ONNX Runtime's CUDA provider or a plan behind the scorer that serves, captured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.backends.device_engine import DeviceEngine, open_device
from searchpipe.backends.onnx_cuda import open_onnx_cuda
from searchpipe.device.facts import facts_of
from searchpipe.device.usable import load_cuda_libraries
from searchpipe.engine.gates.variants import Inputs, cosines, logits_of
from searchpipe.engine.rows import Pair
from searchpipe.errors import EngineError, RecipeError
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

_TIMEOUT_S = 120.0


class CudaVariant:
    """A text model's variant on the first GPU. Safe from many threads.

    Padding follows from the buckets: ``width`` has no effect.

    Args:
        engine: closed with this object.
        inputs: tokenizers and snapshot.
        device: the GPU that ``engine`` is on.
    """

    def __init__(self, engine: DeviceEngine, inputs: Inputs, device: _core.Device) -> None:
        from searchpipe import _core

        self._engine = engine
        self._device = device
        self._inputs = inputs
        self._scorer = _core.Scorer(engine.executor)
        self._widest = max(tokens for _, tokens in engine.buckets)

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self._engine.describe()

    def score(self, pairs: Sequence[Pair], *, width: int = 0) -> Float32:
        """See :class:`searchpipe.engine.gates.variants.Variant`."""
        del width
        if self._inputs.pairs is None:
            assert self._inputs.queries is not None
            texts = list(dict.fromkeys(text for text, _ in pairs))
            vectors = self._rows(self._inputs.queries.ids(texts), self._inputs.queries.special)
            return cosines(vectors.reshape(len(texts), -1), texts, pairs, self._inputs)
        rows = self._inputs.pairs
        scores = np.empty(len(pairs), np.float32)
        places: dict[str, list[int]] = {}
        for place, (text, _) in enumerate(pairs):
            places.setdefault(text, []).append(place)
        tickets = []
        for text, of_text in places.items():
            docs = np.array([pairs[place][1] for place in of_text], np.int32)
            tickets.append(
                (of_text, self._scorer.submit_pairs(rows.packer, rows.store, rows.ids(text), docs))
            )
        for of_text, ticket in tickets:
            scores[of_text] = logits_of(_result(ticket), len(of_text))
        return scores

    def run_shape(self, rows: int, tokens: int) -> None:
        """See :class:`searchpipe.engine.gates.variants.Variant`."""
        row = np.ones(max(tokens - 2, 0), np.int32)
        self._rows([row] * rows, (1, 1, 0))

    def gpu_memory_mib(self) -> float:
        """See :class:`searchpipe.engine.gates.variants.OnGpu`."""
        found = facts_of(self._device)
        return (found.total_bytes - found.free_bytes) / 2**20

    def close(self) -> None:
        """Close the scorer, then the engine."""
        self._scorer.close(drain=False)
        self._engine.close()

    def _rows(self, texts: Sequence[Int32], special: tuple[int, int, int]) -> Float32:
        cls_id, sep_id, pad_id = special
        return _result(
            self._scorer.submit_texts(
                list(texts), cls_id=cls_id, sep_id=sep_id, pad_id=pad_id, max_tokens=self._widest
            )
        )


def open_cuda_variant(path: Path, inputs: Inputs, buckets: Sequence[Bucket]) -> CudaVariant:
    """Open an ONNX file (int32 text inputs, pooled inside) on GPU 0, prepared for ``buckets``.

    Raises:
        EngineError: there is no usable GPU, or the model does not run on it.
        ModelError: the file does not have the form that the GPU engines take.
        MissingDependencyError: ONNX Runtime was built without CUDA.
        RecipeError: a feature ranker, which runs on the CPU alone.
    """
    if inputs.ranker is not None:
        raise RecipeError("Feature rankers run on the CPU alone.")
    device = open_device()
    load_cuda_libraries()
    return CudaVariant(open_onnx_cuda(path, device, list(buckets)), inputs, device)


def open_plan_variant(plan: Path, inputs: Inputs, buckets: Sequence[Bucket]) -> CudaVariant:
    """Open a TensorRT plan, its manifest beside it, on GPU 0, prepared for ``buckets``.

    Raises:
        EngineError: there is no usable GPU, or TensorRT refused the plan.
        ModelError: the plan is not for this GPU, runtime or version, or not what its manifest says.
        MissingDependencyError: the runtime is not installed.
    """
    from searchpipe.backends.tensorrt import open_tensorrt

    device = open_device()
    return CudaVariant(open_tensorrt(plan, device, list(buckets)), inputs, device)


def _result(ticket: _core.Ticket) -> Float32:
    if not ticket.wait(_TIMEOUT_S):
        ticket.cancel()
        raise EngineError(f"The GPU engine gave no scores within {_TIMEOUT_S:g} s.")
    if ticket.status != "done":
        raise EngineError(f"The GPU engine: {ticket.error or ticket.status}.")
    return ticket.scores()
