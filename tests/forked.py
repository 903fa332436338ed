"""What a fork does to an open pipeline; run as a process of its own by ``tests/test_forks.py``.

Prints one line for the child and one for the parent, and fails loudly otherwise.
"""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np
import pytest

from searchpipe.errors import ForkedError
from searchpipe.pipeline import Pipeline
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened


def chain() -> EngineChain:
    """The C++ scorer with its worker thread, over an engine in Python."""
    from searchpipe import _core

    def compute(ids: np.ndarray, mask: np.ndarray, types: np.ndarray | None, out: np.ndarray) -> None:
        out[:] = 1.0

    return EngineChain([Link("host", lambda: Opened(_core.HostExecutor(compute, [(4, 16)]), lambda: None))])


def in_child(pipeline: Pipeline, folder: str, config: str) -> None:
    for call in (lambda: pipeline.search("shoes"), lambda: asyncio.run(pipeline.asearch("shoes"))):
        with pytest.raises(ForkedError, match="after the fork"):
            call()
    pipeline.close()
    with Pipeline.open(folder, config) as own:
        assert len(own.search("shoes", budget_ms=10_000)) > 0
    print("child done", flush=True)


def main(folder: str, config: str) -> None:
    scorers = chain()
    pipeline = Pipeline.open(folder, config)
    pipeline.warm_up()
    asyncio.run(pipeline.asearch("shoes"))
    child = os.fork()
    if not child:
        in_child(pipeline, folder, config)
        del pipeline, scorers
        sys.exit(7)  # an ordinary end: every destructor and atexit function that there is
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    assert len(pipeline.search("shoes", budget_ms=10_000)) > 0
    pipeline.close()
    scorers.close()
    print("parent done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
