"""Which version serves when a process starts."""

from __future__ import annotations

from searchpipe.errors import SearchpipeError, SwapError
from searchpipe.interpreter_end import ending
from searchpipe.live.check import STANDARD, check
from searchpipe.live.history import History, Step
from searchpipe.live.record import Record
from searchpipe.live.spec import Wanted
from searchpipe.live.swapper import Openers
from searchpipe.live.version import Version


def start_version(wanted: Wanted, openers: Openers, record: Record, history: History) -> Version:
    """Open the last good version; if there is none, or it is gone, what is wanted.

    What is wanted serves even if it fails its golden queries, as there is nothing else, but is then
    not remembered as good.

    Raises:
        SearchpipeError: neither can be opened; says why what is wanted cannot.
    """
    good = record.good
    if good is not None:
        try:
            return openers.open(good)
        except SearchpipeError as error:
            why = f"The last good version cannot be opened: {error}"
            history.add(_failed(), 0, good.identity, code=error.code, reason=why)
    spec = wanted.pin()
    first = openers.open(spec)
    settings = wanted.config.live.check
    try:
        check(first.pipeline, None, settings.queries or STANDARD, settings)
    except SwapError as error:
        history.add(_failed(), first.number, spec.identity, code=error.code, reason=str(error))
    else:
        record.proven(spec)
        history.add("good", first.number, spec.identity)
    return first


def _failed() -> Step:
    return "given_up" if ending() else "failed"
