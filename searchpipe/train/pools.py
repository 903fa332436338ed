"""Candidates for made queries: what lexical and dense recall would bring, and easier ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from searchpipe.arrays import Int32
from searchpipe.train.texts import Product, Tokens

# Of a list: how many from the best of the fused order, from the rest of its top, like the
# source product, of its category, and at random. The rest of a list comes from the second.
_BEST, _NEAR, _KIN, _RANDOM = 0.28, 0.12, 0.10, 0.16
_TOP, _SURE = 100, 12
_K1, _B, _RRF = 1.2, 0.75, 60.0
_BATCH = 256
_SPARE = 1.6  # candidates drawn per one kept, because the same product is drawn twice


class CandidatePool:
    """Draws candidates from BM25 and latent semantic vectors over the products' word pieces.

    Both orders are joined by reciprocal rank fusion, as in the pipeline. ``device`` holds a
    dense ``(pieces in use, products)`` float32 matrix. One thread at a time.
    """

    def __init__(
        self,
        products: Sequence[Product],
        docs: Tokens,
        device: torch.device,
        seed: int,
        *,
        dimensions: int = 128,
    ) -> None:
        self._device = device
        self._count = len(products)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._rng = np.random.default_rng(seed)
        used, places = np.unique(docs.ids, return_inverse=True)
        self._slot = np.full(max(int(docs.ids.max()), 31000) + 1, -1, np.int64)
        self._slot[used] = np.arange(len(used))
        self._slot[0] = -1  # padding
        flat = torch.from_numpy(
            places.reshape(docs.ids.shape).astype(np.int64) * self._count + np.arange(self._count)[:, None]
        )
        real = torch.from_numpy(np.arange(docs.ids.shape[1]) < docs.lengths[:, None])
        counts = torch.zeros(len(used) * self._count)
        counts.index_add_(0, flat[real], torch.ones(int(real.sum())))
        tf = counts.view(len(used), self._count).to(device)
        present = (tf > 0).sum(1).float()
        idf = torch.log(1 + (self._count - present + 0.5) / (present + 0.5))[:, None]
        length = torch.from_numpy(docs.lengths.astype(np.float32)).to(device)
        norm = _K1 * (1 - _B + _B * length / length.mean())
        self._bm25 = idf * tf * (_K1 + 1) / (tf + norm)
        weighted = torch.log1p(tf) * idf
        weighted /= weighted.norm(dim=0).clamp_min(1e-6)
        torch.manual_seed(seed)
        left, _, right = torch.svd_lowrank(weighted, q=min(dimensions, *weighted.shape), niter=2)
        self._pieces = left * idf
        self._vectors = torch.nn.functional.normalize(right, dim=1)
        self._leaf: dict[str, list[int]] = defaultdict(list)
        for place, product in enumerate(products):
            self._leaf[product.category[-1] if product.category else ""].append(place)
        self._leaf_of = [product.category[-1] if product.category else "" for product in products]

    def draw(self, queries: Tokens, sources: Sequence[int], size: int) -> Int32:
        """``size`` different products for each query, its source first: int32 ``(n, size)``."""
        drawn = [
            self._batch(
                queries.ids[start : start + _BATCH], np.asarray(sources[start : start + _BATCH]), size
            )
            for start in range(0, len(queries), _BATCH)
        ]
        return np.concatenate(drawn)

    def _batch(self, ids: Int32, sources: np.ndarray, size: int) -> Int32:
        rows = len(ids)
        top = self._fused(ids)
        near = self._like(torch.from_numpy(sources).to(self._device))
        best, some, kin, odd = (max(1, round(size * share)) for share in (_BEST, _NEAR, _KIN, _RANDOM))
        columns = [
            sources[:, None],
            self._some(top[:, :_SURE], best),
            self._some(near, some),
            np.stack([self._rng.choice(self._leaf[self._leaf_of[source]], kin) for source in sources]),
            self._rng.integers(self._count, size=(rows, odd)),
            self._some(top[:, _SURE:], int(size * _SPARE)),
            self._rng.integers(self._count, size=(rows, size)),
        ]
        return _different(np.concatenate(columns, axis=1), size)

    def _fused(self, ids: Int32) -> Tensor:
        slots = torch.from_numpy(self._slot[np.minimum(ids, len(self._slot) - 1)]).to(self._device)
        known = (slots >= 0)[..., None]
        slots = slots.clamp_min(0)
        lexical = torch.zeros(len(ids), self._count, device=self._device)
        vectors = torch.zeros(len(ids), self._pieces.shape[1], device=self._device)
        for place in range(slots.shape[1]):
            lexical += self._bm25[slots[:, place]] * known[:, place]
            vectors += self._pieces[slots[:, place]] * known[:, place]
        similar = torch.nn.functional.normalize(vectors, dim=1) @ self._vectors.T
        joined = torch.zeros_like(lexical)
        depth = min(_TOP * 2, self._count)
        gains = 1.0 / (_RRF + 1.0 + torch.arange(depth, device=self._device, dtype=torch.float32))
        for scores in (lexical, similar):
            order = scores.topk(depth, dim=1).indices
            joined.scatter_add_(1, order, gains.expand(len(ids), depth))
        return joined.topk(min(_TOP, self._count), dim=1).indices

    def _like(self, sources: Tensor) -> Tensor:
        return (self._vectors[sources] @ self._vectors.T).topk(min(24, self._count), dim=1).indices

    def _some(self, among: Tensor, count: int) -> np.ndarray:
        """``count`` different columns of each row, at random."""
        draw = torch.rand(among.shape, generator=self._generator, device=self._device)
        chosen = draw.topk(min(count, among.shape[1]), dim=1).indices
        return among.gather(1, chosen).cpu().numpy()


def _different(columns: np.ndarray, size: int) -> Int32:
    """The first ``size`` different values of each row, in their order."""
    order = np.argsort(columns, axis=1, kind="stable")
    ordered = np.take_along_axis(columns, order, 1)
    again = np.zeros(columns.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(again)
    np.put_along_axis(repeated, order, again, 1)
    keep = np.argsort(repeated, axis=1, kind="stable")[:, :size]
    return np.take_along_axis(columns, keep, 1).astype(np.int32)
