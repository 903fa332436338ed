"""The categories of the demo's catalog, and the words their products are described with."""

from searchpipe.demo.taxonomy import household, leisure, personal
from searchpipe.demo.taxonomy.leaf import Leaf

LEAVES: tuple[Leaf, ...] = household.LEAVES + personal.LEAVES + leisure.LEAVES

__all__ = ["LEAVES", "Leaf"]
