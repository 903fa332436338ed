from __future__ import annotations

from tests.serve.conftest import pipeline, snapshot_folder

__all__ = ["pipeline", "snapshot_folder"]
