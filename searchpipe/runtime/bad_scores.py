"""Whether an engine's scores are numbers."""

from __future__ import annotations

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32


def mostly_bad(scores: Float32, ticket: _core.Ticket) -> bool:
    """Whether at least half of the rows that were computed hold something that is no finite number."""
    if _core.all_finite(scores):
        return False
    bad = int(np.count_nonzero(~np.isfinite(scores).reshape(ticket.rows, -1).all(axis=1)))
    late = ticket.rows - ticket.scored  # NaN as they should be
    return ticket.scored > 0 and 2 * (bad - late) >= ticket.scored
