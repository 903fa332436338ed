"""A query log with a head and a long tail, and labelled queries, both made from intents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from searchpipe.demo.dice import Dice, cumulative, zipf
from searchpipe.demo.intents import Intent, draw_intent, misspell, phrase
from searchpipe.demo.products import Facts
from searchpipe.demo.taxonomy import LEAVES

# Streams of random numbers, apart from those of products and brands.
_INTENT_STREAM = 1 << 42
_LOG_STREAM = 1 << 43
_LABEL_STREAM = 1 << 44

LOG_START = 1_767_571_200
"""Seconds since 1970 of the log's first moment: Monday 2026-01-05, 00:00 UTC."""

DAY = 86_400
LOG_DAYS = 7
# Relative traffic by hour of the day: quiet nights, a busy evening.
_HOURS = (3, 2, 1, 1, 1, 2, 4, 6, 8, 9, 10, 10, 11, 10, 10, 10, 11, 12, 14, 16, 17, 15, 10, 6)
# Shares of intents with 0, 1, 2, 3 and 4 wishes besides the kind of product.
_WISHES = cumulative((0.2, 0.36, 0.26, 0.13, 0.05))
# The same for labelled queries, from 1 wish on: without any, half a category would be relevant.
_LABELLED_WISHES = cumulative((0.5, 0.3, 0.15, 0.05))

MAX_RELEVANT = 100
"""Labelled queries have no more products of grade 2 and 3 than that, so recall@100 can reach 1."""


class Shelves:
    """The products by leaf, with their popularity; built once, then only read."""

    def __init__(self, products: Sequence[Facts]) -> None:
        self.products = products
        self._leaves: dict[int, list[Facts]] = {}
        for facts in products:
            self._leaves.setdefault(facts.leaf, []).append(facts)

    def leaf(self, index: int) -> list[Facts]:
        """Return the products of leaf ``index``, in the order of the catalog."""
        return self._leaves.get(index, [])

    def graded(self, intent: Intent) -> dict[int, list[Facts]]:
        """Products of the intent's leaf by grade (1..3)."""
        grades: dict[int, list[Facts]] = {1: [], 2: [], 3: []}
        for facts in self.leaf(intent.leaf):
            grades[intent.grade(facts)].append(facts)
        return grades


def generate_log(
    shelves: Shelves, count: int, seed: int, *, span_s: float = LOG_DAYS * DAY
) -> Iterator[dict[str, Any]]:
    """Yield ``count`` searches in the order of time, within ``span_s`` seconds.

    The week with its busy evenings and quiet nights is shrunk or stretched to that span.

    Rows have ts (seconds since 1970, UTC), query, clicks (product ids, perhaps none), and, for
    about two thirds, context (user, device, recent_category). The same intent comes back by
    Zipf's law: a few hundred make half of the traffic, most of the others occur once.
    """
    if not shelves.products or count < 1:
        return
    drawing = Dice(seed, _INTENT_STREAM)
    intents = [
        draw_intent(drawing, shelves.products, drawing.weighted(_WISHES)) for _ in range(max(1, count // 2))
    ]
    # Short wishes are the frequent ones.
    intents.sort(key=_wishes)
    popularity = zipf(len(intents), 0.85)
    dice = Dice(seed, _LOG_STREAM)
    answers: dict[int, tuple[list[Facts], list[float]]] = {}
    users = max(1, count // 4)
    for ts in _times(dice, count, span_s):
        rank = dice.weighted(popularity)
        intent = intents[rank]
        text = phrase(intent, dice)
        if dice.chance(0.07):
            text = misspell(text, dice)
        if rank not in answers:
            wanted = _wanted(shelves, intent)
            answers[rank] = wanted, cumulative([facts.popularity for facts in wanted])
        row: dict[str, Any] = {"ts": ts, "query": text, "clicks": _clicks(dice, *answers[rank])}
        if dice.chance(0.65):
            recent = intent.leaf if dice.chance(0.5) else dice.pick(shelves.products).leaf
            row["context"] = {
                "user": f"u{dice.below(users):06d}",
                "device": "phone" if dice.chance(0.6) else "desktop",
                "recent_category": LEAVES[recent].path[-1],
            }
        yield row


def generate_labels(
    shelves: Shelves, count: int, seed: int
) -> Iterator[tuple[str, str, list[tuple[str, int]]]]:
    """Yield up to ``count`` labelled queries: id, text, and pairs of product id and grade.

    All products of grade 3 and 2 are listed, and a sample of 20 of grade 1 and of 20 of grade 0.
    Fewer than ``count`` come out of a catalog that is too small for so many different queries.
    """
    dice = Dice(seed, _LABEL_STREAM)
    seen: set[str] = set()
    number = 0
    for _ in range(40 * count if shelves.products else 0):
        if number == count:
            return
        intent = draw_intent(dice, shelves.products, 1 + dice.weighted(_LABELLED_WISHES))
        text = phrase(intent, dice)
        grades = shelves.graded(intent)
        if text in seen or not grades[3] or len(grades[3]) + len(grades[2]) > MAX_RELEVANT:
            continue
        seen.add(text)
        drawn = {facts.id: facts.leaf for facts in (dice.pick(shelves.products) for _ in range(30))}
        others = [product for product, leaf in drawn.items() if leaf != intent.leaf][:20]
        labels = [(facts.id, grade) for grade in (3, 2) for facts in grades[grade]]
        labels += [(facts.id, 1) for facts in dice.some(grades[1], 20)]
        labels += [(product, 0) for product in others]
        number += 1
        yield f"{number}", text, labels


def _wishes(intent: Intent) -> int:
    values = (intent.color, intent.material, intent.size, intent.feature, intent.use, intent.brand)
    return sum(map(bool, values)) + 2 * intent.question


def _wanted(shelves: Shelves, intent: Intent) -> list[Facts]:
    grades = shelves.graded(intent)
    return grades[3] or grades[2]


def _clicks(dice: Dice, wanted: list[Facts], popularity: list[float]) -> list[str]:
    if not wanted or not dice.chance(0.62):
        return []
    count = 1 + dice.chance(0.25) + dice.chance(0.08)
    return list(dict.fromkeys(wanted[dice.weighted(popularity)].id for _ in range(count)))


def _times(dice: Dice, count: int, span_s: float) -> list[float]:
    """Moments of ``count`` searches, rising, busier by day than by night; seconds with milliseconds."""
    hours = cumulative([float(share) for share in _HOURS])
    moments = []
    for _ in range(count):
        day, hour = dice.below(LOG_DAYS), dice.weighted(hours)
        moments.append(day * DAY + hour * 3600 + round(dice.unit() * 3600, 3))
    moments.sort()
    if span_s == LOG_DAYS * DAY:
        return [round(LOG_START + moment, 3) for moment in moments]
    # Microseconds: a short span holds many searches within one millisecond.
    return [round(LOG_START + moment * span_s / (LOG_DAYS * DAY), 6) for moment in moments]
