"""``searchpipe engine``: what a build checks in and refuses, and the store's commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from searchpipe.cli.engine import engine_app
from searchpipe.engine.registry import Registry
from searchpipe.engine.run import BuildBusyError, StepFailedError
from searchpipe.engine.signing import KEY_VARIABLE, Trust
from searchpipe.errors import ConfigError, RecipeError, RegistryError
from searchpipe.models.locking import exclusive
from tests.fakes.engines import H200, PASSED, SLOW, WRONG, FactoryStep, factory_steps, machine

RUNNER = CliRunner()
RECIPE = """
name = "tiny"
task = "pair"
[source]
model = "minilm-l12-cross"
max_tokens = 64
"""
Outcome = Callable[..., None]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SEARCHPIPE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SEARCHPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "store"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Chooses what the gates of the next builds find."""

    def choose(results: Mapping[str, Any] | None = None, chosen: str | None = "int8") -> None:
        def steps(check_in: Any, open_ranker: Any) -> list[Any]:
            return [*factory_steps(results=results, chosen=chosen), check_in]

        monkeypatch.setattr("searchpipe.engine.steps.load_steps", steps)

    choose()
    return choose


def run(*arguments: str | Path, code: int = 0) -> str:
    result = RUNNER.invoke(engine_app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def run_json(*arguments: str | Path, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


def test_from_recipe_to_promoted_engine(recipe: Path, outcome: Outcome, store: Path) -> None:
    built = run_json("build", recipe)
    assert (built["checked_in"], built["version"], built["chosen"]) == (True, "v1", "int8")
    assert built["passed"] == ["int8", "fp32"]
    assert built["refused"] == {"fp16": ["speed is 0.9, limit 1: times as fast as fp32."]}
    assert Path(built["report"]).is_file()
    assert [step["state"] for step in built["steps"]] == ["ran"] * 10
    folder = store / "engines" / "tiny" / "v1"
    assert sorted(p.name for p in folder.iterdir()) == [
        # fp16 is slow on this machine, and its plan is for another; its ONNX file is refused.
        "fp16.plan", "fp16.plan.json", "fp32.onnx", "int8.onnx", "int8.plan", "int8.plan.json",
        "manifest.json", "tokenizer.json",
    ]  # fmt: skip
    again = run_json("build", recipe)
    assert again["version"] == "v1"
    assert [step["state"] for step in again["steps"]] == ["kept"] * 9 + ["ran"]
    assert "tiny v1 is promoted for cpu." in run("promote", "tiny")
    assert "promoted already" in run("promote", "tiny")
    (listed,) = run_json("list")["engines"]
    assert (listed["version"], listed["promoted_for"], listed["signed_by"]) == ("v1", ["cpu"], None)
    shown = run_json("show", "tiny")
    assert shown["manifest"]["calibration"] == {"samples": 1000}
    assert shown["manifest"]["profiles"] == {"buckets": [[4, 16], [8, 32]]}
    assert shown["manifest"]["recipe"]["text"] == RECIPE
    assert shown["manifest"]["model"]["sha256"] == "c" * 64
    assert shown["here"]["uses"] == "tiny@v1 (int8 ONNX)"
    assert [event["action"] for event in shown["history"]] == ["check-in", "promote"]


def test_tables_name_what_matters(recipe: Path, outcome: Outcome, store: Path) -> None:
    assert "There is no engine in" in run("list")
    assert "There is no engine in" in run("verify")
    text = run("build", recipe)
    assert all(
        word in text for word in ("Checked in: tiny v1", "Refused: fp16", "speed is 0.9", "not signed")
    )
    assert all(word in run("list") for word in ("tiny", "v1", "int8", "promoted for", str(store)))
    text = run("show", "tiny")
    assert "uses: nothing" in text
    assert all(
        word in text for word in ("int8.onnx and int8.plan", "check-in v1", "speed is 0.9, limit 1", "c" * 64)
    )
    run("promote", "tiny")
    text = run("show", "tiny", "1")
    assert "uses: tiny@v1 (int8 ONNX)" in text
    assert "promote v1 for cpu, after none" in text
    assert run("verify").startswith("ok      tiny v1  unsigned")


@pytest.mark.parametrize("as_json", [False, True])
def test_where_no_variant_passes_nothing_is_checked_in(
    recipe: Path, outcome: Outcome, store: Path, as_json: bool
) -> None:
    outcome({"fp32": WRONG, "int8": WRONG}, None)
    if as_json:
        refused = run_json("build", recipe, code=1)
        assert refused["checked_in"] is False
        text = refused["reason"]
        assert (Path(refused["report"]) / "report.html").is_file()
    else:
        text = run("build", recipe, code=1)
        assert "Report: " in text
    assert "int8: worst_stratum_auc_loss is 0.021, limit 0.01 (worst: traffic=tail): AUC" in text
    assert not store.exists()


def test_a_refused_variant_is_left_out(recipe: Path, outcome: Outcome, store: Path) -> None:
    outcome({"fp32": PASSED, "int8": WRONG}, "fp32")
    assert "Refused: int8\n  worst_stratum_auc_loss is 0.021, limit 0.01 (worst: traffic=tail)" in run(
        "build", recipe
    )
    folder = store / "engines" / "tiny" / "v1"
    assert not list(folder.glob("int8*"))


def test_a_gate_that_may_fail_is_told_and_refuses_nothing(
    recipe: Path, outcome: Outcome, store: Path
) -> None:
    allowed = SLOW | {"passed": True, "gates": [gate | {"waived": True} for gate in SLOW["gates"]]}
    outcome({"fp32": allowed, "int8": WRONG}, "fp32")
    text = run("build", recipe)
    assert "allowed by the recipe, and failed: speed is 0.9, limit 1" in text
    assert "fp32" in text
    assert run_json("show", "tiny")["manifest"]["variants"]["fp32"]["passed"] is True


def test_gates_on_a_gpu_are_for_its_architecture(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    there = machine(H200, tensorrt="11.1.0.7")
    monkeypatch.setattr("searchpipe.engine.steps.check_in.this_machine", lambda: there)
    steps = factory_steps(results={"fp32": PASSED, "fp16": PASSED}, chosen="fp16", device="cuda")
    monkeypatch.setattr(
        "searchpipe.engine.steps.load_steps", lambda check_in, open_ranker: [*steps, check_in]
    )
    run("build", recipe)
    assert "tiny v1 is promoted for sm_90." in run("promote", "tiny")
    registry = Registry(store, trust=Trust())
    manifest = registry.manifest("tiny")
    assert manifest.built_on == there
    assert (manifest.built_on.driver, manifest.built_on.cuda) == ("580.65", "13.0")
    choice = registry.pick("tiny", there)
    assert (choice.plan, choice.plan_precision) == (choice.folder / "fp16.plan", "fp16")
    assert (choice.gpu_model, choice.gpu_prepared) == (choice.folder / "fp16_cuda.onnx", True)
    elsewhere = registry.pick("tiny", machine())
    assert (elsewhere.precision, elsewhere.plan, elsewhere.gpu_model) == ("fp32", None, None)
    assert any("won its gates on sm_90" in reason for reason in elsewhere.reasons)


def test_ci_refuses_unsigned_engines_before_any_work(
    recipe: Path, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.json"
    assert "keep it secret" in run("keygen", key, "--id", "ci-1", "--days", "30")
    with pytest.raises(RegistryError, match="Only signed engines"):
        run("build", recipe, "--ci")
    assert not (tmp_path / "cache" / "builds").exists()
    assert run_json("build", recipe, "--ci", "--key", key)["signed_by"] == "ci-1"
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RegistryError, match="keys given: none"):
        run("promote", "tiny")
    assert "keys given: none" in run("verify", code=1)
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    assert "signed by ci-1 (hmac-sha256)" in run("verify")
    run("promote", "tiny")
    assert "ci-1" in run("list")
    assert run_json("build", recipe)["version"] == "v1"


def test_ed25519_in_ci_and_its_public_half_elsewhere(recipe: Path, outcome: Outcome, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    assert "key.pub.json" in run("keygen", key, "--algorithm", "ed25519")
    run("build", recipe, "--key", key)
    run("promote", "tiny", "--key", tmp_path / "key.pub.json", "--ci")
    with pytest.raises(RegistryError, match="public key, which only checks"):
        run("build", recipe, "--key", tmp_path / "key.pub.json")
    run("keygen", tmp_path / "other.json", "--algorithm", "ed25519")
    assert "was signed by" in run("verify", "--key", tmp_path / "other.json", code=1)
    with pytest.raises(RecipeError, match="no signature 'rsa'"):
        run("keygen", tmp_path / "rsa.json", "--algorithm", "rsa")


def test_verify_names_the_damaged_file(recipe: Path, outcome: Outcome, store: Path) -> None:
    run("build", recipe)
    plan = store / "engines" / "tiny" / "v1" / "int8.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    assert f"{plan} is truncated." in run("verify", "tiny", code=1)
    report = run_json("verify", "tiny", "v1", code=1)
    assert report["ok"] is False
    states = {file["file"]: file["state"] for file in report["engines"][0]["files"]}
    assert (states["int8.plan"], states["int8.onnx"]) == ("truncated", "ok")
    with pytest.raises(RegistryError, match=r"int8.plan is truncated"):
        run("promote", "tiny")
    (plan.parent / "manifest.json").write_text("{}")
    assert "damaged" in run("list")


def test_roll_back_and_prune(recipe: Path, outcome: Outcome) -> None:
    for version, text in enumerate((RECIPE, RECIPE + "# 2\n", RECIPE + "# 3\n", RECIPE + "# 4\n"), 1):
        recipe.write_text(text)
        assert run_json("build", recipe, "--quiet")["version"] == f"v{version}"
    run("promote", "tiny", "v2")
    event = run_json("promote", "tiny", "v3")["event"]
    assert (event["before"], event["target"]) == ("v2", "cpu")
    assert "v2 is promoted for cpu again, after v3" in run("rollback", "tiny")
    assert run("prune", "tiny", "--keep", "1") == "Removed: v1, v3.\n"
    assert run_json("prune", "tiny", "--keep", "1") == {"removed": []}
    with pytest.raises(RegistryError, match="Before v2"):
        run("rollback", "tiny", "--target", "cpu")


def test_a_step_that_fails_is_an_error_and_not_a_refusal(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def fail(folder: Path) -> Mapping[str, Path]:
        raise RecipeError("12 samples in the stratum 'tail'; 64 are needed.")

    steps = factory_steps()
    steps[3] = FactoryStep("calibrate", ("profile",), fail, {})
    monkeypatch.setattr(
        "searchpipe.engine.steps.load_steps", lambda check_in, open_ranker: [*steps, check_in]
    )
    with pytest.raises(StepFailedError, match="Step calibrate: 12 samples in the stratum 'tail'"):
        run("build", recipe)
    assert not store.exists()


def test_a_plan_without_its_manifest_is_not_checked_in(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def plan(folder: Path) -> Mapping[str, Path]:
        path = folder / "int8.plan"
        path.write_bytes(b"plan")
        return {"int8": path}

    steps = factory_steps()
    steps[6] = FactoryStep("plan", ("convert",), plan, {})
    monkeypatch.setattr(
        "searchpipe.engine.steps.load_steps", lambda check_in, open_ranker: [*steps, check_in]
    )
    with pytest.raises(StepFailedError, match="no readable manifest"):
        run("build", recipe)
    assert not store.exists()


def test_bad_recipes_and_busy_builds(recipe: Path, outcome: Outcome, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read the recipe"):
        run("build", tmp_path / "nowhere.toml")
    with pytest.raises(RecipeError, match="no step 'plans'"):
        run("build", recipe, "--from", "plans")
    out = tmp_path / "out"
    out.mkdir()
    with (
        exclusive(out / "lock", on_wait=lambda: None),
        pytest.raises(BuildBusyError, match="is being built in"),
    ):
        run("build", recipe, "--out", out)
    assert run_json("build", recipe, "--out", out)["version"] == "v1"
