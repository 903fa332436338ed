"""Versions of the packages that a result depends on."""

from __future__ import annotations

import re
from importlib import metadata, util
from pathlib import Path

# Several distributions own this module; where two are installed, the one that is imported counts.
_SHARED = "onnxruntime"
_STATED = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def versions_of(*packages: str) -> dict[str, str]:
    """Version by package name; packages that are not installed are left out. Imports nothing."""
    found: dict[str, str] = {}
    for package in packages:
        if package == _SHARED:
            found |= {package: version} if (version := onnxruntime_version()) else {}
            continue
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def onnxruntime_version() -> str:
    """Version of the ONNX Runtime that would be imported; empty for none. Imports nothing."""
    spec = util.find_spec(_SHARED)
    if spec is None or not spec.origin:
        return ""
    try:
        stated = _STATED.search(Path(spec.origin).read_text(encoding="utf-8"))
    except OSError:
        stated = None
    if stated:
        return stated[1]
    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""
