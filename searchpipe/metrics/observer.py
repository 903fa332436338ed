"""Who watches a pipeline: told of every answer and every refusal, never able to disturb one."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

from searchpipe.deadline import QueryCancelled
from searchpipe.page import Page

_LOG = logging.getLogger("searchpipe.metrics")


@runtime_checkable
class Observer(Protocol):
    """Watches a pipeline. Called from many threads at once, on the query's own thread: be quick.

    What it raises is logged once and goes no further.
    """

    def answered(self, page: Page) -> None:
        """A query was answered; the page is whole and must not be changed."""
        ...

    def refused(self, text: object, error: BaseException) -> None:
        """A query ended without a page: bad input, a full queue, a closed pipeline, a caller who left.

        ``text`` is what the caller gave, unchecked. :func:`code_of` names the kind of ``error``.
        """
        ...


def code_of(error: BaseException) -> str:
    """The machine-readable kind of an error: its own code, ``cancelled``, or ``internal``."""
    if isinstance(error, QueryCancelled):
        return "cancelled"
    code = getattr(error, "code", None)
    return code if isinstance(code, str) else "internal"


class Observers:
    """The observers of one pipeline. Any thread may call anything; adding is for few, telling for all."""

    __slots__ = ("_all", "_blamed")

    def __init__(self) -> None:
        self._all: tuple[Observer, ...] = ()
        self._blamed: set[int] = set()

    def add(self, observer: Observer) -> None:
        """Tell it of every query from now on.

        Raises:
            TypeError: it lacks a method of :class:`Observer`.
        """
        if not isinstance(observer, Observer):
            raise TypeError(f"{observer!r} is no observer: it needs answered() and refused().")
        self._all = (*self._all, observer)

    def answered(self, page: Page) -> None:
        """Tell all of an answer."""
        for observer in self._all:
            try:
                observer.answered(page)
            except Exception:
                self._blame(observer)

    def refused(self, text: object, error: BaseException) -> None:
        """Tell all of a query that ended without one."""
        for observer in self._all:
            try:
                observer.refused(text, error)
            except Exception:
                self._blame(observer)

    def _blame(self, observer: Observer) -> None:
        if id(observer) not in self._blamed:  # one that fails fails often; once is enough to read
            self._blamed.add(id(observer))
            _LOG.exception("The observer %r failed; this is not said again", observer)
