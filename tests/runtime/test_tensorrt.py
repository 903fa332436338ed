"""Plans behind the chain's first link: refusals before they are touched, contexts, capture, answers."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from searchpipe import _core
from searchpipe.backends.plan_manifest import PlanManifest, manifest_path
from searchpipe.backends.tensorrt import open_tensorrt
from searchpipe.errors import EngineError, MissingDependencyError, ModelError
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import expected_texts

BUCKETS = [(4, 16), (8, 32)]
PROFILES = [((1, 1), (4, 16), (4, 16)), ((1, 1), (8, 32), (16, 64))]
REAL_MODULES = ("tensorrt_rtx_bindings", "tensorrt_lean_bindings", "tensorrt")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    return fake_tensorrt


def write_plan(folder: Path, device: _core.Device, content: bytes | None = None, **changes: Any) -> Path:
    plan = folder / "ranker.plan"
    plan.write_bytes(fake_tensorrt.build_plan(PROFILES) if content is None else content)
    facts: dict[str, Any] = {
        "sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
        "runtime": "tensorrt",
        "runtime_version": "11.1.0.7",
        "gpu": device.name,
        "capability": device.capability,
        **changes,
    }
    manifest_path(plan).write_bytes(msgspec.json.encode(PlanManifest(**facts)))
    return plan


def test_a_plan_answers_from_graphs(tmp_path: Path, device: _core.Device, trt: ModuleType) -> None:
    opened = open_tensorrt(write_plan(tmp_path, device), device, BUCKETS, lanes=2)
    assert opened.runtime == "tensorrt 11.1.0.0"
    assert (opened.inputs, opened.output_width) == (3, 1)
    assert opened.not_captured == {}
    assert opened.describe().startswith("tensorrt 11.1.0.0, padded rows, 4 of 4 graphs captured, 2 lane(s)")
    scorer = _core.Scorer(opened.executor)
    rng = np.random.default_rng(5)
    texts = [rng.integers(1000, 30000, n).astype(np.int32) for n in (3, 12, 29, 30, 1, 0, 22, 9, 14, 27)]
    ticket = scorer.submit_texts(texts, cls_id=101, sep_id=102)
    assert ticket.wait(30)
    np.testing.assert_array_equal(ticket.scores(), expected_texts(texts, 1)[:, 0])
    scorer.close()
    opened.close()


def test_each_bucket_takes_the_nearest_profile(
    tmp_path: Path, device: _core.Device, trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    real = fake_tensorrt.IExecutionContext.set_optimization_profile_async

    def spy(self: Any, profile_index: int, stream_handle: int) -> bool:
        chosen.append(profile_index)
        return real(self, profile_index, stream_handle)

    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "set_optimization_profile_async", spy)
    with open_tensorrt(write_plan(tmp_path, device), device, [(8, 32), (2, 8), (16, 64)]):
        assert chosen == [0, 1, 1]


def test_where_capture_fails_the_context_is_called(
    tmp_path: Path, device: _core.Device, fake: FakeDriver, trt: ModuleType
) -> None:
    fake.fail_call("cuGraphInstantiateWithFlags", times=2)
    opened = open_tensorrt(write_plan(tmp_path, device), device, BUCKETS)
    assert set(opened.not_captured) == set(BUCKETS)
    assert "not captured: cuGraphInstantiateWithFlags failed" in opened.describe()
    scorer = _core.Scorer(opened.executor)
    texts = [np.full(5, 2000, np.int32)]
    ticket = scorer.submit_texts(texts, cls_id=101, sep_id=102)
    assert ticket.wait(30)
    np.testing.assert_array_equal(ticket.scores(), expected_texts(texts, 1)[:, 0])
    scorer.close()
    opened.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"has the hash [0-9a-f]{12}, and its manifest says 000000000000"),
        ({"runtime_version": "11.0.0"}, r"built by tensorrt 11.0.0, and this is 11.1.0.0"),
        ({"runtime_version": "9.3.0", "version_compatible": True}, "built by tensorrt 9.3.0"),
        ({"gpu": "NVIDIA L4"}, "was built for NVIDIA L4"),
        ({"capability": (7, 5), "compatibility": "same-capability"}, r"compute capability 7\.5"),
        ({"capability": (99, 0), "compatibility": "ampere-plus"}, r"compute capability 99\.0"),
        ({"host_code": True}, "carries host code"),
    ],
)
def test_plans_for_elsewhere_are_refused_unread(
    tmp_path: Path,
    device: _core.Device,
    trt: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(fake_tensorrt, "Runtime", None)  # touching it would raise TypeError
    with pytest.raises(ModelError, match=message):
        open_tensorrt(write_plan(tmp_path, device, **changes), device, BUCKETS)


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime_version": "10.13.0", "version_compatible": True},
        {"gpu": "another of its kind", "compatibility": "same-capability"},
        {"gpu": "NVIDIA A100", "capability": (8, 0), "compatibility": "ampere-plus"},
    ],
)
def test_compatible_plans_are_opened(
    tmp_path: Path, device: _core.Device, trt: ModuleType, changes: dict[str, Any]
) -> None:
    with open_tensorrt(write_plan(tmp_path, device, **changes), device, BUCKETS) as opened:
        assert opened.buckets == BUCKETS


def test_a_plan_without_manifest_is_refused(tmp_path: Path, device: _core.Device, trt: ModuleType) -> None:
    plan = write_plan(tmp_path, device)
    manifest_path(plan).write_text("{}")
    with pytest.raises(ModelError, match="not a plan's manifest"):
        open_tensorrt(plan, device, BUCKETS)
    manifest_path(plan).unlink()
    with pytest.raises(ModelError, match="no readable manifest"):
        open_tensorrt(plan, device, BUCKETS)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"rubbish", EngineError, "refused the plan: The engine plan file is not compatible"),
        (
            fake_tensorrt.build_plan([PROFILES[0]]),
            ModelError,
            r"no profile for 8 x 32; it has \(1, 1\) to \(4, 16\)",
        ),
        (fake_tensorrt.build_plan(PROFILES, dtype="INT64"), ModelError, "not int32"),
        (fake_tensorrt.build_plan(PROFILES, inputs=("pixels",)), ModelError, "takes pixels"),
    ],
)
def test_plans_that_do_not_fit(
    tmp_path: Path,
    device: _core.Device,
    trt: ModuleType,
    content: bytes,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        open_tensorrt(write_plan(tmp_path, device, content), device, BUCKETS)


def test_no_tensorrt(tmp_path: Path, device: _core.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match="needs tensorrt"):
        open_tensorrt(write_plan(tmp_path, device), device, BUCKETS)


@pytest.mark.parametrize("name", REAL_MODULES)
def test_the_fake_has_the_names_and_arguments_of_the_real_one(name: str) -> None:
    try:
        real = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")
    checked = 0
    for class_name, fake_class in vars(fake_tensorrt).items():
        if not inspect.isclass(fake_class) or fake_class.__module__ != fake_tensorrt.__name__:
            continue
        real_class = getattr(real.Logger if class_name == "Severity" else real, class_name)
        for member in [name for name in vars(fake_class) if not name.startswith("_")]:
            assert hasattr(real_class, member), f"{class_name}.{member}"
            function = getattr(fake_class, member)
            if inspect.isfunction(function) and class_name != "ILogger":
                wanted = list(inspect.signature(function).parameters)
                told = getattr(real_class, member).__doc__
                signatures = re.findall(rf"{member}\(([^)]*)\)", told)
                found = [re.findall(r"(?:^|, )(\w+):", text) for text in signatures]
                assert wanted in found, f"{class_name}.{member}{wanted}, really {found}"
                checked += 1
    assert checked == 14
