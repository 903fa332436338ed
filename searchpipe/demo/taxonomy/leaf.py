"""What the generator knows about one kind of product."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf category and the words of its products. Immutable.

    Attributes:
        path: category names, top level first.
        nouns: names of the product; people use any of them in queries.
        materials, sizes, features, uses, colors: values of each attribute; may be empty.
        packs: pack counts; empty where products are sold singly.
        price: median price in USD.
        spread: standard deviation of the logarithm of the price.
        weight: share of the catalog, relative to the other leaves.
        models: whether titles carry model numbers.

    """

    path: tuple[str, ...]
    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]
    features: tuple[str, ...]
    uses: tuple[str, ...]
    colors: tuple[str, ...]
    packs: tuple[int, ...]
    price: float
    spread: float
    weight: float
    models: bool


COLORS = "Black|White|Gray|Navy|Red|Blue|Green|Pink|Beige|Brown|Purple|Yellow|Teal|Burgundy|Ivory|Olive|Coral"
METALS = "Silver|Black|Bronze|Copper|Brushed Nickel|Gold|White"
WOODS = "Natural|Walnut|Espresso|White|Black|Gray Oak|Cherry"
SHOE_SIZES = "Size 6|Size 7|Size 8|Size 9|Size 10|Size 11|Size 12"
CLOTHES_SIZES = "X-Small|Small|Medium|Large|X-Large|XX-Large|Plus Size"


def leaf(
    path: str,
    *,
    nouns: str,
    materials: str = "",
    sizes: str = "",
    features: str = "",
    uses: str = "",
    colors: str = COLORS,
    packs: tuple[int, ...] = (),
    price: float,
    spread: float = 0.45,
    weight: float = 1.0,
    models: bool = False,
) -> Leaf:
    """Make a leaf from ``>``-separated levels and ``|``-separated values."""
    return Leaf(
        path=tuple(level.strip() for level in path.split(">")),
        nouns=_values(nouns),
        materials=_values(materials),
        sizes=_values(sizes),
        features=_values(features),
        uses=_values(uses),
        colors=_values(colors),
        packs=packs,
        price=price,
        spread=spread,
        weight=weight,
        models=models,
    )


def _values(text: str) -> tuple[str, ...]:
    return tuple(text.split("|")) if text else ()
