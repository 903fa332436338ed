"""Interrupts as a signal's handler raises them, at every moment at which CPython may run one.

It looks for signals where a Python function begins (or a generator goes on) and where a call of C code has
returned, which is where a profile function is called, and at the end of a loop's body, which is left out.
Only the library's own calls count, and those that they make.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import searchpipe

_HOME = str(Path(searchpipe.__file__).parent)
_TESTS = str(Path(__file__).parents[1])  # what stands in for others is not made for this


class Interrupt(KeyboardInterrupt):
    """Of these tests, so that a real one still ends them."""


def interrupted(run: Callable[[], object], moment: int) -> bool:
    """Run, and raise at the ``moment``-th moment, from 1; whether there were so many."""
    left = moment

    def look(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal left
        if event not in ("call", "c_return") or frame.f_code.co_filename.startswith(_TESTS):
            return
        if _ours(frame) or _ours(frame.f_back):
            left -= 1
            if not left:
                raise Interrupt

    sys.setprofile(look)
    try:
        run()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return left <= 0  # it was raised where whoever called drops it


def _ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(_HOME)


def moments(run: Callable[[], object], *, begin: int = 1, step: int = 1) -> Iterator[int]:
    """Run again and again, each time interrupted ``step`` moments later; yields after each, until it ends."""
    for moment in itertools.count(begin, step):
        if not interrupted(run, moment):
            return
        yield moment
