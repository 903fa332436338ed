"""Versions of the packages that a result depends on."""

from __future__ import annotations

from importlib import metadata


def versions_of(*packages: str) -> dict[str, str]:
    """Version by package name; packages that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
