"""What is the small cross-encoder worth inside the budget?

    python -m benchmarks.tiny [--rounds 3] [--json FILE]

The development queries of ESCI-US, one after the other, 50 ms each, through the whole pipeline with the
default cross-encoder of the CPU, with the 12-layer one (int8), and without one; then both with no time
limit. Counted are the pairs scored in time and nDCG@10 of the order that the score stage leaves (and of the
page, after diversity). The blend of each variant (weight and temperature) is chosen by 5-fold
cross-validation over queries, so that none is judged with settings made for another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.esci import data_folder, snapshot_folder
from benchmarks.report import Report
from searchpipe.arrays import Array, Float32
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.config import load_config
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Work
from searchpipe.stages.build_page import BuildPage
from searchpipe.train.crossval import JudgedQuery, cross_validated, difference, grades_of, judged_query
from searchpipe.train.texts import read_lines

BUDGET_MS = 50.0
SMALL, LARGE = "tiny-cross", "minilm-l12-cross"


@dataclass(slots=True)
class Answers:
    """What one variant did with each query of a round, in the order of the queries."""

    products: list[list[str]] = field(default_factory=list)  # preranked
    fused: list[list[str]] = field(default_factory=list)
    logits: list[Float32] = field(default_factory=list)  # in that order; NaN where not scored
    pairs: list[int] = field(default_factory=list)
    pages: list[list[str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Capture:
    """The page stage, keeping the candidates that it is given. One thread."""

    name, essential = "page", True
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("hits",)

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._page = BuildPage(snapshot)
        self.products: list[str] = []
        self.fused: list[str] = []
        self.logits: Float32 = np.empty(0, np.float32)

    def run(self, work: Work) -> None:
        """Keep, then build the page."""
        candidates = work.candidates
        assert candidates is not None
        docs = work.orders["prerank"] if "prerank" in work.orders else work.orders["fused"]
        self.fused = list(self._snapshot.id_of(work.orders["fused"]))
        scored = candidates.scores.get("score", np.full(len(candidates), np.nan, np.float32))
        by_doc = dict(zip(candidates.docs.tolist(), scored.tolist(), strict=True))
        self.products = list(self._snapshot.id_of(docs))
        self.logits = np.array([by_doc[doc] for doc in docs.tolist()], np.float32)
        self._page.run(work)

    def describe(self) -> str:
        """One line."""
        return "keeps the candidates"


def answers(
    folder: Path, queries: list[tuple[str, str]], scorer: str, budget_ms: float, rounds: int
) -> list[Answers]:
    """``rounds`` rounds over the queries after one that warms up; without a scorer if the name is empty."""
    table: dict[str, object] = {"gpu": {"use": "never"}}
    if scorer:
        table["models"] = {"scorer": scorer}
    config = load_config(table)
    if not scorer:
        config = config.with_stages([name for name in config.pipeline.stages if name != "score"])
    snapshot = Snapshot.open(folder)  # the pipeline closes it
    capture = Capture(snapshot)
    found = []
    with Pipeline.open(snapshot, config, replace={"page": capture}) as pipeline:
        pipeline.warm_up()
        if math.isfinite(budget_ms):
            for _, text in queries:
                pipeline.search(text, budget_ms=budget_ms)
        for _ in range(rounds):
            one = Answers()
            for _, text in queries:
                page = pipeline.search(text, k=10, budget_ms=budget_ms)
                one.products.append(capture.products)
                one.fused.append(capture.fused)
                one.logits.append(capture.logits)
                one.pairs.append(int(np.count_nonzero(np.isfinite(capture.logits))))
                one.pages.append([hit.id for hit in page])
                one.seconds.append(page.trace.total_ms / 1e3)
            found.append(one)
    return found


class Judge:
    """NDCG@10 of answers, from the labels."""

    def __init__(self, queries: list[tuple[str, str]], depth: int, seed: int) -> None:
        grades = grades_of(data_folder() / "qrels.tsv.gz")
        self._grades = [grades.get(query_id, {}) for query_id, _ in queries]
        self._depth = depth
        self._seed = seed

    def judged(self, products: list[list[str]]) -> list[JudgedQuery]:
        """Queries with the gains of these candidates."""
        return [judged_query(own, g) for own, g in zip(products, self._grades, strict=True)]

    def plain(self, products: list[list[str]]) -> Array:
        """Per query, in the order given."""
        return np.array([q.ndcg(np.arange(len(q.gains))) for q in self.judged(products)])

    def blended(self, rounds: list[Answers]) -> tuple[Array, list[dict[str, float]]]:
        """Per query, blended with settings chosen on other queries, mean of the rounds; the settings."""
        found = [
            cross_validated(self.judged(one.products), one.logits, self._depth, seed=self._seed)
            for one in rounds
        ]
        return np.mean([one["ndcg"] for one in found], axis=0), found[0]["chosen"]


def main() -> None:
    """Measure and report."""
    title = "What is the small cross-encoder worth inside the budget?"
    parser = Report.parser("tiny", title, seed=7)
    parser.add_argument("--rounds", type=int, default=3, help="over the queries (default: %(default)s)")
    args = parser.parse_args()
    packages = ("onnxruntime", "faiss-cpu", "tokenizers")
    report = Report.from_args("tiny", title, packages=packages, args=args)
    queries = [(str(row["id"]), str(row["text"])) for row in read_lines(data_folder() / "queries.jsonl.gz")]
    depth = load_config().score.depth
    judge = Judge(queries, depth, args.seed)
    ndcg: dict[str, Array] = {}
    folder = snapshot_folder()
    # Orders without a scorer are compared as they are without a limit, which is no worse for them.
    (free,) = answers(folder, queries, "", math.inf, 1)
    ndcg["prerank"], ndcg["fused"] = judge.plain(free.products), judge.plain(free.fused)
    without = answers(folder, queries, "", BUDGET_MS, args.rounds)
    report.times(f"no scorer, {BUDGET_MS:g} ms", [s for one in without for s in one.seconds])
    ndcg["page_without"] = np.mean([judge.plain(one.pages) for one in without], axis=0)
    pairs: dict[str, float] = {}
    for name, scorer in (("tiny", SMALL), ("l12", LARGE)):
        rounds = answers(folder, queries, scorer, BUDGET_MS, args.rounds)
        report.times(f"{name}, {BUDGET_MS:g} ms", [s for one in rounds for s in one.seconds])
        scored = [n for one in rounds for n in one.pairs]
        pairs[name] = float(np.mean(scored))
        low, half, high = np.quantile(scored, (0.1, 0.5, 0.9))
        report.note(
            f"{name}: pairs scored per query P10 {low:.0f}, P50 {half:.0f}, P90 {high:.0f} of {depth}"
        )
        ndcg[name], chosen = judge.blended(rounds)
        report.note(f"{name}: blends chosen {chosen}")
        ndcg[f"page_{name}"] = np.mean([judge.plain(one.pages) for one in rounds], axis=0)
        ndcg[f"{name}_unlimited"], chosen = judge.blended(answers(folder, queries, scorer, math.inf, 1))
        report.note(f"{name}, no limit: blends chosen {chosen}")
    for name, mean in pairs.items():
        report.figure(f"pairs_{name}", mean)
    report.figure("pairs_ratio", pairs["tiny"] / max(pairs["l12"], 1e-9), unit="x", goal=">= 10")
    for name, values in ndcg.items():
        goal = f">= {max(ndcg[n].mean() for n in ('prerank', 'fused', 'l12')):.4f}" if name == "tiny" else ""
        report.figure(f"ndcg10_{name}", float(values.mean()), goal=goal)
    for other in ("fused", "prerank", "l12", "l12_unlimited", "tiny_unlimited"):
        gap = difference(ndcg["tiny"].tolist(), ndcg[other].tolist(), seed=args.seed)
        report.note(
            f"nDCG@10 of tiny in the budget against {other}: {gap['mean']:+.4f} "
            f"(95% interval {gap['low']:+.4f} to {gap['high']:+.4f})"
        )
    report.finish()


if __name__ == "__main__":
    main()
