"""The stopwatches of benchmarks.host_timeline change nothing and leave nothing behind."""

from __future__ import annotations

import math

from benchmarks.host_timeline import ways
from searchpipe.pipeline import Pipeline
from searchpipe.stages.recall import Recall
from tests.conftest import World
from tests.runtime.gpu_world import Config


def test_every_query_is_on_some_way_and_its_steps_add_up(world: World, gpu_config: Config) -> None:
    run = Recall.run
    with Pipeline.open(world.snapshot, gpu_config()) as pipeline:
        texts = world.queries[:5]
        before = [[hit.id for hit in pipeline.search(text, budget_ms=math.inf)] for text in texts]
        found = ways(pipeline, texts, 4)
        assert [[hit.id for hit in pipeline.search(text, budget_ms=math.inf)] for text in texts] == before
    assert sum(way.queries for way in found) == 20
    assert found[0].queries == max(way.queries for way in found)
    assert Recall.run is run
    for way in found:
        assert way.steps[0].name.startswith("query .. ")
        assert way.steps[-1].name.endswith(" .. answer")
        assert all(0.0 <= step.p10 <= step.p50 <= step.p90 for step in way.steps)
        names = " ".join(step.name for step in way.steps)
        assert "encoder asked >" in names
        assert "dense search put behind >" in names
        if way.queries == 1:
            assert abs(sum(step.p50 for step in way.steps) - way.seconds) < 1e-6
