"""Live pipelines over hashed snapshots: versions that differ in their products, and openers that fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from searchpipe.catalog.snapshot import Snapshot
from searchpipe.config import Config
from searchpipe.gate import ComputeGate
from searchpipe.live.pipeline import LivePipeline
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from searchpipe.stages.score import Score
from tests.fakes.catalogs import PRODUCTS, build, write_jsonl
from tests.fakes.hashed_stages import SharedWords, hashed_stages

QUICK: dict[str, Any] = {
    "keep_s": 0.0,
    "poll_s": 0.02,
    "shadow": {"share": 0.0},
    "watch": {"seconds": 0.0},
    "check": {"queries": ["running shoes", "garden hose", "red"], "latency_slack_ms": 10_000.0},
}
"""``[live]`` without shadow, trial or grace: a swap takes as long as opening does."""

QUERIES = ("running shoes", "red", "garden hose", "boots for walking", "toy car", "shoes for runners")


def config(score: float = 0.8, **live: Any) -> dict[str, Any]:
    """A configuration whose ``score`` weight tells engine versions apart."""
    return {"score": {"weight": score}, "live": {**QUICK, **live}}


def publish(folder: Path, generation: int) -> str:
    """Publish another build: prices and titles tell its generation."""
    rows = [
        {**row, "title": f"{row['title']} g{generation}", "price": float(generation + place)}
        for place, row in enumerate(PRODUCTS)
    ]
    rows.append({"id": f"new{generation}", "title": f"Red shoes g{generation}", "text": "new"})
    folder.mkdir(parents=True, exist_ok=True)
    build(write_jsonl(folder / "products.jsonl", rows), folder, keep_builds=50)
    return (folder / "CURRENT").read_text().strip()


def published(folder: Path, generations: int) -> list[Path]:
    """Folders of that many builds of one catalog."""
    return [folder / "builds" / publish(folder, generation) for generation in range(generations)]


def damage(build_folder: Path) -> None:
    """Leave a build that cannot be opened."""
    shutil.rmtree(build_folder / "lexical")


def open_hashed(build_folder: Path, settings: Config) -> Pipeline:
    """An opener for live pipelines."""
    snapshot = Snapshot.open(build_folder)
    stages = hashed_stages(snapshot)
    weight = settings.score.weight
    stages["score"] = Score(
        SharedWords(), snapshot.tokens, ComputeGate(), depth=8, weight=weight, model="shared words"
    )
    return Pipeline.open(snapshot, settings, replace=stages)


def open_live(
    folder: Path,
    settings: dict[str, Any] | None = None,
    *,
    opener: Callable[..., Any] = open_hashed,
    **more: Any,
) -> LivePipeline:
    return LivePipeline.open(folder, settings or config(), opener=opener, **more)


def identity_of(page: Page) -> str:
    """The version that a page names, as ``VersionSpec.identity`` writes it."""
    return f"{page.snapshot}/{page.engine.rpartition(':')[2]}"


def content_of(page: Page) -> tuple[Any, ...]:
    """What must be the same each time that a version answers a query in full."""
    return tuple((hit.id, hit.score, tuple(sorted(hit.fields.items(), key=str))) for hit in page)
