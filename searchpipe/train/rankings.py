"""Candidate orders of a snapshot's pipeline, written to a file for training on another machine.

    python -m searchpipe.train.rankings --snapshot DIR --queries FILE --out FILE

A line a query: ``{"query_id", "text", "products": [id...], "prerank": [score...],
"fused": [score...]}``, in the preranked order.
Needs everything that serving needs; what reads the file needs none of it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.recalled import KeptWork
from searchpipe.train.texts import read_lines

_STAGES = ("tokenize", "encode", "recall", "prerank", "page")


@dataclass(frozen=True, slots=True)
class Ranking:
    """One query's candidates in the preranked order.

    ``prerank`` (falling) and ``fused`` are scores, float32 ``(len(products),)``.
    """

    query_id: str
    text: str
    products: tuple[str, ...]
    prerank: Float32
    fused: Float32


def read_rankings(path: Path) -> list[Ranking]:
    """Read a file of this module.

    Raises:
        CatalogError: it cannot be read.
    """
    return [
        Ranking(
            str(row["query_id"]),
            str(row["text"]),
            tuple(row["products"]),
            np.array(row["prerank"], np.float32),
            np.array(row["fused"], np.float32),
        )
        for row in read_lines(path)
    ]


def rank(snapshot: Path, queries: Sequence[tuple[str, str]], depth: int) -> Iterator[Ranking]:
    """The first ``depth`` preranked candidates of each ``(id, text)``, with no time limit."""
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.pipeline import Pipeline

    capture = KeptWork()
    with Snapshot.open(snapshot) as opened:
        pipeline = Pipeline.open(opened, Config().with_stages(_STAGES), replace={"page": capture})
        for query_id, text in queries:
            pipeline.search(text, budget_ms=math.inf)
            assert capture.work is not None
            assert capture.work.candidates is not None
            best = capture.work.candidates.take(np.arange(min(depth, len(capture.work.candidates))))
            ids = tuple(opened.id_of(best.docs))
            yield Ranking(query_id, text, ids, best.scores["prerank"], best.scores["fused"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m searchpipe.train.rankings", description=__doc__)
    parser.add_argument("--snapshot", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True, help="JSON Lines: id, text")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, gzipped if it ends in .gz")
    parser.add_argument("--depth", type=int, default=200)
    args = parser.parse_args()
    asked = [(str(row["id"]), str(row["text"])) for row in read_lines(args.queries)]
    lines = "".join(
        json.dumps(
            {
                "query_id": found.query_id,
                "text": found.text,
                "products": found.products,
                "prerank": [round(float(score), 5) for score in found.prerank],
                "fused": [round(float(score), 7) for score in found.fused],
            }
        )
        + "\n"
        for found in rank(args.snapshot, asked, args.depth)
    )
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}.part")
    content = lines.encode()
    temporary.write_bytes(gzip.compress(content, mtime=0) if args.out.suffix == ".gz" else content)
    temporary.replace(args.out)
    print(f"wrote {len(asked)} rankings to {args.out}")


if __name__ == "__main__":
    main()
