"""Some queries of a log of any size, each with the same chance."""

from __future__ import annotations

import random
from collections.abc import Iterable

from searchpipe.replay.entry import Entry


def sample_entries(entries: Iterable[Entry], most: int, seed: int = 0) -> list[Entry]:
    """Up to ``most`` entries in the order of the log, drawn evenly (Vitter 1985, algorithm R)."""
    dice = random.Random(seed)
    kept: list[tuple[int, Entry]] = []
    for number, entry in enumerate(entries):
        if len(kept) < most:
            kept.append((number, entry))
            continue
        place = dice.randrange(number + 1)
        if place < most:
            kept[place] = number, entry
    kept.sort(key=lambda pair: pair[0])
    return [entry for _, entry in kept]
