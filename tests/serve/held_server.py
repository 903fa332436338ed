"""A server of its own process, whose queries wait for a file: ``python -m tests.serve.held_server``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from searchpipe.pipeline import Pipeline
from searchpipe.serve.run import serve
from searchpipe.serve.settings import ServeSettings
from searchpipe.stages.base import Work
from tests.fakes.hashed_stages import Hold, hashed_pipeline


class HeldByFile(Hold):
    """Warming up goes through; a query for ``wait`` waits until the file is there."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def run(self, work: Work) -> None:
        if work.query.text != "wait":
            return
        self._file.with_suffix(".entered").touch()
        while not self._file.exists():
            time.sleep(0.01)


def main(snapshot: str, file: str, delay_s: str) -> bool:
    def open_pipeline() -> Pipeline:
        return hashed_pipeline(Path(snapshot), hold=HeldByFile(Path(file)))

    settings = ServeSettings(port=0, drain_delay_s=float(delay_s), drain_timeout_s=20.0)
    return serve(open_pipeline, settings, listening=lambda address: print(address, flush=True))


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
