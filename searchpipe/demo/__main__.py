"""``python -m searchpipe.demo --out DIR``: write the demo's input."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from searchpipe.demo.generate import write_demo
from searchpipe.demo.queries import DAY, LOG_DAYS
from searchpipe.errors import SearchpipeError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m searchpipe.demo",
        description="Write a seeded catalog, query log and labelled queries.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--products", type=int, default=20_000, help="products (default: %(default)s)")
    parser.add_argument(
        "--queries", type=int, default=5_000, help="searches in the log (default: %(default)s)"
    )
    parser.add_argument("--labelled", type=int, default=200, help="labelled queries (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=7, help="the same seed, the same files (default: %(default)s)"
    )
    parser.add_argument(
        "--log-span",
        type=float,
        default=LOG_DAYS * DAY,
        metavar="SECONDS",
        help="time that the log's searches are spread over (default: a week)",
    )
    args = parser.parse_args(arguments)
    try:
        files = write_demo(
            args.out,
            products=args.products,
            queries=args.queries,
            labelled=args.labelled,
            seed=args.seed,
            log_span_s=args.log_span,
        )
    except (SearchpipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{files.product_count:,} products        {files.products}")
    print(f"{files.log_count:,} logged searches  {files.query_log}")
    print(f"{files.labelled_count:,} labelled queries {files.queries}, {files.qrels}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
