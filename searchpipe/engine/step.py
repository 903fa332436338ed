"""What the factory's steps are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from searchpipe.engine.recipe import Recipe

Say = Callable[[str], None]
"""Takes one line of progress."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a finished step left behind.

    Attributes:
        files: role -> file in the step's folder, for example ``fp16`` -> ``.../convert/fp16.onnx``.
        facts: figures for later steps and the report; what JSON can hold.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one build is made from.

    Attributes:
        recipe: as read.
        recipe_folder: paths in the recipe start here.
        log: JSON Lines of queries, each ``{"query": str, ...}``; None if there is no log.
        snapshot: folder of a published snapshot; None for a recipe whose steps need none.
        labels: a file of relevance labels (see :mod:`searchpipe.evaluate.labels`); None for none.
        seed: of everything drawn that the recipe does not seed itself.
    """

    recipe: Recipe
    recipe_folder: Path
    log: Path | None = None
    snapshot: Path | None = None
    labels: Path | None = None
    seed: int = 7


@dataclass(slots=True)
class Build:
    """One build as a step sees it: inputs, what earlier steps left, and where to write.

    Attributes:
        inputs: what the build is made from.
        folder: this step's own, empty when it starts; published when the step returns.
        done: name of each earlier step -> what it left.
        say: progress, a line at a time.
    """

    inputs: Inputs
    folder: Path
    done: Mapping[str, StepOutput]
    say: Say = print


class Step(Protocol):
    """One step; it reads earlier steps' output and writes into ``build.folder`` alone."""

    name: str
    needs: tuple[str, ...]

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """What the step depends on beside the steps it needs (settings, hashes of files, versions).

        The step is run again when this changes, or when a step it needs was run again.
        """
        ...

    def run(self, build: Build) -> StepOutput:
        """Do the work; raises a :class:`searchpipe.errors.SearchpipeError` to refuse."""
        ...
