"""What a probe looks for, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "unusable"]


@dataclass(frozen=True, slots=True)
class Capability:
    """One line of the report: ``detail`` is what was found or why not, ``get`` how to get it."""

    name: str
    status: Status
    detail: str
    get: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Runtime:
    """A package to probe: ``code`` runs in the child and prints what the report shows."""

    name: str
    distributions: tuple[str, ...]  # the first one is what to install
    code: str
    get: str
    required: bool = False
    exclusive: bool = False  # the distributions own one module: two of them break each other
