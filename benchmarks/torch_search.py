"""The whole work for several queries at once in PyTorch, with what costs time on the host left out.

As a batching server's model function: half precision, scaled dot-product attention, pairs of all
queries sorted by length and cut into passes of about equal tokens, tokenized on all cores.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.capacity_search import Ranked
from benchmarks.capacity_world import PeerWorld
from benchmarks.peer_sentence import best
from searchpipe.arrays import Float32, Int64

_SEPARATOR = 102  # [SEP] of bert-base-uncased


class TorchSearch:
    """Any thread may call ``answer``; one at a time is best.

    Args:
        world: models, texts and vectors.
        pass_tokens: padded tokens of one forward pass at most.
    """

    def __init__(self, world: PeerWorld, *, pass_tokens: int = 16_384) -> None:
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        tokenizers: Any = importlib.import_module("tokenizers")
        self._kind = self._torch.float16 if world.gpu else self._torch.float32

        def opened(maker: Any, folder: Any) -> Any:
            made = maker.from_pretrained(folder, dtype=self._kind, attn_implementation="sdpa")
            return made.to(world.device).eval()

        self._encoder = opened(transformers.AutoModel, world.encoder)
        self._scorer = opened(transformers.AutoModelForSequenceClassification, world.cross_encoder)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(world.cross_encoder / "tokenizer.json"))
        self._tokenizer.enable_truncation(world.max_tokens)
        self._world = world
        self._pass_tokens = pass_tokens
        self.queries = self.batches = 0
        self.real_tokens = self.padded_tokens = 0

    def answer(self, texts: Sequence[str]) -> list[Ranked]:
        """Encode, recall, score and sort each of ``texts``."""
        world, count = self._world, self._world.candidates
        with self._torch.inference_mode():
            rows = world.index.search(self._vectors(texts), count)
            pairs = [
                (text, document)
                for text, found in zip(texts, rows, strict=True)
                for document in world.texts.of(found.tolist())
            ]
            scores = self._scores(pairs).reshape(len(texts), count)
        self.queries += len(texts)
        self.batches += 1
        return [best(found, one) for found, one in zip(rows, scores, strict=True)]

    def _vectors(self, texts: Sequence[str]) -> Float32:
        ids, mask = self._padded([found.ids for found in self._tokenizer.encode_batch(list(texts))])
        states = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask[:, :, None].float()
        vectors = (states * weights).sum(1) / weights.sum(1)
        found: Float32 = self._torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return found

    def _scores(self, pairs: list[tuple[str, str]]) -> Float32:
        rows = [found.ids for found in self._tokenizer.encode_batch(pairs)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        order = np.argsort(-lengths, kind="stable")
        parts, start = [], 0
        while start < len(order):
            width = int(lengths[order[start]])
            stop = start + max(1, self._pass_tokens // width)
            some = [rows[row] for row in order[start:stop]]
            ids, mask = self._padded(some)
            self.real_tokens += int(lengths[order[start:stop]].sum())
            self.padded_tokens += width * len(some)
            parts.append(
                self._scorer(
                    input_ids=ids, attention_mask=mask, token_type_ids=self._second(ids)
                ).logits.reshape(-1)
            )
            start = stop
        scores = np.empty(len(rows), np.float32)
        scores[order] = self._torch.cat(parts).float().cpu().numpy()
        return scores

    def _padded(self, rows: list[list[int]]) -> tuple[Any, Any]:
        """Ids and mask ``(n, longest)`` on the device."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        ids: Int64 = np.zeros(mask.shape, np.int64)
        ids[mask] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
        place = self._torch.from_numpy
        return place(ids).to(self._world.device), place(mask.astype(np.int64)).to(self._world.device)

    def _second(self, ids: Any) -> Any:
        """1 for the tokens of the document, behind the query's separator."""
        separators = (ids == _SEPARATOR).long()
        return ((separators.cumsum(1) - separators) == 1).long()
