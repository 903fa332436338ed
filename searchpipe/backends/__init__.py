"""Engines that run models, behind one interface."""

from __future__ import annotations

from searchpipe.backends.base import Engine
from searchpipe.backends.cross_encoder import PairScorer
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


def open_pair_scorer(
    local_model: LocalModel, *, threads: int = 0, max_query_tokens: int = 32, max_doc_tokens: int = 128
) -> PairScorer:
    """Load a cross-encoder on the CPU; ``threads`` inside one run, 0 for all cores that may be used.

    The token limits are per side, without special tokens; its tokenizer cuts a text at the larger one.

    Raises:
        ModelError: the files are not a cross-encoder and its tokenizer.
        MissingDependencyError: ONNX Runtime or tokenizers is not installed.

    """
    from searchpipe.backends.onnx_cpu import OnnxCpuEngine
    from searchpipe.models.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(local_model.tokenizer, max_tokens=max(1, max_query_tokens, max_doc_tokens))
    engine = OnnxCpuEngine(local_model.model, threads=threads, name=local_model.name)
    return PairScorer(
        local_model, engine, tokenizer, max_query_tokens=max_query_tokens, max_doc_tokens=max_doc_tokens
    )


__all__ = ["Engine", "PairScorer", "TextEncoder", "open_encoder", "open_pair_scorer"]
