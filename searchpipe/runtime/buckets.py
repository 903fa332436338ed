"""Which batch shapes an engine is prepared for: (rows, tokens).

Of padded rows ``tokens`` is the width of every row, of packed rows the number of all together.
"""

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
# Packed rows: a query and a title are rarely fewer tokens, so batches end by their tokens, not by their rows.
SHORT_ROW = 16
SMALLEST_PACKED = 128


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


def choose_packed_buckets(
    *, max_rows: int = 256, longest_row: int = 128, token_step: int = 1024
) -> list[Bucket]:
    """Choose buckets of packed rows: tokens by doubling up to ``token_step``, then by steps of it.

    A batch wastes half a step on average, so a smaller step pads less; each costs one captured
    graph, ``max_rows * longest_row / token_step`` of them in all.

    Args:
        max_rows: of one batch.
        longest_row: tokens, special tokens included.
        token_step: tokens.

    Returns:
        Buckets in ascending order; the last is (max_rows, max_rows x longest_row).

    Raises:
        ConfigError: a count below 1.
    """
    if max_rows < 1 or longest_row < 1 or token_step < 1:
        raise ConfigError(
            f"max_rows is {max_rows}, longest_row {longest_row} and token_step {token_step}; "
            "each must be 1 or more."
        )
    most = max_rows * longest_row
    counts = {most}
    small = SMALLEST_PACKED
    while small < min(token_step, most):
        counts.add(small)
        small *= 2
    counts.update(range(token_step, most, token_step))

    def rows(tokens: int) -> int:
        return min(max(-(-tokens // longest_row), tokens // SHORT_ROW, SMALLEST_ROWS), max_rows)

    return [(rows(tokens), tokens) for tokens in sorted(counts)]


def _row_counts(max_rows: int) -> Sequence[int]:
    counts = []
    rows = min(SMALLEST_ROWS, max_rows)
    while rows < max_rows:
        counts.append(rows)
        rows *= 2
    return [*counts, max_rows]


def _round_up(tokens: int) -> int:
    return max(-(-tokens // TOKEN_STEP) * TOKEN_STEP, TOKEN_STEP)
