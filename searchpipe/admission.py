"""Admission control: which service a query gets by when it would be done. Pure policy with an injected clock.

A query that would come too late at the end of the queue gets a lighter service, because a service is what
the queue consists of; only what would be late even with the lightest one is turned away, before it has
waited for nothing and made those behind it late as well.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn

from searchpipe.allotment import Allotment, Forecasts, Service
from searchpipe.cost_model import CostModel
from searchpipe.deadline import Clock
from searchpipe.errors import OverloadedError
from searchpipe.forecast_errors import ForecastErrors
from searchpipe.spare_time import SpareTime

PATIENCE = 0.1
"""Share of its budget that a query may wait before those that run are asked to come to an end for it."""
_LIGHTEST_TIMES = 4.0
"""Times the lightest service that a budget must be for its answer to say whether others will be late."""
_ROOM = 1.25
"""Times the cost of an unscored query that there must be before scoring is begun: for a few pairs."""
_MEMORY_S = 0.5
"""Time constant of the arrival rate: long for one burst, short for a change of load."""
_FULL_S = 0.01
"""Seconds for which one refusal answers for others, at most: predictions change."""
_BACKLOG = 2
"""Waiting queries a thread from which on all get the lightest service until they are through."""
_PATIENT = 2.0
"""Times the time that full answers to all who wait take that must be left for one; more after congestion."""
_PLACES = 0.75
"""Share of the places that may be taken for that: before the last one is, answers get lighter."""
_WAITED = 0.5
"""Share of its budget whose waiting is such a sign."""


@dataclass(slots=True, frozen=True)
class _Full:
    """One that was turned away: what it says of others holds until ``until``."""

    until: float
    end: float
    due: float
    remaining: float
    priority: int


class Admission:
    """The policy of one queue. Whoever calls it holds ``lock``, which is the queue's, but for ``turn_away``.

    Counters may be read by any thread.

    The costs of whole queries, by service, are exponentially weighted means of those that ended lately.
    As long as nothing is known, everything is admitted in full. A query that meets an idle thread is never
    turned away: then it is not the load that makes it late.

    One that is refused, or has waited for half of its budget, is a sign of congestion
    (:class:`searchpipe.spare_time.SpareTime`). Whoever has far more time than full answers to all who wait
    take gets one, whatever the rate is, unless the next one waiting has not.

    Args:
        threads: queries that run at once.
        places: queries that wait at most.
        clock: seconds; the one that ``due`` is meant on.

    Attributes:
        lock: of the queue.
        errors: of predictions, and what is kept free for them.
        admitted: queries that began, by the label of their service.
        shed: queries turned away, by where: ``arrival``, ``waiting`` (late by the time it was their turn).
    """

    def __init__(self, threads: int, clock: Clock = time.perf_counter, *, places: float = math.inf) -> None:
        self.lock = threading.Lock()
        self._threads = threads
        self._places = places
        self._clock = clock
        self._costs = CostModel(rise=0.1, fall=0.1, margin=0.0, clock=clock)
        self._means: dict[Service, float | None] = dict.fromkeys(Service)
        self._relaxed = dict.fromkeys(Service, -math.inf)
        self._running: set[Allotment] = set()
        self._outside = 0
        self._full: _Full | None = None
        self.errors = ForecastErrors()
        self._arrivals = 0.0  # decayed
        self._arrived_at = clock()
        self._spare = SpareTime(threads, self._arrived_at)
        self.admitted: Counter[str] = Counter({service.label: 0 for service in Service})
        self.shed: Counter[str] = Counter({"arrival": 0, "waiting": 0})

    def cost(self, service: Service) -> float | None:
        """Mean seconds that a query of this service took lately; None if none was seen."""
        return self._means[service]

    @property
    def rate(self) -> float:
        """Arrivals a second, lately."""
        return self._arrivals * math.exp((self._arrived_at - self._clock()) / _MEMORY_S) / _MEMORY_S

    @property
    def forecasts(self) -> Forecasts:
        """Of the time from arrival to end."""
        return self.errors.forecasts

    @property
    def running(self) -> int:
        """Queries that have begun and not ended."""
        return len(self._running)

    def turn_away(self, budget_ms: float, priority: int = 0) -> None:
        """Refuse now what ``asearch`` would refuse, where that is known already. Any thread, any time.

        For services, before they parse a request or make a task: under overload most calls are refused,
        and what that costs is taken from those that are answered. Not where results are cached, because
        a page that is kept costs nothing.

        Raises:
            OverloadedError: as ``asearch`` would.
        """
        due = self._clock() + budget_ms / 1e3
        with self.lock:
            self.full(due, priority)

    def full(self, due: float, priority: int = 0) -> None:
        """Turn a newcomer away at next to no cost, if one like it was turned away just before.

        When the one before would have been done is when one that is due later, or has no more time left,
        would be done at the soonest: until then, and without a higher priority, it would be late as well.

        Raises:
            OverloadedError: as :meth:`arriving` would.
        """
        before = self._full
        if before is None:
            return
        now = self._clock()
        if now >= before.until:
            self._full = None
            return
        alike = priority <= before.priority and (due >= before.due or due - now <= before.remaining)
        if alike and self.errors.late_s(before.end, now, due) > 0:
            self._arrived(now)
            self._refused(now, before.end - due)

    def arriving(self, due: float, ahead: int, outside: int = 0, priority: int = 0) -> float:
        """A newcomer: when it would be done with the lightest service.

        Args:
            due: when it must be done; ``inf`` for no limit.
            ahead: waiting queries that are more urgent.
            outside: queries that run on threads of other people; they are load too.
            priority: higher goes first; of the query.

        Raises:
            OverloadedError: every thread is taken and it would not be done in time.
        """
        now = self._clock()
        self._arrived(now)
        self._outside = outside
        each = self.cost(Service.LIGHTEST) or 0.0
        self._spare.earn(now, self._servers)
        end = self._start(now, ahead, each, PATIENCE * (due - now)) + each + self.errors.underestimate_s
        back = end + self.errors.way_back_s
        if len(self._running) + ahead >= self._threads and self.errors.late_s(back, now, due) > 0:
            self._spare.congested(now)
            self._full = _Full(now + _FULL_S, back, due, due - now, priority)
            self._refused(now, back - due)
        return end

    def _arrived(self, now: float) -> None:
        self._arrivals = 1.0 + self._arrivals * math.exp((self._arrived_at - now) / _MEMORY_S)
        self._arrived_at = now

    def _refused(self, now: float, late_s: float) -> NoReturn:
        self.shed["arrival"] += 1
        # What it would have cost may not be spent on doing more for others.
        self._relax(Service.LIGHTEST, now)
        each = self.cost(Service.LIGHTEST) or 0.0
        self._spare.spend(each)
        raise _overloaded("would be done too late even with the lightest service", late_s, each)

    def patient(self, remaining: float, waiting: int) -> bool:
        """Whether so many seconds are far more than full answers to all who wait take. Any thread."""
        if waiting > _PLACES * self._places:
            return False
        full = self.cost(Service.FULL) or 0.0
        return remaining * self._spare.share >= _PATIENT * full * (1 + waiting / self._servers)

    def presses(self, arrived: float, due: float, waiting: int) -> bool:
        """Whether the next of those who wait has waited for long and cannot for much longer. Any thread."""
        now = self._clock()
        return now - arrived > PATIENCE * (due - arrived) and not self.patient(due - now, waiting)

    def starting(
        self, due: float, waiting: int, *, arrived: float = math.inf, next_due: float = math.inf
    ) -> Allotment:
        """It is a query's turn; ``ended`` must follow.

        Args:
            due: when it must be done; ``inf`` for no limit.
            waiting: queries that wait behind it.
            arrived: when it came; ``inf`` if that is not known.
            next_due: when the most urgent of those behind it must be done.

        Raises:
            OverloadedError: it can only be late, and others wait who need not be.
        """
        now = self._clock()
        lightest = self.cost(Service.LIGHTEST)
        if waiting and lightest is not None and now + lightest + self.errors.way_back_s > due:
            self.shed["waiting"] += 1
            self._spare.congested(now)
            raise _overloaded("waited too long to be done in time", now + lightest - due, lightest)
        self._spare.earn(now, self._servers)
        if self.patient(min(due, next_due) - now, waiting):
            allotment = Allotment(Service.FULL, math.inf, now, self.cost(Service.FULL) or 0.0)
        else:
            if now - arrived > _WAITED * (due - arrived):
                self._spare.congested(now)
            allotment = self._allot(now, due - now, waiting)
        self._spare.spend(allotment.planned_s)
        self._running.add(allotment)
        self.admitted[allotment.service.label] += 1
        return allotment

    def ended(self, allotment: Allotment, *, done: bool = True) -> None:
        """The query is through; ``done``: with an answer, which its cost is learnt from."""
        self._running.discard(allotment)
        seconds = max(0.0, self._clock() - allotment.began)
        self._spare.settle(allotment.planned_s - seconds)
        if done:
            self._costs.observe(allotment.service.label, 1, seconds)
            self._means[allotment.service] = self._costs.predict(allotment.service.label, 1)

    def answered(self, budget_s: float, left_s: float) -> None:
        """A caller goes on with a light answer; of its budget so much is left, negative if it is late.

        One that had hardly time for even that says nothing about others. Any thread.
        """
        if budget_s >= _LIGHTEST_TIMES * (self.cost(Service.LIGHTEST) or 0.0) + self.errors.way_back_s:
            self.errors.answered(late=left_s < 0)

    @property
    def _servers(self) -> int:
        """Threads that can be counted on; those who search outside take the same cores."""
        return max(1, self._threads - self._outside)

    def _start(self, now: float, ahead: int, each: float, patience_s: float) -> float:
        """When a thread would be free for the one behind ``ahead`` queries of ``each`` seconds.

        Those that run are expected to end with their scoring once somebody has waited for ``patience_s``.
        """
        unscored = self._cost_or_lighter(Service.UNSCORED)
        free = [now] * self._servers
        for one in self._running:
            left = one.began + (self.cost(one.service) or 0.0) - now
            if one.service <= Service.SHORTENED:
                left = min(left, max(patience_s, one.began + unscored - now))
            heapq.heapreplace(free, free[0] + max(0.0, left))
        for _ in range(ahead):
            heapq.heapreplace(free, free[0] + each)
        return free[0]

    def _allot(self, now: float, remaining: float, waiting: int) -> Allotment:
        """The richest service that is affordable, by its own cost lately, and done in time."""
        full = self.cost(Service.FULL)
        if math.isinf(remaining) or full is None:
            return Allotment(Service.FULL, math.inf, now, full or 0.0)
        fair = self._spare.fair_s(self._servers, self.rate)
        affordable = max(fair, self._spare.saved_s)
        unscored = self._cost_or_lighter(Service.UNSCORED)
        if waiting >= _BACKLOG * self._threads:
            return self._lightest(now)
        if remaining < unscored:
            if not waiting and unscored <= affordable:  # its budget is short, not the threads' time
                return Allotment(Service.FULL, math.inf, now, unscored)
            return self._lightest(now)
        if remaining >= _ROOM * unscored:
            wanted = min(full, remaining)
            if wanted <= affordable:
                return Allotment(Service.FULL, math.inf, now, wanted)
            self._relax(Service.FULL, now)
            shortened = self._cost_or_lighter(Service.SHORTENED)
            if fair >= _ROOM * unscored and shortened <= affordable:
                return Allotment(Service.SHORTENED, fair, now, shortened)
            self._relax(Service.SHORTENED, now)
        if unscored <= affordable:
            return Allotment(Service.UNSCORED, math.inf, now, unscored)
        self._relax(Service.UNSCORED, now)
        return self._lightest(now)

    def _lightest(self, now: float) -> Allotment:
        return Allotment(Service.LIGHTEST, math.inf, now, self.cost(Service.LIGHTEST) or 0.0)

    def _cost_or_lighter(self, service: Service) -> float:
        """Of the service, or of the next lighter one that has been seen, which is the least it can be."""
        for known in range(service, len(Service)):
            cost = self.cost(Service(known))
            if cost is not None:
                return cost
        return 0.0

    def _relax(self, service: Service, now: float) -> None:
        """A service refused for its cost teaches nothing: it is tried again after some seconds."""
        if now - self._relaxed[service] < 1.0:  # the cost model's own limit, asked for at less cost
            return
        self._relaxed[service] = now
        self._costs.relax(service.label, 1)
        self._means[service] = self._costs.predict(service.label, 1)


def _overloaded(why: str, late_s: float, least_s: float) -> OverloadedError:
    return OverloadedError(
        f"Too many queries at once: this one {why}, by {max(0.0, late_s) * 1e3:.0f} ms.",
        cure="Try again later, give it a larger budget, or raise pipeline.threads.",
        retry_after_s=max(late_s, least_s, 0.001),
    )
