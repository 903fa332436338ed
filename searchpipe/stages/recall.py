"""recall: candidates from several sources, filtered and fused into one order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.candidates import Candidates
from searchpipe.deadline import QueryCancelled
from searchpipe.errors import EngineError
from searchpipe.runtime.begun_scores import Fusion
from searchpipe.stages.base import Stage, Work
from searchpipe.stages.device_wait import AwaitedDevice, DeviceWait, Followers
from searchpipe.stages.early_search import DividedSearch
from searchpipe.stages.early_searches import EarlySearches
from searchpipe.stages.head_start import fused
from searchpipe.stages.source_trial import SourceTrial, resting

if TYPE_CHECKING:
    from searchpipe._core import SearchThreads


class RecallSource(Protocol):
    """One way to find candidates. ``search`` is called from many threads.

    A source with a true attribute ``early`` reads nothing of ``work`` but the query, so that it
    may be searched on another thread while earlier stages run; if it has a method ``divided`` as well,
    the query's thread works on that search, too (:class:`Lexical`). One with a method ``begin(work, depth)``
    may begin to search for ``work.device_place`` (:class:`searchpipe.recall.source.SharedDense`).
    """

    name: str

    def ready(self, work: Work) -> bool:
        """Whether the query carries what this source needs."""
        ...

    def search(self, work: Work, depth: int, mask: Bool | None) -> tuple[Int32, Float32]:
        """Up to ``depth`` documents of those with ``mask`` true, best first, with their scores."""
        ...


class Lexical:
    """BM25 over the analysed text."""

    name = "lexical"
    early = True

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index
        self._begin: Callable[..., DividedSearch] | None = getattr(index, "begin", None)

    def ready(self, work: Work) -> bool:
        """Text is always there."""
        return bool(work.query.text)

    def search(self, work: Work, depth: int, mask: Bool | None) -> tuple[Int32, Float32]:
        """Search the text."""
        return self._index.search(work.query.text, depth, mask=mask)

    def divided(self, work: Work, depth: int, mask: Bool | None) -> DividedSearch | None:
        """The same search, for several threads; None of an index that has none for that."""
        return None if self._begin is None else self._begin(work.query.text, depth, mask=mask)


class Dense:
    """Nearest neighbours of the query's vector."""

    name = "dense"

    def __init__(self, index: DenseIndex) -> None:
        self._index = index

    def ready(self, work: Work) -> bool:
        """Needs the vector, which encode may have given up."""
        return work.vector is not None

    def search(self, work: Work, depth: int, mask: Bool | None) -> tuple[Int32, Float32]:
        """Search by the vector."""
        assert work.vector is not None
        return self._index.search(work.vector, depth, mask=mask)


class LexicalIndex(Protocol):
    """What :class:`Lexical` needs; a snapshot's ``lexical`` is one.

    With a method ``begin`` that takes the same and returns a :class:`DividedSearch`, several threads search.
    """

    def search(self, text: str, k: int, *, mask: Bool | None = None) -> tuple[Int32, Float32]:
        """Best ``k`` documents first."""
        ...


class DenseIndex(Protocol):
    """What :class:`Dense` needs; a snapshot's ``dense`` is one."""

    def search(self, vector: Float32, k: int, *, mask: Bool | None = None) -> tuple[Int32, Float32]:
        """Best ``k`` documents first."""
        ...


class BegunSearch(Protocol):
    """A search of one source that runs before recall's turn; ``join`` it once, on the query's thread.

    Attributes:
        ahead: whether the device runs it behind the encoder; else it runs on another thread.
    """

    ahead: bool

    def answers(self, work: Work) -> bool:
        """Whether its result will be this query's; if not, it is dropped."""
        ...

    def join(
        self,
        work: Work,
        *,
        optional: bool,
        meanwhile: Callable[[AwaitedDevice], None] | None = None,
        then: Callable[[Int32, Float32], None] | None = None,
    ) -> tuple[Int32, Float32] | None:
        """Wait for the result; None of an ``optional`` source that is later than ``work`` allows.

        ``meanwhile`` is called once before a device is waited for; ``then`` with the result of a device, the
        moment that it is there. What they raise is ignored.
        """
        ...


class Recall:
    """Fills ``candidates`` from every source that is ready; one that fails is left out, and said.

    Scores of a source are kept under its name, the fused ones under ``fused``.

    Args:
        sources: asked in this order; the first one that is ready is asked even when time is short.
        mask_of: filters -> bool ``(count,)`` of the documents they allow; None for all.
        depth: candidates wanted of each source; never fewer than the page needs.
        fusion: ``rrf`` (reciprocal rank fusion, Cormack et al. 2009) or ``weighted`` (min-max normalised).
        weights: source name -> weight; 1 where none is given.
        rrf_k: the constant of RRF.
        pool: threads for sources that may be searched early; None to search one source after the other.
        threads: of the core, for those of them that can be shared (:class:`EarlySearches`).
        helpers: of these, for one search at most.
    """

    name = "recall"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("candidates",)
    essential = True
    prepares = True

    def __init__(
        self,
        sources: Sequence[RecallSource],
        mask_of: Callable[[Mapping[str, Any]], Bool | None],
        *,
        depth: int = 300,
        fusion: str = "rrf",
        weights: Mapping[str, float] | None = None,
        rrf_k: float = 60.0,
        pool: Executor | None = None,
        threads: SearchThreads | None = None,
        helpers: int = 1,
    ) -> None:
        self._early = EarlySearches(pool, threads, helpers) if pool is not None else None
        self._waiting: str | None = None
        self._sources = list(sources)
        self._early_sources = [source for source in self._sources if getattr(source, "early", False)]
        self._mask_of = mask_of
        self._depth = depth
        self._fusion = fusion
        self._weights = dict(weights or {})
        self._rrf_k = rrf_k
        self._fusion_rule = Fusion(self._weights, "rrf" if fusion == "rrf" else "minmax", rrf_k)
        self._followers = Followers(self._sources, (), self._fusion_rule)

    def preceded_by(self, stages: Sequence[Stage]) -> None:
        """Begin early searches once one of the earlier ``stages`` waits for its device; before any query.

        What goes before the first device's work delays a lone query by all of its time.
        """
        self._waiting = next((stage.name for stage in stages if getattr(stage, "leaves_time", False)), None)

    def followed_by(self, stages: Sequence[object]) -> None:
        """Let those of the later ``stages`` read ahead that can (:class:`ReadingStage`); before any query."""
        self._followers = Followers(self._sources, stages, self._fusion_rule)

    def end_early(self) -> None:
        """Keep no thread of ``pool`` waiting for searches, before it is shut down. Idempotent."""
        if self._early is not None:
            self._early.close()

    def start_early(self, work: Work) -> None:
        """Begin to search the sources that need only the query, unless an earlier stage will soon wait."""
        if self._waiting is None or self._waiting in work.query.without:
            self._begin_early(work)

    def _begin_early(self, work: Work) -> None:
        """Begin what is not begun of the sources that need only the query, if there are threads for that."""
        threads, query = self._early, work.query
        if threads is None:
            return
        sources = [source for source in self._early_sources if source.name not in work.early]
        if not sources:
            return
        mask = self._mask_of(query.filters) if query.filters else None
        if mask is not None and not mask.any():
            return
        depth = query.k if query.k > self._depth else self._depth
        for source in sources:
            if source.ready(work) and not resting(source.name, work):
                work.early[source.name] = threads.begin(source, work, depth, mask)

    def prepare(self, work: Work) -> None:
        """Begin the searches that need no more than the query, or can follow the encoder on the device.

        Called on the thread that has begun the encoder's batch and would only wait for it. Its time
        is the encode stage's, in which the device computes; :meth:`run` says which searches were begun here.
        The device's come first: if they are late, it waits.
        """
        self._begin_behind(work)
        with suppress(Exception):  # asked again in their turn
            self._begin_early(work)

    def _begin_behind(self, work: Work) -> None:
        """Begin the searches that can follow the encoder on the device, while it writes the vector."""
        if work.device_place is None or work.query.filters or work.allowance() <= 0.0:
            return
        depth = max(self._depth, work.query.k)
        for source in self._sources:
            begin = getattr(source, "begin", None)
            if begin is None or source.name in work.early or resting(source.name, work):
                continue
            if (work.costs.predict(source.name, depth) or 0.0) > work.deadline.remaining():
                continue
            with suppress(EngineError):  # asked again in its turn, which tells what it was
                if (begun := begin(work, depth)) is not None:
                    work.early[source.name] = begun

    def run(self, work: Work) -> None:
        """Ask the sources and fuse what they give."""
        with suppress(Exception):  # where none has waited; asked again below
            self._begin_early(work)
        mask = self._mask_of(work.query.filters) if work.query.filters else None
        if mask is not None and not mask.any():
            work.candidates = Candidates.empty()
            work.decision = "the filters match no product"
            return
        depth = max(self._depth, work.query.k)
        found: dict[str, tuple[Int32, Float32]] = {}
        failures: list[Exception] = []
        # Taken out of `work`, which they hold: a cycle would keep the query's memory until it is collected.
        early: dict[str, BegunSearch] = {}
        for source in self._sources:
            if source.name in work.early and (begun := work.early.pop(source.name)).answers(work):
                early[source.name] = begun
        turns = {name: 1 if begun.ahead else 2 for name, begun in early.items()}
        last = max(turns.values(), default=0)
        # What runs already is joined after the others, last what other threads run; what rests is asked only
        # if nothing else answers.
        for source in sorted(self._sources, key=lambda s: (resting(s.name, work), turns.get(s.name, 0))):
            if not source.ready(work):
                continue
            begun = early.get(source.name)
            others = bool(found) or turns.get(source.name, 0) < last
            trial = SourceTrial(source.name, work)
            if not trial.admitted and found:
                work.degrade("circuit_open", f"{source.name} recall ({trial.reason})")
                continue
            if (
                begun is None
                and others
                and work.allowance() <= (work.costs.predict(source.name, depth) or 0.0)
            ):
                work.costs.relax(source.name, depth)
                trial.abandon()
                work.degrade("deadline", f"{source.name} recall")
                continue
            try:
                with trial:
                    if begun is not None:
                        if begun.ahead:
                            wait = DeviceWait(self._followers, work, early, source.name)
                            result = begun.join(work, optional=others, meanwhile=wait.use, then=wait.over)
                        else:
                            result = begun.join(work, optional=others)
                    else:
                        with work.step(source.name, depth, optional=others):
                            result = source.search(work, depth, mask)
                    if result is None:
                        work.degrade("deadline", f"{source.name} recall")
                        continue
                    docs, scores = result[0], np.asarray(result[1], np.float32)
                    if not _core.all_finite(scores):
                        work.degrade("bad_scores", f"{source.name} recall")
                        continue
            except QueryCancelled:
                raise
            except Exception as error:
                failures.append(error)
                work.degrade("stage_failed", f"{source.name} recall ({type(error).__name__}: {error})")
                continue
            found[source.name] = (docs, scores)
            work.orders[source.name] = docs
        # Emptied: their tracebacks hold this frame, a cycle that would keep the query's memory.
        if not found and failures:
            del failures[1:]
            raise EngineError("Every recall source failed.") from failures.pop()
        failures.clear()
        if len(found) > 1:
            found = {s.name: found[s.name] for s in self._sources if s.name in found}
        if (head := work.head) is not None and head.follows(found):
            work.candidates = head.fused
        else:
            work.candidates = fused(found, self._fusion_rule)
        work.orders["fused"] = work.candidates.docs
        counts = " + ".join(f"{len(docs)} {name}" for name, (docs, _) in found.items())
        work.decision = f"{counts or 'no source ready'} -> {len(work.candidates)}"
        if ahead := [name for name in found if turns.get(name) == 1]:
            work.decision += f" ({', '.join(ahead)} begun behind the encoder)"

    def describe(self) -> str:
        """One line: what it does with which settings."""
        names = " + ".join(s.name for s in self._sources)
        how = f"RRF k={self._rrf_k:g}" if self._fusion == "rrf" else "weighted sum of min-max scores"
        when = ", beside the stages before it where possible" if self._early is not None else ""
        return f"{names}, {self._depth} each, {how}{when}"
