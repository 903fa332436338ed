"""A whole BERT cross-encoder of a few thousand weights, as exporters write one: every operation by itself.

ONNX Runtime's optimizer fuses its embeddings, attention, LayerNorm and GELU, so that what is
made of the fused graph can be tested.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.tiny_onnx import NAMES, save_graph

LONGEST = 32
VOCABULARY = 64


def save_bert(
    path: Path,
    *,
    hidden: int = 16,
    heads: int = 2,
    layers: int = 2,
    token_types: bool = True,
    pooled_place: int = 0,
    seed: int = 5,
) -> Path:
    """Inputs int64 [b, s], output logits [b, 1]: a linear map of the token at ``pooled_place``."""
    return _Writer(hidden, heads, seed).save(path, layers, token_types, pooled_place)


class _Writer:
    def __init__(self, hidden: int, heads: int, seed: int) -> None:
        self._hidden, self._heads = hidden, heads
        self._rng = np.random.default_rng(seed)
        self._nodes: list = []
        self._constants: list = []

    def save(self, path: Path, layers: int, token_types: bool, pooled_place: int) -> Path:
        names = NAMES if token_types else NAMES[:2]
        states = self._embed(token_types)
        mask = self._added_mask()
        for layer in range(layers):
            states = self._layer(f"l{layer}", states, mask)
        first = self._add("Gather", [states, self._constant("place", np.array(pooled_place))], axis=1)
        pooled = self._add("Tanh", [self._linear("pool", first, self._hidden)])
        logits = self._linear("classify", pooled, 1)
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in names]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 1])
        return save_graph(path, self._nodes, inputs, [output], self._constants)

    def _add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=f"n_{name}", **attributes))
        return name

    def _constant(self, name: str, value: np.ndarray) -> str:
        known = {tensor.name for tensor in self._constants}
        if name not in known:
            kind = np.float32 if value.dtype == np.float64 else value.dtype
            self._constants.append(numpy_helper.from_array(value.astype(kind), name))
        return name

    def _random(self, name: str, *shape: int) -> str:
        return self._constant(name, self._rng.normal(size=shape) / np.sqrt(shape[-1]))

    def _linear(self, name: str, tensor: str, width: int) -> str:
        """Bias and all; the bias first, as PyTorch's exporter has it."""
        inner = self._hidden * 4 if name.endswith("down") else self._hidden
        product = self._add("MatMul", [tensor, self._random(f"{name}.w", inner, width)])
        return self._add("Add", [self._random(f"{name}.b", width), product])

    def _norm(self, name: str, tensor: str) -> str:
        gain = self._constant(f"{name}.gain", 1 + 0.1 * self._rng.normal(size=self._hidden))
        return self._add(
            "LayerNormalization", [tensor, gain, self._random(f"{name}.shift", self._hidden)], epsilon=1e-12
        )

    def _embed(self, token_types: bool) -> str:
        words = self._add("Gather", [self._random("words", VOCABULARY, self._hidden), "input_ids"])
        kinds = self._random("kinds", 2, self._hidden)
        if token_types:
            words = self._add("Add", [words, self._add("Gather", [kinds, "token_type_ids"])])
        shape = self._add("Shape", ["input_ids"])
        length = self._add("Gather", [shape, self._constant("one", np.array(1))])
        zero, one = (self._constant(f"list_{n}", np.array([n])) for n in (0, 1))
        end = self._add("Unsqueeze", [length, zero])
        all_places = self._constant("all_places", np.arange(LONGEST)[None])
        places = self._add("Slice", [all_places, zero, end, one])
        table = self._random("places", LONGEST, self._hidden)
        return self._norm("embedded", self._add("Add", [words, self._add("Gather", [table, places])]))

    def _added_mask(self) -> str:
        one, two = (self._constant(f"list_{n}", np.array([n])) for n in (1, 2))
        wide = self._add("Unsqueeze", [self._add("Unsqueeze", ["attention_mask", one]), two])
        visible = self._add("Cast", [wide], to=TensorProto.FLOAT)
        hidden = self._add("Sub", [self._constant("full", np.array(1.0)), visible])
        return self._add("Mul", [hidden, self._constant("far_below", np.array(-10000.0))])

    def _layer(self, name: str, states: str, mask: str) -> str:
        size = self._hidden // self._heads
        split = self._constant("split", np.array([0, 0, self._heads, size]))
        parts = {}
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            linear = self._linear(f"{name}.{part}", states, self._hidden)
            parts[part] = self._add("Transpose", [self._add("Reshape", [linear, split])], perm=order)
        products = self._add("MatMul", [parts["q"], parts["k"]])
        scaled = self._add("Div", [products, self._constant("root", np.array(np.sqrt(size)))])
        shares = self._add("Softmax", [self._add("Add", [scaled, mask])], axis=-1)
        mixed = self._add("Transpose", [self._add("MatMul", [shares, parts["v"]])], perm=[0, 2, 1, 3])
        merged = self._add("Reshape", [mixed, self._constant("merge", np.array([0, 0, self._hidden]))])
        out = self._linear(f"{name}.out", merged, self._hidden)
        states = self._norm(f"{name}.norm1", self._add("Add", [out, states]))
        wide = self._linear(f"{name}.up", states, 4 * self._hidden)
        root = self._add("Div", [wide, self._constant("root2", np.array(np.sqrt(2)))])
        grown = self._add("Add", [self._add("Erf", [root]), self._constant("full", np.array(1.0))])
        product = self._add("Mul", [wide, grown])
        gelu = self._add("Mul", [product, self._constant("half", np.array(0.5))])
        down = self._linear(f"{name}.down", gelu, self._hidden)
        return self._norm(f"{name}.norm2", self._add("Add", [down, states]))
