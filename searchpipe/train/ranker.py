"""Train a feature ranker for the prerank stage from labels or from a click log.

    python -m searchpipe.train.ranker --snapshot DIR --queries FILE --labels FILE --out DIR
    python -m searchpipe.train.ranker --snapshot DIR --clicks LOG [--queries FILE --labels FILE] --out DIR

Writes ``NAME.onnx``, ``NAME.json`` (its features) and ``report.json``. Trained from labels, it is
compared with the formula by 5-fold cross-validation over queries; trained from clicks, on the labels
if there are some, which it has not seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Array
from searchpipe.config import load_config
from searchpipe.errors import CatalogError, MissingDependencyError
from searchpipe.files import write_json
from searchpipe.models.cache import sha256_of
from searchpipe.recalled import Recalled
from searchpipe.stages.ranker_definition import (
    CATEGORIES,
    DENSE,
    FEATURES_VERSION,
    CategoryTable,
    RankerDefinition,
)
from searchpipe.stages.ranker_inputs import RankerInputs
from searchpipe.train.crossval import FOLDS, GAINS, difference, grades_of
from searchpipe.train.ranker_data import ListMaker, RankingList, from_clicks, from_labels, ndcg
from searchpipe.train.texts import read_lines

if TYPE_CHECKING:
    from searchpipe.config import Config
    from searchpipe.train.ranker_model import DeepFM, RankerTraining

ROWS: Mapping[str, int] = {
    "brand": 4096,
    "category": 1024,
    "top_category": 128,
    "query_class": 1024,
    "device": 8,
    "user": 4096,
}
"""Rows of the embedding tables; of 8 numbers a row, 0.37 MB in all."""

_CHECKED = 1e-4
"""The ONNX file may differ so much from torch, relative to 1 + |score|."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Lists with labels, and the gains of everything judged for each, falling."""

    lists: list[RankingList]
    ideals: list[Array]


def definition_for(model_sha256: str = "") -> RankerDefinition:
    """All features of this version."""
    tables = tuple(CategoryTable(name, ROWS[name]) for name in CATEGORIES)
    return RankerDefinition(
        features_version=FEATURES_VERSION, categories=tables, dense=DENSE, model_sha256=model_sha256
    )


def formula_scores(made: RankingList, formula: Mapping[str, float]) -> Array:
    """What the formula of ``[prerank]`` gives, float32 ``[n]``."""
    weights = np.array([formula.get(name, 0.0) for name in DENSE], np.float32)
    found: Array = made.dense @ weights
    return found


def judge(judged: Judged, scores: Sequence[Array]) -> list[float]:
    """NDCG@10 of each list, ordered by these scores; ties keep the fused order."""
    return [
        ndcg(np.argsort(-own, kind="stable"), made.worth, ideal)
        for made, own, ideal in zip(judged.lists, scores, judged.ideals, strict=True)
    ]


def cross_validate(
    judged: Judged, training: RankerTraining, formula: Mapping[str, float]
) -> tuple[list[float], list[float]]:
    """NDCG@10 of each list by rankers trained on the other folds, and by the formula."""
    from searchpipe.train.ranker_model import scores_of, train

    fold = np.random.default_rng(training.seed).permutation(len(judged.lists)) % FOLDS
    scores: list[Array] = [np.empty(0)] * len(judged.lists)
    for held in range(FOLDS):
        others = [made for made, own in zip(judged.lists, fold, strict=True) if own != held]
        model, _ = train(others, definition_for(), training, formula)
        for place in np.flatnonzero(fold == held).tolist():
            scores[place] = scores_of(model, judged.lists[place])
    return judge(judged, scores), judge(judged, [formula_scores(m, formula) for m in judged.lists])


def save(model: DeepFM, path: Path, lists: Sequence[RankingList], facts: Mapping[str, str]) -> float:
    """Write the model and its definition; returns its largest difference to torch, relative to 1 + |score|.

    Raises:
        CatalogError: the file gives other scores than the model.
    """
    from searchpipe.backends.onnx_cpu import OnnxCpuEngine
    from searchpipe.train.ranker_model import save_onnx, scores_of

    save_onnx(model, path, facts)
    engine = OnnxCpuEngine(path, threads=1)
    worst = 0.0
    for made in lists[:50]:
        expected = scores_of(model, made)
        found = engine.run({"categories": made.categories, "dense": made.dense})
        worst = max(worst, float((np.abs(found - expected) / (1.0 + np.abs(expected))).max()))
    engine.close()
    if worst > _CHECKED:
        raise CatalogError(f"{path} differs from the model by {worst:.2g}.", cure="Report this as a bug.")
    definition_for(sha256_of(path)).save(path)
    return worst


def train_ranker(
    snapshot: Path,
    out: Path,
    training: RankerTraining,
    *,
    name: str = "ranker",
    clicks: Path | None = None,
    queries: Path | None = None,
    labels: Path | None = None,
    eta: float = 1.0,
    limit: int = 20_000,
    config: Config | None = None,
) -> dict[str, Any]:
    """Train, compare and write; returns the report.

    Args:
        snapshot: of the catalog that the queries were asked on.
        out: folder, made if it does not exist.
        training: settings.
        name: of the files.
        clicks: log to train from; without one, the labels are trained from.
        queries: texts of the labelled queries, JSON Lines with ``id`` and ``text``.
        labels: query id, product id, grade, separated by tabs.
        eta: see :func:`searchpipe.train.ranker_data.from_clicks`.
        limit: searches of the log with clicks that are read at most.
        config: of the pipeline that will serve it: its encoder, recall and formula; the defaults if None.

    Raises:
        CatalogError: nothing to train from, or a file that cannot be read.
        SnapshotError: the snapshot cannot be opened.
    """
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.train.ranker_model import scores_of, train

    begin = time.monotonic()
    config = config or load_config()
    formula = config.prerank.weights
    with Snapshot.open(snapshot) as opened:
        recalled = Recalled(opened, config)
        try:
            inputs = RankerInputs(opened.columns, opened.tokens, definition_for())
            maker = ListMaker(opened, recalled, inputs)
            judged = _judged(maker, queries, labels)
            lists = list(from_clicks(maker, clicks, eta=eta, limit=limit)) if clicks else judged.lists
        finally:
            recalled.close()
    if not any(made.worth.any() for made in lists):
        raise CatalogError(
            "There is nothing to train from: no query with a clicked or relevant candidate.",
            cure="Give --clicks, or --queries and --labels, that belong to this snapshot.",
        )
    report: dict[str, Any] = {
        "trained_from": "clicks" if clicks else "labels",
        "training": asdict(training),
        "eta": eta if clicks else None,
        "lists": len(lists),
        "candidates": int(sum(len(made.products) for made in lists)),
        "rows": dict(ROWS),
        "formula": dict(formula),
    }
    if not clicks:
        learned, plain = cross_validate(judged, training, formula)
    model, history = train(lists, definition_for(), training, formula)
    if clicks:
        learned = judge(judged, [scores_of(model, made) for made in judged.lists])
        plain = judge(judged, [formula_scores(made, formula) for made in judged.lists])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.onnx"
    facts = {"made_by": "python -m searchpipe.train.ranker", "seed": str(training.seed)}
    report["onnx_difference"] = save(model, path, lists, facts)
    report |= {"epochs": history, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    if judged.lists:
        report["ndcg10"] = {
            "queries": len(judged.lists),
            "how": "labels not trained on" if clicks else f"{FOLDS}-fold cross-validation over queries",
            "learned": float(np.mean(learned)),
            "formula": float(np.mean(plain)),
            "difference": difference(learned, plain, seed=training.seed),
        }
    report["seconds"] = round(time.monotonic() - begin, 1)
    write_json(out / "report.json", report)
    return report


def _judged(maker: ListMaker, queries: Path | None, labels: Path | None) -> Judged:
    if queries is None or labels is None:
        return Judged([], [])
    grades = grades_of(labels)
    asked = [(str(row["id"]), str(row["text"])) for row in read_lines(queries)]
    by_text = {text: query_id for query_id, text in asked}
    lists = list(from_labels(maker, asked, grades))
    ideals = [
        np.sort([GAINS[grade] for grade in grades.get(by_text[made.query], {}).values()])[::-1]
        for made in lists
    ]
    return Judged(lists, ideals)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m searchpipe.train.ranker", description=__doc__)
    add = parser.add_argument
    add("--snapshot", type=Path, required=True)
    add("--clicks", type=Path, help="JSON Lines: query, clicks; optionally shown, context")
    add("--config", type=Path, help="TOML of the pipeline that will serve it")
    add("--queries", type=Path, help="JSON Lines: id, text")
    add("--labels", type=Path, help="query id, product id, grade (0 to 3), separated by tabs")
    add("--out", type=Path, required=True, help="folder")
    add("--name", default="ranker", help="of the files (default: %(default)s)")
    add("--eta", type=float, default=1.0, help="position bias of clicks (default: %(default)s)")
    add("--epochs", type=int, default=12)
    add("--seed", type=int, default=7)
    args = parser.parse_args()
    if args.clicks is None and (args.queries is None or args.labels is None):
        parser.error("give --clicks, or --queries and --labels")
    report = train_ranker(
        args.snapshot,
        args.out,
        _training(args.epochs, args.seed),
        name=args.name,
        clicks=args.clicks,
        queries=args.queries,
        labels=args.labels,
        eta=args.eta,
        config=load_config(args.config),
    )
    print_report(report, args.out)


def print_report(report: Mapping[str, Any], out: Path) -> None:
    """Say in a few lines what was made."""
    size = f"{report['lists']:,} lists, {report['candidates']:,} candidates"
    print(f"{size}, {report['seconds']} s; files in {out}")
    if "ndcg10" in report:
        found = report["ndcg10"]
        gap = found["difference"]
        interval = f"{gap['low']:+.4f} to {gap['high']:+.4f}"
        print(
            f"nDCG@10 ({found['how']}, {found['queries']} queries): learned {found['learned']:.4f}, "
            f"formula {found['formula']:.4f}, {gap['mean']:+.4f} (95% interval {interval})"
        )


def _training(epochs: int, seed: int) -> RankerTraining:
    try:
        from searchpipe.train.ranker_model import RankerTraining
    except ImportError as error:
        raise MissingDependencyError(
            f"Training needs the package {error.name}.", cure="Install it: pip install 'searchpipe[train]'."
        ) from error
    return RankerTraining(epochs=epochs, seed=seed)


if __name__ == "__main__":
    main()
