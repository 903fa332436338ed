"""``[cache]``: answers and vectors that are kept to be given again."""

from __future__ import annotations

from typing import Annotated

import msgspec

from searchpipe.settings import Settings

_Entries = Annotated[int, msgspec.Meta(ge=0, le=100_000_000)]


class CacheSettings(Settings, frozen=True):
    """``[cache]``: both caches are off by default; each pipeline has its own.

    Attributes:
        results_entries: pages that are kept; 0 for no result cache.
        results_mb: megabytes (2**20 bytes) that they take at most, whichever limit comes first.
        results_ttl_s: seconds after which a page is computed again; 0 for never, as a pipeline's answers
            do not change as long as its stages read nothing but the query and the snapshot.
        embeddings_entries: queries whose vector is kept; 0 for no embedding cache.
    """

    results_entries: _Entries = 0
    results_mb: Annotated[float, msgspec.Meta(gt=0.0, le=1_000_000.0)] = 64.0
    results_ttl_s: Annotated[float, msgspec.Meta(ge=0.0, le=31_536_000.0)] = 0.0
    embeddings_entries: _Entries = 0
