"""The parts of the distillation, with a teacher of one layer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from searchpipe._core import PairPacker, TokenStore, TokenStoreWriter  # noqa: E402
from searchpipe.backends.onnx_cpu import OnnxCpuEngine  # noqa: E402
from searchpipe.errors import ConfigError, ModelError  # noqa: E402
from searchpipe.models.shipped import engines_folder  # noqa: E402
from searchpipe.models.tokenizer import TextTokenizer  # noqa: E402
from searchpipe.train.bert import CrossEncoder, load_folder, save_folder, weights_of  # noqa: E402
from searchpipe.train.onnx_bert import BertShape, write_onnx  # noqa: E402
from searchpipe.train.pairs import PairTokens  # noqa: E402
from searchpipe.train.pools import CandidatePool  # noqa: E402
from searchpipe.train.student import Lessons, StudentSpec, list_loss, train  # noqa: E402
from searchpipe.train.texts import read_products, tokenize  # noqa: E402

CPU = torch.device("cpu")
QUERIES = [
    "red running shoes",
    "garden",
    "stainless steel water bottle for kids without straw",
    "usb c cable",
]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(engines_folder() / "bert-base-uncased.tokenizer.json", max_tokens=64)


@pytest.fixture(scope="module")
def products(world):
    return read_products([world.files.products])


@pytest.fixture(scope="module")
def pairs(tokenizer, products):
    return PairTokens(tokenizer, tokenize(tokenizer, QUERIES), tokenize(tokenizer, products[1]), CPU)


def test_rows_are_those_of_the_packer(tokenizer, products, pairs, tmp_path):
    with TokenStoreWriter(str(tmp_path / "t.bin")) as writer:
        for text in products[1][:20]:
            writer.append(tokenizer.ids(text))
    store, docs = TokenStore(str(tmp_path / "t.bin")), np.arange(20, dtype=np.int32)
    packer = PairPacker(
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
        max_query_tokens=6,
        max_doc_tokens=24,
    )
    for number, text in enumerate(QUERIES):
        ids = tokenizer.ids(text)
        width = packer.layout(ids, store, docs).width
        packed = [np.zeros((20, width), np.int64) for _ in range(3)]
        order = packer.pack(ids, store, docs, *packed).permutation
        query = torch.full((20,), number)
        made = pairs.inputs(query, torch.from_numpy(docs[order].astype(np.int64)), 6, 24, width)
        for ours, theirs in zip(made, (packed[0], packed[2], packed[1]), strict=True):
            np.testing.assert_array_equal(ours.numpy().astype(np.int64), theirs)


@pytest.mark.parametrize(("storage", "close"), [("fp32", 1e-4), ("small", 0.05)])
@pytest.mark.parametrize("first_token_only", [True, False])
def test_the_onnx_file_scores_as_the_model_does(pairs, tmp_path, storage, close, first_token_only):
    torch.manual_seed(3)
    shape = BertShape(2, 64, 2, 128, 30522, 96)
    model = CrossEncoder(shape).eval()
    weights = {name: value.numpy() for name, value in weights_of(model).items()}
    write_onnx(weights, shape, tmp_path / "m.onnx", storage=storage, first_token_only=first_token_only)
    rows = pairs.inputs(torch.zeros(9, dtype=torch.long), torch.arange(9), 21, 48, 80)
    with torch.inference_mode():
        expected = model(*rows, torch.float32).numpy()
    names = ("input_ids", "token_type_ids", "attention_mask")
    feeds = {name: value.numpy().astype(np.int64) for name, value in zip(names, rows, strict=True)}
    found = OnnxCpuEngine(tmp_path / "m.onnx", threads=1).run(feeds)
    assert found.shape == (9, 1)
    np.testing.assert_allclose(found[:, 0], expected, atol=close)


def test_a_model_is_read_back_from_its_folder(tmp_path):
    pytest.importorskip("safetensors")
    model = CrossEncoder(BertShape(1, 32, 1, 64, 100, 16)).eval()
    save_folder(model, tmp_path)
    again = load_folder(tmp_path)
    assert again.shape == model.shape
    for name, value in weights_of(model).items():
        assert torch.equal(weights_of(again)[name], value)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError):
        load_folder(tmp_path)


def test_candidates_begin_with_the_source_and_differ(tokenizer, products):
    docs = tokenize(tokenizer, products[1])
    asked = tokenize(tokenizer, [product.title for product in products[0][:50]])

    def drawn():
        return CandidatePool(products[0], docs, CPU, 7, dimensions=16).draw(asked, list(range(50)), 16)

    lists = drawn()
    np.testing.assert_array_equal(lists, drawn())
    assert lists.shape == (50, 16)
    assert lists[:, 0].tolist() == list(range(50))
    assert all(len(set(row)) == 16 for row in lists.tolist())


def test_a_student_learns_from_its_teacher(pairs):
    torch.manual_seed(5)
    teacher = CrossEncoder(BertShape(1, 64, 2, 128, 30522, 104)).eval()
    rng = np.random.default_rng(5)
    lists = np.stack([rng.permutation(400)[:8] for _ in range(160)]).astype(np.int32)
    queries = rng.integers(len(QUERIES), size=160).astype(np.int32)
    # What the teacher likes: long documents.
    logits = pairs.doc_lengths.numpy()[lists].astype(np.float32) / 8 - 4
    lengths = pairs.query_lengths.numpy()[queries].astype(np.int32)
    lessons = Lessons(pairs, queries, lists, logits, 32, lengths)
    said: list[str] = []
    spec = StudentSpec.parse("1x32,docs=24,seconds=0,steps=12,pairs=128,rate=3e-3")
    trained = train(spec, teacher, lessons, seed=7, say=said.append)
    history = trained.facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert trained.facts["steps"] == 12
    assert said


def test_the_loss_is_least_where_student_and_teacher_agree():
    given = torch.tensor([[3.0, 1.0, -2.0]])
    same = float(list_loss(given, given, 2.0, 0.05))
    assert same < float(list_loss(given.flip(1), given, 2.0, 0.05))
    assert same < float(list_loss(given + 4.0, given, 2.0, 0.05))


@pytest.mark.parametrize("text", ["", "2", "2x100", "0x64", "2x64,docs=2", "2x64,speed=3", "2x64,seconds=0"])
def test_wrong_students_are_refused(text):
    with pytest.raises(ConfigError):
        StudentSpec.parse(text)
