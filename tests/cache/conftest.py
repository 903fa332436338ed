from __future__ import annotations

from tests.live.conftest import _catalog, builds, catalog
from tests.serve.conftest import snapshot_folder

__all__ = ["_catalog", "builds", "catalog", "snapshot_folder"]
