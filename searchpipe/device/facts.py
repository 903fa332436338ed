"""What the CUDA driver says about the GPUs here, by cuda-python; nothing is imported until it is asked."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchpipe import _core


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One GPU; memory in bytes."""

    ordinal: int
    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int
    multiprocessors: int

    def line(self) -> str:
        """The GPU in one line."""
        major, minor = self.capability
        gib = 1 << 30
        return (
            f"{self.name}, compute capability {major}.{minor}, {self.multiprocessors} multiprocessors, "
            f"{self.free_bytes / gib:.1f} of {self.total_bytes / gib:.1f} GiB free"
        )


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What one look at the driver found.

    Attributes:
        reason: why no GPU can be used and what to do; empty if one can.
        driver_version: newest CUDA that the driver serves, as (major, minor); (0, 0) without a driver.
        devices: the GPUs.
    """

    reason: str
    driver_version: tuple[int, int] = (0, 0)
    devices: tuple[DeviceFacts, ...] = ()

    @property
    def available(self) -> bool:
        """Whether there is a GPU to use."""
        return not self.reason


def driver_facts(driver: Any | None = None) -> DriverFacts:
    """Ask the driver; never raises. Any thread.

    Args:
        driver: the module ``cuda.bindings.driver``; imported if None.
    """
    if driver is None:
        try:
            driver = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            return DriverFacts(
                f"cuda-python cannot be imported ({error}); install it with: pip install 'searchpipe[gpu]'"
            )
    try:
        return _ask(driver)
    except _DriverError as error:
        return DriverFacts(str(error))
    except Exception as error:  # cuda-python raises its own kinds where the driver library is missing
        return DriverFacts(f"the CUDA driver cannot be used: {str(error).strip() or type(error).__name__}")


def device_facts(ordinal: int = 0) -> DeviceFacts:
    """One GPU's facts, its free memory being that of this moment.

    Raises:
        IndexError: there is no such GPU; the message says why.
    """
    facts = driver_facts()
    if facts.available and 0 <= ordinal < len(facts.devices):
        return facts.devices[ordinal]
    why = facts.reason or f"the driver shows {len(facts.devices)} GPUs"
    raise IndexError(f"There is no GPU {ordinal}: {why}.")


def facts_of(device: _core.Device) -> DeviceFacts:
    """The facts of a GPU that is open already, its free memory being that of this moment.

    Raises:
        EngineError: the device failed (``CudaError``).
    """
    return DeviceFacts(
        device.ordinal,
        device.name,
        device.capability,
        device.total_bytes,
        device.free_bytes(),
        device.multiprocessors,
    )


class _DriverError(Exception):
    pass


def _ask(driver: Any) -> DriverFacts:
    _call(driver, "cuInit", 0)
    version = int(_call(driver, "cuDriverGetVersion"))
    count = int(_call(driver, "cuDeviceGetCount"))
    serves = (version // 1000, version % 1000 // 10)
    if not count:
        return DriverFacts("the driver shows no GPU; check CUDA_VISIBLE_DEVICES", serves)
    return DriverFacts("", serves, tuple(_device(driver, ordinal) for ordinal in range(count)))


def _device(driver: Any, ordinal: int) -> DeviceFacts:
    device = _call(driver, "cuDeviceGet", ordinal)
    attributes = driver.CUdevice_attribute

    def attribute(name: str) -> int:
        return int(_call(driver, "cuDeviceGetAttribute", getattr(attributes, name), device))

    name = _call(driver, "cuDeviceGetName", 256, device)
    # The primary context is the one that every library of this process shares.
    context = _call(driver, "cuDevicePrimaryCtxRetain", device)
    try:
        _call(driver, "cuCtxPushCurrent", context)
        try:
            free, total = (int(value) for value in _call(driver, "cuMemGetInfo"))
        finally:
            _call(driver, "cuCtxPopCurrent")
    finally:
        _call(driver, "cuDevicePrimaryCtxRelease", device)
    return DeviceFacts(
        ordinal,
        bytes(name).split(b"\0", 1)[0].decode(errors="replace").strip(),
        (
            attribute("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR"),
            attribute("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR"),
        ),
        total,
        free,
        attribute("CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT"),
    )


def _call(driver: Any, name: str, *arguments: Any) -> Any:
    """Call one function of the driver API, which answers with a tuple of status and results."""
    status, *results = getattr(driver, name)(*arguments)
    if int(status) != 0:
        raise _DriverError(f"{name} failed with {_text(driver, status)}")
    return results[0] if len(results) == 1 else results


def _text(driver: Any, status: Any) -> str:
    code, text = driver.cuGetErrorString(status)
    if int(code) == 0 and text:
        return f"error {int(status)}: {bytes(text).decode(errors='replace')}"
    return f"error {int(status)}"
