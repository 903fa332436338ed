"""Settings of a recipe from a command line, and the TOML that says what was really built."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.engine.recipe import (
    GateSettings,
    PrecisionSettings,
    Recipe,
    SourceSettings,
    load_recipe,
    parse_recipe,
)
from searchpipe.engine.recipe_overrides import as_toml
from searchpipe.errors import ConfigError

ENGINES = Path(__file__).parents[2] / "engines"
texts = st.text(max_size=20)


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_recipes_read_back_as_they_are(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(as_toml(recipe), "it") == recipe
    changed = load_recipe(path, ["gates.queries=50", "calibration.device=cpu", "gates.allow=['speed']"])
    assert changed.gates.queries == 50
    assert changed.calibration.device == "cpu"
    assert changed.gates.allow == ("speed",)
    assert changed.calibration.batches == recipe.calibration.batches
    assert parse_recipe(as_toml(changed), "it") == changed


@given(texts, st.lists(texts, max_size=3), st.floats(0, 1e6), st.booleans())
def test_any_setting_survives(model: str, keep: list[str], limit: float, interval: bool) -> None:
    gates = GateSettings(max_abs_diff=limit, use_interval=interval)
    source, precision = SourceSettings(model=model), PrecisionSettings(keep_fp32=tuple(keep))
    recipe = Recipe(name="any", task="pair", source=source, precision=precision, gates=gates)
    assert parse_recipe(as_toml(recipe), "it") == recipe


@pytest.mark.parametrize("assignment", ["gates.queries", "=5", "a.b.c=1", "name.x=1", ".queries=1"])
def test_what_sets_nothing_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_recipe(ENGINES / "tiny-cross.toml", [assignment])


@pytest.mark.parametrize("assignment", ["gates.querys=5", "gates.queries=0", "gates.allow=['finite']"])
def test_unknown_settings_and_values_are_refused_as_in_the_file(assignment: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(ENGINES / "tiny-cross.toml", [assignment])
