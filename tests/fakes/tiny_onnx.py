"""Small ONNX files with the inputs and outputs of BERT-like models, and NumPy references for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = ("input_ids", "attention_mask", "token_type_ids")


class TinyModel:
    """Embedding lookup plus token types, then one linear map; each token stands on its own."""

    def __init__(self, *, vocab_size: int = 64, dim: int = 8, outputs: int = 8, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.words = rng.normal(size=(vocab_size, dim)).astype(np.float32)
        self.types = rng.normal(size=(2, dim)).astype(np.float32)
        self.linear = rng.normal(size=(dim, outputs)).astype(np.float32)

    def tokens(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """Hidden states [tokens, outputs] of one sequence."""
        kinds = np.zeros(len(ids), dtype=int) if types is None else np.asarray(types)
        return (self.words[np.asarray(ids)] + self.types[kinds]) @ self.linear

    def pooled(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """Mean over the tokens [outputs]."""
        return self.tokens(ids, types).mean(axis=0)

    def save_encoder(self, path: Path, *, integer: int = TensorProto.INT64, token_types: bool = True) -> Path:
        """Output last_hidden_state [batch, sequence, outputs]; the mask only hides padding, as in BERT."""
        return self._save(
            path, integer, token_types, pooled=False, shape=["batch", "sequence", self._outputs]
        )

    def save_pooled_encoder(self, path: Path, *, declare_dim: bool = True) -> Path:
        """Output sentence_embedding [batch, outputs]."""
        shape = ["batch", self._outputs if declare_dim else "dim"]
        return self._save(path, TensorProto.INT64, True, pooled=True, shape=shape)

    def save_cross_encoder(
        self, path: Path, *, integer: int = TensorProto.INT64, token_types: bool = True, flat: bool = False
    ) -> Path:
        """Output logits [batch, outputs], or [batch] if ``flat``: the mean over the unmasked tokens."""
        shape = ["batch"] if flat else ["batch", self._outputs]
        return self._save(path, integer, token_types, pooled=True, shape=shape)

    @property
    def _outputs(self) -> int:
        return self.linear.shape[1]

    def _save(self, path: Path, integer: int, token_types: bool, *, pooled: bool, shape: list) -> Path:
        names = NAMES if token_types else NAMES[:2]
        inputs = [helper.make_tensor_value_info(name, integer, ["batch", "sequence"]) for name in names]
        weights = {"words": self.words, "types": self.types, "linear": self.linear, "type0": self.types[0]}
        nodes = [helper.make_node("Gather", ["words", "input_ids"], ["word"])]
        if token_types:
            nodes.append(helper.make_node("Gather", ["types", "token_type_ids"], ["kind"]))
        nodes += [
            helper.make_node("Add", ["word", "kind" if token_types else "type0"], ["summed"]),
            helper.make_node("MatMul", ["summed", "linear"], ["states"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last_axis"], ["column"]),
            helper.make_node("Mul", ["states", "column"], ["hidden"]),
        ]
        constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
        constants.append(numpy_helper.from_array(np.array([-1]), "last_axis"))
        constants.append(numpy_helper.from_array(np.array([1]), "token_axis"))
        output = "hidden"
        if pooled:
            nodes += [
                helper.make_node("ReduceSum", ["hidden", "token_axis"], ["sums"], keepdims=0),
                helper.make_node("ReduceSum", ["mask", "token_axis"], ["counts"], keepdims=1),
                helper.make_node("Div", ["sums", "counts"], ["means"]),
            ]
            output = "means"
            if len(shape) == 1:
                nodes.append(helper.make_node("Squeeze", ["means", "last_axis"], ["scores"]))
                output = "scores"
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        return save_graph(path, nodes, inputs, [result], constants)


def save_graph(path: Path, nodes: list, inputs: list, outputs: list, constants: list) -> Path:
    """Write a checked model of opset 17."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def save_identity(path: Path, *, name: str, integer: int, axes: list, output_type: int | None = None) -> Path:
    """One input of any name, type and rank, cast to the output type: for models that must be refused."""
    wanted = TensorProto.FLOAT if output_type is None else output_type
    node = helper.make_node("Cast", [name], ["logits"], to=wanted)
    inputs = [helper.make_tensor_value_info(name, integer, axes)]
    outputs = [helper.make_tensor_value_info("logits", wanted, axes)]
    return save_graph(path, [node], inputs, outputs, [])
