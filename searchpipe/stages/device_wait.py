"""What a query does while recall's device searches, and the moment that it has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol, cast

from searchpipe.arrays import Float32, Int32
from searchpipe.runtime.begun_scores import Fusion
from searchpipe.stages.base import Work
from searchpipe.stages.early_search import EarlySearch
from searchpipe.stages.head_plan import HeadPlan, plan_head, plannable
from searchpipe.stages.head_start import fused
from searchpipe.stages.rehearsal import Rehearsal

_LONGEST_TRIAL_S = 1e-3
"""What is learnt of one that took longer."""
_TRIAL_MARGIN, _BEFORE_END_S = 1.25, 3e-5
"""A trial is to be over shortly before the device is done: what it warms cools within fractions of a
millisecond."""


class AwaitedDevice(Protocol):
    """A device that searches, for the query's thread."""

    def left(self) -> float:
        """Seconds that it may still take; 0 once it is done, or the query's time is up."""
        ...

    def wait(self, seconds: float) -> bool:
        """Whether it is done, after at most ``seconds``."""
        ...


class ReadingStage(Protocol):
    """A later stage that can be tried on what is known of the candidates: it has ``read_ahead``.

    Attributes:
        name: as the stage's.
        reads: as the stage's.
    """

    name: str
    reads: tuple[str, ...]

    def read_ahead(self, work: Work) -> None:
        """Do, up to the point where a device is given something, what :meth:`run` will do soon.

        Code and data are in the processor's caches then. ``work`` is a copy that is thrown away
        (:class:`searchpipe.stages.rehearsal.Rehearsal`), with candidates that may not be the query's in the
        end. At most some 100 us, on the query's thread, which waits for recall's device. What it raises is
        ignored.
        """
        ...


class Source(Protocol):
    """As of recall."""

    name: str

    def ready(self, work: Work) -> bool:
        """Whether it can answer."""
        ...


class Followers:
    """The stages after recall, as far as they can do something before their turn. Any thread.

    Args:
        sources: of recall.
        stages: those after it, in their order.
        fusion: of what the sources find.

    Attributes:
        trial_s: seconds that trying ahead takes lately.
    """

    def __init__(self, sources: Sequence[Source], stages: Sequence[object], fusion: Fusion) -> None:
        self.sources = sources
        self.readers = [cast(ReadingStage, stage) for stage in stages if hasattr(stage, "read_ahead")]
        self.heads = plannable(stages)
        self.fusion = fusion
        self.trial_s = 0.0


class DeviceWait:
    """One query's wait for one source. Belongs to its thread.

    Args:
        followers: of the pipeline.
        work: the query.
        early: what was begun before recall's turn, by source.
        awaited: the source.
    """

    __slots__ = ("_awaited", "_early", "_followers", "_plan", "_work")

    def __init__(self, followers: Followers, work: Work, early: Mapping[str, object], awaited: str) -> None:
        self._followers = followers
        self._work = work
        self._early = early
        self._awaited = awaited
        self._plan: HeadPlan | None = None

    def use(self, device: AwaitedDevice) -> None:
        """Work on what other threads search; plan the next steps, and try them if there is time.

        A plan is worth its time if the device is done already, too: without it each stage has its own glue.
        """
        for begun in self._early.values():
            if isinstance(begun, EarlySearch):
                begun.help(self._work.allowance())
                begun.await_others(device.left())
        followers, work = self._followers, self._work
        found, complete = self._found()
        if complete and followers.heads:
            with suppress(Exception):  # then it is done without
                self._plan = plan_head(work, found, followers.fusion, followers.heads)
        if not (followers.readers and any(one is not None for one in found.values())):
            return
        if (left := device.left()) > followers.trial_s:
            early = left - followers.trial_s * _TRIAL_MARGIN - _BEFORE_END_S
            if early > 0.0 and device.wait(early):
                return
            since = time.perf_counter()
            if self._plan is not None:
                self._plan.rehearse()
            else:
                self._read_ahead(found)
            took = min(time.perf_counter() - since, _LONGEST_TRIAL_S)  # another thread may have had the core
            followers.trial_s += (took - followers.trial_s) / 8

    def over(self, docs: Int32, scores: Float32) -> None:
        """The device has answered, and now waits: what was planned goes first."""
        if self._plan is not None:
            self._work.head = self._plan.go(self._work, docs, scores)

    def _found(self) -> tuple[dict[str, tuple[Int32, Float32] | None], bool]:
        """What each source has found, None if it has not; and whether only the awaited one has not."""
        found: dict[str, tuple[Int32, Float32] | None] = {}
        complete = True
        for source in self._followers.sources:
            if source.name == self._awaited:
                found[source.name] = None
            elif source.ready(self._work):
                begun = self._early.get(source.name)
                found[source.name] = its = begun.found() if isinstance(begun, EarlySearch) else None
                complete = complete and its is not None
        return found, complete

    def _read_ahead(self, found: Mapping[str, tuple[Int32, Float32] | None]) -> None:
        """Fuse what was found, again for each source that has not answered, and let the readers see it."""
        work = self._work
        some = next(one for one in found.values() if one is not None)
        trial = Rehearsal(work)
        lists = {name: one or some for name, one in found.items()}
        trial.candidates = fused(lists, self._followers.fusion)
        for reader in self._followers.readers:
            if reader.name not in work.query.without and all(map(trial.holds, reader.reads)):
                trial.stage = reader.name
                with suppress(Exception):
                    reader.read_ahead(trial)
