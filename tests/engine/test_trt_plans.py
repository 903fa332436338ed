"""Plans: real ones by TensorRT-RTX where it is installed, TensorRT's road by a stand-in, every failure."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.backends.cuda_driver import CudaDevice, CudaFacts
from searchpipe.backends.plan_manifest import read_manifest
from searchpipe.engine import trt_build
from searchpipe.engine.agreement import text_feeds
from searchpipe.engine.plan_profiles import MOST_PROFILES, PlanProfile, plan_profiles
from searchpipe.engine.ranges import measure, write_table
from searchpipe.engine.recipe import CalibrationSettings
from searchpipe.engine.step import Inputs, StepOutput
from searchpipe.engine.steps.convert import ConvertStep
from searchpipe.engine.steps.export import ExportStep
from searchpipe.engine.steps.plan import PlanStep
from searchpipe.engine.steps.source import SourceStep
from searchpipe.engine.trt_build import PlanJob, PlanResult, build, installed, run_job
from searchpipe.errors import RecipeError
from searchpipe.models.cache import sha256_of
from tests.fakes import trt_builder
from tests.fakes.factory import PROFILE, recipe_of, run_steps
from tests.fakes.tiny_bert import TinyBert
from tests.fakes.tiny_tokenizer import save_tokenizer

NO_GPU = CudaFacts(driver="", devices=[], reason="libcuda.so.1 cannot be loaded")
ONE_GPU = CudaFacts(driver="13.0", devices=[CudaDevice("NVIDIA H200", "9.0", 1 << 37)], reason="")
needs_rtx = pytest.mark.skipif(not installed("tensorrt_rtx"), reason="TensorRT-RTX is not installed")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, StepOutput]:
    folder = tmp_path_factory.mktemp("converted")
    save_tokenizer(folder / "tokenizer.json")
    TinyBert(vocab_size=60, hidden=32).save_cross_encoder(folder / "model.onnx")
    recipe = recipe_of(source={"model": "model.onnx"})
    done = run_steps([SourceStep(), ExportStep()], recipe, folder)
    names = ("input_ids", "attention_mask", "token_type_ids")
    feeds = list(text_feeds(names, 60, (2, 3, 0), 48, 1))
    table = measure(done["export"].files["fp32"], feeds, CalibrationSettings(method="max"))
    done["calibrate"] = StepOutput({"table": write_table(table, folder / "table.json")})
    done["profile"] = PROFILE
    return run_steps([ConvertStep()], recipe, folder, done=done)


def planned(
    converted: Mapping[str, StepOutput],
    folder: Path,
    *,
    gpus: CudaFacts = NO_GPU,
    build: Any = run_job,
    **builder: Any,
) -> StepOutput:
    recipe = recipe_of(source={"model": "model.onnx"}, builder=builder)
    step = PlanStep(probe=lambda: gpus, build=build)
    return run_steps([step], recipe, folder, done=converted)["plan"]


def job_of(folder: Path, content: bytes = b"model", **changes: Any) -> PlanJob:
    (folder / "model.onnx").write_bytes(content)
    plain = {
        "runtime": "tensorrt",
        "model": str(folder / "model.onnx"),
        "plan": str(folder / "model.plan"),
        "timing_cache": str(folder / "timing.cache"),
        "profiles": plan_profiles(PROFILE.facts),
        "workspace_mib": 64,
        "optimization_level": 2,
    }
    return PlanJob(**(plain | changes))


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt_builder)


@needs_rtx
def test_real_plans_of_every_precision_are_built_without_a_gpu(
    converted: Mapping[str, StepOutput], tmp_path: Path
) -> None:
    made = planned(converted, tmp_path, runtime="tensorrt-rtx", optimization_level=2)
    assert made.facts["errors"] == {}
    assert set(made.facts["plans"]) == {"fp32", "fp16", "int8"}
    assert made.facts["plans"]["int8"]["model"] == "int8_tensorrt.onnx"
    for precision in ("fp32", "fp16", "int8"):
        plan = made.files[precision]
        manifest = read_manifest(plan)
        assert made.files[f"{precision}_manifest"].name == f"{precision}.plan.json"
        assert manifest.sha256 == sha256_of(plan) == made.facts["plans"][precision]["sha256"]
        assert (manifest.runtime, manifest.compatibility) == ("tensorrt_rtx", "ampere-plus")
        assert manifest.runtime_version == made.facts["plans"][precision]["version"]
        assert made.facts["plans"][precision]["inputs"]["input_ids"] == "INT32"
        assert made.facts["plans"][precision]["outputs"] == {"logits": "FLOAT"}
        assert plan.stat().st_size == made.facts["plans"][precision]["bytes"] > 10_000
    assert "timing_cache" not in made.files
    json.dumps(dict(made.facts))


@needs_rtx
def test_one_precision_that_cannot_be_built_leaves_the_others(
    converted: Mapping[str, StepOutput], tmp_path: Path
) -> None:
    files = dict(converted["convert"].files)
    files["int8"] = files["int8_tensorrt"] = tmp_path / "broken.onnx"
    # Fused attention is no operator of TensorRT's parser.
    (tmp_path / "broken.onnx").write_bytes(files["fp16_cuda"].read_bytes())
    broken = dict(converted) | {"convert": StepOutput(files, converted["convert"].facts)}
    made = planned(broken, tmp_path, runtime="tensorrt-rtx", optimization_level=0)
    assert set(made.facts["plans"]) == {"fp32", "fp16"}
    assert re.search("Attention|parser", made.facts["errors"]["int8"])
    assert "int8" not in made.files
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {
        f"{precision}.plan{ending}" for precision in ("fp32", "fp16") for ending in ("", ".json")
    }


def test_without_a_builder_the_build_goes_on(
    converted: Mapping[str, StepOutput], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchpipe.engine.steps.plan.installed", lambda _runtime: "")
    made = planned(converted, tmp_path)
    assert made.files == {}
    assert made.facts["runtime"] is None
    assert made.facts["reason"] == "tensorrt is not installed; tensorrt-rtx is not installed"
    with pytest.raises(RecipeError, match=r"builds with tensorrt-rtx: tensorrt-rtx is not installed"):
        planned(converted, tmp_path, runtime="tensorrt-rtx")
    monkeypatch.setattr("searchpipe.engine.steps.plan.installed", lambda _runtime: "there")
    assert "none" in planned(converted, tmp_path, runtime="none").facts["reason"]
    with pytest.raises(RecipeError, match=r"tensorrt builds on a GPU alone \(libcuda"):
        planned(converted, tmp_path, runtime="tensorrt")
    with pytest.raises(RecipeError, match="There is no timing cache"):
        planned(converted, tmp_path, timing_cache="lost.cache")


def test_tensorrt_is_built_with_pinned_tactics_for_this_gpu(
    converted: Mapping[str, StepOutput], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_tensorrt: None
) -> None:
    monkeypatch.setattr("searchpipe.engine.steps.plan.installed", lambda runtime: runtime)
    (tmp_path / "pinned.cache").write_bytes(b"tactics")
    made = planned(
        converted,
        tmp_path,
        gpus=ONE_GPU,
        build=lambda job, _scratch: build(job),
        timing_cache="pinned.cache",
        workspace_mib=256,
        optimization_level=4,
    )
    told = json.loads(made.files["fp16"].read_bytes())
    assert told["flags"] == 1 << 1
    assert (told["level"], told["workspace"]) == (4, 256 << 20)
    assert told["builder_flags"] == ["EDITABLE_TIMING_CACHE"]
    assert told["profiles"][0]["input_ids"] == [[1, 4], [8, 16], [16, 32]]
    assert len(told["profiles"]) == len(made.facts["profiles"]) == 4
    manifest = read_manifest(made.files["int8"])
    assert (manifest.gpu, manifest.capability, manifest.compatibility) == ("NVIDIA H200", (9, 0), "exact")
    # One cache for all precisions, the recipe's own file as it was.
    assert made.files["timing_cache"].read_bytes() == b"tactics" + 3 * b"+tactics"
    assert made.facts["timing_cache"]["sha256"] == sha256_of(made.files["timing_cache"])
    assert made.facts["timing_cache"]["pinned"] == sha256_of(tmp_path / "pinned.cache")
    assert (tmp_path / "pinned.cache").read_bytes() == b"tactics"


def test_what_the_builder_refuses_is_told(tmp_path: Path, fake_tensorrt: None, capsys: Any) -> None:
    for content, reason in (
        (b"refused", "the parser refused the model: no importer for operator Strange"),
        (b"unbuildable", "the builder made no plan: no implementation for node MatMul_3"),
    ):
        job = job_of(tmp_path, content)
        (tmp_path / "job.json").write_bytes(trt_build.msgspec.json.encode(job))
        trt_build.main(str(tmp_path / "job.json"))
        result = trt_build.msgspec.json.decode(capsys.readouterr().out.strip(), type=PlanResult)
        assert result.error == reason
        assert not (tmp_path / "model.plan").exists()
    (tmp_path / "timing.cache").write_bytes(b"other gpu")
    trt_build.main(str(tmp_path / "job.json"))
    assert "of another GPU or version" in capsys.readouterr().out


def test_a_builder_that_dies_or_hangs_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "modules" / "tensorrt.py"
    module.parent.mkdir()
    monkeypatch.syspath_prepend(str(module.parent))
    job = job_of(tmp_path)
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert run_job(job, tmp_path).error == "the builder died of signal 11"
    module.write_text("import time\ntime.sleep(60)\n")
    assert run_job(job, tmp_path, timeout=1.0).error == "not built within 1 s"
    module.write_text("import sys\nsys.exit(3)\n")
    assert "ended with 3" in run_job(job, tmp_path).error
    module.write_text("raise ImportError('libnvinfer.so.11 not found')\n")
    assert "libnvinfer.so.11 not found" in run_job(job, tmp_path).error
    assert not list(tmp_path.glob("job.json"))


def test_the_key_follows_settings_gpus_and_the_pinned_cache(tmp_path: Path) -> None:
    def key(gpus: CudaFacts = NO_GPU, **builder: Any) -> Any:
        recipe = recipe_of(source={"model": "m"}, builder=builder)
        return PlanStep(probe=lambda: gpus).key(Inputs(recipe, tmp_path))

    (tmp_path / "a.cache").write_bytes(b"a")
    keys = [key(), key(ONE_GPU), key(workspace_mib=1), key(timing_cache="a.cache")]
    (tmp_path / "a.cache").write_bytes(b"b")
    keys.append(key(timing_cache="a.cache"))
    assert len({json.dumps(each, sort_keys=True) for each in keys}) == 5
    assert key() == keys[0]


def spans(profile: PlanProfile, shape: tuple[int, int]) -> bool:
    return all(a <= b <= c for a, b, c in zip(profile.least, shape, profile.most, strict=True))


SIZES = st.tuples(st.integers(1, 256), st.integers(4, 128))


@given(buckets=st.lists(SIZES, max_size=20), ends=st.lists(SIZES, min_size=3, max_size=3))
def test_profiles_cover_every_bucket(buckets: list[tuple[int, int]], ends: list[tuple[int, int]]) -> None:
    rows, tokens = (sorted(size[axis] for size in ends) for axis in (0, 1))
    profiles = plan_profiles({"rows": rows, "tokens": tokens, "buckets": [list(b) for b in buckets]})
    assert 1 <= len(profiles) <= MOST_PROFILES
    assert all(spans(profile, profile.best) for profile in profiles)
    for shape in [*buckets, (rows[0], tokens[0]), (rows[2], tokens[2])]:
        assert spans(profiles[0], shape)
    # Each bucket is in a narrower profile too, unless a group's would be the first one again.
    if len(profiles) == 1 + min(3, len(set(buckets))):
        assert all(any(spans(profile, bucket) for profile in profiles[1:]) for bucket in buckets)


@pytest.mark.parametrize("name", ["tensorrt_rtx_bindings", "tensorrt"])
def test_the_stand_in_has_the_names_and_arguments_of_the_real_one(name: str) -> None:
    try:
        real = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")
    checked = 0
    for class_name, fake_class in vars(trt_builder).items():
        if not inspect.isclass(fake_class) or fake_class.__module__ != trt_builder.__name__:
            continue
        real_class = getattr(real, {"Tensor": "ITensor"}.get(class_name, class_name))
        for member in [member for member in vars(fake_class) if not member.startswith("_")]:
            assert hasattr(real_class, member), f"{class_name}.{member}"
            function = getattr(fake_class, member)
            if inspect.isfunction(function):
                wanted = [each for each in inspect.signature(function).parameters if each != "self"]
                signatures = re.findall(rf"{member}\(([^)]*)\)", getattr(real_class, member).__doc__)
                found = [re.findall(r"(?:^|, )(\w+):", text) for text in signatures]
                assert ["self", *wanted] in found, f"{class_name}.{member}{wanted}, really {found}"
                checked += 1
    assert checked == 17
