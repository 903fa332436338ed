"""Invented brands: each category has its own, a few are sold in several categories of a department."""

from __future__ import annotations

import zlib

from searchpipe.demo.dice import Dice

_STARTS = (
    *("Bel", "Cor", "Dal", "Fen", "Gar", "Hol", "Jas", "Kel", "Lum", "Mar", "Nor", "Oak", "Pel", "Quin"),
    *("Ros", "Sol", "Tav", "Ul", "Ver", "Wil", "Yar", "Zan", "Ash", "Bram", "Cald", "Dru", "El", "Fal"),
    *("Grei", "Hav", "Iv", "Jun", "Kov", "Lin", "Mor", "Ner", "Or", "Pra", "Rad", "Sten", "Tor", "Und"),
    *("Val", "Wex", "Xan", "Yel", "Zor"),
)
_MIDDLES = ("a", "e", "i", "o", "u", "an", "er", "il", "or", "ani", "eri")
_ENDS = (
    *("brook", "dale", "vane", "ford", "mark", "nix", "rial", "ton", "via", "worth", "lux", "ria"),
    *("den", "field", "tek", "ora", "ello", "mont", "quist", "wick"),
)
_SUFFIXES = ("", "", "", " Home", " & Co", " Living", " Outfitters", " Labs", " Works")

# Streams of random numbers, apart from those of the products (their number + 1).
_DEPARTMENT_STREAMS = 1 << 40
_LEAF_STREAMS = 1 << 41

OWN_BRANDS = 22
SHARED_BRANDS = 6


def brands_of(index: int, path: tuple[str, ...], seed: int) -> list[str]:
    """Return the brands of leaf number ``index``, best known first; the same for the same seed."""
    # crc32, because Python's own hash of a text changes with each process.
    department = Dice(seed, _DEPARTMENT_STREAMS + zlib.crc32(path[0].encode()))
    shared = [_name(department) for _ in range(2 * SHARED_BRANDS)]
    dice = Dice(seed, _LEAF_STREAMS + index)
    found = dict.fromkeys(dice.some(shared, SHARED_BRANDS))
    while len(found) < OWN_BRANDS + SHARED_BRANDS:
        found[_name(dice)] = None
    return dice.some(list(found), len(found))


def _name(dice: Dice) -> str:
    middle = dice.pick(_MIDDLES) if dice.chance(0.4) else ""
    return dice.pick(_STARTS) + middle + dice.pick(_ENDS) + dice.pick(_SUFFIXES)
