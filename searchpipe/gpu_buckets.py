"""The batch shapes that a pipeline's models are prepared for, from its settings and its catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from searchpipe.runtime.buckets import Bucket, choose_buckets

if TYPE_CHECKING:
    from searchpipe import _core
    from searchpipe.arrays import Int32
    from searchpipe.config import ScoreSettings

_QUERY_WIDTHS = (16, 32, 64)  # tokens; queries are short
_QUERY_ROWS = (1, 2, 4, 8, 16, 32, 64)
_LONG_ROWS = (1, 8)  # of the rare queries above the last of those widths
_MERGED_ROWS = 256
"""Rows of a batch of pairs at least, so that the pairs of several callers share one."""
_MOST_ROWS = 1024
_TYPICAL_QUERY = 6  # tokens
_SPECIAL = 3  # [CLS] and two [SEP]
_SAMPLE = 20_000  # documents whose lengths are looked at


def encoder_buckets(max_tokens: int) -> list[Bucket]:
    """Buckets (rows, tokens) for queries of up to ``max_tokens`` tokens, special ones included."""
    widest = -(-max_tokens // 8) * 8
    short = [(rows, width) for width in _QUERY_WIDTHS if width < widest for rows in _QUERY_ROWS]
    longer = [2**power for power in range(7, widest.bit_length()) if 2**power < widest]
    return short + [(rows, width) for width in (*longer, widest) for rows in _LONG_ROWS]


def pair_buckets(tokens: _core.TokenStore, score: ScoreSettings, max_tokens: int) -> list[Bucket]:
    """Buckets (rows, tokens) for pairs of a typical query and the catalog's documents.

    Args:
        tokens: of the documents.
        score: how many pairs a query scores, and what is kept of them.
        max_tokens: that the model takes, special ones included.
    """
    longest = min(max_tokens, score.max_query_tokens + score.max_doc_tokens + _SPECIAL)
    rows = min(_MOST_ROWS, max(_MERGED_ROWS, -(-score.depth // 8) * 8))
    return choose_buckets(max_rows=rows, max_tokens=longest, lengths=_lengths(tokens, score, longest))


def _lengths(tokens: _core.TokenStore, score: ScoreSettings, longest: int) -> Int32:
    lengths = tokens.lengths()[:: max(1, len(tokens) // _SAMPLE)]
    cut = np.minimum(lengths, score.max_doc_tokens) + _TYPICAL_QUERY + _SPECIAL
    rows: Int32 = np.minimum(cut, longest).astype(np.int32)
    return rows
