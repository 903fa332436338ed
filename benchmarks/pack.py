"""Measure how fast 256 (query, product) pairs become a cross-encoder's inputs.

Compares TokenStore + PairPacker, where products were tokenized when the catalog was built, with what a
service pays that encodes pairs per query: ``tokenizers`` ``encode_batch`` of the same pairs and int64 arrays
made of the result. Both get the same limits, and their arrays are checked to be equal. Texts are cut to about
what the limit keeps, so that ``tokenizers`` does not pay for words that it drops.
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, measure, shared_folder
from searchpipe._core import PairPacker, TokenStore, TokenStoreWriter
from searchpipe.arrays import Int32, Int64

PAIRS = 256
MAX_TOKENS = 128
MAX_QUERY_TOKENS = 32
PRODUCT_WORDS = 60
QUERIES = 16  # each packed in turn, so that no single query's lengths decide

Inputs = tuple[Int64, Int64, Int64]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def synthetic_texts(seed: int) -> tuple[list[str], list[str]]:
    """Make queries and products of Zipf-distributed made-up words, as long as real ones."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("aaeeiioubcdfghklmnprstvw"))
    words = np.array(["".join(rng.choice(letters, size)) for size in rng.integers(2, 10, 5000)])

    def text(mean: float) -> str:
        return " ".join(words[np.minimum(rng.zipf(1.3, 2 + rng.poisson(mean)), len(words)) - 1])

    return [text(2) for _ in range(QUERIES)], [text(PRODUCT_WORDS - 10) for _ in range(2000)]


def read_texts(seed: int) -> tuple[list[str], list[str], str]:
    """Return queries, product texts, and where they are from."""
    folder = shared_folder("data", "esci-us")
    if folder is None:
        queries, products = synthetic_texts(seed)
        return queries, products, "made-up texts (the ESCI data set is not there)"
    rng = np.random.default_rng(seed)
    queries = [row["text"] for row in read_jsonl(folder / "queries.jsonl.gz")]
    picked = rng.choice(len(queries), QUERIES, replace=False)
    rows = read_jsonl(folder / "products.jsonl.gz")
    products = [" ".join(f"{row['title']} {row.get('text') or ''}".split()[:PRODUCT_WORDS]) for row in rows]
    return [queries[i] for i in picked], products, "ESCI-US queries and products"


def open_tokenizer(named: Path | None, texts: list[str]) -> tuple[Any, str]:
    """Open a BERT tokenizer: the one named, else the cross-encoder's, else one trained on the texts."""
    from tokenizers import Tokenizer

    if named is not None:
        return Tokenizer.from_file(str(named)), named.name
    try:
        path = importlib.import_module("searchpipe.models").resolve("minilm-l12-cross").tokenizer
        return Tokenizer.from_file(str(path)), "minilm-l12-cross"
    except Exception as error:  # whatever keeps the model away, the comparison can be made without it
        reason = type(error).__name__
    from tokenizers import normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        iter(texts), WordPieceTrainer(vocab_size=30522, special_tokens=names, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer, f"WordPiece trained on the texts (model not available: {reason})"


def set_up_like_a_service(tokenizer: Any) -> None:
    tokenizer.enable_truncation(MAX_TOKENS, strategy="only_second")
    tokenizer.enable_padding()


def encode_pairs(tokenizer: Any, query: str, texts: list[str]) -> Inputs:
    encodings = tokenizer.encode_batch([(query, text) for text in texts])
    return (
        np.array([encoding.ids for encoding in encodings], np.int64),
        np.array([encoding.attention_mask for encoding in encodings], np.int64),
        np.array([encoding.type_ids for encoding in encodings], np.int64),
    )


def token_ids(tokenizer: Any, text: str) -> Int32:
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)


def build_store(path: Path, tokenizer: Any, texts: list[str]) -> TokenStore:
    with TokenStoreWriter(path, vocab_size=tokenizer.get_vocab_size()) as writer:
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            writer.append(np.array(encoding.ids, np.int32))
    return TokenStore(path)


def run(
    report: Report, tokenizer: Any, queries: list[str], products: list[str], rounds: int, folder: Path
) -> None:
    rng = np.random.default_rng(report.seed)
    chosen = [rng.choice(len(products), PAIRS, replace=False).astype(np.int32) for _ in queries]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    store = build_store(folder / "tokens", tokenizer, products)
    special = {f"{name}_id": tokenizer.token_to_id(f"[{name.upper()}]") for name in ("cls", "sep", "pad")}
    packer = PairPacker(
        **special, max_query_tokens=MAX_QUERY_TOKENS, max_doc_tokens=MAX_TOKENS, max_tokens=MAX_TOKENS
    )
    query_ids = [token_ids(tokenizer, query)[:MAX_QUERY_TOKENS] for query in queries]
    buffers = [np.empty((PAIRS, MAX_TOKENS), np.int64) for _ in range(3)]
    ids, mask, types = buffers

    seconds: dict[str, list[float]] = {
        "PairPacker": [],
        "tokenize the query + PairPacker": [],
        "tokenizers": [],
    }
    lengths = []
    for number, (query, docs) in enumerate(zip(queries, chosen, strict=True)):
        texts = [products[doc] for doc in docs]
        known = query_ids[number]

        def pack(known: Int32 = known, docs: Int32 = docs) -> object:
            return packer.pack(known, store, docs, ids, mask, types)

        def tokenize_and_pack(query: str = query, docs: Int32 = docs) -> object:
            return packer.pack(token_ids(tokenizer, query), store, docs, ids, mask, types)

        def encode(query: str = query, texts: list[str] = texts) -> object:
            return encode_pairs(tokenizer, query, texts)

        seconds["PairPacker"] += measure(pack, rounds=20 * rounds)
        seconds["tokenize the query + PairPacker"] += measure(tokenize_and_pack, rounds=20 * rounds)

        set_up_like_a_service(tokenizer)
        seconds["tokenizers"] += measure(encode, rounds=rounds, warm_up=1)
        expected = encode_pairs(tokenizer, query, texts)
        tokenizer.no_truncation()
        tokenizer.no_padding()

        layout = packer.pack(known, store, docs, ids, mask, types)
        for ours, theirs in zip(buffers, expected, strict=True):
            if not np.array_equal(ours[:, : layout.width], theirs[layout.permutation]):
                raise SystemExit(f"PairPacker and tokenizers disagree about the pairs of {query!r}")
        lengths.extend(layout.lengths.tolist())

    medians = {name: report.times(name, values)["p50"] for name, values in seconds.items()}
    report.figure(
        "pack_speedup_vs_tokenizers", medians["tokenizers"] / medians["PairPacker"], unit="x", goal=">= 100"
    )
    report.figure(
        "pack_speedup_with_query_tokenized",
        medians["tokenizers"] / medians["tokenize the query + PairPacker"],
        unit="x",
    )
    report.figure("pack_us_p50", 1e6 * medians["PairPacker"], unit="us")
    report.figure("tokenizers_ms_p50", 1e3 * medians["tokenizers"], unit="ms")
    report.note(
        f"{PAIRS} pairs, at most {MAX_TOKENS} tokens (p50 {int(np.median(lengths))}, "
        f"p95 {int(np.quantile(lengths, 0.95))}), three int64 arrays; {len(queries)} queries; equal outputs."
    )


def main() -> None:
    parser = Report.parser("pack", __doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="per query (default: %(default)s)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json of a BERT-like model")
    args = parser.parse_args()
    report = Report.from_args("pack", "Packing 256 pairs", packages=("tokenizers",), args=args)
    queries, products, source = read_texts(report.seed)
    tokenizer, tokenizer_name = open_tokenizer(args.tokenizer, products)
    threads = os.environ.get("RAYON_NUM_THREADS", "all cores")
    report.note(f"Input: {source}; tokenizer: {tokenizer_name}; tokenizers runs on {threads}.")
    with tempfile.TemporaryDirectory() as folder:
        run(report, tokenizer, queries, products, args.rounds, Path(folder))
    report.finish()


if __name__ == "__main__":
    main()
