"""Pipelines to serve: real stages over a hashed snapshot, and one whose middle stage a test holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from searchpipe.pipeline import Pipeline
from tests.fakes.catalogs import snapshot_of
from tests.fakes.hashed_stages import hashed_pipeline


@pytest.fixture(scope="session")
def snapshot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    snapshot_of(folder).close()
    return folder / "out"


@pytest.fixture
def pipeline(snapshot_folder: Path) -> Iterator[Pipeline]:
    with hashed_pipeline(snapshot_folder) as opened:
        yield opened
