"""Builds the fake CUDA driver of csrc/tests/fake_cuda and steers it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
OUT_OF_MEMORY = 2
ILLEGAL_ADDRESS = 700
LAUNCH_FAILED = 719
_CUDA_13 = 13000
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def real_driver_present() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def build(flags: tuple[str, ...] = ("-O1",)) -> Path | None:
    """Compile the fake, or find it compiled; None without a compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return None
    parts = [
        *sorted((SOURCES / "tests" / "fake_cuda").iterdir()),
        SOURCES / "cuda" / "driver_api.h",
        *sorted((SOURCES / "runtime").glob("*.cu")),
    ]
    digest = hashlib.sha256(repr(flags).encode() + b"".join(part.read_bytes() for part in parts)).hexdigest()
    library = Path(tempfile.gettempdir()) / f"searchpipe-fake-cuda-{os.getuid()}-{digest[:16]}.so"
    if not library.exists():
        building = library.with_suffix(f".{os.getpid()}.tmp")
        source = SOURCES / "tests" / "fake_cuda" / "fake_cuda.cc"
        command = [
            compiler,
            "-std=c++20",
            *flags,
            "-fPIC",
            "-shared",
            "-pthread",
            f"-I{SOURCES}",
            str(source),
        ]
        subprocess.run([*command, "-o", str(building)], check=True)
        building.replace(library)
    return library


class HostFunctions:
    """Python functions as work on streams of the fake, on the stream's own thread; kept as long as this."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["SEARCHPIPE_LIBCUDA"])
        self._launch = self._function("cuLaunchHostFunc", ctypes.c_void_p, _HOST_FUNCTION, ctypes.c_void_p)
        self._push = self._function("cuCtxPushCurrent", ctypes.c_void_p)
        self._pop = self._function("cuCtxPopCurrent", ctypes.c_void_p)
        self._context = ctypes.c_void_p()
        retain = self._function("cuDevicePrimaryCtxRetain", ctypes.c_void_p, ctypes.c_int)
        assert retain(ctypes.byref(self._context), 0) == 0
        self._kept: list[Any] = []  # a captured graph calls them for as long as it lives

    def put(self, stream: int, function: Callable[[], None]) -> None:
        """Call `function` once everything before it on the stream is done."""
        held = _HOST_FUNCTION(lambda _data: function())
        self._kept.append(held)
        assert self._push(self._context) == 0
        code = self._launch(stream, held, None)
        assert self._pop(ctypes.byref(ctypes.c_void_p())) == 0
        if code != 0:
            raise RuntimeError(f"CUDA error {code} (fake)")

    def _function(self, name: str, *arguments: Any) -> Callable[..., int]:
        found, status = ctypes.c_void_p(), ctypes.c_int()
        code = self._library.cuGetProcAddress_v2(
            name.encode(), ctypes.byref(found), _CUDA_13, ctypes.c_uint64(0), ctypes.byref(status)
        )
        assert code == 0
        assert found.value
        return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(found.value)


class FakeDriver:
    """The fake's controls; all of them are process-wide."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        for name in ("fake_cuda_count", "fake_cuda_device_bytes", "fake_cuda_pinned_bytes"):
            getattr(self._library, name).restype = ctypes.c_int64

    def fail_call(self, name: str, *, skip: int = 0, times: int = 1, code: int = LAUNCH_FAILED) -> None:
        """Let calls of `name` answer `code`; nothing is started by them."""
        self._library.fake_cuda_fail_call(name.encode(), skip, times, code)

    def fail_work(self, name: str, *, skip: int = 0, code: int = ILLEGAL_ADDRESS) -> None:
        """Let work started by `name` fail as it runs: from then on every call answers `code`."""
        self._library.fake_cuda_fail_work(name.encode(), skip, code)

    def reset(self) -> None:
        self._library.fake_cuda_reset()

    def hold(self, held: bool = True) -> None:
        """Stop all streams before their next piece of work, or let them go on."""
        self._library.fake_cuda_hold(int(held))

    def delay(self, microseconds: int) -> None:
        self._library.fake_cuda_delay(microseconds)

    def count(self, name: str) -> int:
        return int(self._library.fake_cuda_count(name.encode()))

    def device_bytes(self) -> int:
        return int(self._library.fake_cuda_device_bytes())

    def pinned_bytes(self) -> int:
        return int(self._library.fake_cuda_pinned_bytes())
