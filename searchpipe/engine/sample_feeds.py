"""Batches of a model's inputs from drawn samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from searchpipe.arrays import Array, Int32
from searchpipe.engine.agreement import Feeds
from searchpipe.engine.calibration import Sample, as_pairs
from searchpipe.engine.recipe import Task
from searchpipe.errors import RecipeError

if TYPE_CHECKING:
    from searchpipe.catalog import Snapshot

MakeFeeds = Callable[[Sequence[Sample]], tuple[Feeds, Array]]
"""Inputs of a batch, and for each of their rows the place of its sample."""

Batch = tuple[Feeds, list[int]]
"""Inputs, and the place of each row's sample."""


class RankerInputs(Protocol):
    """Computes a feature ranker's inputs; called from many threads."""

    def feeds(self, pairs: Sequence[tuple[str, int]]) -> Mapping[str, Array]:
        """Inputs of (query, document) pairs, by name, a row for each pair."""
        ...


OpenRanker = Callable[["Snapshot", Path], RankerInputs]
"""Makes a ranker's inputs for a snapshot and an exported model."""


def batches(
    samples: Sequence[Sample], make: MakeFeeds, rows: int, lengths: Int32 | None, seed: int
) -> Iterator[Batch]:
    """Batches of ``rows`` samples of like length, in random order, with the place of each row's sample.

    Args:
        samples: in any order.
        make: builds the inputs.
        rows: of a batch.
        lengths: tokens of each sample's row; None where all have one length.
        seed: of the order.
    """
    order = np.arange(len(samples)) if lengths is None else np.argsort(lengths, kind="stable")
    starts = np.random.default_rng(seed).permutation(range(0, len(order), rows))
    for start in starts.tolist():
        places = order[start : start + rows]
        feeds, inner = make([samples[place] for place in places])
        yield feeds, [int(places[row]) for row in inner]


class FeedMaker:
    """Turns samples into the inputs of the recipe's model. Safe from many threads.

    Args:
        task: of the recipe.
        tokenizer: of the model; None for a ranker.
        snapshot: the documents; None for queries alone.
        max_tokens: longest row.
        prefix: put before a query's text.
        ranker: computes a feature ranker's inputs.

    Raises:
        RecipeError: the snapshot was tokenized for another model, or a ranker's inputs are missing.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Path | None,
        snapshot: Snapshot | None,
        max_tokens: int,
        *,
        prefix: str = "",
        ranker: RankerInputs | None = None,
    ) -> None:
        from searchpipe.engine.rows import PairRows, QueryRows

        self._task = task
        self._prefix = prefix
        self._pairs: PairRows | None = None
        self._queries: QueryRows | None = None
        if task == "query":
            assert tokenizer is not None
            self._queries = QueryRows(tokenizer, max_tokens)
        elif task == "pair":
            assert tokenizer is not None
            assert snapshot is not None
            self._pairs = PairRows(snapshot, tokenizer, max_tokens)
        elif ranker is None:
            raise RecipeError("There is nothing that computes the ranker's features.")
        self._ranker = ranker

    def feeds(self, samples: Sequence[Sample]) -> tuple[Feeds, Array]:
        """Inputs of ``samples``, and the place of each row's sample."""
        if self._queries is not None:
            texts = [self._prefix + sample.query for sample in samples]
            return self._queries.feeds(texts), np.arange(len(samples))
        if self._ranker is not None:
            return dict(self._ranker.feeds(as_pairs(samples))), np.arange(len(samples))
        assert self._pairs is not None
        return self._pairs.feeds(as_pairs(samples))

    def lengths(self, samples: Sequence[Sample]) -> Int32 | None:
        """Tokens of each sample's row: int32 [n]; None for a ranker, whose rows have one length."""
        if self._ranker is not None:
            return None
        if self._queries is not None:
            return np.array([self._queries.length(self._prefix + s.query) for s in samples], np.int32)
        assert self._pairs is not None
        found = [
            int(self._pairs.lengths(sample.query, np.array([sample.doc], np.int32))[0]) for sample in samples
        ]
        return np.array(found, np.int32)
