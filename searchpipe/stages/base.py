"""The protocol of a stage, and the state of one query that stages read and write."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from searchpipe import _core
from searchpipe.deadline import QueryCancelled
from searchpipe.page import Degradation, Hit

if TYPE_CHECKING:
    from searchpipe.arrays import Float32, Int32
    from searchpipe.candidates import Candidates
    from searchpipe.cost_model import CostModel
    from searchpipe.deadline import Deadline
    from searchpipe.query import Query
    from searchpipe.runtime.device_vectors import DeviceVector
    from searchpipe.stage_breakers import StageBreakers
    from searchpipe.stages.head_start import HeadStart

SLOTS = ("tokens", "pair_tokens", "vector", "candidates", "hits")
"""The slots of :class:`Work` with a type of their own; a user's stage may name others, kept in ``extras``."""

_ELSE = -math.inf
"""When a deadline is due whose clock is not ``time.perf_counter``."""
_PLAIN = frozenset({int, float})


class Work:
    """One query on its way through the stages. Owned by one thread at a time.

    Attributes:
        query: what was asked.
        deadline: when the answer is due.
        costs: the pipeline's cost model; knows what this query has observed when it is asked for here.
        breakers: the pipeline's, for what a stage can do without; None outside of a pipeline.
        tokens: int32 ``(q,)``, the query's ids for the encoder, without special tokens; None until known.
        pair_tokens: the same for the cross-encoder.
        vector: float32 ``(d,)``, the query's embedding; None until known or if given up.
        device_vector: ``vector`` in device memory too, if the encoder left it there.
        device_place: where the encoder is writing that, while the running stage waits for it; else None.
        early: source -> what a stage began before its turn (:class:`EarlyStage`, :class:`PreparingStage`).
        head: what later stages did before their turn (:mod:`searchpipe.stages.head_start`); None if nothing.
        later: the stages after the running one that can prepare (:class:`PreparingStage`); set by the
            pipeline.
        candidates: best first; None until recalled.
        hits: the finished page; None until built.
        orders: source or stage -> int32 documents in the order that it gave them.
        extras: slots of the user's own stages.
        essential: whether the running stage is; set by the pipeline.
        reserve_s: seconds that later stages will need; set by the pipeline before each stage.
        reserves: the same of all stages, see :meth:`reserve_of`; set by the pipeline.
        shared: whether its time is also limited by what others need, so that :meth:`allowance_at` says more
            than the subtraction.
        units: what the running stage has done, in a unit of its own, for the trace; 0 if it counts nothing.
    """

    __slots__ = (
        "_costs",
        "_observed",
        "breakers",
        "candidates",
        "deadline",
        "decision",
        "degradations",
        "device_place",
        "device_vector",
        "early",
        "essential",
        "extras",
        "head",
        "hits",
        "later",
        "longest_step_s",
        "marked",
        "moved",
        "orders",
        "pair_tokens",
        "query",
        "reserve_s",
        "reserves",
        "shared",
        "stage",
        "tokens",
        "units",
        "vector",
    )

    def __init__(self, query: Query, deadline: Deadline, costs: CostModel) -> None:
        self.query = query
        self.deadline = deadline
        self._costs = costs
        self._observed: list[tuple[str, float, float]] | None = None  # not yet told; None: tell at once
        self.breakers: StageBreakers | None = None
        self.tokens: Int32 | None = None
        self.pair_tokens: Int32 | None = None
        self.vector: Float32 | None = None
        self.device_vector: DeviceVector | None = None
        self.device_place: DeviceVector | None = None
        self.candidates: Candidates | None = None
        self.hits: list[Hit] | None = None
        self.orders: dict[str, Int32] = {}
        self.moved: dict[int, str] = {}
        self.extras: dict[str, Any] = {}
        self.early: dict[str, Any] = {}
        self.head: HeadStart | None = None
        self.later: Sequence[PreparingStage] = ()
        self.degradations: list[Degradation] = []
        self.longest_step_s = 0.0
        self.marked = deadline.start if deadline.due != _ELSE else time.perf_counter() - deadline.elapsed()
        self.reserve_s = 0.0
        self.reserves: tuple[Mapping[str, int], Sequence[float]] = {}, ()  # places, and seconds by place
        self.shared = False
        self.units = 0
        self.stage = ""
        self.essential = True
        self.decision = ""

    @property
    def costs(self) -> CostModel:
        if self._observed:
            self.gather_costs(True)
        return self._costs

    def observe(self, kind: str, size: float, seconds: float) -> None:
        """Tell the cost model of a step: in a pipeline of many at once, before this query asks it again."""
        observed = self._observed
        if observed is None or type(size) not in _PLAIN or type(kind) is not str:
            self.costs.observe(kind, size, seconds)
        else:
            observed.append((kind, size, seconds))

    def gather_costs(self, gather: bool) -> None:
        """Tell the cost model what was kept; from now on keep it until somebody asks, or tell it at once."""
        if self._observed:
            self._costs.observe_many(self._observed)
        self._observed = [] if gather else None

    def allowance(self) -> float:
        """Seconds that this stage may still plan on: what is left, less what later stages need."""
        return self.deadline.remaining() - self.reserve_s

    def reserve_of(self, stage: str) -> float:
        """Seconds that the stages after ``stage`` will need."""
        places, seconds = self.reserves
        place = places.get(stage)
        return self.reserve_s if place is None else seconds[place]

    def allowance_of(self, stage: str) -> float:
        """As :meth:`allowance`, if ``stage`` were the one that runs now."""
        kept = self.stage, self.reserve_s
        self.stage, self.reserve_s = stage, self.reserve_of(stage)
        try:
            return self.allowance()
        finally:
            self.stage, self.reserve_s = kept

    def allowance_at(self, elapsed: float) -> float:
        """As :meth:`allowance`, for who knows already how many seconds of the query have passed."""
        return self.deadline.budget_s - elapsed - self.reserve_s

    def holds(self, slot: str) -> bool:
        """Whether the slot has been filled."""
        if slot in SLOTS:
            return getattr(self, slot) is not None
        return slot in self.extras

    def degrade(self, reason: str, given_up: str, amount: float = 1.0) -> None:
        """Record that the running stage gave something up; ``reason`` is one of ``deadline.REASONS``."""
        self.degradations.append(Degradation(self.stage, reason, given_up, min(1.0, max(0.0, amount))))

    def prepare_later(self) -> None:
        """Let the later stages make ready what they can, for a stage that waits for a device meanwhile.

        Once a stage that waits; nothing is prepared before the slots that it reads are filled. What they
        raise is not an answer's business: they do everything when their turn comes.
        """
        later, self.later = self.later, ()
        if self.deadline.cancelled:
            return
        if self._observed:
            self.gather_costs(True)
        for stage in later:
            if stage.name not in self.query.without and all(self.holds(slot) for slot in stage.reads):
                with suppress(Exception):
                    stage.prepare(self)

    def step(self, kind: str, size: float, *, optional: bool | None = None) -> _Step:
        """Time one uninterruptible piece of work of ``size``, for the trace and the cost model.

        ``optional`` says whether an answer could do without it; by default, whether the
        stage is not essential.

        Raises:
            QueryCancelled: before it starts, if the caller has left.
        """
        if self.deadline.cancelled:
            raise QueryCancelled
        if not self.essential if optional is None else optional:
            # As `mark`, without the call: there are more steps in a query than anything else.
            now = time.perf_counter()
            if now - self.marked > self.longest_step_s:
                self.longest_step_s = now - self.marked
            self.marked = now
        else:
            now = self.mark()
        return _core.made(_Step, self, kind, size, now)

    def mark(self, *, choice: bool = False) -> float:
        """End one uninterruptible stretch of work and begin the next; returns the time in seconds.

        Once the budget is spent, what an answer cannot do without belongs to the
        step that spent it. Only the ``choice`` to start something else begins a
        new stretch then, and makes the answer later than it had to be.
        """
        now = time.perf_counter()
        if now - self.marked > self.longest_step_s:
            self.longest_step_s = now - self.marked
        if choice or now < self.deadline.due or self.deadline.remaining() > 0:
            self.marked = now
        return now

    def lap(self) -> float:
        """:meth:`mark`, in seconds since the query began on the clock of its deadline."""
        deadline = self.deadline
        due = deadline.due
        if due == _ELSE:
            end = deadline.elapsed()
            self.mark()
            return end
        now = time.perf_counter()
        if now - self.marked > self.longest_step_s:
            self.longest_step_s = now - self.marked
        if now < due:
            self.marked = now
        return now - deadline.start

    @contextmanager
    def waiting(self, timeout_s: float) -> Iterator[None]:
        """Waiting with a time-out is no stretch of work: it ends by itself. Overrunning it is one."""
        begin = self.mark()
        try:
            yield
        finally:
            waited = min(time.perf_counter() - begin, max(0.0, timeout_s))
            self.marked += waited
            self.mark()


class _Step:
    """A timed piece of work; a class because a generator would cost as much as the timing. One thread."""

    __slots__ = __match_args__ = ("_work", "_kind", "_size", "_begin")  # the order in which `made` fills them
    _work: Work
    _kind: str
    _size: float
    _begin: float

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, raised: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        work = self._work
        now = time.perf_counter()
        if now < work.deadline.due:  # as `mark`
            if now - work.marked > work.longest_step_s:
                work.longest_step_s = now - work.marked
            work.marked = now
        else:
            work.mark()
        work.observe(self._kind, self._size, now - self._begin)


@runtime_checkable
class Stage(Protocol):
    """One stage. ``run`` is called from many threads at once, each with its own :class:`Work`.

    Attributes:
        name: unique in the pipeline; the key of its share, its scores and its span.
        reads: slots that must be filled before it can run.
        writes: slots that it fills.
        essential: run it even when the budget is spent, because there is no answer without it.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    essential: bool

    def run(self, work: Work) -> None:
        """Read and write slots of ``work``; raise anything, and the pipeline degrades."""
        ...

    def describe(self) -> str:
        """One line: what it does with which settings."""
        ...


@runtime_checkable
class EarlyStage(Protocol):
    """A stage that can begin before its turn, because a part of it needs nothing of the stages before it."""

    def start_early(self, work: Work) -> None:
        """Begin on another thread and leave what was begun in ``work.early``; called before the first stage.

        It must return at once and write no slot. What it raises is not an answer's
        business: ``run`` then does everything itself.
        """
        ...


@runtime_checkable
class PreparingStage(Protocol):
    """A stage with a part that can be done while the thread waits for the device of an earlier stage.

    Told apart from a stage that happens to have a method of this name by ``prepares``. It may rehearse, too:
    :class:`searchpipe.stages.rehearsal.RehearsingStage`.

    Attributes:
        name: as the stage's.
        reads: as the stage's: until these slots are filled there is nothing to prepare.
        prepares: true.
    """

    name: str
    reads: tuple[str, ...]
    prepares: bool

    def prepare(self, work: Work) -> None:
        """Make ready what does not depend on what the running stage will give.

        Called on the query's own thread, perhaps never and at most once while each of the stages before it
        waits (encode, score), which ``work.stage`` names. It writes no slot, degrades nothing and keeps
        what it finds beside the candidates (:meth:`searchpipe.candidates.Candidates.carry`), which may have
        another order when ``run`` comes, or be others altogether. What it raises is ignored.
        """
        ...
