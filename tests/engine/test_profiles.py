from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.engine.profiles import LAUNCH_TOKENS, Requests, choose, grid
from searchpipe.engine.recipe import Recipe
from searchpipe.engine.rows import PairRows, QueryRows
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.steps.profile import ProfileStep
from searchpipe.errors import RecipeError
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.settings import convert
from tests.conftest import World
from tests.fakes.catalogs import snapshot_of, write_jsonl

row_lengths = st.lists(
    st.lists(st.integers(1, 200), min_size=1, max_size=60).map(lambda rows: np.array(rows, np.int32)),
    min_size=1,
    max_size=6,
)
some_buckets = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 200)), max_size=5, unique=True)


@settings(deadline=None)
@given(row_lengths, some_buckets, st.tuples(st.integers(1, 64), st.integers(1, 200)))
def test_waste_never_grows_when_a_bucket_is_added(lengths, buckets, one_more) -> None:
    requests = Requests(lengths)
    buckets = list(dict.fromkeys([(64, 200), *buckets]))
    before = requests.waste(buckets)
    after = requests.waste(list(dict.fromkeys([*buckets, one_more])))
    assert after.cost <= before.cost
    assert after.waste <= before.waste
    assert 0 <= after.waste < 1
    assert after.padded >= after.real == before.real


@settings(deadline=None)
@given(row_lengths, st.integers(1, 12), st.sampled_from([0.0, 0.001, 0.01, 0.2]))
def test_chosen_buckets_hold_every_row_and_the_curve_falls(lengths, most, min_gain) -> None:
    requests = Requests(lengths)
    choice = choose(
        requests,
        max_rows=requests.max_rows,
        max_tokens=requests.max_tokens,
        max_buckets=most,
        min_gain=min_gain,
    )
    assert 1 <= len(choice.buckets) <= most
    assert max(tokens for _, tokens in choice.buckets) >= requests.max_tokens
    assert max(rows for rows, _ in choice.buckets) == requests.max_rows
    assert all(tokens % 8 == 0 for _, tokens in choice.buckets)
    wastes = [point.waste.waste for point in choice.curve]
    assert wastes == sorted(wastes, reverse=True)
    if len(choice.buckets) > 1:
        assert choice.curve[len(choice.buckets) - 1].gain >= min_gain
    assert choice.waste == requests.waste(choice.buckets)
    assert sum(choice.usage) == pytest.approx(1.0)


def test_a_bucket_more_is_not_taken_when_it_saves_too_little() -> None:
    rng = np.random.default_rng(0)
    requests = Requests([rng.integers(20, 128, 256).astype(np.int32) for _ in range(20)])
    few = choose(requests, max_rows=256, max_tokens=128, max_buckets=48, min_gain=0.02)
    many = choose(requests, max_rows=256, max_tokens=128, max_buckets=48, min_gain=0.0001)
    assert 1 < len(few.buckets) < len(many.buckets)
    # The plot shows what the refused ones would have gained.
    assert len(few.curve) > len(few.buckets)
    assert all(point.gain < 0.02 for point in few.curve[len(few.buckets) :])
    assert many.waste.cost < few.waste.cost < requests.waste([(256, 128)]).cost


def test_two_kinds_of_requests_get_their_two_buckets() -> None:
    lengths = [np.full(256, 120, np.int32)] * 5 + [np.full(16, 24, np.int32)] * 40
    choice = choose(Requests(lengths), max_rows=256, max_tokens=120, max_buckets=2, min_gain=0.001)
    assert choice.buckets == [(16, 24), (256, 120)]
    assert choice.waste.padding == 0
    assert choice.waste.cost == 5 * (256 * 120 + LAUNCH_TOKENS) + 40 * (16 * 24 + LAUNCH_TOKENS)


def test_a_manual_grid_keeps_within_the_number_of_buckets() -> None:
    for most in (1, 5, 48):
        buckets = grid(None, max_rows=256, max_tokens=100, max_buckets=most).buckets
        assert len(buckets) <= most
        assert (256, 104) in buckets


def test_requests_without_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="No query"):
        Requests([np.empty(0, np.int32)])


def build_of(world: World, folder: Path, **changes: Any) -> Build:
    recipe = {"name": "tiny", "task": "pair", "source": {"model": "m.onnx", "max_tokens": 64}} | changes.pop(
        "recipe", {}
    )
    given_inputs = {"log": world.files.query_log, "snapshot": world.snapshot} | changes
    inputs = Inputs(recipe=convert(recipe, Recipe), recipe_folder=folder, **given_inputs)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = world.snapshot.parent / "tokenizer.json"
    done = {"export": StepOutput({"tokenizer": tokenizer})}
    return Build(inputs, folder, done, say=lambda line: None)


def test_shapes_of_pairs_come_from_the_log_and_the_snapshot(world: World, tmp_path: Path) -> None:
    output = ProfileStep().run(build_of(world, tmp_path, recipe={"profile": {"depth": 50}}))
    facts = output.facts
    least, usual, most = facts["tokens"]
    assert 5 <= least <= usual <= most <= 64
    assert facts["rows"][0] == 1
    assert facts["rows"][2] == 50
    assert max(facts["buckets"]) == [50, most]
    assert 0 < facts["padding"] < 1
    assert facts["curve"][0]["buckets"] == 1
    assert facts["waste"] <= facts["curve"][0]["waste"]
    file = json.loads(output.files["profile"].read_text("utf-8"))
    counts = file["candidates"]["counts"]
    # Three of four requests are whole, the others shorter.
    assert counts[-1] >= 0.75 * sum(counts)
    assert len([count for count in counts if count]) > 3
    assert 0.75 * 50 * sum(counts) < sum(file["lengths"]["counts"]) < 50 * sum(counts)
    assert file["alternatives"][0]["buckets"] == 1
    assert file["alternatives"][0]["waste"] >= facts["waste"]
    json.dumps(facts)


def test_shapes_of_queries_need_no_snapshot(world: World, tmp_path: Path) -> None:
    recipe = {"task": "query", "profile": {"depth": 32}}
    facts = ProfileStep().run(build_of(world, tmp_path, recipe=recipe, snapshot=None)).facts
    rows = QueryRows(world.snapshot.parent / "tokenizer.json", 64)
    assert facts["tokens"][0] >= min(rows.length(text) for text in world.queries)
    assert facts["tokens"][2] >= max(rows.length(text) for text in world.queries) - 8
    assert 16 <= facts["rows"][2] <= 32


def test_shapes_of_a_ranker_have_rows_alone(world: World, tmp_path: Path) -> None:
    facts = ProfileStep().run(build_of(world, tmp_path, recipe={"task": "ranker"})).facts
    assert facts["tokens"] == [1, 1, 1]
    assert {tokens for _, tokens in facts["buckets"]} == {1}
    assert facts["rows"][2] == 256


def test_manual_shapes_need_no_traffic(world: World, tmp_path: Path) -> None:
    profile = {"source": "manual", "rows": [1, 32, 64], "tokens": [8, 32, 60], "max_buckets": 6}
    build = build_of(world, tmp_path, recipe={"profile": profile}, log=None, snapshot=None)
    facts = ProfileStep().run(build).facts
    assert facts["rows"] == [1, 32, 64]
    assert facts["tokens"] == [8, 32, 64]
    assert facts["waste"] is None
    assert len(facts["buckets"]) <= 6


def test_manual_shapes_are_judged_by_traffic_where_there_is_some(world: World, tmp_path: Path) -> None:
    profile = {"source": "manual", "rows": [1, 32, 64], "tokens": [8, 16, 24]}
    facts = ProfileStep().run(build_of(world, tmp_path, recipe={"profile": profile})).facts
    assert facts["waste"] > 0
    assert facts["rows_cut"] > 0


def test_shapes_that_are_upside_down_are_refused(world: World, tmp_path: Path) -> None:
    profile = {"source": "manual", "rows": [32, 1, 64], "tokens": [8, 32, 60]}
    with pytest.raises(RecipeError, match=r"profile.rows is \[32, 1, 64\]"):
        ProfileStep().run(build_of(world, tmp_path, recipe={"profile": profile}))


@pytest.mark.parametrize("missing", ["log", "snapshot"])
def test_traffic_that_is_not_there_is_refused(world: World, tmp_path: Path, missing: str) -> None:
    with pytest.raises(RecipeError, match="--log, --snapshot"):
        ProfileStep().run(build_of(world, tmp_path, **{missing: None}))


def test_a_snapshot_of_another_tokenizer_is_refused(world: World, tmp_path: Path) -> None:
    build = build_of(world, tmp_path)
    other = tmp_path / "tokenizer.json"
    other.write_bytes((world.snapshot.parent / "tokenizer.json").read_bytes() + b" ")
    with pytest.raises(RecipeError, match="another tokenizer"):
        ProfileStep().run(Build(build.inputs, tmp_path, {"export": StepOutput({"tokenizer": other})}))


def test_the_key_follows_what_the_step_reads(world: World, tmp_path: Path) -> None:
    step = ProfileStep()
    key = step.key(build_of(world, tmp_path).inputs)
    assert key == step.key(build_of(world, tmp_path).inputs)
    log = write_jsonl(tmp_path / "log.jsonl", [{"query": "a"}])
    assert key != step.key(build_of(world, tmp_path, log=log).inputs)
    assert key != step.key(build_of(world, tmp_path, recipe={"profile": {"depth": 9}}).inputs)
    other = snapshot_of(tmp_path / "other")
    assert key != step.key(build_of(world, tmp_path, snapshot=other.path).inputs)


def test_rows_of_pairs_are_those_of_the_tokenizer(world: World) -> None:
    from searchpipe.catalog import Snapshot

    path = world.snapshot.parent / "tokenizer.json"
    with Snapshot.open(world.snapshot) as snapshot:
        rows = PairRows(snapshot, path, 40)
        tokenizer = TextTokenizer(path, max_tokens=30)
        pairs = [(world.queries[0], 3), (world.queries[1], 3), (world.queries[0], 7)]
        feeds, order = rows.feeds(pairs, width=48)
        assert feeds["input_ids"].shape == (3, 48)
        for row, place in enumerate(order):
            query = tokenizer.ids(pairs[place][0]).tolist()
            document = snapshot.tokens.tokens(pairs[place][1]).tolist()
            whole = [
                tokenizer.cls_id,
                *query,
                tokenizer.sep_id,
                *document[: 40 - 3 - len(query)],
                tokenizer.sep_id,
            ]
            assert feeds["input_ids"][row].tolist() == whole + [tokenizer.pad_id] * (48 - len(whole))
            assert feeds["attention_mask"][row].sum() == len(whole)
        lengths = rows.lengths(world.queries[0], np.array([3, 7], np.int32))
        assert sorted(lengths) == sorted(feeds["attention_mask"][np.isin(order, [0, 2])].sum(axis=1))
