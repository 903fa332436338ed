from __future__ import annotations

import json

from searchpipe.train.queries import QueryMaker, words_of
from searchpipe.train.texts import read_products


def test_made_queries_are_seeded_and_come_from_their_products(world):
    products, texts = read_products([world.files.products])
    assert len(products) == len(texts) == 400
    made, sources = QueryMaker(products, 7).make(300)
    assert QueryMaker(products, 7).make(300) == (made, sources)
    assert QueryMaker(products, 8).make(300)[0] != made
    assert len(made) == len(sources) == 300
    assert all(text.strip() for text in made)
    assert all(0 <= source < 400 for source in sources)
    # Misspellings and excluded words are few: most words are the source's own.
    own = [
        set(words_of(f"{p.title} {p.text} {p.brand} {p.color} {' '.join(p.category)}"))
        for p in (products[source] for source in sources)
    ]
    kept = [
        len(set(words_of(text)) & words) / len(set(words_of(text)))
        for text, words in zip(made, own, strict=True)
    ]
    assert sum(share > 0.5 for share in kept) > 200


def test_products_of_any_shape_are_read(tmp_path):
    rows = [{"id": 1, "title": "Hat", "category": "Hats"}, {"id": "2", "title": None, "category": ["A", "B"]}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    products, _ = read_products([tmp_path / "p.jsonl"])
    assert [p.category for p in products] == [("Hats",), ("A", "B")]
    assert (products[0].id, products[1].title) == ("1", "")
