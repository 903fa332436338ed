"""The factory's steps, in their order; each module is imported when a build begins."""

from __future__ import annotations

import importlib
import inspect
from typing import cast

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


def load_steps(check_in: Step) -> list[Step]:
    """Make all steps; ``check_in`` is the last one, which knows the store.

    Raises:
        RecipeError: a step's module or class is missing from this installation.
    """
    return [*(_load(name) for name in STEPS[:-1]), check_in]


def _load(name: str) -> Step:
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise  # a package that the step needs
        raise RecipeError(f"This installation has no step {name!r}.", cure="Install it anew.") from error
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if kind.__module__ == module.__name__ and getattr(kind, "name", None) == name:
            return cast(Step, kind())
    raise RecipeError(f"{module.__name__} has no class of the step {name!r}.", cure="Install it anew.")
