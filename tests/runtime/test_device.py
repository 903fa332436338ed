"""The driver: found or not, devices, buffers, kernels."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.errors import EngineError
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import PTX, row_scores

HEADER_FOLDERS = ("/usr/local/cuda/include", "/usr/include")
REPORT = """
from searchpipe import _core
status = _core.cuda_available()
print(bool(status), status.device_count, status.reason)
try:
    _core.Device(0)
except RuntimeError as error:
    print(error)
"""


def in_fresh_process(**environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", REPORT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return run.stdout


def test_without_a_driver_everything_imports_and_says_why() -> None:
    told = in_fresh_process(SEARCHPIPE_LIBCUDA="/nowhere/libcuda.so.1")
    assert told.startswith("False 0 no NVIDIA driver: cannot load /nowhere/libcuda.so.1")
    assert "CUDA is not available: no NVIDIA driver" in told


def test_a_library_that_is_no_driver_is_named() -> None:
    told = in_fresh_process(SEARCHPIPE_LIBCUDA="libm.so.6")
    assert "older than CUDA 12.0" in told


def test_no_device_is_said(fake: FakeDriver) -> None:
    told = in_fresh_process(FAKE_CUDA_DEVICES="0")
    assert "False 0 the NVIDIA driver sees no device" in told


def test_device_facts(device: _core.Device) -> None:
    assert device.name
    assert device.uuid.startswith("GPU-")
    assert len(device.uuid) == len("GPU-") + 36
    assert device.capability >= (3, 0)
    assert device.multiprocessors > 0
    assert 0 < device.free_bytes() <= device.total_bytes


@pytest.mark.parametrize("ordinal", [-1, 4096])
def test_unknown_devices_are_refused(device: _core.Device, ordinal: int) -> None:
    with pytest.raises(IndexError, match=f"no CUDA device {ordinal}"):
        _core.Device(ordinal)


def test_buffers_copy_both_ways(device: _core.Device) -> None:
    buffer = _core.DeviceBuffer(device, 64)
    buffer.write(np.arange(16, dtype=np.int32))
    back = np.zeros(4, np.int32)
    buffer.read(back, offset=20)
    np.testing.assert_array_equal(back, [5, 6, 7, 8])
    with pytest.raises(IndexError, match="outside of a buffer of 64"):
        buffer.write(np.zeros(5, np.int32), offset=48)
    with pytest.raises(ValueError, match="ascontiguousarray"):
        buffer.write(np.zeros((4, 4), np.int32)[:, ::2])


def test_a_kernel_computes(device: _core.Device) -> None:
    rng = np.random.default_rng(3)
    rows, tokens, width = 130, 20, 2
    ids = rng.integers(0, 30000, (rows, tokens)).astype(np.int32)
    mask = rng.integers(0, 2, (rows, tokens)).astype(np.int32)
    buffers = [_core.DeviceBuffer(device, ids.nbytes) for _ in range(3)]
    for buffer, array in zip(buffers, (ids, mask, mask), strict=True):
        buffer.write(array)
    out = _core.DeviceBuffer(device, rows * width * 4)
    stream = _core.Stream(device)
    kernel = _core.Kernel(device, PTX, "row_scores")
    addresses = [buffer.address for buffer in buffers]
    kernel.launch(stream.handle, 3, 64, [*addresses, out.address, rows, tokens, width])
    stream.synchronize()
    scores = np.empty((rows, width), np.float32)
    out.read(scores)
    np.testing.assert_array_equal(scores, row_scores(ids, mask, mask, width))


def test_kernel_text_that_does_not_compile(device: _core.Device) -> None:
    with pytest.raises(EngineError, match=r"cuModuleLoadData\(row_scores\) failed"):
        _core.Kernel(device, "not PTX", "row_scores")
    with pytest.raises(EngineError, match=r"cuModuleGetFunction\(other\) failed"):
        _core.Kernel(device, PTX, "other")


def test_errors_are_engine_errors(device: _core.Device, fake: FakeDriver) -> None:
    fake.fail_call("cuStreamCreateWithPriority", code=2)
    with pytest.raises(_core.CudaError, match="cuStreamCreateWithPriority failed: CUDA_ERROR_OUT_OF_MEMORY"):
        _core.Stream(device)
    assert issubclass(_core.CudaError, EngineError)


def test_the_fake_wants_a_current_context(fake: FakeDriver) -> None:
    """The fake is as strict as the driver where our guards matter."""
    library = ctypes.CDLL(os.environ["SEARCHPIPE_LIBCUDA"])
    function = ctypes.c_void_p()
    status = ctypes.c_int()
    library.cuGetProcAddress_v2(b"cuMemGetInfo", ctypes.byref(function), 12000, 1, ctypes.byref(status))
    get_info = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(function.value)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert get_info(ctypes.addressof(free), ctypes.addressof(total)) == 201


def test_declarations_agree_with_cuda_h(tmp_path: Path) -> None:
    """Our own declarations have the shape of NVIDIA's header, where there is one."""
    compiler = shutil.which("g++")
    headers = [path for path in map(Path, HEADER_FOLDERS) if (path / "cuda.h").exists()]
    if compiler is None or not headers:
        pytest.skip("no compiler or no cuda.h")
    source = Path(__file__).parents[2] / "csrc"
    flags = ["-std=c++20", "-fsyntax-only", f"-I{source}", f"-I{headers[0]}"]
    run = subprocess.run(
        [compiler, *flags, str(source / "tests" / "check_driver_abi.cc")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_entry_points_are_asked_for_by_names_that_mean_what_is_declared() -> None:
    """The driver goes by names and versions alone, not by the macros of cuda.h that pick a newer function."""
    headers = [path for path in map(Path, HEADER_FOLDERS) if (path / "cudaTypedefs.h").exists()]
    if not headers:
        pytest.skip("no cudaTypedefs.h")
    listed = (headers[0] / "cudaTypedefs.h").read_text()
    declared = (Path(__file__).parents[2] / "csrc" / "cuda" / "driver_api.h").read_text()
    version = int(re.search(r"kApiVersion = (\d+)", declared)[1])  # type: ignore[index]
    entries = re.findall(r"^  X\((cu\w+), \((.*?)\)\)", declared.replace("\\\n", "\n"), re.S | re.M)
    assert len(entries) > 40
    for name, arguments in entries:
        signatures = {
            int(since): parameters.count(",") + 1
            for since, parameters in re.findall(rf"PFN_{name}_v(\d+)\)\((.*?)\);", listed)
        }
        answered = [since for since in signatures if since <= version]
        assert answered, name
        outer = re.sub(r"\([^()]*\)", "", arguments)
        assert signatures[max(answered)] == outer.count(",") + 1, name
