"""One catalog with three builds, shared by all tests that change none of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fakes.live_versions import published


@pytest.fixture(scope="session")
def _catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "catalog"
    published(folder, 3)
    return folder


@pytest.fixture
def catalog(_catalog: Path, tmp_path: Path) -> Path:
    """A copy that a test may publish into; the third build is published."""
    copy = tmp_path / "catalog"
    shutil.copytree(_catalog, copy)
    return copy


@pytest.fixture
def builds(catalog: Path) -> list[Path]:
    """The folders of the three builds, the oldest first."""
    from searchpipe.catalog.manifest import read_manifest

    found = [catalog / "builds" / (catalog / "CURRENT").read_text().strip()]
    while previous := read_manifest(found[0]).previous:
        found.insert(0, catalog / "builds" / previous)
    return found
