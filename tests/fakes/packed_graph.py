"""Runs a packed graph on the CPU: ONNX Runtime has its attention for GPUs only.

The operators of domain com.microsoft in NumPy, as their documentation defines them, inside ONNX's
reference evaluator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import erf, softmax

from searchpipe import _core

Array = np.ndarray


def _normalize(x: Array, gain: Array, shift: Array | None, epsilon: float) -> Array:
    wide = x.astype(np.float64)
    spread = np.sqrt(wide.var(axis=-1, keepdims=True) + epsilon)
    scaled = (wide - wide.mean(axis=-1, keepdims=True)) / spread * gain
    return (scaled if shift is None else scaled + shift).astype(x.dtype)


class EmbedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        ids: Array,
        types: Array | None,
        words: Array,
        places: Array,
        kinds: Array | None,
        gain: Array,
        shift: Array,
        mask: Array | None = None,
        positions: Array | None = None,
        epsilon: float | None = None,
        **_: Any,
    ) -> tuple[Array, ...]:
        assert positions is not None
        assert ids.shape == positions.shape == (1, ids.size)
        summed = words[ids] + places[positions]
        if types is not None and kinds is not None:
            summed = summed + kinds[types]
        return _normalize(summed, gain, shift, epsilon or 1e-12), np.zeros(1, np.int32)


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        skip: Array,
        gain: Array,
        shift: Array | None = None,
        bias: Array | None = None,
        epsilon: float | None = None,
    ) -> tuple[Array, ...]:
        summed = x + skip if bias is None else x + skip + bias
        return (_normalize(summed, gain, shift, epsilon or 1e-12),)


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        shifted = x + bias
        return ((shifted * 0.5 * (1 + erf(shifted / np.sqrt(2)))).astype(x.dtype),)


class PackedMultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None,
        token_offset: Array,
        ends: Array,
        num_heads: int | None = None,
        scale: float | None = None,
    ) -> tuple[Array]:
        assert bias is None
        assert ends.shape == (len(token_offset) + 1,)
        heads = int(num_heads or 0)
        out = np.full_like(value, np.nan)  # what no row contains is not computed
        factor = scale or 1 / np.sqrt(query.shape[1] / heads)
        for begin, end in pairwise(ends):
            if begin == end:
                continue
            assert end - begin <= token_offset.shape[1]
            q, k, v = (
                part[begin:end].reshape(end - begin, heads, -1).transpose(1, 0, 2)
                for part in (query, key, value)
            )
            shares = softmax(factor * q @ k.transpose(0, 2, 1), axis=-1)
            out[begin:end] = (shares @ v).transpose(1, 0, 2).reshape(end - begin, -1)
        return (out,)


def run_packed(
    path: Path,
    rows: Sequence[Sequence[int]],
    types: Sequence[Sequence[int]] | None,
    *,
    longest_row: int,
    spare_rows: int = 2,
    spare_tokens: int = 5,
) -> Array:
    """Outputs of the rows, packed with some room to spare."""
    count, tokens = len(rows) + spare_rows, sum(map(len, rows)) + spare_tokens
    positions, ends, firsts, offset = _core.packed_places(
        [len(row) for row in rows], rows=count, tokens=tokens, longest_row=longest_row
    )

    def flat(parts: Sequence[Sequence[int]]) -> Array:
        found = np.zeros((1, tokens), np.int32)
        found[0, : tokens - spare_tokens] = np.concatenate([np.asarray(part) for part in parts])
        return found

    feeds = {
        "input_ids": flat(rows),
        "position_ids": positions[None],
        "row_ends": ends,
        "row_firsts": firsts,
        "token_offset": offset,
    }
    model = onnx.load(str(path))
    if types is not None:
        feeds["token_type_ids"] = flat(types)
    assert {node.name for node in model.graph.input} == set(feeds)
    operators = [EmbedLayerNormalization, SkipLayerNormalization, BiasGelu, PackedMultiHeadAttention]
    with np.errstate(invalid="ignore"):
        (out,) = ReferenceEvaluator(model, new_ops=operators).run(None, feeds)
    return np.asarray(out)[: len(rows)]
