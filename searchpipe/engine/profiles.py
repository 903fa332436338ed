"""Shapes that engines are built for, from the rows that traffic really has."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchpipe.arrays import Int32
from searchpipe.errors import RecipeError
from searchpipe.runtime.buckets import SMALLEST_ROWS, TOKEN_STEP, Bucket, choose_buckets

LAUNCH_TOKENS = 2048
"""What a batch costs besides its tokens, in tokens.

Captured graphs of a 12-layer model took 0.87 ms for 32 x 96 tokens and 5.65 ms for 256 x 128 on an
H200: 0.16 microseconds a token, and 0.38 ms a batch. Without it the best buckets would hold one row each.
"""

# Widths tried; more would be spaced closer than a twentieth of the longest row.
_MOST_WIDTHS = 24
# Buckets computed beyond the chosen ones, so that the plot shows what they would have gained.
_BEYOND = 6


@dataclass(frozen=True, slots=True)
class Waste:
    """What a set of buckets costs over the real tokens of the requests.

    Attributes:
        real: tokens of the rows.
        padded: tokens of the batches, padding included.
        batches: how many.
    """

    real: int
    padded: int
    batches: int

    @property
    def cost(self) -> int:
        """Padded tokens, each batch counted as :data:`LAUNCH_TOKENS` more."""
        return self.padded + LAUNCH_TOKENS * self.batches

    @property
    def padding(self) -> float:
        """Share of the computed tokens that are padding, 0 to 1."""
        return 1.0 - self.real / self.padded if self.padded else 0.0

    @property
    def waste(self) -> float:
        """Share of the cost that is not real tokens, 0 to 1; never grows when a bucket is added."""
        return 1.0 - self.real / self.cost if self.cost else 0.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The buckets after one more was added.

    Attributes:
        bucket: the one added.
        gain: share of the cost before that it saves.
        waste: of all so far.
    """

    bucket: Bucket
    gain: float
    waste: Waste


@dataclass(frozen=True, slots=True)
class Choice:
    """Buckets chosen for requests.

    Attributes:
        buckets: in the order of rows and tokens.
        curve: one point a bucket in the order they were added, some beyond the chosen.
        usage: share of the cost that each of ``buckets`` has.
    """

    buckets: list[Bucket]
    curve: list[CurvePoint]
    usage: list[float]

    @property
    def waste(self) -> Waste:
        """Of the chosen buckets."""
        return self.curve[len(self.buckets) - 1].waste

    @property
    def usual(self) -> Bucket:
        """The bucket that most of the cost is spent in."""
        return self.buckets[int(np.argmax(self.usage))]


class Requests:
    """Row lengths of sampled requests. Immutable; safe from many threads.

    Args:
        lengths: of each request, int32 ``(rows,)`` in any order; empty ones are left out.

    Raises:
        RecipeError: no request has a row.
    """

    def __init__(self, lengths: Sequence[Int32]) -> None:
        self.lengths = [np.sort(rows)[::-1].astype(np.int32) for rows in lengths if len(rows)]
        if not self.lengths:
            raise RecipeError(
                "No query of the log has a candidate in the snapshot.",
                cure="Name the log and the snapshot of one shop, or write profile.rows and profile.tokens.",
            )
        self._lists = [rows.tolist() for rows in self.lengths]
        self.real = int(sum(rows.sum() for rows in self.lengths))
        self.max_rows = max(len(rows) for rows in self.lengths)
        self.all_lengths: Int32 = np.concatenate(self.lengths)
        self.max_tokens = int(self.all_lengths.max())

    def batches(self, buckets: Sequence[Bucket]) -> list[Bucket]:
        """Shapes of the batches that all requests are cut into at the least cost.

        Raises:
            ValueError: a row fits no bucket.
        """
        from searchpipe._core import cut_into_batches

        costs = [(float(rows * tokens + LAUNCH_TOKENS), 0.0) for rows, tokens in buckets]
        shapes: list[Bucket] = []
        for rows in self._lists:
            shapes += [(r, t) for _, _, r, t in cut_into_batches(rows, list(buckets), costs)]
        return shapes

    def waste(self, buckets: Sequence[Bucket]) -> Waste:
        """What ``buckets`` cost."""
        shapes = self.batches(buckets)
        return Waste(self.real, sum(rows * tokens for rows, tokens in shapes), len(shapes))


def choose(
    requests: Requests, *, max_rows: int, max_tokens: int, max_buckets: int, min_gain: float
) -> Choice:
    """Take away the bucket that saves least, again and again; keep those up to the last that saves enough.

    Buckets need each other (a batch can only be cut where both parts have one), so adding the best
    one by one stops at once. Taken away from all that could be used, a bucket's saving grows, nearly
    always, so one computed earlier bounds a later one (lazy greedy, Minoux 1978) and few are
    computed anew. The largest, ``max_rows`` by ``max_tokens`` (rounded up to 8), always stays.

    Args:
        requests: rows no longer than ``max_tokens``.
        max_rows: rows of the largest batch.
        max_tokens: tokens of the longest row.
        max_buckets: chosen at most; each costs the memory of a graph.
        min_gain: share of the cost that the last bucket must save.
    """
    largest = (max_rows, round_up(max_tokens))
    held = sorted({*requests.batches(_possible(requests, *largest)), largest})
    removed: list[CurvePoint] = []
    heap = [(-1, len(held) + 1, bucket) for bucket in held if bucket != largest]
    now = requests.waste(held)
    while heap:
        loss, computed_at, bucket = heapq.heappop(heap)
        rest = [other for other in held if other != bucket]
        if computed_at != len(held):
            heapq.heappush(heap, (requests.waste(rest).cost - now.cost, len(held), bucket))
            continue
        removed.append(CurvePoint(bucket, loss / (now.cost + loss), now))
        held, now = rest, requests.waste(rest)
    curve = [CurvePoint(largest, 0.0, now), *reversed(removed)]
    enough = [n for n, point in enumerate(curve[:max_buckets], start=1) if n == 1 or point.gain >= min_gain]
    return _choice(requests, [point.bucket for point in curve[: enough[-1]]], curve[: enough[-1] + _BEYOND])


def grid(requests: Requests | None, *, max_rows: int, max_tokens: int, max_buckets: int) -> Choice:
    """Rows by doubling and widths evenly spaced, for a manual profile; judged where there is traffic."""
    widths = max(1, max_buckets // max(1, len(choose_buckets(max_rows=max_rows, max_tokens=1, widths=1))))
    buckets = choose_buckets(max_rows=max_rows, max_tokens=max_tokens, widths=min(8, widths))[-max_buckets:]
    if requests is None:
        empty = Waste(0, 0, 0)
        return Choice(buckets, [CurvePoint(b, 0.0, empty) for b in buckets], [0.0] * len(buckets))
    whole = requests.waste(buckets)
    return _choice(requests, buckets, [CurvePoint(b, 0.0, whole) for b in buckets])


def round_up(tokens: int) -> int:
    """Tokens rounded up to a multiple of 8."""
    return max(-(-tokens // TOKEN_STEP) * TOKEN_STEP, TOKEN_STEP)


def _possible(requests: Requests, max_rows: int, max_tokens: int) -> list[Bucket]:
    widths = sorted({round_up(int(tokens)) for tokens in np.unique(requests.all_lengths)} | {max_tokens})
    if len(widths) > _MOST_WIDTHS:
        places = np.quantile(requests.all_lengths, np.linspace(0, 1, _MOST_WIDTHS))
        widths = sorted({round_up(int(np.ceil(place))) for place in places} | {max_tokens})
    rows = [1]
    while rows[-1] < max_rows:
        rows.append(min(max(rows[-1] * 2, SMALLEST_ROWS), max_rows))
    return [(r, t) for r in rows for t in widths if t <= max_tokens]


def _choice(requests: Requests, buckets: list[Bucket], curve: list[CurvePoint]) -> Choice:
    spent = dict.fromkeys(buckets, 0)
    for rows, tokens in requests.batches(buckets):
        spent[rows, tokens] += rows * tokens + LAUNCH_TOKENS
    ordered = sorted(buckets)
    total = sum(spent.values())
    return Choice(ordered, curve, [spent[bucket] / total for bucket in ordered])
