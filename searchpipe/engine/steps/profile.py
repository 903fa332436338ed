"""profile: the shapes that engines are built for, from the query log and the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np

from searchpipe.arrays import Int32
from searchpipe.engine.fingerprint import file_key, snapshot_key
from searchpipe.engine.profiles import LAUNCH_TOKENS, Choice, Requests, Waste, choose, grid, round_up
from searchpipe.engine.rows import PairRows, QueryRows
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.traffic import Traffic, TrafficQuery, open_traffic
from searchpipe.errors import RecipeError
from searchpipe.files import write_json
from searchpipe.runtime.buckets import TOKEN_STEP, choose_buckets

# Queries whose rows are laid out: with 256 rows each, enough for a length that 1 row in 10,000 has.
_SAMPLED = 96
_SHORTENED = 4
_BARS = 32


class ProfileStep:
    """Finds min, usual and most rows and tokens, and the buckets; for one thread.

    ``profile.json`` has what the facts have, and the distributions for plots.
    """

    name = "profile"
    needs: tuple[str, ...] = ("source", "export")

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Settings, log and snapshot."""
        recipe = inputs.recipe
        return {
            "profile": msgspec.to_builtins(recipe.profile),
            "task": recipe.task,
            "max_tokens": recipe.source.max_tokens,
            "log": file_key(inputs.log),
            "snapshot": snapshot_key(inputs.snapshot),
            "seed": inputs.seed,
        }

    def run(self, build: Build) -> StepOutput:
        """Choose the shapes.

        Raises:
            RecipeError: shapes shall come from traffic and there is none, or it does not fit the model.
        """
        inputs = build.inputs
        settings = inputs.recipe.profile
        manual = settings.source == "manual"
        if not manual and (inputs.log is None or (inputs.snapshot is None and inputs.recipe.task != "query")):
            raise RecipeError(
                "Shapes come from traffic, and there is no query log or no snapshot.",
                cure='Name both (--log, --snapshot), or set profile.source = "manual".',
            )
        requests, cut = None, 0
        if inputs.log is not None and (inputs.snapshot is not None or inputs.recipe.task == "query"):
            sampled = _sampled(build)
            most = settings.tokens[2] if manual and settings.tokens else None
            requests, cut = _cut(sampled, most)
        facts = _manual(build, requests) if manual else _from_traffic(build, requests)
        facts["rows_cut"] = cut
        if cut:
            build.say(f"profile: {cut} sampled rows are longer than profile.tokens allows and would be cut")
        path = build.folder / "profile.json"
        write_json(path, facts | _plots(requests, facts))
        build.say(
            f"profile: rows {facts['rows']}, tokens {facts['tokens']}, {len(facts['buckets'])} buckets"
            + (f", {100 * facts['padding']:.1f}% padding" if requests else "")
        )
        return StepOutput({"profile": path}, facts)


def _from_traffic(build: Build, requests: Requests | None) -> dict[str, Any]:
    assert requests is not None
    settings = build.inputs.recipe.profile
    choice = choose(
        requests,
        max_rows=min(requests.max_rows, settings.depth),
        max_tokens=requests.max_tokens,
        max_buckets=settings.max_buckets,
        min_gain=settings.min_gain,
    )
    usual_rows, usual_tokens = choice.usual
    largest_tokens = max(tokens for _, tokens in choice.buckets)
    least = int(requests.all_lengths.min())
    facts = _facts(choice, requests, ranker=build.inputs.recipe.task == "ranker")
    tokens = [1, 1, 1] if build.inputs.recipe.task == "ranker" else [least, usual_tokens, largest_tokens]
    return facts | {"rows": [1, usual_rows, max(r for r, _ in choice.buckets)], "tokens": tokens}


def _manual(build: Build, requests: Requests | None) -> dict[str, Any]:
    settings = build.inputs.recipe.profile
    assert settings.rows is not None
    assert settings.tokens is not None
    for name, (least, usual, most) in (("rows", settings.rows), ("tokens", settings.tokens)):
        if not least <= usual <= most:
            raise RecipeError(
                f"profile.{name} is [{least}, {usual}, {most}]; it must be the least, the usual and the most."
            )
    ranker = build.inputs.recipe.task == "ranker"
    choice = grid(
        requests,
        max_rows=settings.rows[2],
        max_tokens=1 if ranker else settings.tokens[2],
        max_buckets=settings.max_buckets,
    )
    facts = _facts(choice, requests, ranker=ranker)
    most = max(settings.tokens[2], max(tokens for _, tokens in facts["buckets"]))
    return facts | {
        "rows": list(settings.rows),
        "tokens": [1, 1, 1] if ranker else [*settings.tokens[:2], most],
    }


def _facts(choice: Choice, requests: Requests | None, *, ranker: bool) -> dict[str, Any]:
    def shape(bucket: tuple[int, int]) -> list[int]:
        return [bucket[0], 1 if ranker else bucket[1]]

    return {
        "buckets": [shape(bucket) for bucket in choice.buckets],
        "usage": [round(share, 6) for share in choice.usage],
        "waste": choice.waste.waste if requests else None,
        "padding": choice.waste.padding if requests else None,
        "launch_tokens": LAUNCH_TOKENS,
        "curve": [
            {
                "buckets": number,
                "added": shape(point.bucket),
                "gain": point.gain,
                "waste": point.waste.waste,
                "padding": point.waste.padding,
                "cells": sum(p.bucket[0] * p.bucket[1] for p in choice.curve[:number]),
            }
            for number, point in enumerate(choice.curve, start=1)
        ]
        if requests
        else [],
    }


def _sampled(build: Build) -> list[Int32]:
    """Row lengths of requests drawn as the traffic is."""
    inputs = build.inputs
    recipe = inputs.recipe
    tokenizer = build.done["export"].files.get("tokenizer")
    if tokenizer is None and recipe.task != "ranker":
        raise RecipeError("The exported model has no tokenizer.", cure="Name one in source.tokenizer.")
    traffic = open_traffic(inputs.log, inputs.snapshot, seed=inputs.seed)
    try:
        rng = np.random.default_rng(inputs.seed)
        if recipe.task == "query":
            assert tokenizer is not None
            prefix = str(build.done["source"].facts.get("prefix", "")) if "source" in build.done else ""
            rows_of = QueryRows(tokenizer, recipe.source.max_tokens, prefix)
            return _query_batches(traffic, rows_of, recipe.profile.depth, rng)
        drawn = _drawn(traffic, rng)
        found = [
            (query, _shortened(traffic.candidates(query, recipe.profile.depth), place, rng))
            for place, query in enumerate(drawn)
        ]
        if recipe.task == "ranker":
            # Its rows have one width: no bucket is narrower, and nothing is padded along it.
            return [np.full(len(docs), TOKEN_STEP, np.int32) for _, docs in found]
        assert traffic.snapshot is not None
        assert tokenizer is not None
        rows = PairRows(traffic.snapshot, tokenizer, recipe.source.max_tokens)
        return [rows.lengths(query.text, docs) for query, docs in found if len(docs)]
    finally:
        traffic.close()


def _shortened(docs: Int32, place: int, rng: np.random.Generator) -> Int32:
    """Every fourth request has fewer rows, each halving as likely: of a late query, less is scored."""
    if place % _SHORTENED or len(docs) < 2:
        return docs
    return docs[: int(np.exp2(rng.uniform(0, np.log2(len(docs)))))]


def _drawn(traffic: Traffic, rng: np.random.Generator, number: int = _SAMPLED) -> list[TrafficQuery]:
    searches = np.array([query.count * query.weight for query in traffic.queries])
    places = rng.choice(len(searches), number, p=searches / searches.sum())
    return [traffic.queries[place] for place in places]


def _query_batches(traffic: Traffic, rows: QueryRows, most: int, rng: np.random.Generator) -> list[Int32]:
    """Queries asked for at once share a batch: from 1 to ``most``, each doubling of the size as likely."""
    sizes = np.exp2(rng.uniform(0, np.log2(most) if most > 1 else 0, _SAMPLED)).astype(int)
    return [
        np.array([rows.length(query.text) for query in _drawn(traffic, rng, int(size))], np.int32)
        for size in sizes
    ]


def _cut(lengths: list[Int32], most: int | None) -> tuple[Requests, int]:
    if most is None:
        return Requests(lengths), 0
    longer = sum(int(np.count_nonzero(rows > most)) for rows in lengths)
    return Requests([np.minimum(rows, most) for rows in lengths]), longer


def _plots(requests: Requests | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Distributions of what occurred, and what other choices of buckets would waste."""
    if requests is None:
        return {"lengths": None, "candidates": None, "alternatives": []}
    rows, tokens = max(requests.max_rows, facts["rows"][2]), round_up(requests.max_tokens)
    others = {
        "one bucket": [(rows, tokens)],
        "rows by doubling, one width": choose_buckets(max_rows=rows, max_tokens=tokens, widths=1),
        "rows by doubling, 8 widths by quantile": choose_buckets(
            max_rows=rows, max_tokens=tokens, lengths=requests.all_lengths
        ),
    }
    named: dict[str, tuple[int, Waste]] = {
        name: (len(buckets), requests.waste(buckets)) for name, buckets in others.items()
    }
    counts = np.array([len(row) for row in requests.lengths])
    return {
        "lengths": None if facts["tokens"] == [1, 1, 1] else _histogram(requests.all_lengths),
        "candidates": _histogram(counts),
        "alternatives": [
            {"name": name, "buckets": number, "waste": waste.waste, "padding": waste.padding} | asdict(waste)
            for name, (number, waste) in named.items()
        ],
    }


def _histogram(values: Any) -> dict[str, Any]:
    """Bars of whole numbers: edges and counts, with quantiles."""
    low, high = int(values.min()), int(values.max())
    step = max(1, -(-(high - low + 1) // _BARS))
    edges = np.arange(low, high + step + 1, step)
    counts, _ = np.histogram(values, edges)
    points = np.quantile(values, [0.5, 0.95, 0.99])
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "p50": float(points[0]),
        "p95": float(points[1]),
        "p99": float(points[2]),
    }
