"""What a signal's handler raises in a query on a GPU takes nothing away from the queries after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from searchpipe.pipeline import Pipeline
from tests.conftest import World
from tests.fakes.moments import moments

# In a destructor, where Python drops it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("begin", range(3))
def test_the_next_answers_are_whole(
    world: World, gpu_config: Callable[..., dict[str, Any]], begin: int
) -> None:
    with Pipeline.open(world.snapshot, gpu_config("auto")) as pipeline:
        assert pipeline.gpu is not None
        encoder, scorer, recall = pipeline.gpu.encoder, pipeline.gpu.scorer, pipeline.gpu.recall
        assert encoder is not None
        assert scorer is not None
        assert recall is not None
        pipeline.warm_up()

        def ask() -> Any:
            return pipeline.search(world.queries[begin], budget_ms=60_000)

        before = ask()
        assert not before.degradations
        engines = [(chain, chain.serving, chain.fallbacks) for chain in (encoder.chain, scorer.chain)]
        for _ in moments(ask, begin=begin + 1, step=23):
            assert pipeline.load == (0, 0)
        after = ask()
        assert not after.degradations
        assert [hit.id for hit in after] == [hit.id for hit in before]
        for chain, serving, fallbacks in engines:
            assert (chain.serving, chain.fallbacks) == (serving, fallbacks)
            assert chain.forecaster is not None
            assert chain.forecaster.given_s == 0.0
            assert chain.scorer.stats().batches_in_flight == 0
