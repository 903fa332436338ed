"""The whole pipeline on a GPU, over a catalog of real and generated products."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu_data import esci_folder
from benchmarks.gpu_models import CACHE, float_model
from searchpipe.arrays import Int32
from searchpipe.catalog.build import build_snapshot
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.config import load_config
from searchpipe.demo.generate import write_demo
from searchpipe.errors import SnapshotError
from searchpipe.gate import ComputeGate
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.pipeline import Pipeline
from searchpipe.recall.open import OpenRecall, open_recall
from searchpipe.recall.settings import GpuRecallSettings
from searchpipe.recall.source import SharedDense
from searchpipe.runtime.buckets import choose_buckets
from searchpipe.runtime.open_chain import ChainOptions, open_chain
from searchpipe.runtime.pair_scorer import ChainPairScorer
from searchpipe.runtime.text_encoder import ChainTextEncoder
from searchpipe.stages.base import Stage
from searchpipe.stages.encode import Encode
from searchpipe.stages.recall import Lexical, Recall
from searchpipe.stages.score import Score
from searchpipe.stages.tokenize import Tokenize

if TYPE_CHECKING:
    from searchpipe import _core

MAX_QUERY_TOKENS = 32
MAX_PAIR_TOKENS = 128
DEPTH = 256
_ENCODER_ROWS = (1, 2, 4, 8, 16, 32, 64)
_QUERY_WIDTHS = (16, 32, 64)
_TEXT_ROWS, _TEXT_WIDTH = 256, 96


@dataclass(slots=True)
class GpuPipeline:
    """A pipeline and what it runs on; for the thread that made it, but for ``pipeline``."""

    pipeline: Pipeline
    scorer: ChainPairScorer
    encoder: ChainTextEncoder
    recall: OpenRecall

    def engines(self) -> str:
        """Which engine serves each model."""
        serving = {"encode": self.encoder.chain, "score": self.scorer.chain}
        return "; ".join(
            f"{name}: {state.name} {state.description}"
            for name, chain in serving.items()
            for state in chain.states
            if state.state == "serving"
        )

    def close(self) -> None:
        """End everything, the device last."""
        self.pipeline.close()
        self.recall.close()
        self.scorer.close()
        self.encoder.close()


def open_text_encoder(*, building: bool = False) -> ChainTextEncoder:
    """The encoder on the GPU: small buckets for queries, large ones for a catalog's texts."""
    model = float_model("encoder").local
    if building:
        buckets = choose_buckets(max_rows=_TEXT_ROWS, max_tokens=_TEXT_WIDTH, widths=4)
    else:
        buckets = [(rows, width) for rows in _ENCODER_ROWS for width in _QUERY_WIDTHS]
    chain = open_chain(model, ChainOptions(buckets=buckets, gpu_model=model.model))
    tokenizer = TextTokenizer(model.tokenizer, max_tokens=max(width for _, width in buckets) - 2)
    return ChainTextEncoder(model, chain, tokenizer)


def build_catalog(products: int, seed: int) -> Path:
    """A snapshot of ESCI's products and generated ones, ``products`` in all; built once into ``.bench/``.

    Vectors are made on the GPU; the CPU's index is flat, because recall builds its own on the device.
    """
    out = CACHE.parent / f"catalog-{products}-{seed}"
    try:
        Snapshot.open(out, verify=False).close()
        return out
    except SnapshotError:
        pass
    work = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        sources = _sources(work, products, seed)
        model = float_model("cross-encoder").local
        encoder = open_text_encoder(building=True)
        try:
            build_snapshot(
                sources,
                out,
                IndexSettings(dense_index="flat", chunk_rows=4096, pair_text="{title} {text:40}"),
                encoder=encoder,
                tokenizer=TextTokenizer(model.tokenizer, max_tokens=MAX_PAIR_TOKENS),
            )
        finally:
            encoder.close()
        shutil.copy(work / "query_log.jsonl", out / "query_log.jsonl")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def query_texts(catalog: Path) -> list[str]:
    """Texts to search for: ESCI's development queries, then those of the generated log."""
    with gzip.open(esci_folder() / "queries.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    with (catalog / "query_log.jsonl").open(encoding="utf-8") as file:
        texts += list(dict.fromkeys(_logged(file)))
    return texts


def open_pipeline(
    catalog: Path, *, lanes: int, slots: int, budget_ms: float, plan: Path | None
) -> GpuPipeline:
    """The pipeline with its models and dense recall on GPU 0; recall and scoring are 256 deep."""
    snapshot = Snapshot.open(catalog, verify=False)
    encoder = open_text_encoder()
    cross = float_model("cross-encoder").local
    options = ChainOptions(
        buckets=choose_buckets(max_rows=DEPTH, max_tokens=MAX_PAIR_TOKENS, lengths=_pair_lengths(snapshot)),
        lanes=lanes,
        slots=slots,
        plan=plan,
        gpu_model=cross.model,
    )
    pair_tokenizer = TextTokenizer(cross.tokenizer, max_tokens=MAX_QUERY_TOKENS)
    scorer = ChainPairScorer(
        cross,
        open_chain(cross, options),
        pair_tokenizer,
        max_query_tokens=MAX_QUERY_TOKENS,
        max_doc_tokens=MAX_PAIR_TOKENS,
    )
    recall = open_recall(snapshot.dense, GpuRecallSettings(), stream=_stream(), show=print)
    config = load_config({"budget": {"default_ms": budget_ms}, "score": {"depth": DEPTH}})
    # The scorer merges the rows of many callers: a gate before it would only take them apart.
    gate = ComputeGate(width=1024)
    stages: dict[str, Stage] = {
        "tokenize": Tokenize(
            encoder.tokenizer, None if pair_tokenizer.agrees_with(encoder.tokenizer) else pair_tokenizer
        ),
        "encode": Encode(encoder, gate, model=encoder.model.name),
        "recall": Recall([Lexical(snapshot.lexical), SharedDense(recall.index)], snapshot.mask, depth=DEPTH),
        "score": Score(
            scorer,
            snapshot.tokens,
            gate,
            depth=DEPTH,
            step_rows=DEPTH,
            weight=config.score.weight,
            temperature=config.score.temperature,
            model=cross.name,
        ),
    }
    return GpuPipeline(Pipeline.open(snapshot, config, replace=stages), scorer, encoder, recall)


def _sources(work: Path, products: int, seed: int) -> list[Path]:
    real = esci_folder() / "products.jsonl.gz"
    with gzip.open(real, "rb") as file:
        count = sum(1 for _ in file)
    made = write_demo(work, products=max(1, products - count), queries=5000, labelled=0, seed=seed)
    return [real, made.products] if products > count else [real]


def _logged(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield json.loads(line)["query"]


def _pair_lengths(snapshot: Snapshot) -> Int32:
    """Row lengths of pairs with a query of six tokens, of a sample of the documents."""
    lengths = snapshot.tokens.lengths()[:: max(1, snapshot.count // 20_000)] + 6 + 3
    clipped: Int32 = np.minimum(lengths, MAX_PAIR_TOKENS).astype(np.int32)
    return clipped


def _stream() -> _core.Stream:
    from searchpipe import _core

    return _core.Stream(_core.Device(0))
