"""The queries that variants are compared on, and each variant's scores for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.engine.gates.labels import Labels
from searchpipe.engine.gates.ranking import top
from searchpipe.engine.gates.variants import Variant
from searchpipe.engine.recipe import GateSettings
from searchpipe.engine.strata import (
    VOTERS,
    TokenCount,
    count_words,
    even_shares,
    length_stratum,
    main_category,
)
from searchpipe.engine.traffic import Traffic, TrafficQuery
from searchpipe.errors import RecipeError

_LABELLED_SHARE = 0.5
"""Of the queries where the log has others: what customers search for counts as much as what was labelled."""

TOP_SHARE = 0.1
"""Without labels, so many of the candidates count as relevant: the reference's best."""


@dataclass(frozen=True, slots=True)
class EvalQuery:
    """One query of the comparison.

    Attributes:
        text: of the query.
        docs: candidates, int32 ``(n,)``, n >= 2.
        strata: see :class:`searchpipe.engine.traffic.TrafficQuery`.
        grades: int32 ``(n,)`` where there are labels, 0 for documents without one; else None.
    """

    text: str
    docs: Int32
    strata: Mapping[str, str]
    grades: Int32 | None = None


def draw_queries(
    traffic: Traffic,
    labels: Labels,
    settings: GateSettings,
    seed: int,
    count_tokens: TokenCount = count_words,
) -> list[EvalQuery]:
    """Draw at most ``settings.queries``, evenly over the strata of traffic, and within over the others.

    Up to half of them are labelled ones, all if the log has no others. Labelled queries that the log
    does not have are tail. Candidates are labelled products first (the best graded of them up to half
    of the candidates), then what the snapshot recalls.

    Raises:
        RecipeError: there is no query with candidates.
    """
    rng = np.random.default_rng(seed)
    by_key = {query.text.casefold(): query for query in traffic.queries}
    graded: dict[str, Mapping[str, int]] = {
        query.text.casefold(): query.labels for query in traffic.queries if query.labels
    }
    categories = {query.strata.get("category", "") for query in traffic.queries}
    labelled: list[TrafficQuery] = [by_key[key] for key in graded]
    for text, grades in labels.items():
        key = text.casefold()
        if key not in graded:
            known = by_key.get(key)
            labelled.append(known or _unknown(traffic, text, categories, count_tokens))
        graded[key] = grades
    plain = [query for key, query in by_key.items() if key not in graded]
    most = settings.queries
    from_labels = min(len(labelled), max(int(most * _LABELLED_SHARE), most - len(plain)))
    drawn = _spread(labelled, from_labels, rng) + _spread(plain, most - from_labels, rng)
    found = [
        _with_candidates(traffic, query, graded.get(query.text.casefold()), settings.candidates)
        for query in drawn
    ]
    usable = [query for query in found if len(query.docs) > 1]
    if not usable:
        raise RecipeError(
            "No query of the log or the labels has two candidates in the snapshot.",
            cure="Name a log (--log) or labels of the same shop as the snapshot.",
        )
    return usable


def score_all(variant: Variant, queries: Sequence[EvalQuery]) -> list[Float32]:
    """Scores of each query's candidates, one batch a query.

    Raises:
        EngineError: the variant failed.
    """
    return [variant.score([(query.text, int(doc)) for doc in query.docs]) for query in queries]


def relevance(query: EvalQuery, reference: Float32, best_grade: int) -> Int32:
    """Grades of the candidates: the labels, or ``best_grade`` for the reference's top decile and else 0."""
    if query.grades is not None:
        return query.grades
    grades = np.zeros(len(reference), np.int32)
    grades[top(reference, max(1, round(TOP_SHARE * len(reference))))] = best_grade
    return grades


def _spread(queries: Sequence[TrafficQuery], number: int, rng: np.random.Generator) -> list[TrafficQuery]:
    """``number`` of ``queries``: evenly of head, torso and tail, and in each evenly of the rest crossed."""
    groups: dict[str, dict[tuple[str, ...], list[TrafficQuery]]] = defaultdict(lambda: defaultdict(list))
    for place in rng.permutation(len(queries)):
        query = queries[place]
        rest = tuple(value for name, value in sorted(query.strata.items()) if name != "traffic")
        groups[query.strata.get("traffic", "")][rest].append(query)
    sizes = [sum(map(len, cells.values())) for cells in groups.values()]
    drawn: list[TrafficQuery] = []
    for cells, share in zip(groups.values(), even_shares(sizes, number), strict=True):
        lists = list(cells.values())
        for members, rows in zip(lists, even_shares([len(cell) for cell in lists], int(share)), strict=True):
            drawn += members[: int(rows)]
    return drawn


def _unknown(traffic: Traffic, text: str, categories: set[str], count_tokens: TokenCount) -> TrafficQuery:
    strata = {"traffic": "tail", "category": "none", "length": length_stratum(count_tokens(text))}
    query = TrafficQuery(text, 1, strata)
    if traffic.snapshot is not None:
        category = main_category(traffic.snapshot, traffic.candidates(query, VOTERS))
        strata["category"] = category if category in categories or not categories else "other"
    return query


def _with_candidates(
    traffic: Traffic, query: TrafficQuery, labels: Mapping[str, int] | None, most: int
) -> EvalQuery:
    docs = traffic.candidates(query, most)
    if not labels:
        return EvalQuery(query.text, docs, query.strata)
    assert traffic.snapshot is not None
    ordinals = {traffic.snapshot.ordinal_of(product): grade for product, grade in labels.items()}
    known = {doc: grade for doc, grade in ordinals.items() if doc is not None}
    if not known:
        return EvalQuery(query.text, docs, query.strata)
    # Relevant products must not push out all others: AUC needs both kinds.
    ranked = sorted(known, key=lambda doc: (-known[doc], doc))
    best, rest = ranked[: max(most // 2, 1)], ranked[max(most // 2, 1) :]
    irrelevant = [doc for doc in rest if known[doc] == 0]
    recalled = [int(doc) for doc in docs if int(doc) not in known]
    order = dict.fromkeys([*best, *irrelevant, *recalled, *rest])
    docs = np.array(list(order)[: max(most, 2)], np.int32)
    # In the order of the catalog: the labels' order must not be a scorer's luck where scores tie.
    docs = np.sort(docs)
    grades = np.array([known.get(int(doc), 0) for doc in docs], np.int32)
    return EvalQuery(query.text, docs, query.strata, grades)
