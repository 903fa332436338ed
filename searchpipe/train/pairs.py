"""Batches of pairs put together on the device: [CLS] query [SEP] document [SEP]."""

from __future__ import annotations

import torch
from torch import Tensor

from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.train.texts import Tokens

STEP = 8  # rows are padded to a multiple of so many tokens: attention kernels want it


class PairTokens:
    """Token ids of all queries and products on one device; gives the model's inputs for any pairs.

    The layout and the cuts are those of the C++ packer. Any thread may call anything.
    """

    def __init__(self, tokenizer: TextTokenizer, queries: Tokens, docs: Tokens, device: torch.device) -> None:
        self._cls, self._sep, self._pad = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.queries = torch.from_numpy(queries.ids.astype("int64")).to(device)
        self.docs = torch.from_numpy(docs.ids.astype("int64")).to(device)
        self.query_lengths = torch.from_numpy(queries.lengths.astype("int64")).to(device)
        self.doc_lengths = torch.from_numpy(docs.lengths.astype("int64")).to(device)

    def lengths(self, query: Tensor, doc: Tensor, max_query: int, max_doc: int) -> Tensor:
        """Tokens of each pair, special ones included: int64 ``(n,)``."""
        return self.query_lengths[query].clamp_max(max_query) + self.doc_lengths[doc].clamp_max(max_doc) + 3

    def inputs(
        self, query: Tensor, doc: Tensor, max_query: int, max_doc: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``ids``, ``types`` (int64) and ``mask`` (bool), each ``(n, width)``, for parallel places.

        ``width`` must be at least the longest of :meth:`lengths`.
        """
        asked = self.query_lengths[query].clamp_max(max_query)[:, None]
        read = self.doc_lengths[doc].clamp_max(max_doc)[:, None]
        place = torch.arange(width, device=query.device)[None]
        left = self.queries[query].gather(
            1, (place - 1).clamp(0, self.queries.shape[1] - 1).expand(len(query), width)
        )
        right = self.docs[doc].gather(1, (place - asked - 2).clamp(0, self.docs.shape[1] - 1))
        ids = torch.where(place <= asked, left, right)
        ids = torch.where((place == asked + 1) | (place == asked + read + 2), self._sep, ids)
        ids = torch.where(place == 0, self._cls, ids)
        mask = place < asked + read + 3
        ids = torch.where(mask, ids, self._pad)
        types = ((place > asked + 1) & mask).long()
        return ids, types, mask


def padded(longest: int) -> int:
    """``longest`` rounded up to a multiple of :data:`STEP`."""
    return -(-longest // STEP) * STEP
