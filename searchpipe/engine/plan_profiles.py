"""Optimization profiles of a plan, from the shapes that the profile step chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Shape = tuple[int, int]
MOST_PROFILES = 4
"""One for everything and three for groups of buckets: each costs build time and activation memory."""


class PlanProfile(msgspec.Struct, frozen=True):
    """Least, tuned and largest (rows, tokens) of one profile."""

    least: Shape
    best: Shape
    most: Shape


def plan_profiles(facts: Mapping[str, Any], most: int = MOST_PROFILES) -> list[PlanProfile]:
    """Profiles that cover every shape of the profile step, the first of them all alone.

    Buckets are grouped by size; a group's profile spans its buckets alone and is tuned for the
    largest, where the time goes.

    Args:
        facts: of the step ``profile``: ``rows`` and ``tokens`` (least, usual, most) and ``buckets``.
        most: profiles at most.
    """
    rows, tokens = [int(n) for n in facts["rows"]], [int(n) for n in facts["tokens"]]
    buckets = sorted({(int(r), int(t)) for r, t in facts.get("buckets", [])}, key=lambda b: (b[0] * b[1], b))
    shapes = [(rows[0], tokens[0]), (rows[2], tokens[2]), *buckets]
    least = (min(r for r, _ in shapes), min(t for _, t in shapes))
    largest = (max(r for r, _ in shapes), max(t for _, t in shapes))
    best = (min(max(rows[1], least[0]), largest[0]), min(max(tokens[1], least[1]), largest[1]))
    found = [PlanProfile(least, best, largest)]
    for group in _groups(buckets, most - 1):
        low = (min(r for r, _ in group), min(t for _, t in group))
        high = (max(r for r, _ in group), max(t for _, t in group))
        profile = PlanProfile(low, group[-1], high)
        if profile not in found:
            found.append(profile)
    return found


def _groups(buckets: Sequence[Shape], most: int) -> list[Sequence[Shape]]:
    """Up to ``most`` runs of ``buckets`` of like number."""
    if not buckets or most < 1:
        return []
    number = min(most, len(buckets))
    ends = [round(len(buckets) * (place + 1) / number) for place in range(number)]
    return [buckets[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
