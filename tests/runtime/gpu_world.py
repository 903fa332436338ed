"""What the tests of a whole pipeline with [gpu] have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from searchpipe.pipeline import Pipeline
from tests.conftest import World

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def on_cpu(world: World) -> Iterator[Pipeline]:
    with Pipeline.open(world.snapshot, {**world.config, "gpu": {"use": "never"}}) as pipeline:
        yield pipeline


def ids(page: Any) -> list[str]:
    return [hit.id for hit in page]
