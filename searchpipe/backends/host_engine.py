"""CPU engines behind the scorer that GPU engines use: the last link of a chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Array, Float32, Int32
from searchpipe.backends.base import Engine
from searchpipe.backends.text_inputs import check_text_inputs
from searchpipe.errors import EngineError, ModelError
from searchpipe.models.settings import LocalModel
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

_SMALLEST_NORM = 1e-12


def host_executor(
    engine: Engine, model: LocalModel, buckets: Sequence[Bucket], *, slots: int = 2
) -> _core.HostExecutor:
    """Run ``engine`` on batches of at most ``buckets``, with the shapes they really have.

    A cross-encoder gives its logits, [rows, 1] or [rows, 2]; an encoder its vectors,
    pooled and normalised as ``model`` says.

    Raises:
        ModelError: other inputs than a text model's, or an output of undeclared width.
    """
    from searchpipe import _core

    dtype = check_text_inputs(engine)
    finish = _vectors(model) if model.kind == "encoder" else _logits
    types_wanted = "token_type_ids" in engine.inputs

    def compute(ids: Int32, mask: Int32, types: Int32 | None, output: Float32) -> None:
        # Copies where the dtypes agree too: the views end with this call, a runtime may keep its feeds.
        feeds: dict[str, Array] = {"input_ids": ids.astype(dtype), "attention_mask": mask.astype(dtype)}
        if types is not None:
            feeds["token_type_ids"] = types.astype(dtype)
        found = finish(engine.run(feeds), mask)
        if found.shape != output.shape:
            raise EngineError(f"Engine {engine.name} returned {found.shape}, expected {output.shape}.")
        output[:] = found

    return _core.HostExecutor(
        compute,
        list(buckets),
        inputs=3 if types_wanted else 2,
        output_width=_width(engine, model),
        slots=slots,
    )


def _width(engine: Engine, model: LocalModel) -> int:
    shape = engine.output_shape
    width = 1 if shape is not None and len(shape) == 1 else shape[-1] if shape else None
    if width is None and model.kind == "cross-encoder":
        return 1
    if width is None:
        raise ModelError(f"Model {model.name} does not declare how long its vectors are: output {shape}.")
    return width


def _logits(output: Float32, mask: Int32) -> Float32:
    return output.reshape(len(mask), -1)


def _vectors(model: LocalModel) -> Callable[[Float32, Int32], Float32]:
    def pool(hidden: Float32, mask: Int32) -> Float32:
        vectors: np.ndarray[Any, np.dtype[np.float32]]
        if model.pooling == "mean":
            weights = mask.astype(np.float32)
            vectors = np.einsum("rtd,rt->rd", hidden, weights) / weights.sum(axis=1, keepdims=True)
        else:
            vectors = hidden[:, 0] if model.pooling == "cls" else hidden
        if model.normalize:
            lengths: Any = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST_NORM)
            vectors = vectors / lengths
        return vectors.astype(np.float32, copy=False)

    return pool
