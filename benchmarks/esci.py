"""Measure how good the results are on real queries with human labels.

    python -m benchmarks.esci [--json FILE] [--evaluation FILE]

The development queries of ESCI-US over its 6,764 products, through the same code as
``searchpipe evaluate``, without a time limit. The snapshot is built once into ``.bench/``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import Report, shared_folder
from searchpipe.files import write_json

CACHE = Path(__file__).resolve().parent.parent / ".bench"

# What a plain stack of libraries reached on the same queries: bm25s over title + brand + category +
# text; all-MiniLM over title + 40 words; RRF with k = 60 over 300 + 300; then the 12-layer int8
# cross-encoder over the top 100.
GOALS = {
    "recall100_lexical": ">= 0.843",
    "recall100_dense": ">= 0.859",
    "recall100_fused": ">= 0.903",
    "ndcg10_lexical": ">= 0.574",
    "ndcg10_dense": ">= 0.568",
    "ndcg10_fused": ">= 0.600",
    "ndcg10_full": "> 0.622",
}


def data_folder() -> Path:
    """Return the folder of the data set.

    Raises:
        SystemExit: it is not there; says where it is looked for.

    """
    folder = shared_folder("data", "esci-us")
    if folder is None:
        raise SystemExit(
            "The ESCI-US data was not found: put it into shared/data/esci-us beside the checkout, "
            "or name the folder shared in SEARCHPIPE_SHARED."
        )
    return folder


def load_queries() -> list[str]:
    """Return the texts of the development queries."""
    with gzip.open(data_folder() / "queries.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def snapshot_folder() -> Path:
    """Return a snapshot of the ESCI-US products with the default settings, built now if there is none."""
    import searchpipe
    from searchpipe.catalog.build import build_snapshot
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.errors import SnapshotError

    source = data_folder() / "products.jsonl.gz"
    config = Config()
    # Other products, settings, models or building code make another snapshot.
    key = hashlib.sha256(source.read_bytes())
    key.update(msgspec.json.encode([config.index, config.models]))
    package = Path(searchpipe.__file__).parent
    for path in sorted([*(package / "catalog").rglob("*.py"), package / "models" / "builtin.py"]):
        key.update(path.read_bytes())
    out = CACHE / f"esci-{key.hexdigest()[:12]}"
    try:
        Snapshot.open(out).close()
    except SnapshotError:
        build_snapshot(source, out, config.index, models=config.models)
    return out


def figures(content: dict[str, Any]) -> dict[str, float]:
    """Return the benchmark's figures from the JSON of an evaluation; ``full`` is its last variant."""
    variants = content["variants"]
    names = {"lexical": "lexical", "dense": "dense", "fused": "fused", "full": list(variants)[-1]}
    found = {}
    for name, variant in names.items():
        metrics = variants[variant]["metrics"]
        found[f"recall100_{name}"] = metrics["recall@100"]["mean"]
        found[f"ndcg10_{name}"] = metrics["ndcg@10"]["mean"]
    return found


def main() -> None:
    """Measure and report."""
    from rich.console import Console

    from searchpipe.cli.evaluate import run_evaluation
    from searchpipe.evaluate.table import print_evaluation

    title = "How good are the results on real queries with human labels?"
    parser = Report.parser("esci", title)
    parser.add_argument("--evaluation", type=Path, metavar="FILE", help="also write the evaluation per query")
    args = parser.parse_args()
    packages = ("onnxruntime", "faiss-cpu", "tokenizers", "ir-measures", "scipy")
    report = Report.from_args("esci", title, packages=packages, args=args)
    from searchpipe.evaluate import EvaluationSettings

    data = data_folder()
    evaluation, content = run_evaluation(
        snapshot_folder(),
        data / "queries.jsonl.gz",
        data / "qrels.tsv.gz",
        settings=EvaluationSettings(seed=args.seed),
        console=Console(stderr=True),
    )
    print_evaluation(evaluation, Console())
    if args.evaluation is not None:
        write_json(args.evaluation, content)
    for name, value in figures(content).items():
        report.figure(name, value, goal=GOALS.get(name, ""))
    variants = content["variants"]
    fused = variants["fused"]["metrics"]
    for name in ("lexical", "dense"):
        gain = fused["recall@100"]["mean"] - variants[name]["metrics"]["recall@100"]["mean"]
        report.figure(f"recall100_fused_minus_{name}", gain, goal="> 0")
    for name, variant in variants.items():
        if (against := variant["metrics"]["ndcg@10"].get("against_baseline")) is not None:
            p = f"p = {against['p_holm']:.3f} (Holm)"
            report.note(f"nDCG@10 of {name} against fused: {against['difference']:+.4f}, {p}")
    for what, count in content["degradations"].items():
        report.note(f"{count} queries gave something up: {what}")
    report.finish()


if __name__ == "__main__":
    main()
