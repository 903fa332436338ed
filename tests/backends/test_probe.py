from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from searchpipe.backends import cuda_driver, probe
from searchpipe.backends.capability import Capability, Runtime
from searchpipe.backends.cuda_driver import CudaDevice, CudaFacts, cuda_facts
from searchpipe.backends.probe import probe_cuda, probe_runtimes, run_isolated
from searchpipe.backends.probe_gpu import gpu_runtimes, needing_driver, pipeline_on_gpu

NO_GPU = CudaFacts(driver="", devices=[], reason="libcuda.so.1 cannot be loaded")
GPU = CudaFacts(driver="13.2", devices=[CudaDevice("Some GPU", "9.0", 150 << 30)], reason="")


def test_a_crash_is_a_line_not_the_end() -> None:
    ok, text = run_isolated(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
    assert (ok, text) == (False, "the process died of SIGSEGV")


def test_a_hanging_import_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT", 0.2)
    assert run_isolated(["-c", "import time; time.sleep(60)"]) == (False, "no answer within 0 s")


def test_last_line_tells_the_reason() -> None:
    assert run_isolated(["-c", "print('noise'); print('1.2')"]) == (True, "1.2")
    ok, text = run_isolated(["-c", "raise ImportError('libfoo.so.9: cannot open')"])
    assert (ok, text) == (False, "ImportError: libfoo.so.9: cannot open")
    assert run_isolated(["-c", "import sys; sys.exit(3)"]) == (False, "exit code 3")


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    ok, text = run_isolated(["-c", "1"])
    assert not ok
    assert "cannot run" in text


def test_every_runtime_is_reported() -> None:
    found = {line.name: line for line in probe_runtimes()}
    names = {runtime.name for runtime in probe.RUNTIMES}
    names |= {runtime.name for runtime in gpu_runtimes(NO_GPU)}
    assert set(found) == names | {"cuda", "pipeline on a GPU", "tensorrt", "tensorrt-lean", "tensorrt-rtx"}
    for name in ("core extension", "onnxruntime", "tokenizers"):
        assert found[name].status == "ok", found[name]
        assert found[name].required
    assert "CPUExecutionProvider" in found["onnxruntime"].detail
    assert all(line.get for line in found.values() if line.status != "ok")


def runtime_of(code: str, *distributions: str, exclusive: bool = False) -> Any:
    return Runtime("thing", distributions, code, "pip install thing", exclusive=exclusive)


def test_missing_and_broken_packages_differ() -> None:
    missing = probe._probe(runtime_of("import no_such_package_at_all"))
    assert missing == Capability(
        "thing", "missing", "not installed (No module named 'no_such_package_at_all')", "pip install thing"
    )
    broken = probe._probe(runtime_of("import os; os.abort()"))
    assert (broken.status, broken.detail) == ("unusable", "the process died of SIGABRT")


def test_two_packages_that_own_one_module() -> None:
    line = probe._probe(runtime_of("print(1)", "numpy", "pytest", exclusive=True))
    assert line.status == "unusable"
    assert line.detail == "numpy and pytest are both installed and overwrite each other"
    assert probe._probe(runtime_of("print(1)", "numpy", "no-such", exclusive=True)).status == "ok"


@pytest.fixture
def lean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, tuple[str, ...], str]:
    """A flavour whose bindings import, and would end the process if a runtime were made."""
    code = "import os\n__version__ = '11.4'\ndef Runtime(logger): os.abort()\n"
    (tmp_path / "trt_lean_bindings.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "tensorrt-lean", ("trt_lean", "trt_lean_bindings"), "pip install it"


def test_tensorrt_without_a_driver_is_unusable(lean: tuple[str, tuple[str, ...], str]) -> None:
    line = probe._probe_tensorrt(lean, NO_GPU)
    assert line.status == "unusable"
    assert line.detail == "11.4 is installed, but needs a CUDA driver: libcuda.so.1 cannot be loaded"
    assert probe._probe_tensorrt(lean, GPU) == Capability("tensorrt-lean", "ok", "11.4")


def test_tensorrt_half_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = probe._probe_tensorrt(("tensorrt", ("no_trt", "trt"), "pip install it"), GPU)
    assert (line.status, line.detail) == (
        "unusable",
        "ImportError: libnvinfer.so.11: cannot open shared object file",
    )
    line = probe._probe_tensorrt(("tensorrt", ("no_trt", "no_trt2"), "pip install it"), GPU)
    assert (line.status, line.get) == ("missing", "pip install it")


def test_cuda_in_words() -> None:
    line = probe._cuda_capability(GPU)
    assert line.detail == "driver for CUDA 13.2: Some GPU (compute 9.0, 150 GiB)"
    shown = CudaFacts("13.2", [CudaDevice("Some GPU", "9.0", 150 << 30, 3 << 29)], "")
    assert probe._cuda_capability(shown).detail.endswith("(compute 9.0, 1.5 of 150 GiB free)")
    assert probe._cuda_capability(NO_GPU).status == "missing"
    assert probe._cuda_capability(CudaFacts("13.2", [], "cuInit: error 100")).status == "unusable"


def test_probe_process_agrees_with_the_library() -> None:
    facts = probe_cuda()
    assert isinstance(facts, CudaFacts)
    assert bool(facts.reason) == (not facts.devices)


class FakeDriver:
    """Answers like libcuda with one device, or fails at a chosen call with a chosen status."""

    def __init__(self, *, fail: str = "", status: int = 100, count: int = 1) -> None:
        self.fail, self.status, self.count = fail, status, count

    def __getattr__(self, name: str) -> Any:
        if name == self.fail == "cuInit" and self.status < 0:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            if name == self.fail:
                return self.status
            target = getattr(arguments[0], "_obj", None) if arguments else None
            if name == "cuDriverGetVersion":
                target.value = 13020
            elif name == "cuDeviceGetCount":
                target.value = self.count
            elif name == "cuDeviceGetName":
                arguments[0].value = b"Some GPU"
            elif name == "cuDeviceGetAttribute":
                target.value = {75: 9, 76: 0}[arguments[1]]
            elif name == "cuDeviceTotalMem_v2":
                target.value = 150 << 30
            elif name == "cuMemGetInfo_v2":
                target.value = 140 << 30
            elif name == "cuGetErrorString":
                arguments[1]._obj.value = b"no CUDA-capable device is detected"
            return 0

        return call


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (FakeDriver(), CudaFacts("13.2", [CudaDevice("Some GPU", "9.0", 150 << 30, 140 << 30)], "")),
        (FakeDriver(fail="cuMemGetInfo_v2"), GPU),
        (FakeDriver(fail="cuDevicePrimaryCtxRetain"), GPU),
        (
            FakeDriver(fail="cuInit"),
            CudaFacts("13.2", [], "cuInit: error 100 (no CUDA-capable device is detected)"),
        ),
        (
            FakeDriver(fail="cuDeviceGetCount", status=3),
            CudaFacts("13.2", [], "cuDeviceGetCount: error 3 (no CUDA-capable device is detected)"),
        ),
        (FakeDriver(count=0), CudaFacts("13.2", [], "the driver lists no GPU")),
    ],
)
def test_driver_facts(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, expected: CudaFacts) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert cuda_facts() == expected


def test_no_driver_or_something_else_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert "cannot be loaded" in cuda_facts().reason
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(fail="cuInit", status=-1))
    assert "is not a CUDA driver" in cuda_driver.cuda_facts().reason


def test_the_current_folder_cannot_pose_as_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "msgspec_of_this_folder.py").write_text("")
    monkeypatch.chdir(tmp_path)
    ok, text = run_isolated(["-c", "import msgspec_of_this_folder"])
    assert not ok
    assert "No module named" in text


def found_of(**states: str) -> list[Capability]:
    names = ["onnxruntime cuda", "model preparation", "faiss gpu"]
    return [Capability(name, states.get(name.split()[0], "ok"), "") for name in names]  # type: ignore[arg-type]


def test_what_a_pipeline_would_do_with_the_gpu() -> None:
    assert "no usable CUDA driver" in pipeline_on_gpu(NO_GPU, found_of()).detail
    assert pipeline_on_gpu(GPU, found_of()).detail == "encoder, scorer and dense recall"
    partly = pipeline_on_gpu(GPU, found_of(faiss="missing"))
    assert (partly.status, partly.detail) == ("ok", "encoder and scorer; dense recall stays on the CPU")
    lacking = pipeline_on_gpu(GPU, found_of(onnxruntime="unusable", model="missing"))
    assert lacking.status == "unusable"
    assert lacking.detail == "runs on the CPU for lack of onnxruntime cuda and model preparation"
    assert "searchpipe[gpu]" in lacking.get


def test_packages_for_a_gpu_are_no_use_without_a_driver() -> None:
    fine = Capability("cupy", "ok", "14.2.0")
    assert needing_driver(fine, GPU) == fine
    assert needing_driver(fine, NO_GPU).status == "unusable"
    assert needing_driver(fine, NO_GPU).detail.startswith("14.2.0 is installed, but needs a CUDA driver")
    absent = Capability("cupy", "missing", "not installed")
    assert needing_driver(absent, NO_GPU) == absent


def gpu_line(name: str, cuda: CudaFacts) -> Capability:
    (runtime,) = (runtime for runtime in gpu_runtimes(cuda) if runtime.name == name)
    return probe._probe(runtime)


def test_a_provider_that_cannot_be_loaded_names_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text(
        "__version__ = '9.9'\ndef get_available_providers(): return ['CUDAExecutionProvider']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    line = gpu_line("onnxruntime cuda", GPU)
    assert line.status == "unusable"
    assert "libonnxruntime_providers_shared.so" in line.detail
    # Without a driver no library is loaded.
    assert gpu_line("onnxruntime cuda", NO_GPU).detail == "9.9"


def test_a_crash_of_faiss_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os\n__version__ = '9.9'\nStandardGpuResources = 1\ndef get_num_gpus(): os.abort()\n"
    (tmp_path / "faiss.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gpu_line("faiss gpu", GPU).detail == "the process died of SIGABRT"
    assert gpu_line("faiss gpu", NO_GPU).detail == "9.9 without CAGRA"
