"""Scores of the teacher for millions of pairs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from searchpipe.arrays import Float32, Int32
from searchpipe.train.bert import CrossEncoder
from searchpipe.train.pairs import PairTokens, padded


@torch.inference_mode()
def score_lists(
    model: CrossEncoder,
    pairs: PairTokens,
    queries: Int32,
    lists: Int32,
    *,
    dtype: torch.dtype,
    max_query: int = 32,
    max_doc: int = 128,
    batch_tokens: int = 400_000,
    seconds: float = float("inf"),
    say: Callable[[str], None] = lambda _: None,
) -> Float32:
    """Logits float32 ``(n, c)`` of the lists ``(n, c)`` for the queries ``(n,)``.

    NaN for lists that ``seconds`` did not suffice for.

    Lists are taken in their order in portions, within which pairs are sorted by length.
    ``batch_tokens`` is the size of one run, padding included.
    """
    device = next(model.parameters()).device
    count, size = lists.shape
    out = np.full(lists.shape, np.nan, np.float32)
    portion = max(1, 262_144 // size)
    begin = time.perf_counter()
    for start in range(0, count, portion):
        if time.perf_counter() - begin > seconds:
            say(f"teacher: stopped by the time limit after {start} of {count} lists")
            break
        part = slice(start, min(start + portion, count))
        doc = torch.from_numpy(lists[part].astype(np.int64)).to(device).reshape(-1)
        query = torch.from_numpy(queries[part].astype(np.int64)).to(device).repeat_interleave(size)
        lengths = pairs.lengths(query, doc, max_query, max_doc)
        order = lengths.argsort()
        widths = lengths[order].cpu().numpy()
        logits = torch.empty(len(order), device=device)
        first = 0
        while first < len(order):
            rows = max(1, batch_tokens // padded(int(widths[min(len(widths) - 1, first + 4095)])))
            last = min(first + min(rows, 4096), len(order))
            chosen = order[first:last]
            width = padded(int(widths[last - 1]))
            inputs = pairs.inputs(query[chosen], doc[chosen], max_query, max_doc, width)
            logits[chosen] = model(*inputs, dtype)
            first = last
        out[part] = logits.view(-1, size).cpu().numpy()
        spent = time.perf_counter() - begin
        say(f"teacher: {part.stop * size:,} of {lists.size:,} pairs, {part.stop * size / spent:,.0f}/s")
    return out
