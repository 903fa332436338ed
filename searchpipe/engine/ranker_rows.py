"""A feature ranker's inputs for the factory's steps: pairs of query and document, as recall sees them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchpipe.arrays import Array
from searchpipe.stages.ranker_definition import load_definition
from searchpipe.stages.ranker_inputs import RankerInputs, empty_feeds

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config

_REMEMBERED = 512
"""Queries whose candidates are kept: about 100 kB each."""

_Table = tuple[dict[int, int], dict[str, Array]]


class RankerRows:
    """Inputs as the prerank stage would compute them. Safe from many threads.

    A document that recall does not find for a query is as one about which nothing is known.

    Args:
        snapshot: stays open, and must outlive this.
        model: ONNX file with its definition beside it.
        config: names the snapshot's encoder; the defaults if None.

    Raises:
        ModelError: the definition is missing, malformed or of other features.
    """

    def __init__(self, snapshot: Snapshot, model: Path, config: Config | None = None) -> None:
        from searchpipe.recalled import Recalled

        self._definition = load_definition(model.with_suffix(".json"))
        self._inputs = RankerInputs(snapshot.columns, snapshot.tokens, self._definition)
        self._recalled = Recalled(snapshot, config)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Table] = OrderedDict()

    def feeds(self, pairs: Sequence[tuple[str, int]]) -> Mapping[str, Array]:
        """``categories`` int64 ``[n, c]`` and ``dense`` float32 ``[n, d]`` of ``n`` pairs."""
        out = empty_feeds(self._definition, range(len(pairs)))
        for place, (text, doc) in enumerate(pairs):
            rows, values = self._table(text)
            row = rows.get(int(doc))
            if row is not None:
                for name, value in values.items():
                    out[name][place] = value[row]
        return out

    def _table(self, text: str) -> _Table:
        with self._lock:
            found = self._known.get(text)
            if found is not None:
                self._known.move_to_end(text)
                return found
            work = self._recalled.work(text)
            if work is None or work.candidates is None or not len(work.candidates):
                found = ({}, empty_feeds(self._definition, ()))
            else:
                docs = np.asarray(work.candidates.docs).tolist()
                found = ({doc: row for row, doc in enumerate(docs)}, self._inputs.feeds(work))
            self._known[text] = found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return found


def open_ranker(snapshot: Snapshot, model: Path) -> RankerRows:
    """Open a ranker's inputs; see :func:`searchpipe.engine.steps.load_steps`."""
    return RankerRows(snapshot, model)
