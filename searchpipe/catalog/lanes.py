"""Parts of a build side by side, each in order on a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

# Jobs that a lane holds: the one that runs and the one that it finds when that is done.
JOBS_HELD = 2


class Lane:
    """Jobs run one after the other by one thread, in the order that they came in.

    For one thread, which waits while the lane holds :data:`JOBS_HELD` jobs. ``owner`` stops the lane:
    the running job is waited for, those behind it are dropped.
    """

    def __init__(self, name: str, owner: ExitStack) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"searchpipe-build-{name}")
        self._held: deque[Future[None]] = deque()
        owner.callback(self._pool.shutdown, wait=True, cancel_futures=True)

    def put(self, job: Callable[[], None]) -> None:
        """Run ``job`` after those before it.

        Raises:
            Exception: whatever an earlier job raised; the lane is of no use then.

        """
        while len(self._held) >= JOBS_HELD or (self._held and self._held[0].done()):
            self._held.popleft().result()
        self._held.append(self._pool.submit(job))

    def wait(self) -> None:
        """Return when all jobs are done. Raises what one of them raised."""
        while self._held:
            self._held.popleft().result()
