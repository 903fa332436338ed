"""A caller's query, checked and cleaned before any stage sees it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from searchpipe import _core
from searchpipe.errors import PipelineError, QueryError

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import PipelineSettings
    from searchpipe.stages.base import Stage

MAX_PRIORITY = 100
"""Of a query, upwards and (negative) downwards."""

_SURROGATES = re.compile("[\ud800-\udfff]")
# Control characters (Unicode Cc) and the line and paragraph separators.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked.

    Attributes:
        text: cleaned by :func:`clean_text`.
        k: how many hits the page holds at most.
        filters: which products may be on it, checked; empty for all.
        context: the caller's user and session features, handed to the rankers untouched.
        priority: higher goes first wherever queries wait for each other.
        without: stages that the caller switched off.
    """

    text: str
    k: int
    filters: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    without: frozenset[str] = frozenset()


def clean_text(text: str, max_chars: int) -> str:
    """One line of valid Unicode: lone surrogates become U+FFFD, control characters become spaces.

    Raises:
        QueryError: not a string, over ``max_chars`` long, or nothing is left of it.
    """
    if not isinstance(text, str):
        raise QueryError(f"The query is of type {type(text).__name__}.", cure="Give a str.")
    if len(text) > max_chars:
        raise QueryError(
            f"The query has {len(text)} characters; the limit is {max_chars}.",
            cure="Shorten it, or raise pipeline.max_query_chars.",
        )
    plain = text.isascii() and text.isprintable()
    line = text if plain else _CONTROLS.sub(" ", _SURROGATES.sub("\ufffd", text))
    cleaned = " ".join(line.split())
    if not cleaned:
        raise QueryError(
            f"The query {text[:40]!r} holds no text.", cure="Give at least one visible character."
        )
    return cleaned


def check_k(k: int, max_k: int) -> int:
    """The page size as an int.

    Raises:
        QueryError: not a whole number from 1 to ``max_k``.
    """
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise QueryError(f"k is {k!r}, which is not a whole number.", cure=f"Give 1 to {max_k}.")
    value = k.__index__()
    if not 1 <= value <= max_k:
        raise QueryError(
            f"k is {value}; it must be 1 to {max_k}.", cure="Raise pipeline.max_k for longer pages."
        )
    return value


def check_context(context: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The user and session features, empty for None.

    Raises:
        QueryError: not a mapping.
    """
    if context is not None and not isinstance(context, Mapping):
        raise QueryError(f"context is of type {type(context).__name__}.", cure="Give a mapping.")
    return context or {}


def check_filters(filters: Mapping[str, Any], snapshot: Snapshot | None) -> Mapping[str, Any]:
    """Conditions that the snapshot's columns can take.

    Raises:
        FilterError: one that they cannot.
        PipelineError: there is no snapshot.
    """
    from searchpipe.catalog.filters import parse_filters

    if snapshot is None:
        raise PipelineError("Filters need a snapshot, and this pipeline has none.")
    parse_filters(filters, snapshot.columns)
    return filters


def check_priority(priority: int) -> int:
    """The priority as an int.

    Raises:
        QueryError: not a whole number from ``-MAX_PRIORITY`` to ``MAX_PRIORITY``.
    """
    if isinstance(priority, bool) or not hasattr(priority, "__index__"):
        raise QueryError(f"priority is {priority!r}, which is not a whole number.")
    value = priority.__index__()
    if not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise QueryError(
            f"priority is {value}; it must be {-MAX_PRIORITY} to {MAX_PRIORITY}.", cure="Higher goes first."
        )
    return value


def check_without(without: Collection[str], stages: Collection[Stage]) -> frozenset[str]:
    """The stages to leave out.

    Raises:
        QueryError: a stage that does not exist, or that no answer can do without.
    """
    if isinstance(without, str) or not isinstance(without, Collection):
        raise QueryError(f"without is {without!r:.60}.", cure="Give a list of names of stages.")
    essential = {stage.name: stage.essential for stage in stages}
    cure = f"These can be switched off: {', '.join(name for name in essential if not essential[name])}."
    for name in without:
        if name not in essential:
            raise QueryError(f"There is no stage {name!r:.60}.", cure=cure)
        if essential[name]:
            raise QueryError(
                f"The stage {name!r} cannot be switched off: there is no answer without it.", cure=cure
            )
    return frozenset(without)


def checked_query(
    text: str,
    k: int,
    filters: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
    priority: int,
    without: Collection[str],
    limits: PipelineSettings,
    snapshot: Snapshot | None,
    stages: Collection[Stage],
) -> Query:
    """What was asked, if it can be answered by these stages over this snapshot.

    Raises:
        QueryError: one of the first six is not valid; the message says which and why.
        PipelineError: filters without a snapshot.
    """
    cleaned = clean_text(text, limits.max_query_chars)
    if not (type(k) is int and 1 <= k <= limits.max_k):  # as most are, without the call; so below
        k = check_k(k, limits.max_k)
    filters = check_filters(filters, snapshot) if filters else {}
    context = {} if context is None else check_context(context)
    if type(priority) is not int or priority:
        priority = check_priority(priority)
    left_out = check_without(without, stages) if without else _NONE
    return _core.made(Query, cleaned, k, filters, context, priority, left_out)
