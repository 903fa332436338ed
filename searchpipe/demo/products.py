"""A seeded catalog: products with titles, bullets, prices and ratings that belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from searchpipe.demo.brands import brands_of
from searchpipe.demo.dice import Dice, cumulative, zipf
from searchpipe.demo.taxonomy import LEAVES

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_TITLES = (
    "{brand} {model} {feature} {color} {material} {noun} {size}, {second} for {use} {pack}",
    "{brand} {noun} {model} {size}, {material} {feature} {second} for {use}, {color} {pack}",
    "{brand} {color} {noun} for {use}, {feature} {material}, {second}, {size} {model} {pack}",
    "{size} {material} {noun} by {brand} {model}, {feature} and {second}, {color} {pack}",
    "{brand} {model} {material} {noun} {pack}, {feature}, {second}, Great for {use}, {size}, {color}",
)
_BULLETS = (
    "{FEATURE}: this {noun} is {feature}, so it does its job day after day",
    "MADE TO LAST: {material} keeps its looks and is easy to care for",
    "RIGHT SIZE: {size} - please check the measurements before you order",
    "MADE FOR {USE}: customers choose it for {use} and like how well it works",
    "{SECOND}: {second}, with nothing you do not need",
    "WHAT YOU GET: {count} {noun}, quick start guide and our friendly customer service",
    "A GIFT THAT IS USED: comes well packed, in {color}, for birthdays and holidays",
    "EASY CARE: wipe clean or follow the label; keep away from open fire",
)
_CLOSINGS = (
    "{brand} has made {nouns} for people who care about {use} since its first day.",
    "Try the {brand} {noun} for 30 days and send it back if it is not for you.",
    "Our {noun} in {color} goes well with the rest of the {brand} range.",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a product is, whatever its listing says; queries and labels are made from this.

    ``leaf`` and ``noun`` are indexes; empty strings are attributes that the product lacks.
    ``popularity`` is the expected share of clicks, relative to other products.
    """

    id: str
    leaf: int
    noun: int
    brand: str
    color: str
    material: str
    size: str
    features: tuple[str, ...]
    use: str
    popularity: float


def product_id(number: int) -> str:
    """Return a different id of 8 characters for each number below 2^32."""
    mixed = (number * 2_654_435_761 + 97) & 0xFFFFFFFF  # odd factor: a bijection modulo 2^32
    return "D" + "".join(_DIGITS[(mixed >> shift) & 31] for shift in range(30, -1, -5))


def generate_products(count: int, seed: int) -> Iterator[tuple[dict[str, Any], Facts]]:
    """Yield ``count`` products, as rows of the catalog and as facts; nothing is kept.

    Rows have the fields id, title, text, category (list, top level first), brand, color, price
    (USD), rating (1..5) and rating_count. Apart from id and title, some are missing, as in life.
    """
    shares = cumulative([leaf.weight for leaf in LEAVES])
    brands = [brands_of(index, leaf.path, seed) for index, leaf in enumerate(LEAVES)]
    brand_shares = zipf(max(map(len, brands)), 0.9)
    for number in range(count):
        dice = Dice(seed, number + 1)
        # The first products walk through all leaves, so that a small catalog has every category.
        index = number if number < len(LEAVES) else dice.weighted(shares)
        brand_rank = dice.weighted(brand_shares[: len(brands[index])])
        yield _product(dice, number, index, brands[index][brand_rank], brand_rank)


def _product(
    dice: Dice, number: int, index: int, brand: str, brand_rank: int
) -> tuple[dict[str, Any], Facts]:
    leaf = LEAVES[index]
    noun = dice.below(len(leaf.nouns))
    features = tuple(dice.some(leaf.features, 2))
    words = {
        "brand": brand,
        "noun": leaf.nouns[noun],
        "color": dice.pick(leaf.colors) if leaf.colors else "",
        "material": dice.pick(leaf.materials) if leaf.materials else "",
        "size": dice.pick(leaf.sizes) if leaf.sizes else "",
        "feature": features[0],
        "second": features[1],
        "use": dice.pick(leaf.uses),
        "model": _model(dice) if leaf.models else "",
        "pack": "",
        "count": "1",
    }
    pack = dice.pick(leaf.packs) if leaf.packs else 1
    if pack > 1:
        words["pack"] = f"({pack} Pack)"
        words["count"] = str(pack)
    # Known brands ask more, packs cost less than their pieces.
    premium = 0.25 - 0.02 * brand_rank
    price = leaf.price * math.exp(leaf.spread * dice.normal() + premium) * max(pack, 1) ** 0.3
    quality = dice.normal()
    ratings = math.exp(4.2 + 1.7 * dice.normal() + 0.3 * quality - 0.06 * brand_rank)
    row: dict[str, Any] = {
        "id": product_id(number),
        "title": _tidy(dice.pick(_TITLES).format(**words)),
        "text": "" if dice.chance(0.04) else _text(dice, words),
        "category": list(leaf.path[:1] if dice.chance(0.02) else leaf.path),
    }
    if not dice.chance(0.04):
        row["brand"] = brand
    if words["color"] and not dice.chance(0.12):
        row["color"] = words["color"]
    if not dice.chance(0.12):
        row["price"] = max(1.99, math.floor(price) + (0.99 if dice.chance(0.7) else 0.49))
    if not dice.chance(0.07):
        # Few ratings scatter widely, many settle near the product's own quality.
        scatter = 0.9 * dice.normal() / math.sqrt(1 + ratings / 8)
        row["rating"] = round(min(5.0, max(1.0, 4.25 + 0.3 * quality + scatter)), 1)
        row["rating_count"] = int(ratings) + 1
    facts = Facts(
        row["id"], index, noun, brand, words["color"], words["material"], words["size"], features,
        words["use"], (1.0 + ratings) ** 0.7,
    )  # fmt: skip
    return row, facts


def _model(dice: Dice) -> str:
    letters = "".join(dice.pick("ABCDEFGHKLMNPRSTVXZ") for _ in range(1 + dice.below(2)))
    return f"{letters}{'-' if dice.chance(0.3) else ''}{10 + dice.below(990)}"


def _text(dice: Dice, words: dict[str, str]) -> str:
    values = {
        **words,
        **{key.upper(): words[key].upper() for key in ("feature", "second", "use")},
        **{key: words[key].lower() for key in ("noun", "feature", "second", "use", "material", "color")},
    }
    values["nouns"] = values["noun"] + ("" if values["noun"].endswith("s") else "s")
    values["size"] = words["size"] or "standard"
    values["material"] = values["material"].capitalize() or "A sturdy build"
    values["color"] = values["color"] or "a neat box"
    lines = [bullet.format(**values) for bullet in dice.some(_BULLETS, 3 + dice.below(3))]
    return "\n".join([*lines, dice.pick(_CLOSINGS).format(**values)])


def _tidy(title: str) -> str:
    """Close the gaps that empty attributes leave in a template."""
    parts = (" ".join(part.split()) for part in title.split(","))
    text = ", ".join(part for part in parts if part and part not in ("and", "for"))
    return text.replace(" for,", ",").replace(", (", " (").removesuffix(",")
