"""The device memory plan adds up, and refuses with its figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.device.estimates import (
    PIECE_WORKSPACE_BYTES,
    TransformerShape,
    activations_part,
    epilogues_part,
    ring_part,
    weights_part,
)
from searchpipe.device.plan import MIB, DevicePlan, Part
from searchpipe.errors import DeviceMemoryError, EngineError

sizes = st.integers(0, 1 << 40)
parts = st.lists(st.builds(Part, st.text("abc", min_size=1), sizes, st.just(""), sizes), max_size=8)


@given(parts=parts, free=sizes, reserve=sizes)
def test_the_highest_point_is_found_by_making_the_parts_one_by_one(parts, free, reserve):
    plan = DevicePlan(tuple(parts), free, free, reserve)
    held, highest = 0, 0
    for part in parts:
        highest = max(highest, held + part.nbytes + part.peak)
        held += part.nbytes
    assert plan.lasting_bytes == held
    assert plan.needed_bytes == highest + reserve
    assert plan.fits == (plan.needed_bytes <= free)


@given(parts=parts, free=sizes)
def test_what_is_left_for_a_part_fits_exactly(parts, free):
    plan = DevicePlan(tuple(parts), free, free, 0)
    left = plan.left_for("index")
    others = sum(part.nbytes for part in parts)
    assert left == max(0, free - others)


def test_one_that_does_not_fit_is_refused_with_every_figure():
    parts = (Part("scorer", 100 * MIB), Part("index", 900 * MIB, "ivf-flat", 300 * MIB))
    plan = DevicePlan(parts, 1024 * MIB, 2048 * MIB, 64 * MIB, "Test GPU")
    with pytest.raises(DeviceMemoryError, match="340 MiB more than Test GPU has free") as caught:
        plan.check()
    assert isinstance(caught.value, EngineError)
    for figure in (
        "scorer",
        "100 MiB",
        "900 MiB",
        "300 MiB more while",
        "1,364 MiB",
        "1,024 MiB",
        "2,048 MiB",
    ):
        assert figure in str(caught.value)
    assert "(index)" in caught.value.cure


def test_one_that_fits_is_returned_and_can_grow():
    plan = DevicePlan((Part("index", 10),), 100, 200, 5)
    assert plan.check() is plan
    grown = plan.with_parts([Part("scorer", 60), Part("ring", 30)])
    assert not grown.fits
    assert grown.left_for("ring") == 25


def test_parts_cannot_be_negative():
    with pytest.raises(ValueError, match="index cannot take -1"):
        Part("index", -1)


def test_weights_come_from_the_file(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\0" * 1001)
    assert weights_part("w", model, stored_itemsize=1, itemsize=2).nbytes == 2002
    assert weights_part("w", model, stored_itemsize=4, itemsize=2).nbytes == 502


@given(rows=st.integers(1, 512), tokens=st.integers(8, 512))
def test_activations_grow_with_the_bucket(rows, tokens):
    shape = TransformerShape()
    assert shape.activation_bytes(rows, tokens) < shape.activation_bytes(rows + 1, tokens)
    assert TransformerShape(fused_attention=False).activation_bytes(rows, tokens) >= shape.activation_bytes(
        rows, tokens
    )


def test_the_largest_bucket_counts_for_activations_and_every_bucket_for_graphs():
    shape = TransformerShape()
    one = activations_part("a", shape, [(256, 128)])
    two = activations_part("a", shape, [(8, 16), (256, 128)])
    assert two.nbytes - one.nbytes == 2 * MIB
    assert activations_part("a", shape, []).nbytes == 0


def test_pieces_of_a_graph_keep_their_activations_layer_by_layer():
    shape = TransformerShape(hidden=100, layers=3)
    assert epilogues_part("e", shape, 1000).nbytes == 3 * 5 * 1000 * 100 * 2 + 11 * PIECE_WORKSPACE_BYTES


def test_a_ring_is_slots_of_inputs_and_outputs():
    assert ring_part("r", slots=3, rows=2, tokens=8, inputs=3, output_width=5).nbytes == 3 * 4 * (48 + 10)
