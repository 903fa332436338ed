"""The factory's steps, in their order; each module is imported when a build begins."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from searchpipe.engine.step import Step
from searchpipe.errors import RecipeError

STEPS: tuple[str, ...] = (
    "source",
    "export",
    "profile",
    "calibrate",
    "convert",
    "sensitivity",
    "plan",
    "gate",
    "report",
    "check_in",
)
"""Names of all steps; each is the name of the module in this package that holds its class."""


def load_steps(check_in: Step, *, open_ranker: Callable[[Any, Path], Any] | None = None) -> list[Step]:
    """Make all steps.

    Args:
        check_in: the last one, which knows the store.
        open_ranker: makes a feature ranker's inputs of a snapshot and the model; for the steps
            that run one.

    Raises:
        RecipeError: a step's module or class is missing from this installation.
    """
    return [*(_load(name, open_ranker) for name in STEPS[:-1]), check_in]


def _load(name: str, open_ranker: Callable[[Any, Path], Any] | None) -> Step:
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise  # a package that the step needs
        raise RecipeError(f"This installation has no step {name!r}.", cure="Install it anew.") from error
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if kind.__module__ == module.__name__ and getattr(kind, "name", None) == name:
            takes_it = "open_ranker" in inspect.signature(kind).parameters
            make = cast(Callable[..., Step], kind)
            return make(open_ranker=open_ranker) if takes_it else make()
    raise RecipeError(f"{module.__name__} has no class of the step {name!r}.", cure="Install it anew.")
