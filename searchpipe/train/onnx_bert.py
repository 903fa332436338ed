"""A small BERT cross-encoder as an ONNX file, from its weights by their Hugging Face names.

Written node by node with operators of ONNX alone, in the form that ONNX Runtime's and
TensorRT's attention fusions know, so that the file does not depend on an exporter's version.
Weights can be stored narrower than they are computed with: the word table as int8 with one
scale a row, the other matrices as float16. Both become float32 once, when the file is loaded
(constant folding), so scores do not depend on what shares a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from searchpipe.arrays import Array
from searchpipe.errors import MissingDependencyError, ModelError

_OPSET = 17
_IR_VERSION = 8
_MASKED = -10000.0  # added to the attention of padding: exp() of it is 0 in float16 and float32

Storage = Literal["fp32", "small"]


@dataclass(frozen=True, slots=True)
class BertShape:
    """Sizes of a BERT cross-encoder; the names are those of Hugging Face's ``config.json``."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = 30522
    max_position_embeddings: int = 128
    layer_norm_eps: float = 1e-12

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


def write_onnx(
    weights: Mapping[str, Array],
    shape: BertShape,
    path: Path,
    *,
    storage: Storage = "small",
    first_token_only: bool = True,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the model to ``path``, replacing what was there at once.

    Inputs are int64 ``(n, t)`` input_ids, attention_mask and token_type_ids; output
    ``logits``, float32 ``(n, 1)``.

    Args:
        weights: float32 by the names of ``BertForSequenceClassification`` with one label.
        shape: must agree with the weights.
        path: of the file.
        storage: ``small`` stores the word table as int8 and other matrices as float16.
        first_token_only: the last layer computes queries, attention and feed-forward for the
            first token alone, the only one that the score is read from. Exact, and two layers
            cost 14/24 of the multiplications; attention fusions do not recognise that layer.
        facts: written into the file's metadata.

    Raises:
        ModelError: a weight is missing or has another shape.
        MissingDependencyError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            "Writing an ONNX file needs the package onnx.",
            cure="Install it: pip install 'searchpipe[train]'.",
        ) from error
    graph = _Graph(onnx, weights, storage)
    hidden = _embed(graph, shape)
    mask = _mask(graph)
    for layer in range(shape.num_hidden_layers):
        last = layer == shape.num_hidden_layers - 1
        hidden = _layer(graph, shape, f"bert.encoder.layer.{layer}.", hidden, mask, last and first_token_only)
    first = graph.add("Gather", [hidden, graph.constant(np.array(0, np.int64))], axis=1)
    pooled = graph.add("Tanh", [graph.linear(first, "bert.pooler.dense")])
    graph.linear(pooled, "classifier", out="logits")
    _save(onnx, graph, path, dict(facts or {}))


class _Graph:
    """Collects nodes and initializers."""

    def __init__(self, onnx: Any, weights: Mapping[str, Array], storage: Storage) -> None:
        self._onnx = onnx
        self._weights = weights
        self._storage = storage
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def add(self, op: str, inputs: list[str], *, out: str = "", name: str = "", **attributes: Any) -> str:
        """Append a node; returns its output's name."""
        out = out or f"{op.lower()}_{len(self.nodes)}"
        node = self._onnx.helper.make_node(op, inputs, [out], name=name or f"n_{out}", **attributes)
        self.nodes.append(node)
        return out

    def constant(self, value: Array) -> str:
        """An initializer holding ``value``; equal ones are shared."""
        key = (value.dtype.str, value.tobytes(), value.shape)
        if key not in self._constants:
            self._constants[key] = self.stored(value, f"constant_{len(self._constants)}")
        return self._constants[key]

    def stored(self, value: Array, name: str) -> str:
        """An initializer of its own."""
        self.initializers.append(self._onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def weight(self, name: str) -> Array:
        """A weight by its name, as float32."""
        if name not in self._weights:
            raise ModelError(f"The weights have no {name}.", cure="Give a BertForSequenceClassification.")
        return np.asarray(self._weights[name], np.float32)

    def matrix(self, name: str, value: Array) -> str:
        """A float32 matrix, stored as float16 where storage is small."""
        if self._storage == "fp32":
            return self.stored(value, name)
        half = self.stored(value.astype(np.float16), f"{name}.fp16")
        return self.add("Cast", [half], out=name, to=self._onnx.TensorProto.FLOAT)

    def word_table(self, name: str) -> str:
        """The word vectors, stored as int8 with one scale a row where storage is small."""
        table = self.weight(name)
        if self._storage == "fp32":
            return self.stored(table, name)
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127.0, 1e-12).astype(np.float16)
        scales = np.maximum(scales, np.float16(6e-8))
        rows = np.clip(np.rint(table / scales.astype(np.float32)), -127, 127).astype(np.int8)
        wide = self._onnx.TensorProto.FLOAT
        rows_f = self.add("Cast", [self.stored(rows, f"{name}.int8")], to=wide)
        scales_f = self.add("Cast", [self.stored(scales, f"{name}.scales")], to=wide)
        return self.add("Mul", [rows_f, scales_f], out=name)

    def linear(self, x: str, name: str, *, out: str = "") -> str:
        """``x @ W' + b``."""
        kernel = self.matrix(f"{name}.weight", self.weight(f"{name}.weight").T)
        product = self.add("MatMul", [x, kernel], name=name)
        return self.add("Add", [product, self.stored(self.weight(f"{name}.bias"), f"{name}.bias")], out=out)

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """LayerNorm over the last axis."""
        scale = self.stored(self.weight(f"{name}.weight"), f"{name}.weight")
        bias = self.stored(self.weight(f"{name}.bias"), f"{name}.bias")
        return self.add("LayerNormalization", [x, scale, bias], axis=-1, epsilon=epsilon)


def _embed(graph: _Graph, shape: BertShape) -> str:
    base = "bert.embeddings."
    words = graph.word_table(f"{base}word_embeddings.weight")
    places = graph.weight(f"{base}position_embeddings.weight")[: shape.max_position_embeddings]
    types = graph.weight(f"{base}token_type_embeddings.weight")
    for table, rows in ((places, shape.max_position_embeddings), (types, 2)):
        if table.shape != (rows, shape.hidden_size):
            raise ModelError(
                f"An embedding table has the shape {table.shape}, not {(rows, shape.hidden_size)}."
            )
    summed = graph.add(
        "Add",
        [
            graph.add("Gather", [words, "input_ids"], axis=0),
            graph.add(
                "Gather", [graph.stored(types, f"{base}token_type_embeddings.weight"), "token_type_ids"]
            ),
        ],
    )
    tokens = graph.add("Shape", ["input_ids"], start=1, end=2)
    zero, axis = graph.constant(np.array([0], np.int64)), graph.constant(np.array([0], np.int64))
    positions = graph.add(
        "Slice", [graph.matrix(f"{base}position_embeddings.weight", places), zero, tokens, axis]
    )
    return graph.norm(graph.add("Add", [summed, positions]), f"{base}LayerNorm", shape.layer_norm_eps)


def _mask(graph: _Graph) -> str:
    """0 for a token and a large negative number for padding: float32 (n, 1, 1, t)."""
    wide = graph.add("Unsqueeze", ["attention_mask", graph.constant(np.array([1, 2], np.int64))])
    given = graph.add("Cast", [wide], to=1)
    missing = graph.add("Sub", [graph.constant(np.array(1.0, np.float32)), given])
    return graph.add("Mul", [missing, graph.constant(np.array(_MASKED, np.float32))])


def _layer(graph: _Graph, shape: BertShape, base: str, hidden: str, mask: str, first_only: bool) -> str:
    heads, size, width = shape.num_attention_heads, shape.head_size, shape.hidden_size
    asking = hidden
    if first_only:
        bounds = [np.array([bound], np.int64) for bound in (0, 1, 1)]
        asking = graph.add("Slice", [hidden, *(graph.constant(bound) for bound in bounds)])
    split = graph.constant(np.array([0, 0, heads, size], np.int64))

    def by_head(source: str, name: str, order: list[int]) -> str:
        projected = graph.linear(source, f"{base}attention.self.{name}")
        return graph.add("Transpose", [graph.add("Reshape", [projected, split])], perm=order)

    query = by_head(asking, "query", [0, 2, 1, 3])
    key = by_head(hidden, "key", [0, 2, 3, 1])
    value = by_head(hidden, "value", [0, 2, 1, 3])
    scale = graph.constant(np.array(np.sqrt(size), np.float32))
    weights = graph.add("Div", [graph.add("MatMul", [query, key]), scale])
    shares = graph.add("Softmax", [graph.add("Add", [weights, mask])], axis=-1)
    mixed = graph.add("Transpose", [graph.add("MatMul", [shares, value])], perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", [mixed, graph.constant(np.array([0, 0, width], np.int64))])
    attended = graph.linear(joined, f"{base}attention.output.dense")
    hidden = graph.norm(
        graph.add("Add", [attended, asking]), f"{base}attention.output.LayerNorm", shape.layer_norm_eps
    )
    inner = _gelu(graph, graph.linear(hidden, f"{base}intermediate.dense"))
    outer = graph.linear(inner, f"{base}output.dense")
    return graph.norm(graph.add("Add", [outer, hidden]), f"{base}output.LayerNorm", shape.layer_norm_eps)


def _gelu(graph: _Graph, x: str) -> str:
    """``x * (1 + erf(x / sqrt(2))) / 2``."""

    def scalar(value: float) -> str:
        return graph.constant(np.array(value, np.float32))

    erf = graph.add("Erf", [graph.add("Div", [x, scalar(float(np.sqrt(2.0)))])])
    product = graph.add("Mul", [x, graph.add("Add", [erf, scalar(1.0)])])
    return graph.add("Mul", [product, scalar(0.5)])


def _save(onnx: Any, graph: _Graph, path: Path, facts: dict[str, str]) -> None:
    helper, kinds = onnx.helper, onnx.TensorProto
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, kinds.INT64, ["rows", "tokens"]) for name in names]
    output = helper.make_tensor_value_info("logits", kinds.FLOAT, ["rows", 1])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "cross-encoder", inputs, [output], graph.initializers),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="searchpipe",
    )
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
