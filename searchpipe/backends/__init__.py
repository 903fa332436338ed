"""Engines that run models, behind one interface."""

from __future__ import annotations

from searchpipe.backends.encoder import TextEncoder
from searchpipe.models.settings import LocalModel


def open_encoder(local_model: LocalModel, *, threads: int = 0) -> TextEncoder:
    """Load an encoder on the CPU; ``threads`` inside one run, 0 for all cores that may be used.

    Raises:
        ModelError: the files are not an encoder and its tokenizer.
        MissingDependencyError: ONNX Runtime or tokenizers is not installed.

    """
    from searchpipe.backends.onnx_cpu import OnnxCpuEngine
    from searchpipe.models.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(local_model.tokenizer, max_tokens=local_model.max_tokens - 2)
    engine = OnnxCpuEngine(local_model.model, threads=threads, name=local_model.name)
    return TextEncoder(local_model, engine, tokenizer)


__all__ = ["TextEncoder", "open_encoder"]
