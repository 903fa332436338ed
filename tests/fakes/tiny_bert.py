"""A BERT of a few thousand random weights as an ONNX file, as exporters write one: every operation by itself.

ONNX Runtime's optimizer fuses its embeddings, attention, LayerNorm and GELU, so that what is made of the
fused graph can be tested; so do older exports, in which LayerNorm is single operations too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fakes.tiny_onnx import NAMES

LONGEST = 32
VOCABULARY = 64


class TinyBert:
    """Writes one model in several forms; the names are those of Hugging Face's exports. Of use once.

    Args:
        vocab_size: words.
        hidden: width of a state.
        heads: of the attention.
        layers: of the encoder.
        tokens: longest row.
        token_types: whether the model takes them; without, it has no table of them.
        pooled_place: the token that a cross-encoder's logits are made from.
        numbered_places: look positions up by their numbers, so that the embeddings can be fused too;
            without, the first rows of the table are taken.
        varied_norms: LayerNorm with gains and shifts of its own; as it begins training, without.
        seed: of the weights.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden: int = 16,
        heads: int = 2,
        layers: int = 2,
        tokens: int = 128,
        token_types: bool = True,
        pooled_place: int = 0,
        numbered_places: bool = False,
        varied_norms: bool = False,
        seed: int = 0,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._hidden, self._heads, self._layers = hidden, heads, layers
        self._sizes = vocab_size, tokens
        self._names = NAMES if token_types else NAMES[:2]
        self._pooled_place = pooled_place
        self._numbered_places, self._varied_norms = numbered_places, varied_norms
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def save_cross_encoder(self, path: Path, *, narrow: bool = False, old_norms: bool = False) -> Path:
        """Output logits [rows, 1]; ``narrow`` stores matrices as float16 behind a Cast."""
        hidden = self._body(narrow, old_norms)
        self._constant("first", np.array(self._pooled_place))
        first = self._node("Gather", [hidden, "first"], "first_token", axis=1)
        pooled = self._node("Tanh", [self._dense(first, "bert.pooler.dense", self._hidden)], "pooled")
        logits = self._dense(pooled, "classifier", 1, gain=6.0)
        return self._save(path, logits, ["rows", 1])

    def save_encoder(self, path: Path) -> Path:
        """Output last_hidden_state [rows, tokens, hidden]."""
        return self._save(path, self._body(False, False), ["rows", "tokens", self._hidden])

    def _body(self, narrow: bool, old_norms: bool) -> str:
        self._narrow, self._old_norms = narrow, old_norms
        vocab_size, tokens = self._sizes
        width = self._hidden
        for name, rows in (("word", vocab_size), ("position", tokens), ("token_type", 2)):
            # Drawn in any case, so that a model without token types has the same other weights.
            table = self._rng.normal(size=(rows, width)) * (1.0 if name == "word" else 0.3)
            self._constant(f"{name}_table", table.astype(np.float32))
        for name, value in {
            "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
            "second": np.array(1), "all_places": np.arange(tokens)[None],
            "split": np.array([0, 0, self._heads, width // self._heads]), "merge": np.array([0, 0, width]),
            "scale": np.float32(np.sqrt(width // self._heads)), "plain_one": np.float32(1),
            "hidden_logit": np.float32(-10000), "root2": np.float32(np.sqrt(2)), "half": np.float32(0.5),
            "squared": np.float32(2), "epsilon": np.float32(1e-12),
        }.items():  # fmt: skip
            self._constant(name, np.asarray(value))
        words = self._node("Gather", ["word_table", "input_ids"], "words")
        if "token_type_ids" in self._names:
            types = self._node("Gather", ["token_type_table", "token_type_ids"], "types")
            words = self._node("Add", [words, types], "sum_1")
        summed = self._node("Add", [words, self._places()], "sum_2")
        hidden = self._norm(summed, "bert.embeddings.LayerNorm")
        wide = self._node("Unsqueeze", ["attention_mask", "one"], "mask_3")
        wide = self._node("Unsqueeze", [wide, "two"], "mask_4")
        given = self._node("Cast", [wide], "mask_float", to=TensorProto.FLOAT)
        missing = self._node("Sub", ["plain_one", given], "mask_missing")
        mask = self._node("Mul", [missing, "hidden_logit"], "mask")
        for layer in range(self._layers):
            hidden = self._layer(hidden, mask, f"bert.encoder.layer.{layer}")
        return hidden

    def _places(self) -> str:
        length = self._node("Gather", [self._node("Shape", ["input_ids"], "shape"), "second"], "length")
        end = self._node("Unsqueeze", [length, "zero"], "end")
        if not self._numbered_places:
            return self._node("Slice", ["position_table", "zero", end, "zero"], "places")
        numbers = self._node("Slice", ["all_places", "zero", end, "one"], "numbers")
        return self._node("Gather", ["position_table", numbers], "places")

    def _layer(self, hidden: str, mask: str, base: str) -> str:
        heads = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            dense = self._dense(hidden, f"{base}.attention.self.{part}", self._hidden)
            split = self._node("Reshape", [dense, "split"], f"{base}.{part}_split")
            heads[part] = self._node("Transpose", [split], f"{base}.{part}_heads", perm=order)
        products = self._node("MatMul", [heads["query"], heads["key"]], f"{base}.products")
        scaled = self._node("Div", [products, "scale"], f"{base}.scaled")
        masked = self._node("Add", [scaled, mask], f"{base}.masked")
        shares = self._node("Softmax", [masked], f"{base}.shares", axis=-1)
        mixed = self._node("MatMul", [shares, heads["value"]], f"{base}.mixed")
        rows = self._node("Transpose", [mixed], f"{base}.rows", perm=[0, 2, 1, 3])
        context = self._node("Reshape", [rows, "merge"], f"{base}.context")
        attended = self._dense(context, f"{base}.attention.output.dense", self._hidden)
        hidden = self._norm(
            self._node("Add", [attended, hidden], f"{base}.sum"), f"{base}.attention.output.LayerNorm"
        )
        inner = self._dense(hidden, f"{base}.intermediate.dense", 4 * self._hidden)
        erf = self._node("Erf", [self._node("Div", [inner, "root2"], f"{base}.erf_in")], f"{base}.erf")
        factor = self._node("Add", [erf, "plain_one"], f"{base}.gelu_factor")
        product = self._node("Mul", [inner, factor], f"{base}.gelu_product")
        gelu = self._node("Mul", [product, "half"], f"{base}.gelu")
        outer = self._dense(gelu, f"{base}.output.dense", self._hidden, inputs=4 * self._hidden)
        return self._norm(self._node("Add", [outer, hidden], f"{base}.sum_2"), f"{base}.output.LayerNorm")

    def _dense(self, x: str, name: str, width: int, *, inputs: int = 0, gain: float = 1.0) -> str:
        rows = inputs or self._hidden
        weights = (self._rng.normal(size=(rows, width)) * gain / np.sqrt(rows)).astype(np.float32)
        if self._narrow:
            self._constant(f"{name}.weight.half", weights.astype(np.float16))
            self._node("Cast", [f"{name}.weight.half"], f"{name}.weight", to=TensorProto.FLOAT)
        else:
            self._constant(f"{name}.weight", weights)
        self._constant(f"{name}.bias", (0.1 * self._rng.normal(size=width)).astype(np.float32))
        product = self._node("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return self._node("Add", [f"{name}.bias", product], f"{name}.sum")

    def _norm(self, x: str, name: str) -> str:
        gain, shift = f"{name}.weight", f"{name}.bias"
        spread = (
            self._rng.normal(size=(2, self._hidden)) if self._varied_norms else np.zeros((2, self._hidden))
        )
        self._constant(gain, (1 + 0.1 * spread[0]).astype(np.float32))
        self._constant(shift, (0.3 * spread[1]).astype(np.float32))
        if not self._old_norms:
            return self._node("LayerNormalization", [x, gain, shift], f"{name}.out", epsilon=1e-12)
        mean = self._node("ReduceMean", [x], f"{name}.mean", axes=[-1])
        centred = self._node("Sub", [x, mean], f"{name}.centred")
        square = self._node("Pow", [centred, "squared"], f"{name}.square")
        variance = self._node("ReduceMean", [square], f"{name}.variance", axes=[-1])
        safe = self._node("Add", [variance, "epsilon"], f"{name}.safe")
        root = self._node("Sqrt", [safe], f"{name}.root")
        unit = self._node("Div", [centred, root], f"{name}.unit")
        return self._node("Add", [self._node("Mul", [unit, gain], f"{name}.scaled"), shift], f"{name}.out")

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"n:{output}", **attributes))
        return output

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.tensors[name] = value.astype(np.int64) if value.dtype.kind == "i" else value

    def _save(self, path: Path, output: str, shape: list) -> Path:
        opset = 14 if self._old_norms else 17
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in self._names
        ]
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], name="n:logits"))
        graph = helper.make_graph(
            self.nodes,
            "tiny-bert",
            inputs,
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return path


def save_bert(path: Path, **options: int) -> Path:
    """A cross-encoder for texts of up to ``LONGEST`` ids below ``VOCABULARY``; see :class:`TinyBert`."""
    given = {"vocab_size": VOCABULARY, "tokens": LONGEST, "seed": 5, **options}
    return TinyBert(numbered_places=True, varied_norms=True, **given).save_cross_encoder(path)
