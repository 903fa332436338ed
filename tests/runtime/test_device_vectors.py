"""Places for vectors on the device: lent, used again, bounded, freed."""

from __future__ import annotations

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.errors import EngineError
from searchpipe.recall.fallback import FallbackIndex
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.runtime.device_vectors import DeviceVectors
from tests.fakes.cuda_driver import OUT_OF_MEMORY, FakeDriver


def test_a_place_is_used_again_once_nobody_holds_it(device: _core.Device, fake: FakeDriver) -> None:
    places = DeviceVectors(device, 8, limit=2)
    first, second = places.take(), places.take()
    assert first is not None
    assert second is not None
    assert first.address != second.address
    assert places.take() is None
    shown = first.__cuda_array_interface__
    assert (shown["shape"], shown["typestr"], shown["data"][0]) == ((8,), "<f4", first.address)
    address, held = first.address, [first]
    del first
    assert places.take() is None  # a search still reads it
    held.clear()
    again = places.take()
    assert again is not None
    assert again.address == address
    assert again.host is None
    places.close()
    assert places.take() is None
    assert fake.device_bytes() == 2 * 4 * 8  # lent still, and there to be read
    places.free()
    assert fake.device_bytes() == 0
    with pytest.raises(EngineError, match="was freed"):
        _ = again.address
    assert again.shape == second.shape == (8,)
    places.free()
    del again, second
    assert places.take() is None


def test_nothing_is_lent_to_an_encoder_that_cannot_write_there(
    device: _core.Device, fake: FakeDriver
) -> None:
    places = DeviceVectors(device, 8, ready=lambda: False)
    assert places.take() is None
    assert fake.device_bytes() == 0


def test_a_full_device_lends_nothing(device: _core.Device, fake: FakeDriver) -> None:
    places = DeviceVectors(device, 8)
    fake.fail_call("cuMemAlloc", code=OUT_OF_MEMORY)
    assert places.take() is None
    assert places.take() is not None


def test_the_copy_on_the_host_is_taken_where_one_is_needed(device: _core.Device) -> None:
    places = DeviceVectors(device, 3)
    vector = places.take()
    assert vector is not None
    vector.host = np.array([1, 2, 3], np.float32)
    assert GpuIndex._on_host(vector) is vector.host
    seen = []

    class Host:
        def search(self, query: np.ndarray, k: int, *, mask: object = None) -> tuple[np.ndarray, np.ndarray]:
            seen.append(query)
            return np.array([7], np.int32), np.array([1.0], np.float32)

    index = FallbackIndex(None, Host(), max_k=1)  # type: ignore[arg-type]
    docs, _, reason = index.search_saying(vector, 5)
    assert docs.tolist() == [7]
    assert "the GPU gives 1" in reason
    np.testing.assert_array_equal(seen[0], vector.host)
    places.close()
