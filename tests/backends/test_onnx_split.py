"""A packed graph in pieces scores as the whole one; what may not be cut is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from searchpipe import _core
from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from searchpipe.backends.onnx_split import KINDS, GraphStep, ProductStep, SplitGraph, split_graph
from searchpipe.errors import ModelError
from tests.fakes import packed_graph
from tests.fakes.tiny_bert import LONGEST, VOCABULARY, save_bert
from tests.fakes.tiny_onnx import TinyModel

pytest.importorskip("sympy")
RNG = np.random.default_rng(9)
ROWS = [RNG.integers(1, VOCABULARY, n).tolist() for n in (5, LONGEST, 1, 17, 9)]
TYPES = [[int(place >= len(row) // 2) for place in range(len(row))] for row in ROWS]
OPERATORS = [
    packed_graph.EmbedLayerNormalization,
    packed_graph.SkipLayerNormalization,
    packed_graph.BiasGelu,
    packed_graph.PackedMultiHeadAttention,
]
LAYERS, HIDDEN, INNER = 3, 16, 64


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    source = save_bert(folder / "bert.onnx", layers=LAYERS, hidden=HIDDEN)
    return prepare_onnx(source, folder, PrepareOptions(fp16=request.param, packed=True))


def compute(step: ProductStep, x: np.ndarray) -> np.ndarray:
    """What cuBLASLt's manual says: the bias, then the GELU with tanh; all in float32."""
    y = x.astype(np.float32) @ step.weights.astype(np.float32)
    if step.bias is not None:
        y += step.bias.astype(np.float32)
    if step.kind == "gelu":
        y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return y.astype(x.dtype)


def run_split(split: SplitGraph, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> np.ndarray:
    """The steps one after the other; what lies between is kept where the split says, as on a device."""
    tokens = sum(map(len, rows))
    positions, ends, firsts, offset = _core.packed_places(
        [len(row) for row in rows], rows=len(rows), tokens=tokens, longest_row=LONGEST
    )
    values = {
        "input_ids": np.concatenate(rows)[None].astype(np.int32),
        "token_type_ids": np.concatenate(types)[None].astype(np.int32),
        "position_ids": positions[None],
        "row_ends": ends,
        "row_firsts": firsts,
        "token_offset": offset,
    }
    places: dict[int, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        return places[split.between[name].place] if name in split.between else values[name]

    for step in split.steps:
        if isinstance(step, ProductStep):
            made = {step.output: compute(step, read(step.source))}
        else:
            feeds = {name: read(name) for name in step.inputs}
            made = dict(
                zip(
                    step.outputs,
                    ReferenceEvaluator(step.model, new_ops=OPERATORS).run(None, feeds),
                    strict=True,
                )
            )
        for name, value in made.items():
            if name in split.between:
                tensor = split.between[name]
                assert value.shape == (len(rows) if tensor.per_row else tokens, tensor.width)
                assert value.dtype == tensor.dtype
                places[tensor.place] = value
            else:
                values[name] = value
    [output] = split.steps[-1].outputs if isinstance(split.steps[-1], GraphStep) else []
    return values[output]


@pytest.mark.parametrize("kinds", [["gelu"], ["bias"], ["gelu", "bias"], ["plain"], KINDS])
def test_pieces_score_as_the_whole_graph(packed: Path, kinds: Sequence[str]) -> None:
    split = split_graph(packed, kinds)
    expected = packed_graph.run_packed(packed, ROWS, TYPES, longest_row=LONGEST)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(run_split(split, ROWS, TYPES), expected, atol=0.01)


def test_products_leave_the_graph(packed: Path) -> None:
    split = split_graph(packed, ["gelu", "bias"])
    products = [step for step in split.steps if isinstance(step, ProductStep)]
    assert Counter(step.kind for step in products) == {"gelu": LAYERS, "bias": LAYERS}
    shapes = {"gelu": (HIDDEN, INNER), "bias": (HIDDEN, HIDDEN)}
    assert all(step.weights.shape == shapes[step.kind] for step in products)
    assert all(step.bias.shape == step.weights.shape[1:] for step in products)
    whole = Counter(node.op_type for node in onnx.load(str(packed)).graph.node)
    left = Counter(
        node.op_type for step in split.steps if isinstance(step, GraphStep) for node in step.model.graph.node
    )
    whole.subtract({"BiasGelu": LAYERS, "MatMul": 2 * LAYERS, "Add": LAYERS})
    assert left == +whole


def test_no_product_but_the_classifier_is_left(packed: Path) -> None:
    split = split_graph(packed, KINDS)
    products = Counter(step.kind for step in split.steps if isinstance(step, ProductStep))
    # Keys, values, behind the attention and behind the GELU; and the pooler.
    assert products == {"gelu": LAYERS, "bias": LAYERS, "plain": 4 * LAYERS + 1}
    left = [node for step in split.steps if isinstance(step, GraphStep) for node in step.model.graph.node]
    assert [node.op_type for node in left if node.op_type in ("MatMul", "Gemm")] == ["MatMul"]
    pieces = [isinstance(step, GraphStep) for step in split.steps]
    assert pieces.count(True) == 3 * LAYERS + 2


def test_every_piece_is_a_model_of_its_own(packed: Path) -> None:
    split = split_graph(packed, ["gelu"])
    kinds = {helper.np_dtype_to_tensor_dtype(tensor.dtype) for tensor in split.between.values()}
    for step in split.steps:
        if not isinstance(step, GraphStep):
            continue
        onnx.checker.check_model(step.model)
        onnx.shape_inference.infer_shapes(step.model, check_type=True)
        assert [value.name for value in step.model.graph.input] == step.inputs
        assert [value.name for value in step.model.graph.output] == step.outputs
        used = {name for node in step.model.graph.node for name in node.input}
        assert {tensor.name for tensor in step.model.graph.initializer} <= used
        for value in [*step.model.graph.input, *step.model.graph.output]:
            if value.name in split.between:
                assert value.type.tensor_type.elem_type in kinds


def test_only_the_last_layer_computes_on_rows(packed: Path) -> None:
    split = split_graph(packed, ["gelu"])
    per_row = [split.between[step.source].per_row for step in split.steps if isinstance(step, ProductStep)]
    assert per_row == [False] * (LAYERS - 1) + [True]


def test_places_do_not_grow_with_layers(packed: Path, tmp_path: Path) -> None:
    source = save_bert(tmp_path / "bert.onnx", layers=6, hidden=HIDDEN)
    deep = prepare_onnx(source, tmp_path, PrepareOptions(fp16=False, packed=True))
    counts = [len({t.place for t in split_graph(path, ["gelu"]).between.values()}) for path in (packed, deep)]
    assert counts[0] == counts[1]


def test_graphs_without_such_products_are_refused(tmp_path: Path, packed: Path) -> None:
    plain = TinyModel(dim=16, outputs=8).save_cross_encoder(tmp_path / "mean.onnx")
    with pytest.raises(ModelError, match=r"no product with an epilogue of the kinds gelu, bias"):
        split_graph(plain, ["gelu", "bias"])
    model = onnx.load(str(packed))
    for node in model.graph.node:
        if node.op_type == "BiasGelu":
            node.input[1], node.input[0] = node.input[0], node.input[1]
    for node in model.graph.node:
        if node.op_type == "BiasGelu":
            node.op_type, node.domain = "Add", ""
    with pytest.raises(ModelError, match=r"of the kinds gelu\."):
        split_graph(packed, ["gelu"], model)


def test_tensors_around_a_product_are_refused(packed: Path) -> None:
    model = onnx.load(str(packed))
    nodes = list(model.graph.node)
    attention = next(node for node in nodes if node.op_type == "PackedMultiHeadAttention")
    norm = next(node for node in reversed(nodes) if node.op_type == "SkipLayerNormalization")
    firsts = helper.make_node("Gather", [attention.output[0], "row_firsts"], ["around"], axis=0)
    added = helper.make_node("Add", [norm.input[0], "around"], ["sum_around"])
    norm.input[0] = "sum_around"
    at = next(place for place, node in enumerate(model.graph.node) if node.output[0] == norm.output[0])
    model.graph.node.insert(at, added)
    model.graph.node.insert(at, firsts)
    with pytest.raises(ModelError, match=f"cannot be cut at its products: {attention.output[0]} would go"):
        split_graph(packed, ["gelu"], model)
