"""``[live]``: how new snapshots, engines and settings take over, and when they are taken back."""

from __future__ import annotations

from typing import Annotated

import msgspec

from searchpipe.settings import Settings

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)]
_Pause = Annotated[float, msgspec.Meta(ge=0.01, le=86_400.0)]
_Ratio = Annotated[float, msgspec.Meta(ge=1.0)]
_Ms = Annotated[float, msgspec.Meta(ge=0.0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Budget = Annotated[float, msgspec.Meta(gt=0.0, le=600_000.0)]


class CheckSettings(Settings, frozen=True):
    """``[live.check]``: golden queries, asked of the new version before anybody else asks it.

    Refused is a version that raises, whose stages fail, or that gives a score that is not finite.

    Attributes:
        queries: the golden queries; if empty, those asked most recently.
        budget_ms: of each.
        min_overlap: least mean rank-biased overlap with the live version's pages, 0 to 1; 0 only records it.
        max_emptied: largest share of the queries that the live version finds something for and the new
            one nothing.
        latency_ratio: largest ratio of the medians, new over live ...
        latency_slack_ms: ... after this many milliseconds that are always allowed.
    """

    queries: tuple[str, ...] = ()
    budget_ms: _Budget = 2000.0
    min_overlap: _Share = 0.0
    max_emptied: _Share = 0.5
    latency_ratio: _Ratio = 3.0
    latency_slack_ms: _Ms = 20.0


class ShadowSettings(Settings, frozen=True):
    """``[live.shadow]``: live queries that the new version answers too, for nobody, on a thread of its own.

    Attributes:
        share: of the queries, 0 to 1; 0 for none.
        seconds: it lasts at most, however few queries come.
        queries: it ends after so many.
        queue: that wait for the shadow at most; what comes when it is full is not shadowed.
        max_failed: largest share of them that may fail.
        latency_ratio: largest ratio of the ninth deciles, new over live ...
        latency_slack_ms: ... after this many milliseconds that are always allowed.
    """

    share: _Share = 0.1
    seconds: _Seconds = 5.0
    queries: _Positive = 50
    queue: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    max_failed: _Share = 0.02
    latency_ratio: _Ratio = 3.0
    latency_slack_ms: _Ms = 20.0


class WatchSettings(Settings, frozen=True):
    """``[live.watch]``: the new version's trial, after which it counts as good.

    The band is what the version before it did just before the switch.

    Attributes:
        seconds: the trial lasts; 0 for none, and no automatic rollback.
        window_s: seconds that are looked at.
        min_samples: queries without which nothing is decided. Where fewer came in the window, the
            latest so many are looked at.
        p99_ratio: P99 may grow by this factor ...
        p99_slack_ms: ... and by this many milliseconds.
        max_errors: the share of errors may grow by this; what is the caller's mistake does not count.
        max_degraded: the share of degraded answers may grow by this.
        strikes: breaches in a row after which the version is taken back.
        every_s: seconds between two looks.
        cool_down_s: seconds after a rollback in which nothing new is taken on by itself.
    """

    seconds: _Seconds = 300.0
    window_s: _Pause = 30.0
    min_samples: Annotated[int, msgspec.Meta(ge=1, le=8192)] = 200
    p99_ratio: _Ratio = 2.0
    p99_slack_ms: _Ms = 10.0
    max_errors: _Share = 0.01
    max_degraded: _Share = 0.1
    strikes: _Positive = 3
    every_s: _Pause = 1.0
    cool_down_s: _Seconds = 600.0


class LiveSettings(Settings, frozen=True):
    """``[live]``: of a :class:`searchpipe.live.LivePipeline`; a plain pipeline does not read it.

    Attributes:
        state: folder for the last good version and the history; empty for none, so that nothing
            survives the process (``searchpipe serve --watch`` then has a folder of its own).
        poll_s: seconds between two looks at the pointers, when they are followed.
        keep_s: seconds that the version before is kept open, ready to take over; after that a
            rollback opens it again. 0 where two do not fit into memory for long.
        max_closing: replaced versions that may still be answering their last queries; with more,
            nothing new is taken on.
    """

    state: str = ""
    poll_s: _Pause = 5.0
    keep_s: _Seconds = 300.0
    max_closing: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    check: CheckSettings = CheckSettings()
    shadow: ShadowSettings = ShadowSettings()
    watch: WatchSettings = WatchSettings()
