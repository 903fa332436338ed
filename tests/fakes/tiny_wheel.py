"""A wheel with chosen files in a folder, and pip told to look nowhere else."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest


def save_wheel(
    folder: Path, files: dict[str, bytes], *, package: str = "tiny_models", version: str = "1.0"
) -> str:
    """Write the wheel and return its SHA-256."""
    path = folder / f"{package}-{version}-py3-none-any.whl"
    info = f"{package}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip see this folder and no index, whatever the user's settings are."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "SEARCHPIPE_OFFLINE", "SEARCHPIPE_CACHE"):
        monkeypatch.delenv(name, raising=False)
