"""What people run today for the scoring task: text of 256 pairs in, scores out, one query at a time.

- sentence-transformers' CrossEncoder, in half and in single precision;
- Hugging Face tokenizers on all cores and ONNX Runtime CUDA in half precision, attention fused,
  padded to the longest pair.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_models import CACHE, FloatModel
from searchpipe.arrays import Float32

MAX_TOKENS = 128
Scorer = Callable[[str, Sequence[str]], Float32]
"""(query, documents) -> logits float32 ``(n,)``."""


def cross_encoder(model: FloatModel, *, half: bool, device: str = "cuda") -> Scorer:
    """sentence-transformers' CrossEncoder, all pairs of a query in one batch."""
    torch: Any = importlib.import_module("torch")
    library: Any = importlib.import_module("sentence_transformers")
    kind = torch.float16 if half else torch.float32
    encoder = library.CrossEncoder(
        str(model.folder),
        device=device,
        max_length=MAX_TOKENS,
        model_kwargs={"dtype": kind},
        activation_fn=torch.nn.Identity(),
    )

    def score(query: str, documents: Sequence[str]) -> Float32:
        pairs = [(query, document) for document in documents]
        logits = encoder.predict(pairs, batch_size=len(pairs), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(logits, np.float32).reshape(-1)

    return score


def padded_onnx(model: FloatModel) -> Scorer:
    """Tokenizers and ONNX Runtime on the GPU, every pair padded to the longest of the query."""
    ort: Any = importlib.import_module("onnxruntime")
    tokenizer = pair_tokenizer(model.folder / "tokenizer.json")
    path = fused_half(model.local.model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(path), options, providers=[("CUDAExecutionProvider", {}), "CPUExecutionProvider"]
    )
    if "CUDAExecutionProvider" not in session.get_providers():
        raise SystemExit("ONNX Runtime has no CUDA here; this peer needs it.")
    takes = {node.name: (np.int32 if "int32" in node.type else np.int64) for node in session.get_inputs()}

    def score(query: str, documents: Sequence[str]) -> Float32:
        found = tokenizer.encode_batch([(query, document) for document in documents])
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feeds = {
            name: np.array([getattr(row, columns[name]) for row in found], dtype)
            for name, dtype in takes.items()
        }
        logits = session.run(None, feeds)[0]
        return np.asarray(logits, np.float32).reshape(-1)

    return score


def pair_tokenizer(path: Path) -> Any:
    """The tokenizer for pairs: at most 128 tokens, the document cut first, padded to the longest."""
    tokenizer: Any = importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(MAX_TOKENS, strategy="only_second")
    tokenizer.enable_padding()
    return tokenizer


def fused_half(model: Path) -> Path:
    """The model as ONNX Runtime's own tools prepare it: attention fused, half precision; made once."""
    out = CACHE / "peer-dequantized-fp16.onnx"
    if not out.exists():
        optimizer: Any = importlib.import_module("onnxruntime.transformers.optimizer")
        made = optimizer.optimize_model(
            str(model), model_type="bert", num_heads=12, hidden_size=384, use_gpu=True, opt_level=0
        )
        made.convert_float_to_float16(keep_io_types=True)
        temporary = out.with_suffix(".part")
        made.save_model_to_file(str(temporary))
        temporary.replace(out)
    return out


def reference(model: FloatModel, query: str, documents: Sequence[str]) -> Float32:
    """Scores in single precision on the CPU, by PyTorch, each batch of rows of like length."""
    torch: Any = importlib.import_module("torch")
    found = pair_tokenizer(model.folder / "tokenizer.json")
    found.no_padding()
    rows = found.encode_batch([(query, document) for document in documents])
    order = np.argsort([len(row.ids) for row in rows], kind="stable")
    loaded = _loaded(model.folder)
    scores = np.empty(len(rows), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            some = order[start : start + 32]
            width = max(len(rows[row].ids) for row in some)
            fields = ("ids", "attention_mask", "type_ids")
            ids, mask, types = (
                torch.tensor(
                    [[*getattr(rows[row], field), *([0] * (width - len(rows[row].ids)))] for row in some]
                )
                for field in fields
            )
            logits = loaded(input_ids=ids, attention_mask=mask, token_type_ids=types)[0]
            scores[some] = logits.reshape(-1).numpy()
    return scores


_models: dict[Path, Any] = {}


def _loaded(folder: Path) -> Any:
    if folder not in _models:
        transformers: Any = importlib.import_module("transformers")
        _models[folder] = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return _models[folder]
