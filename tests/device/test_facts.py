"""Facts of the driver, from a stand-in with the answers of cuda-python, and from what is here."""

from __future__ import annotations

import enum
from types import SimpleNamespace

import pytest

from searchpipe.device.facts import device_facts, driver_facts

GIB = 1 << 30


class Result(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100


class Driver:
    """The functions of cuda.bindings.driver that are asked, each answering with a tuple."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=16,
    )

    def __init__(self, devices=1, fails=""):
        self.devices, self.fails = devices, fails
        self.pushed = self.retained = 0

    def __getattribute__(self, name):
        fails = object.__getattribute__(self, "__dict__").get("fails", "")
        if fails and name == fails:
            return lambda *arguments: (Result.CUDA_ERROR_OUT_OF_MEMORY, None)
        return object.__getattribute__(self, name)

    def cuInit(self, flags):  # noqa: N802
        return ((Result.CUDA_SUCCESS if self.devices else Result.CUDA_ERROR_NO_DEVICE),)

    def cuDriverGetVersion(self):  # noqa: N802
        return Result.CUDA_SUCCESS, 13000

    def cuDeviceGetCount(self):  # noqa: N802
        return Result.CUDA_SUCCESS, self.devices

    def cuDeviceGet(self, ordinal):  # noqa: N802
        return Result.CUDA_SUCCESS, ordinal

    def cuDeviceGetName(self, length, device):  # noqa: N802
        return Result.CUDA_SUCCESS, f"Test GPU {device}".encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return Result.CUDA_SUCCESS, {75: 9, 76: 0, 16: 132}[attribute]

    def cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        self.retained += 1
        return Result.CUDA_SUCCESS, object()

    def cuDevicePrimaryCtxRelease(self, device):  # noqa: N802
        self.retained -= 1
        return (Result.CUDA_SUCCESS,)

    def cuCtxPushCurrent(self, context):  # noqa: N802
        self.pushed += 1
        return (Result.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self):  # noqa: N802
        self.pushed -= 1
        return Result.CUDA_SUCCESS, None

    def cuMemGetInfo(self):  # noqa: N802
        assert self.pushed == 1
        return Result.CUDA_SUCCESS, 130 * GIB, 140 * GIB

    def cuGetErrorString(self, status):  # noqa: N802
        return Result.CUDA_SUCCESS, status.name.encode()


def test_every_gpu_is_described():
    driver = Driver(devices=2)
    facts = driver_facts(driver)
    assert facts.available
    assert facts.driver_version == (13, 0)
    assert [device.name for device in facts.devices] == ["Test GPU 0", "Test GPU 1"]
    line = "Test GPU 1, compute capability 9.0, 132 multiprocessors, 130.0 of 140.0 GiB free"
    assert facts.devices[1].line() == line
    assert driver.pushed == driver.retained == 0


def test_a_call_that_fails_is_named_and_nothing_is_left_held():
    driver = Driver(fails="cuMemGetInfo")
    facts = driver_facts(driver)
    assert not facts.available
    assert facts.reason == "cuMemGetInfo failed with error 2: CUDA_ERROR_OUT_OF_MEMORY"
    assert driver.pushed == driver.retained == 0


def test_no_gpu_is_a_reason():
    assert "cuInit failed with error 100" in driver_facts(Driver(devices=0)).reason


def test_the_machine_itself_is_asked_without_harm():
    facts = driver_facts()
    assert facts.available == bool(facts.devices)
    assert facts.available != bool(facts.reason)
    with pytest.raises(IndexError, match="There is no GPU 99"):
        device_facts(99)
