"""Graphs for packed rows: the scores of the padded graph, whatever lies beside a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from searchpipe.backends.onnx_pack import pack_graph
from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from searchpipe.errors import ModelError
from tests.fakes.packed_graph import run_packed
from tests.fakes.tiny_bert import LONGEST, VOCABULARY, save_bert
from tests.fakes.tiny_onnx import TinyModel

pytest.importorskip("sympy")
PADDED = PrepareOptions(fp16=False)
PACKED = PrepareOptions(fp16=False, packed=True)
RNG = np.random.default_rng(8)
ROWS = [RNG.integers(1, VOCABULARY, n).tolist() for n in (5, LONGEST, 1, 17, 9)]


def types_of(rows: list[list[int]]) -> list[list[int]]:
    return [[int(place >= len(row) // 2) for place in range(len(row))] for row in rows]


def run_padded(path: Path, rows: list[list[int]], types: list[list[int]] | None) -> np.ndarray:
    width = max(map(len, rows))
    feeds = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
    if types is not None:
        feeds["token_type_ids"] = types
    padded = {
        name: np.array([[*row, *[0] * (width - len(row))] for row in part], np.int32)
        for name, part in feeds.items()
    }
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, padded)[0]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model on padded and on packed rows."""
    folder = tmp_path_factory.mktemp("bert")
    source = save_bert(folder / "bert.onnx")
    return prepare_onnx(source, folder, PADDED), prepare_onnx(source, folder, PACKED)


@pytest.mark.parametrize("token_types", [True, False])
@pytest.mark.parametrize(("hidden", "heads"), [(16, 2), (24, 3), (16, 1)])
def test_packed_rows_score_as_padded_ones(tmp_path: Path, token_types: bool, hidden: int, heads: int) -> None:
    source = save_bert(tmp_path / "bert.onnx", hidden=hidden, heads=heads, token_types=token_types)
    types = types_of(ROWS) if token_types else None
    expected = run_padded(prepare_onnx(source, tmp_path, PADDED), ROWS, types)
    found = run_packed(prepare_onnx(source, tmp_path, PACKED), ROWS, types, longest_row=LONGEST)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_precision_stays_near(tmp_path: Path) -> None:
    source = save_bert(tmp_path / "bert.onnx")
    exact = run_padded(prepare_onnx(source, tmp_path, PADDED), ROWS, types_of(ROWS))
    packed = prepare_onnx(source, tmp_path, PrepareOptions(packed=True))
    weights = {tensor.data_type for tensor in onnx.load(str(packed)).graph.initializer}
    # float32: the last projection
    assert weights == {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT}
    found = run_packed(packed, ROWS, types_of(ROWS), longest_row=LONGEST)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=0.02)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(0, 3),
    st.integers(0, 9),
)
def test_a_row_does_not_depend_on_its_batch(
    graphs: tuple[Path, Path], rows: list[list[int]], spare_rows: int, spare_tokens: int
) -> None:
    expected = run_padded(graphs[0], rows, types_of(rows))
    room = (len(rows) + spare_rows) * LONGEST - sum(map(len, rows))
    found = run_packed(
        graphs[1],
        rows,
        types_of(rows),
        longest_row=LONGEST,
        spare_rows=spare_rows,
        spare_tokens=min(spare_tokens, room),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_form_that_has_flash_attention(graphs: tuple[Path, Path]) -> None:
    graph = onnx.load(str(graphs[1])).graph
    attention = [node for node in graph.node if node.op_type == "PackedMultiHeadAttention"]
    assert len(attention) == 2
    for node in attention:
        assert node.input[3] == ""  # with a bias, q, k and v are copied first
        assert list(node.input[4:]) == ["token_offset", "row_ends"]
    assert not any(node.op_type in ("Attention", "Cast", "Shape") for node in graph.node)
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


@pytest.mark.parametrize("layers", [1, 3])
def test_behind_the_last_attention_only_first_tokens_are_computed(tmp_path: Path, layers: int) -> None:
    source = save_bert(tmp_path / "bert.onnx", layers=layers)
    packed = prepare_onnx(source, tmp_path, PACKED)
    nodes = list(onnx.load(str(packed)).graph.node)
    kinds = [node.op_type for node in nodes]
    last = len(kinds) - 1 - kinds[::-1].index("PackedMultiHeadAttention")
    gathers = [place for place, kind in enumerate(kinds) if kind == "Gather"]
    assert len(gathers) == 2  # of what attention gives, and of what goes around it
    assert last < min(gathers)
    assert max(gathers) < last + 4
    expected = run_padded(prepare_onnx(source, tmp_path, PADDED), ROWS, types_of(ROWS))
    np.testing.assert_allclose(
        run_packed(packed, ROWS, types_of(ROWS), longest_row=LONGEST), expected, atol=1e-5
    )


def edited(path: Path, edit: Callable[[onnx.GraphProto], None]) -> onnx.ModelProto:
    model = onnx.load(str(path))
    edit(model.graph)
    return model


def first(graph: onnx.GraphProto, kind: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == kind)


def test_biases_that_cannot_be_folded_are_added(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    def edit(graph: onnx.GraphProto) -> None:  # another reader of the attention's output
        node = first(graph, "Attention")
        norm = next(n for n in graph.node if n.op_type == "SkipLayerNormalization")
        other = helper.make_node("Add", [norm.output[0], node.output[0]], ["both"], name="both")
        for reader in graph.node:
            for place, name in enumerate(reader.input):
                if name == norm.output[0]:
                    reader.input[place] = "both"
        graph.node.insert(list(graph.node).index(norm) + 1, other)

    padded = edited(graphs[0], edit)
    onnx.save(padded, str(tmp_path / "padded.onnx"))
    expected = run_padded(tmp_path / "padded.onnx", ROWS, types_of(ROWS))
    assert np.abs(expected - run_padded(graphs[0], ROWS, types_of(ROWS))).max() > 1e-3
    pack_graph(onnx, padded)
    onnx.save(padded, str(tmp_path / "packed.onnx"))
    found = run_packed(tmp_path / "packed.onnx", ROWS, types_of(ROWS), longest_row=LONGEST)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def reads_a_past(graph: onnx.GraphProto) -> None:
    first(graph, "Attention").input.append("attention_mask")


def looks_back_only(graph: onnx.GraphProto) -> None:
    first(graph, "Attention").attribute.append(helper.make_attribute("unidirectional", 1))


def takes_other_positions(graph: onnx.GraphProto) -> None:
    first(graph, "EmbedLayerNormalization").input.append("token_type_ids")


def is_two_models(graph: onnx.GraphProto) -> None:
    graph.node.insert(1, first(graph, "EmbedLayerNormalization"))


def gives_hidden_states(graph: onnx.GraphProto) -> None:
    norm = next(node for node in reversed(graph.node) if node.op_type == "SkipLayerNormalization")
    graph.output.append(helper.make_tensor_value_info(norm.output[0], 1, ["b", "s", 16]))


def shifts_places(graph: onnx.GraphProto) -> None:
    node = first(graph, "BiasGelu")
    table = numpy_helper.from_array(np.zeros((LONGEST, 64), np.float32), "by_place")
    graph.initializer.append(table)
    node.op_type, node.domain = "Add", ""
    node.input[1] = "by_place"


def mixes_tokens(graph: onnx.GraphProto) -> None:
    node = first(graph, "BiasGelu")
    node.op_type, node.domain = "CumSum", ""


def has_no_fused_embeddings(graph: onnx.GraphProto) -> None:
    first(graph, "EmbedLayerNormalization").op_type = "Embed"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (reads_a_past, "attention .* has a past"),
        (looks_back_only, "a direction"),
        (takes_other_positions, "something else than token ids"),
        (is_two_models, "two EmbedLayerNormalization"),
        (gives_hidden_states, "not pooled by the first token"),
        (shifts_places, "Add .* mixes tokens"),
        (mixes_tokens, "CumSum .* mixes tokens"),
        (has_no_fused_embeddings, "embeddings were not fused"),
    ],
)
def test_unknown_forms_are_refused(
    graphs: tuple[Path, Path], edit: Callable[[onnx.GraphProto], None], message: str
) -> None:
    model = edited(graphs[0], edit)
    with pytest.raises(ModelError, match=f"no packed form: .*{message}.*padded rows"):
        pack_graph(onnx, model)


def test_other_pooling_is_refused(tmp_path: Path) -> None:
    source = save_bert(tmp_path / "bert.onnx", pooled_place=1)
    with pytest.raises(ModelError, match="other tokens than each row's first"):
        prepare_onnx(source, tmp_path / "cache", PACKED)
    mean = TinyModel(dim=16, outputs=8).save_cross_encoder(tmp_path / "mean.onnx")
    with pytest.raises(ModelError, match="embeddings were not fused"):
        prepare_onnx(mean, tmp_path / "cache", PACKED)
    assert not (tmp_path / "cache").exists()
