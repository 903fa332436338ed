"""The CUDA driver and its devices, asked through ``libcuda`` alone.

``python -m searchpipe.backends.cuda_driver`` prints the facts as JSON. The probe
runs it as a process of its own: ``cuInit`` in the host would make CUDA unusable
in processes that the host forks later.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import asdict, dataclass

_SUCCESS = 0
# CUdevice_attribute values of the driver API.
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_NAME_BYTES = 128


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU; memory in bytes, ``free`` None where the driver does not say."""

    name: str
    compute_capability: str
    memory: int
    free: int | None = None


@dataclass(frozen=True, slots=True)
class CudaFacts:
    """What the driver says; ``reason`` is empty when it can be used."""

    driver: str
    devices: list[CudaDevice]
    reason: str


def cuda_facts() -> CudaFacts:
    """Load ``libcuda``, initialise it and list the devices; never raises.

    How much memory is free is known inside a context only, so one is made for each device, and dropped.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return CudaFacts(driver="", devices=[], reason=f"{name} cannot be loaded: {error}")
    try:
        return _ask(library)
    except AttributeError as error:
        return CudaFacts(driver="", devices=[], reason=f"{name} is not a CUDA driver: {error}")


def _ask(library: ctypes.CDLL) -> CudaFacts:
    version = ctypes.c_int(0)
    driver = ""
    if library.cuDriverGetVersion(ctypes.byref(version)) == _SUCCESS:
        # 13020 means 13.2.
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    status = library.cuInit(0)
    if status != _SUCCESS:
        return CudaFacts(driver=driver, devices=[], reason=f"cuInit: {_text_of(library, status)}")
    count = ctypes.c_int(0)
    status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != _SUCCESS:
        return CudaFacts(driver=driver, devices=[], reason=f"cuDeviceGetCount: {_text_of(library, status)}")
    devices = [_device(library, ordinal) for ordinal in range(count.value)]
    return CudaFacts(driver=driver, devices=devices, reason="" if devices else "the driver lists no GPU")


def _device(library: ctypes.CDLL, ordinal: int) -> CudaDevice:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    memory = ctypes.c_size_t(0)
    library.cuDeviceGet(ctypes.byref(device), ordinal)
    library.cuDeviceGetName(name, _NAME_BYTES, device)
    library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return CudaDevice(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory=memory.value,
        free=_free(library, device),
    )


def _free(library: ctypes.CDLL, device: ctypes.c_int) -> int | None:
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(0), ctypes.c_size_t(0)
    if library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != _SUCCESS:
        return None
    try:
        if library.cuCtxPushCurrent_v2(context) != _SUCCESS:
            return None
        status = library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        library.cuCtxPopCurrent_v2(ctypes.byref(context))
        return free.value if status == _SUCCESS else None
    finally:
        library.cuDevicePrimaryCtxRelease_v2(device)


def _text_of(library: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(text))
    return f"error {status} ({(text.value or b'unknown').decode('utf-8', 'replace')})"


if __name__ == "__main__":
    print(json.dumps(asdict(cuda_facts())))
