"""``[serve]``: the limits of the HTTP service."""

from __future__ import annotations

from typing import Annotated

import msgspec

from searchpipe.settings import Settings

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)]


class ServeSettings(Settings, frozen=True):
    """``[serve]``: where the service listens and what it bears.

    Queries that run and wait are bounded by ``pipeline.threads`` and ``pipeline.max_waiting``;
    what goes beyond is answered with 503.

    Attributes:
        host: address to listen on; the default is reachable from this machine alone.
        port: 0 for any that is free.
        max_body_bytes: of a request; 413 beyond it.
        body_timeout_s: seconds in which a request's body must have come; 408 beyond it.
        max_requests: in flight at once, waiting ones included; 503 beyond it.
        max_per_client: requests of one address at once; 429 beyond it. 0 for no limit, as behind a
            proxy, where all callers have the proxy's address.
        max_budget_ms: longest budget that a request may ask for, in milliseconds.
        drain_delay_s: seconds after SIGTERM during which requests are still taken while
            ``/health/ready`` says no, for load balancers that look only now and then.
        drain_timeout_s: seconds that running requests have to finish.
        page: serve the search page at ``/``.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=16_777_216)] = 65_536
    body_timeout_s: _Seconds = 10.0
    max_requests: _Positive = 512
    max_per_client: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_budget_ms: Annotated[float, msgspec.Meta(gt=0.0, le=600_000.0)] = 10_000.0
    drain_delay_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 0.0
    drain_timeout_s: _Seconds = 30.0
    page: bool = True
