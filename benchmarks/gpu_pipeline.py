"""The whole pipeline on a GPU, over a catalog of real and generated products."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_data import esci_folder
from benchmarks.gpu_models import CACHE, int8_model
from searchpipe.backends.dequantize import float_model as float_twin
from searchpipe.catalog.build import build_snapshot
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.demo.generate import write_demo
from searchpipe.errors import SnapshotError
from searchpipe.models.cache import default_cache_dir
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.pipeline import Pipeline
from searchpipe.runtime.buckets import choose_buckets
from searchpipe.runtime.open_chain import ChainOptions, open_chain
from searchpipe.runtime.text_encoder import ChainTextEncoder

if TYPE_CHECKING:
    from searchpipe.models.settings import LocalModel
    from searchpipe.recall.open import OpenRecall
    from searchpipe.runtime.pair_scorer import ChainPairScorer

MAX_QUERY_TOKENS = 32
MAX_PAIR_TOKENS = 128
DEPTH = 256
_TEXT_ROWS, _TEXT_WIDTH = 256, 96


@dataclass(frozen=True, slots=True)
class GpuPipeline:
    """A pipeline and what it runs on; for the thread that made it, but for ``pipeline``."""

    pipeline: Pipeline
    scorer: ChainPairScorer
    encoder: ChainTextEncoder
    recall: OpenRecall

    def engines(self) -> str:
        """Which engine serves each model."""
        assert self.pipeline.gpu is not None
        return "; ".join(self.pipeline.gpu.lines())

    def close(self) -> None:
        """End everything, the device last."""
        self.pipeline.close()


def open_text_encoder() -> ChainTextEncoder:
    """The encoder on the GPU in large buckets, for a catalog's texts."""
    model = int8_model("encoder")
    twin = float_twin(model.model, default_cache_dir() / "prepared", sha256=model.sha256)
    buckets = choose_buckets(max_rows=_TEXT_ROWS, max_tokens=_TEXT_WIDTH, widths=4)
    chain = open_chain(model, ChainOptions(buckets=buckets, gpu_model=twin))
    return ChainTextEncoder(
        model, chain, TextTokenizer(model.tokenizer, max_tokens=_TEXT_WIDTH - 2, parallel=True)
    )


def build_catalog(products: int, seed: int) -> Path:
    """A snapshot of ESCI's products and ``products`` generated ones; built once into ``.bench/``.

    Vectors are made on the GPU; the CPU's index is flat, because recall builds its own on the device.
    """
    out = CACHE.parent / f"catalog-{products}-{seed}-{int8_model('encoder').sha256[:8]}"
    try:
        Snapshot.open(out, verify=False).close()
        return out
    except SnapshotError:
        pass
    sources = [esci_folder() / "products.jsonl.gz", generated(products, seed) / "products.jsonl"]
    model = int8_model("cross-encoder")
    encoder = open_text_encoder()
    try:
        build_snapshot(
            sources,
            out,
            IndexSettings(dense_index="flat", chunk_rows=4096, pair_text="{title} {text:40}"),
            encoder=encoder,
            tokenizer=TextTokenizer(model.tokenizer, max_tokens=MAX_PAIR_TOKENS, parallel=True),
        )
    finally:
        encoder.close()
    shutil.copy(generated(products, seed) / "query_log.jsonl", out / "query_log.jsonl")
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
    logging.basicConfig(format="%(message)s")
    logging.getLogger("searchpipe.gpu").setLevel(logging.INFO)  # the plan of the device's memory
    pipeline = Pipeline.open(
        Snapshot.open(catalog, verify=False),
        {
            "budget": {"default_ms": budget_ms},
            # As everybody has them, for the CPU: the pipeline multiplies their weights out.
            "models": {
                "encoder": _settings(int8_model("encoder")),
                "scorer": _settings(int8_model("cross-encoder")),
            },
            "recall": {"depth": DEPTH, "gpu": {"use": "always"}},
            # Pairs of at most 128 tokens, as everything that this is compared with has them.
            "score": {
                "depth": DEPTH,
                "max_query_tokens": MAX_QUERY_TOKENS,
                "max_doc_tokens": MAX_PAIR_TOKENS - MAX_QUERY_TOKENS - 3,
            },
            "gpu": {
                "use": "always",
                "lanes": lanes,
                "slots": slots,
                "scorer": {"plan": str(plan) if plan is not None else ""},
            },
        },
    )
    gpu = pipeline.gpu
    assert gpu is not None
    assert gpu.scorer is not None
    assert gpu.encoder is not None
    assert gpu.recall is not None
    return GpuPipeline(pipeline, gpu.scorer, gpu.encoder, gpu.recall)


def _settings(model: LocalModel) -> dict[str, Any]:
    return {
        "source": f"file:{model.model}",
        "tokenizer": f"file:{model.tokenizer}",
        "kind": model.kind,
        "name": model.name,
        "max_tokens": model.max_tokens,
        "pooling": "mean",
    }


def generated(products: int, seed: int) -> Path:
    """Folder of the generated products and their query log; made once into ``.bench/``."""
    folder = CACHE.parent / f"generated-{products}-{seed}"
    if not (folder / "query_log.jsonl").exists():  # written after the products
        write_demo(folder, products=products, queries=5000, labelled=0, seed=seed)
    return folder


def _logged(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield json.loads(line)["query"]
