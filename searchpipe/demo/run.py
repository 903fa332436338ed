"""``make demo``: generate a catalog (or take the user's), index it, search it, time a few hundred queries.

    python -m searchpipe.demo.run [--catalog FILE] [--queries FILE] [--out DIR]

Each command is printed before it runs, so that it can be repeated by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from searchpipe.catalog.snapshot import Snapshot
from searchpipe.demo.generate import write_demo
from searchpipe.errors import SearchpipeError
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline

TIMED = 300
"""Queries in the latency table."""


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m searchpipe.demo.run", description="The main job, end to end."
    )
    parser.add_argument("--catalog", type=Path, help="a catalog of your own (.jsonl, .csv or .parquet)")
    parser.add_argument("--queries", type=Path, help="queries of your own (JSON lines with text or query)")
    parser.add_argument("--out", type=Path, default=Path("demo-data"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    try:
        _run(args.catalog, args.queries, args.out)
    except SearchpipeError as error:
        print(f"searchpipe: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def _run(catalog: Path | None, log: Path | None, out: Path) -> None:
    snapshot = out / "snapshot"
    if catalog is None:
        _say("1. A seeded catalog of 20,000 products and a query log")
        files = write_demo(out)
        catalog, log = files.products, log or files.query_log
        print(
            f"{files.product_count:,} products in {catalog}, "
            f"{files.log_count:,} searches in {files.query_log}"
        )
    else:
        snapshot = out / f"snapshot-{catalog.name.split('.')[0]}"
    _say("2. Index it (vectors of unchanged products are taken from the last build)")
    _command("index", str(catalog), "--out", str(snapshot))
    texts = list(_queries(log, snapshot))
    _say("3. Search it")
    _command("search", texts[0], "--snapshot", str(snapshot), "--trace")
    _say(f"4. {TIMED} queries of the log, one after the other")
    with Pipeline.open(snapshot) as pipeline:
        print(pipeline.describe())
        pipeline.warm_up()
        pages = [pipeline.search(texts[n % len(texts)]) for n in range(TIMED)]
    _table(pages)


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _command(*arguments: str) -> None:
    print(f"$ searchpipe {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "searchpipe", *arguments], check=True)


def _queries(log: Path | None, snapshot: Path) -> Iterator[str]:
    """The log's texts, or some words of the catalog's own titles where there is no log."""
    if log is not None:
        with log.open(encoding="utf-8") as file:
            for _, line in zip(range(TIMED), file, strict=False):
                row = json.loads(line)
                yield str(row.get("query") or row.get("text"))
        return
    with Snapshot.open(snapshot) as opened:
        chosen = random.Random(7)
        docs = np.array([chosen.randrange(opened.count) for _ in range(TIMED)])
        for fields in opened.fields(docs):
            words = str(fields.get("title", "")).split()
            yield " ".join(words[: 2 + chosen.randrange(3)]) or "gift"


def _table(pages: list[Page]) -> None:
    from rich.console import Console
    from rich.table import Table

    from searchpipe import _core

    stages: dict[str, _core.Histogram] = {}
    for page in pages:
        for span in page.trace.spans:
            stages.setdefault(span.stage, _core.Histogram()).record(span.ms)
        stages.setdefault("whole query", _core.Histogram()).record(page.trace.total_ms)
    table = Table(title="Latency in ms", title_justify="left")
    table.add_column("Stage")
    for name in ("P50", "P90", "P99", "max"):
        table.add_column(name, justify="right")
    for stage, times in stages.items():
        cells = [times.quantile(0.5), times.quantile(0.9), times.quantile(0.99), times.max]
        table.add_row(stage, *(f"{cell:.2f}" for cell in cells))
    console = Console()
    console.print(table)
    given_up = Counter(f"{d.stage} ({d.reason})" for page in pages for d in page.degradations)
    for what, count in given_up.most_common():
        console.print(f"{count} of {len(pages)} queries gave up part of {what}")


if __name__ == "__main__":
    sys.exit(main())
