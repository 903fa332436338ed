"""Queries as shoppers type them, made from product texts. Seeded; needs numpy alone.

    python -m searchpipe.train.queries --products FILE --out FILE [--count 120000]

A line a query: ``{"text", "source"}``, source being the id of the product it was made from.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from searchpipe.train.texts import Product, read_products

_WORD = re.compile(r"[a-z0-9]+(?:['./-][a-z0-9]+)*")
_STOP = frozenset(
    (  # noqa: SIM905 - a list of words
        "a an and are as at be by for from in is it of on or our per pack pcs set that the their this to "
        "with you your"
    ).split()
)
_EXCLUDED = ("without", "without", "without", "no", "not", "with no")
_AUDIENCES = (
    "women",
    "men",
    "kids",
    "girls",
    "boys",
    "adults",
    "toddlers",
    "dogs",
    "cats",
    "home",
    "kitchen",
)
_INTENTS = ("best", "cheap", "gift", "small", "large", "mini", "portable", "set", "replacement", "for sale")
_NEAR = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo",
    "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et",
    "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip


def words_of(text: str) -> list[str]:
    """Lower-case words; hyphens, points and slashes inside a word stay."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


class QueryMaker:
    """Makes queries whose source product is known.

    A query is one of several kinds (a span of the title, scattered or shuffled words of it,
    rare words, the category with brand, colour or an attribute, an attribute excluded by
    "without", a phrase of the description, the brand), then some get an audience, a plural
    changed or a typing error. One thread at a time.
    """

    def __init__(self, products: Sequence[Product], seed: int) -> None:
        self._products = products
        self._rng = np.random.default_rng(seed)
        self._titles = [words_of(product.title) for product in products]
        self._texts = [words_of(product.text)[:120] for product in products]
        seen: Counter[str] = Counter()
        for title, text in zip(self._titles, self._texts, strict=True):
            seen.update({*title, *text})
        self._seen = seen
        self._leaf: dict[str, list[int]] = defaultdict(list)
        for place, product in enumerate(products):
            if product.category:
                self._leaf[product.category[-1]].append(place)
        # weight, maker
        self._kinds = (
            (0.26, self._span),
            (0.15, self._scattered),
            (0.13, self._rare),
            (0.16, self._category),
            (0.14, self._excluding),
            (0.06, self._phrase),
            (0.05, self._brand),
            (0.05, self._shuffled),
        )

    def make(self, count: int) -> tuple[list[str], list[int]]:
        """``count`` queries and the place of each one's source product."""
        chances = np.array([weight for weight, _ in self._kinds])
        queries: list[str] = []
        sources: list[int] = []
        while len(queries) < count:
            source = int(self._rng.integers(len(self._products)))
            kind = int(self._rng.choice(len(self._kinds), p=chances / chances.sum()))
            words = self._kinds[kind][1](source)
            if words:
                queries.append(" ".join(self._disturbed(words))[:120])
                sources.append(source)
        return queries, sources

    def _pick(self, among: Sequence[str]) -> str:
        return among[int(self._rng.integers(len(among)))]

    def _title(self, source: int) -> list[str]:
        """The title's front, where its product is named; long titles list variants behind."""
        return self._titles[source][:14]

    def _span(self, source: int) -> list[str]:
        title = self._title(source)
        if not title:
            return []
        length = min(len(title), 1 + int(self._rng.binomial(6, 0.45)))
        # Fronts are typed more often than middles.
        start = int((len(title) - length + 1) * self._rng.random() ** 1.7)
        return self._trimmed(title[start : start + length])

    def _scattered(self, source: int) -> list[str]:
        title = [word for word in self._title(source) if word not in _STOP]
        if len(title) < 2:
            return title
        keep = min(len(title), 2 + int(self._rng.integers(4)))
        places = np.sort(self._rng.choice(len(title), keep, replace=False))
        return [title[place] for place in places]

    def _shuffled(self, source: int) -> list[str]:
        words = self._scattered(source)
        return [words[place] for place in self._rng.permutation(len(words))]

    def _rare(self, source: int) -> list[str]:
        """The most telling words: rare, but not unique to one product."""
        title = list(dict.fromkeys(w for w in self._titles[source] if w not in _STOP and len(w) > 1))
        if not title:
            return []
        rarity = np.array([-np.log(self._seen[word] + (5 if self._seen[word] < 2 else 0)) for word in title])
        noisy = rarity + self._rng.gumbel(size=len(title))
        keep = min(len(title), 1 + int(self._rng.integers(1, 4)))
        return [title[place] for place in np.sort(np.argsort(-noisy)[:keep])]

    def _head(self, source: int) -> list[str]:
        """What the product is: its leaf category, or two words of the title that its category shares."""
        product = self._products[source]
        if product.category and self._rng.random() < 0.6:
            return words_of(product.category[-1].split("&")[int(self._rng.integers(-1, 1))])[:3]
        title = [word for word in self._title(source) if word not in _STOP and not word.isdigit()]
        if len(title) < 2:
            return title
        common = np.array([np.log1p(self._seen[word]) for word in title[1:]])
        place = 1 + int(np.argmax(common + self._rng.gumbel(size=len(common))))
        return title[place - 1 : place + 1] if self._rng.random() < 0.6 else [title[place]]

    def _attribute(self, source: int) -> list[str]:
        pool = [w for w in self._titles[source] + self._texts[source] if w not in _STOP and len(w) > 2]
        shared = [word for word in pool if self._seen[word] >= 3]
        return [self._pick(shared)] if shared else []

    def _category(self, source: int) -> list[str]:
        product, head = self._products[source], self._head(source)
        draw = self._rng.random()
        if draw < 0.25 and product.brand:
            return words_of(product.brand)[:2] + head
        if draw < 0.5 and product.color:
            return words_of(product.color)[:2] + head
        if draw < 0.8:
            return self._attribute(source) + head
        return self._attribute(source) + self._attribute(source) + head

    def _excluding(self, source: int) -> list[str]:
        """``head without attribute``: the attribute is the source's own or one of its category's."""
        head = self._head(source) if self._rng.random() < 0.5 else self._span(source)
        product, other = self._products[source], source
        if product.category and self._rng.random() < 0.6:
            other = int(self._rng.choice(self._leaf[product.category[-1]]))
        attribute = self._attribute(other)
        if not head or not attribute:
            return []
        joint = self._pick(("with", "and", "that is")) if self._rng.random() < 0.2 else self._pick(_EXCLUDED)
        return [*head[:5], *joint.split(), *attribute]

    def _phrase(self, source: int) -> list[str]:
        text = self._texts[source]
        if len(text) < 8:
            return []
        length = 2 + int(self._rng.integers(3))
        start = int(self._rng.integers(len(text) - length))
        return self._trimmed(text[start : start + length]) + self._head(source)[:2]

    def _brand(self, source: int) -> list[str]:
        brand = words_of(self._products[source].brand)[:3]
        return brand + (self._span(source)[:2] if self._rng.random() < 0.6 else [])

    def _trimmed(self, words: list[str]) -> list[str]:
        while words and words[-1] in _STOP:
            words = words[:-1]
        while words and words[0] in _STOP and self._rng.random() < 0.8:
            words = words[1:]
        return words

    def _disturbed(self, words: list[str]) -> list[str]:
        rng = self._rng
        words = [word for n, word in enumerate(words) if n == 0 or word != words[n - 1]]
        if rng.random() < 0.06:
            words = [*words, "for", self._pick(_AUDIENCES)]
        elif rng.random() < 0.04:
            intent = self._pick(_INTENTS)
            words = [intent, *words] if rng.random() < 0.6 else [*words, intent]
        if rng.random() < 0.15:
            place = int(rng.integers(len(words)))
            words = [*words[:place], _other_number(words[place]), *words[place + 1 :]]
        if rng.random() < 0.15:  # shoppers drop apostrophes and hyphens
            words = [word.replace("'", "").replace("-", "" if rng.random() < 0.5 else " ") for word in words]
        if rng.random() < 0.12:
            places = [n for n, word in enumerate(words) if len(word) > 3 and word.isalpha()]
            if places:
                place = places[int(rng.integers(len(places)))]
                words = [*words[:place], self._mistyped(words[place]), *words[place + 1 :]]
        if len(words) > 1 and rng.random() < 0.03:
            place = int(rng.integers(len(words) - 1))
            words = [*words[:place], words[place] + words[place + 1], *words[place + 2 :]]
        return words

    def _mistyped(self, word: str) -> str:
        rng, place = self._rng, 1 + int(self._rng.integers(len(word) - 1))
        kind = int(rng.integers(4))
        if kind == 0:
            return word[:place] + word[place + 1 :]
        if kind == 1:
            return word[:place] + word[place - 1] + word[place:]
        if kind == 2 and place + 1 < len(word):
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        near = _NEAR.get(word[place])
        return word[:place] + (self._pick(near) if near else "") + word[place + 1 :]


def _other_number(word: str) -> str:
    """Singular to plural or back, by the plainest rules of English."""
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m searchpipe.train.queries", description=__doc__)
    parser.add_argument("--products", type=Path, nargs="+", required=True, help="JSON Lines of products")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines, gzipped if it ends in .gz")
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    products, _ = read_products(args.products)
    texts, sources = QueryMaker(products, args.seed).make(args.count)
    rows = ({"text": text, "source": products[place].id} for text, place in zip(texts, sources, strict=True))
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}.part")
    temporary.write_bytes(gzip.compress(content, mtime=0) if args.out.suffix == ".gz" else content)
    temporary.replace(args.out)
    print(f"wrote {len(texts)} queries to {args.out}")


if __name__ == "__main__":
    main()
