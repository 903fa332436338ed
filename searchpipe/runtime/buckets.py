"""Which batch shapes an engine is prepared for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchpipe.arrays import Int32
from searchpipe.errors import ConfigError

Bucket = tuple[int, int]

# Tensor cores work on tiles of 8 half-precision values; a narrower step pads nothing less.
TOKEN_STEP = 8
# Row counts double: a batch wastes at most half its rows, and a planner that
# weighs measured times rarely needs a count in between.
SMALLEST_ROWS = 8


def choose_buckets(
    *,
    max_rows: int = 256,
    max_tokens: int = 128,
    lengths: Int32 | None = None,
    widths: int = 8,
) -> list[Bucket]:
    """Choose buckets (rows, tokens): row counts by doubling, widths by the lengths of real rows.

    Args:
        max_rows: of one batch.
        max_tokens: longest row, special tokens included.
        lengths: a sample of row lengths, int32 ``(n,)``. Widths are put where equal
            shares of it end, so that a sorted batch is padded least where most rows
            are; without it they are spread evenly.
        widths: how many different widths; each costs one captured graph a row count.

    Returns:
        Buckets in ascending order; the last is (max_rows, max_tokens rounded up to 8).

    Raises:
        ConfigError: a count below 1, or a length above max_tokens.
    """
    if max_rows < 1 or max_tokens < 1 or widths < 1:
        raise ConfigError(
            f"max_rows is {max_rows}, max_tokens {max_tokens} and widths {widths}; each must be 1 or more."
        )
    if lengths is not None and len(lengths) and int(lengths.max()) > max_tokens:
        raise ConfigError(
            f"A row of {int(lengths.max())} tokens is longer than max_tokens ({max_tokens}).",
            cure="Raise max_tokens, or lower the packer's.",
        )
    shares = np.arange(1, widths + 1) / widths
    ends = np.quantile(lengths, shares) if lengths is not None and len(lengths) else shares * max_tokens
    tokens = sorted({_round_up(int(np.ceil(end))) for end in ends} | {_round_up(max_tokens)})
    return sorted((rows, width) for rows in _row_counts(max_rows) for width in tokens)


def _row_counts(max_rows: int) -> Sequence[int]:
    counts = []
    rows = min(SMALLEST_ROWS, max_rows)
    while rows < max_rows:
        counts.append(rows)
        rows *= 2
    return [*counts, max_rows]


def _round_up(tokens: int) -> int:
    return max(-(-tokens // TOKEN_STEP) * TOKEN_STEP, TOKEN_STEP)
