"""A cross-encoder's graph over packed rows: all tokens in one sequence, no padding between rows.

Done to a graph whose attention, LayerNorm and embeddings ONNX Runtime's optimizer has fused
(:mod:`searchpipe.backends.onnx_prepare`). Inputs, all int32, for T tokens of R rows:
``input_ids`` [1, T], ``position_ids`` [1, T], ``row_ends`` [R + 1], ``row_firsts`` [R],
``token_offset`` [R, longest row] and, if the model has them, ``token_type_ids`` [1, T]; what is
in them is said at :func:`searchpipe._core.packed_places`.

Attention becomes PackedMultiHeadAttention on q, k and v apart and without biases, the form for
which ONNX Runtime has flash attention: k's bias adds the same to all logits of a query and cancels
in the softmax; v's passes through the softmax, whose shares sum to 1, into the bias of the
projection behind it; q's is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from searchpipe.backends.onnx_prune import constant_value, prune
from searchpipe.errors import ModelError

PACKED_INPUTS = (
    "input_ids",
    "position_ids",
    "row_ends",
    "row_firsts",
    "token_offset",
    "token_type_ids",
)
_MICROSOFT = "com.microsoft"
# Each token on its own: they compute [tokens, width] as they do [rows, width of a row, width].
_PER_TOKEN = {"BiasGelu", "FastGelu", "Gelu", "Tanh", "Relu", "Cast", "Identity", "Dropout"}
_NORMS = {"SkipLayerNormalization", "LayerNormalization"}
_SUMS = {"Add", "Mul"}
_ATTENTION_INPUTS = 4  # x, weights, bias, mask; a past or an added bias come after them


def pack_graph(onnx: Any, model: Any) -> None:
    """Rewrite ``model`` in place for packed rows.

    Raises:
        ModelError: its graph has a form that is not known here; the message says which part.
    """
    _Packing(onnx, model).run()


class _Packing:
    """One rewrite. ``_tokens`` are the tensors that have one vector for each token."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx = onnx
        self._model = model
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._producer = {name: node for node in self._graph.node for name in node.output if name}
        self._tokens: set[str] = set()
        self._nodes: list[Any] = []
        self._pooled = 0
        self._types = False

    def run(self) -> None:
        for node in list(self._graph.node):
            if node.op_type == "EmbedLayerNormalization":
                self._embed(node)
            elif not self._tokens.intersection(node.input):
                self._nodes.append(node)
            elif node.op_type == "Attention":
                self._attend(node)
            elif node.op_type == "Gather":
                self._pool(node)
            else:
                self._check_per_token(node)
                self._tokens.update(name for name in node.output if name)
                self._nodes.append(node)
        if not self._tokens:
            raise _unknown("its embeddings were not fused into one EmbedLayerNormalization")
        given = sorted(self._tokens.intersection(value.name for value in self._graph.output))
        if given or not self._pooled:
            raise _unknown(f"its output ({', '.join(given) or 'none'}) is not pooled by the first token")
        self._finish()

    def _embed(self, node: Any) -> None:
        if self._tokens:
            raise _unknown("it has two EmbedLayerNormalization")
        inputs = [*node.input, *[""] * (9 - len(node.input))]
        sources = [self._source(name) for name in inputs[:2]]
        if sources[0] != "input_ids" or sources[1] not in ("token_type_ids", "") or inputs[8]:
            raise _unknown("its embeddings read something else than token ids and token types")
        self._types = sources[1] != ""
        packed = {0: "input_ids", 1: "token_type_ids" if self._types else "", 7: "", 8: "position_ids"}
        for place, name in packed.items():
            inputs[place] = name
        hidden, embedded = node.output[0], f"{node.output[0]}_rows"
        outputs = [embedded, *node.output[1:]]
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        width = self._constants[inputs[2]].dims[1]
        flat = self._add_constant("packed_shape", np.array([-1, width], np.int64))
        self._nodes += [node, self._node("Reshape", [embedded, flat], [hidden], "packed_tokens")]
        self._tokens.add(hidden)

    def _attend(self, node: Any) -> None:
        given = {item.name: self._onnx.helper.get_attribute_value(item) for item in node.attribute}
        weights, bias = (self._constant(node, place) for place in (1, 2))
        if (
            any(node.input[_ATTENTION_INPUTS:])
            or given.get("unidirectional", 0)
            or given.get("do_rotary", 0)
            or weights.shape[1] % 3
            or given.get("qkv_hidden_sizes", [1, 1, 1]) not in ([1, 1, 1], [weights.shape[1] // 3] * 3)
        ):
            raise _unknown(f"attention {node.name} has a past, an added bias, a direction or uneven heads")
        q, k, v = (
            self._project(node, part, matrix)
            for part, matrix in zip("qkv", np.split(weights, 3, axis=1), strict=True)
        )
        q_bias, _, v_bias = np.split(bias, 3)
        q = self._shift(node, "q", q, q_bias)
        if not self._fold_into_projection(node, v_bias):
            v = self._shift(node, "v", v, v_bias)
        attributes: dict[str, Any] = {"num_heads": given["num_heads"]}
        if given.get("scale"):
            attributes["scale"] = given["scale"]
        inputs = [q, k, v, "", "token_offset", "row_ends"]
        self._nodes.append(
            self._onnx.helper.make_node(
                "PackedMultiHeadAttention",
                inputs,
                [node.output[0]],
                name=node.name,
                domain=_MICROSOFT,
                **attributes,
            )
        )
        self._tokens.add(node.output[0])

    def _project(self, node: Any, part: str, matrix: np.ndarray[Any, Any]) -> str:
        name = f"{node.name}_{part}"
        weights = self._add_constant(f"{name}_weight", np.ascontiguousarray(matrix))
        self._nodes.append(self._node("MatMul", [node.input[0], weights], [name], f"{name}_matmul"))
        return name

    def _shift(self, node: Any, part: str, tensor: str, bias: np.ndarray[Any, Any]) -> str:
        if not bias.any():
            return tensor
        name = self._add_constant(f"{node.name}_{part}_bias", np.ascontiguousarray(bias))
        self._nodes.append(
            self._node("Add", [tensor, name], [f"{tensor}_shifted"], f"{node.name}_{part}_add")
        )
        return f"{tensor}_shifted"

    def _fold_into_projection(self, node: Any, v_bias: np.ndarray[Any, Any]) -> bool:
        """Let the bias of the SkipLayerNormalization behind the output projection W take v_bias @ W too."""
        projection = self._only_reader(node.output[0])
        if projection is None or projection.op_type != "MatMul" or projection.input[1] not in self._constants:
            return False
        norm = self._only_reader(projection.output[0])
        if norm is None or norm.op_type != "SkipLayerNormalization":
            return False
        inputs = [*norm.input, *[""] * (5 - len(norm.input))]
        moved = v_bias.astype(np.float32) @ self._constant(projection, 1).astype(np.float32)
        if inputs[4]:
            moved = moved + self._constant(norm, 4).astype(np.float32)
        inputs[4] = self._add_constant(f"{node.name}_output_bias", moved.astype(v_bias.dtype))
        del norm.input[:]
        norm.input.extend(inputs)
        return True

    def _pool(self, node: Any) -> None:
        axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
        place = self._value(node.input[1])
        if node.input[0] not in self._tokens or axis != 1 or place is None or place.shape or int(place):
            raise _unknown(f"{node.name or 'a Gather'} takes other tokens than each row's first")
        self._pooled += 1
        self._nodes.append(
            self._node("Gather", [node.input[0], "row_firsts"], [node.output[0]], node.name, axis=0)
        )

    def _check_per_token(self, node: Any) -> None:
        others = [name for name in node.input if name and name not in self._tokens]
        known = all(name in self._constants for name in others)
        kind = node.op_type
        if kind == "MatMul":
            known = known and node.input[0] in self._tokens and len(others) == 1
        elif kind == "LayerNormalization":
            axis = next((item.i for item in node.attribute if item.name == "axis"), -1)
            known = known and axis == -1
        elif kind in _SUMS:
            known = known and all(len(self._constants[name].dims) <= 1 for name in others)
        elif kind not in _PER_TOKEN and kind not in _NORMS:
            known = False
        if not known:
            raise _unknown(f"{kind} {node.name} mixes tokens in a way that packed rows have no form of")

    def _finish(self) -> None:
        helper, kind = self._onnx.helper, self._onnx.TensorProto.INT32
        shapes: dict[str, list[int | str]] = {
            "input_ids": [1, "tokens"],
            "position_ids": [1, "tokens"],
            "row_ends": ["rows_and_one"],
            "row_firsts": ["rows"],
            "token_offset": ["rows", "longest_row"],
            "token_type_ids": [1, "tokens"],
        }
        names = PACKED_INPUTS if self._types else PACKED_INPUTS[:-1]
        del self._graph.input[:], self._graph.value_info[:]
        self._graph.input.extend(helper.make_tensor_value_info(name, kind, shapes[name]) for name in names)
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(self._constants.values())
        prune(self._graph)
        if not any(entry.domain == _MICROSOFT for entry in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))

    def _source(self, name: str) -> str:
        """Follow casts back to where a tensor comes from."""
        while (node := self._producer.get(name)) is not None and node.op_type in ("Cast", "Identity"):
            name = node.input[0]
        return name

    def _value(self, name: str) -> np.ndarray[Any, Any] | None:
        found: np.ndarray[Any, Any] | None = constant_value(self._onnx, self._graph, name)
        return found

    def _constant(self, node: Any, place: int) -> np.ndarray[Any, Any]:
        found = self._value(node.input[place]) if len(node.input) > place else None
        if found is None:
            raise _unknown(f"{node.op_type} {node.name} computes its weights")
        return found

    def _only_reader(self, name: str) -> Any | None:
        readers = [node for node in self._graph.node if name in node.input]
        return readers[0] if len(readers) == 1 else None

    def _add_constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(value, name)
        return name

    def _node(self, kind: str, inputs: list[str], outputs: list[str], name: str, **attributes: Any) -> Any:
        return self._onnx.helper.make_node(kind, inputs, outputs, name=name, **attributes)


def _unknown(what: str) -> ModelError:
    return ModelError(f"The model has no packed form: {what}.", cure="Run it on padded rows.")
