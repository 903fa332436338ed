"""What people want: intents, the ways they type them, and the products that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchpipe.demo.dice import Dice
from searchpipe.demo.products import Facts
from searchpipe.demo.taxonomy import LEAVES

_QUESTIONS = (
    "what is the best {noun} for {use}",
    "which {noun} is good for {use}",
    "is there a {feature} {noun}",
    "best {noun} for {use}",
    "where can i find a {color} {noun}",
    "how much is a good {noun}",
)
_CONSTRAINTS = ("color", "material", "size", "feature", "use", "brand")


@dataclass(frozen=True, slots=True)
class Intent:
    """A wish for one kind of product; empty constraints leave that attribute open."""

    leaf: int
    noun: int
    color: str = ""
    material: str = ""
    size: str = ""
    feature: str = ""
    use: str = ""
    brand: str = ""
    question: bool = False

    def misses(self, facts: Facts) -> int:
        """How many wishes a product of the same leaf leaves open (another word for the product is one)."""
        wrong = (
            facts.noun != self.noun,
            self.color not in ("", facts.color),
            self.material not in ("", facts.material),
            self.size not in ("", facts.size),
            self.feature != "" and self.feature not in facts.features,
            self.use not in ("", facts.use),
            self.brand not in ("", facts.brand),
        )
        return sum(wrong)

    def grade(self, facts: Facts) -> int:
        """Grade like ESCI: 3 all wishes met, 2 one missed, 1 the same kind of product, 0 another kind."""
        if facts.leaf != self.leaf:
            return 0
        return {0: 3, 1: 2}.get(self.misses(facts), 1)


def draw_intent(dice: Dice, products: Sequence[Facts], constraints: int) -> Intent:
    """Draw an intent with about ``constraints`` wishes that at least one of ``products`` meets."""
    facts = products[dice.below(len(products))]
    leaf = LEAVES[facts.leaf]
    values = {
        "color": facts.color,
        "material": facts.material,
        "size": facts.size,
        "feature": facts.features[0],
        "use": facts.use,
        "brand": facts.brand,
    }
    chosen = dice.some([name for name in _CONSTRAINTS if values[name]], constraints)
    question = dice.chance(0.08)
    if question:
        chosen = [name for name in ("use", "feature", "color") if values[name]]
        chosen = dice.some(chosen, 1)
    return Intent(
        facts.leaf,
        min(facts.noun, len(leaf.nouns) - 1),
        **{name: values[name] for name in chosen},
        question=question,
    )


def phrase(intent: Intent, dice: Dice) -> str:
    """Write an intent down as people type: lower case, in some word order, now and then in the plural."""
    noun = LEAVES[intent.leaf].nouns[intent.noun].lower()
    if intent.question:
        usable = [text for text in _QUESTIONS if _fits(text, intent)]
        return dice.pick(usable).format(
            noun=noun, use=intent.use.lower(), feature=intent.feature.lower(), color=intent.color.lower()
        )
    if not noun.endswith("s") and dice.chance(0.15):
        noun += "s"
    before = [text.lower() for text in (intent.color, intent.material, intent.feature) if text]
    before = dice.some(before, len(before))
    use = ""
    if intent.use:
        use = ("for " if dice.chance(0.75) else "") + intent.use.lower()
    size = intent.size.lower()
    if size and dice.chance(0.5):
        before.insert(0, size)
        size = ""
    brand = intent.brand.lower()
    words = [brand, *before, noun, use, size] if dice.chance(0.8) else [*before, noun, size, use, brand]
    return " ".join(word for word in words if word)


def _fits(question: str, intent: Intent) -> bool:
    """Whether a question names just the wishes that the intent has."""
    wishes = {"use": intent.use, "feature": intent.feature, "color": intent.color}
    return all((f"{{{name}}}" in question) == bool(value) for name, value in wishes.items())


def misspell(text: str, dice: Dice) -> str:
    """Change one letter in one longer word: left out, doubled, swapped with the next, or a neighbour's."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    place = dice.pick(long)
    word = words[place]
    # The first letter is rarely wrong.
    at = 1 + dice.below(len(word) - 2)
    kind = dice.below(4)
    if kind == 0:
        word = word[:at] + word[at + 1 :]
    elif kind == 1:
        word = word[:at] + word[at] + word[at:]
    elif kind == 2:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    else:
        word = word[:at] + _NEIGHBOURS.get(word[at], "e")[dice.below(2)] + word[at + 1 :]
    words[place] = word
    return " ".join(words)


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: row[max(place - 1, 0)] + row[min(place + 1, len(row) - 1)]
    for row in _ROWS
    for place, letter in enumerate(row)
}
