"""``[metrics]``: what is logged about queries."""

from __future__ import annotations

from typing import Annotated

import msgspec

from searchpipe.settings import Settings

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class QueryLogSettings(Settings, frozen=True):
    """``[metrics.log]``: one JSON line a query through the logger ``searchpipe.query``.

    Attributes:
        enabled: ``searchpipe serve`` logs in any case.
        sample: share of the answered queries that are logged, 0 to 1. Refused ones always are, unless
            the caller has left.
        texts: log what was typed; false where that is nobody's business.
    """

    enabled: bool = False
    sample: _Share = 0.01
    texts: bool = True


class SlowLogSettings(Settings, frozen=True):
    """``[metrics.slow]``: whole traces of slow queries, in a file that is rotated.

    Attributes:
        file: JSON lines; none if empty.
        threshold_ms: of the whole query, from which on it is slow.
        max_bytes: of one file, before it is rotated.
        backups: rotated files that are kept.
        texts: write what was typed.
    """

    file: str = ""
    threshold_ms: Annotated[float, msgspec.Meta(gt=0.0)] = 100.0
    max_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 10_000_000
    backups: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    texts: bool = True


class MetricsSettings(Settings, frozen=True):
    """``[metrics]``: what a pipeline tells about its queries beside the observers that it is given."""

    log: QueryLogSettings = QueryLogSettings()
    slow: SlowLogSettings = SlowLogSettings()
