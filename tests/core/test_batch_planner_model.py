"""The batch planner step by step against a plain model, for padded and for packed rows."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planner_reference import (
    LENGTHS,
    PATIENCE,
    TICKS,
    Limits,
    ReferencePlanner,
    Waiting,
    lengths_of,
    planner_of,
)

from searchpipe._core import PlannedBatch


class AgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ids = 0
        self.start(False)

    @initialize(packed=st.booleans())
    def start(self, packed: bool) -> None:
        self.limits = Limits(packed=packed)
        self.planner = planner_of(self.limits)
        self.model = ReferencePlanner(self.limits)

    @rule(seconds=TICKS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(lengths=LENGTHS, patience=PATIENCE, priority=st.integers(-1, 2))
    def add(self, lengths: list[int], patience: float, priority: int) -> None:
        self.ids += 1
        deadline = self.now + patience
        admission = self.planner.add(
            self.ids, lengths_of(*lengths), now=self.now, deadline=deadline, priority=priority
        )
        assert admission.code == self.model.add(self.ids, lengths, self.now, deadline, priority)
        assert bool(admission) == admission.accepted == (admission.reason == "")

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.integers(1, self.ids))
        assert self.planner.cancel(request) == self.model.cancel(request)

    @rule()
    def expire(self) -> None:
        assert self.planner.expire(self.now) == self.model.expire(self.now)

    @rule(flush=st.booleans())
    def next_batch(self, flush: bool) -> None:
        before = {one.id: (one, one.next_row) for one in self.model.queue}
        first = next(iter(self.model.order(self.now)), None)
        decision = self.planner.next_batch(self.now, flush=flush)
        expected = self.model.next_batch(self.now, flush)
        if isinstance(decision, float):
            assert decision == expected
            assert decision > self.now
            for one in self.model.order(self.now):
                rows = min(one.left, self.model.fit(one))
                alone = self.model.seconds(self.model.places(one, rows))
                assert decision <= min(one.arrival + self.limits.max_delay_s, one.deadline - alone)
            return
        parts = [(part.request, part.first_row, part.rows) for part in decision.parts]
        assert (parts, decision.width, decision.tokens) == expected
        assert first is not None
        self.check_promises(decision, before, first)

    def check_promises(
        self, batch: PlannedBatch, before: dict[int, tuple[Waiting, int]], first: Waiting
    ) -> None:
        limits = self.limits
        assert batch.parts[0].request == first.id
        assert 1 <= batch.rows == sum(part.rows for part in batch.parts) <= limits.max_rows
        places = batch.tokens if limits.packed else batch.rows * batch.width
        assert batch.padded_tokens == places <= limits.token_budget
        assert batch.estimated_s == self.model.seconds(batch.padded_tokens)
        rows = width = tokens = 0
        for part in batch.parts:
            one, next_row = before[part.request]
            assert part.first_row == next_row
            assert one.deadline > self.now
            rows += part.rows
            width = max(width, one.lengths[part.first_row])
            tokens += sum(one.lengths[part.first_row : part.first_row + part.rows])
            alone = self.now + self.model.seconds(tokens if limits.packed else rows * width)
            if alone <= one.deadline:  # it was still in time when it joined, so it must be in the end
                assert self.now + batch.estimated_s <= one.deadline
        assert width == batch.width

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.planner) == len(self.model.queue)
        assert self.planner.queued_rows == sum(one.left for one in self.model.queue)
        assert self.planner.queued_tokens == sum(sum(one.lengths[one.next_row :]) for one in self.model.queue)


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
