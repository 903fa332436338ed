"""The shipped feature ranker: trained on the demo's generated catalog and clicks.

    python -m searchpipe.train.ranker_demo --out DIR

Generates the catalog, the log and labelled queries into ``DIR/demo``, indexes the catalog and trains.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from searchpipe.train.ranker import _training, print_report, train_ranker

NAME = "feature-ranker"


def main() -> None:
    """Command line."""
    from searchpipe.catalog.build import build_snapshot
    from searchpipe.catalog.settings import IndexSettings
    from searchpipe.demo.generate import write_demo

    parser = argparse.ArgumentParser(prog="python -m searchpipe.train.ranker_demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--products", type=int, default=5000)
    parser.add_argument("--searches", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    demo = args.out / "demo"
    files = write_demo(demo, products=args.products, queries=args.searches, seed=args.seed)
    snapshot = demo / "snapshot"
    build_snapshot(files.products, snapshot, IndexSettings(dense_text="{title}, {brand}"))
    report = train_ranker(
        snapshot,
        args.out,
        _training(args.epochs, args.seed),
        name=NAME,
        clicks=files.query_log,
        queries=files.queries,
        labels=files.qrels,
    )
    print_report(report, args.out)


if __name__ == "__main__":
    main()
