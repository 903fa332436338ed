"""FAISS's GPU classes on the CPU: the names, arguments and limits of faiss-gpu-cuvs 1.15 over faiss-cpu.

Everything else of the module is the real faiss-cpu. What the real classes do silently,
these do too: FAISS's own kernels ignore a selector in the search parameters. A search whose results
stay in device memory is work on the stream of its resources; only on the fake driver.
"""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np

from tests.fakes.cuda_driver import HostFunctions

MAX_SELECTION = 2048


class _Config:
    fields: tuple[str, ...] = ("device", "use_cuvs")

    def __init__(self) -> None:
        for name in self.fields:
            object.__setattr__(self, name, 0)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        object.__setattr__(self, name, value)


def _config(name: str, *fields: str) -> type[_Config]:
    return type(name, (_Config,), {"fields": (*_Config.fields, *fields)})


GpuIndexFlatConfig = _config("GpuIndexFlatConfig", "useFloat16", "storeTransposed")
_lists = ("indicesOptions", "flatConfig", "allowCpuCoarseQuantizer", "interleavedLayout")
GpuIndexIVFFlatConfig = _config("GpuIndexIVFFlatConfig", *_lists)
GpuIndexIVFScalarQuantizerConfig = _config("GpuIndexIVFScalarQuantizerConfig", *_lists)
GpuIndexIVFPQConfig = _config(
    "GpuIndexIVFPQConfig", *_lists, "useFloat16LookupTables", "usePrecomputedTables", "useMMCodeDistance"
)
GpuIndexCagraConfig = _config(
    "GpuIndexCagraConfig", "graph_degree", "intermediate_graph_degree", "build_algo", "nn_descent_niter"
)


class StandardGpuResources:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def setTempMemory(self, size: int) -> None:  # noqa: N802
        self.calls.append(("temp", size))

    def setPinnedMemory(self, size: int) -> None:  # noqa: N802
        self.calls.append(("pinned", size))

    def setDefaultStream(self, device: int, stream: Any) -> None:  # noqa: N802
        self.calls.append(("stream", device, stream))

    @property
    def stream(self) -> int:
        [handle] = [call[2][1] for call in self.calls if call[0] == "stream"]
        return int(handle)


class IdsOnDevice:
    """Where ids go: host memory, as the fake driver has no other."""

    def __init__(self, address: int) -> None:
        self.pointer = faiss.cast_integer_to_idx_t_ptr(address)


def cast_integer_to_idx_t_ptr(address: int) -> IdsOnDevice:
    return IdsOnDevice(address)


class SearchParametersCagra:
    def __init__(self, *, itopk_size: int = 64, sel: Any = None) -> None:
        self.itopk_size = itopk_size
        self.sel = sel


class _GpuIndex:
    """Forwards to a CPU index, and objects to a second thread inside."""

    selects = False

    def __init__(self, resources: Any, index: Any, config: Any) -> None:
        assert isinstance(resources, StandardGpuResources)
        self.index = index
        self.config = config
        self.resources = resources
        self.functions: HostFunctions | None = None
        self._inside = threading.Lock()
        self.searches: list[int] = []
        self.fail_next = 0

    @property
    def is_trained(self) -> bool:
        return bool(self.index.is_trained)

    def train(self, x: Any) -> None:
        self.index.train(x)

    def add(self, x: Any) -> None:
        assert x.dtype == np.float32
        self.index.add(x)

    def search_c(self, n: int, x: Any, k: int, distances: Any, labels: Any, params: Any = None) -> None:
        if not self._inside.acquire(blocking=False):
            raise AssertionError("two threads inside one GPU index")
        try:
            if self.fail_next:
                self.fail_next -= 1
                raise RuntimeError("Error in virtual void faiss::gpu::search: CUDA error 700 (fake)")
            if k > MAX_SELECTION:
                raise RuntimeError(f"GPU index only supports min/max-K selection up to {MAX_SELECTION}")
            self.searches.append(n)
            if not isinstance(labels, IdsOnDevice):
                self.index.search_c(n, x, k, distances, labels, self.parameters(params))
                return
            self.functions = self.functions or HostFunctions()
            given = n, x, k, distances, labels.pointer, self.parameters(params)
            self.functions.put(self.resources.stream, lambda: self.index.search_c(*given))
        finally:
            self._inside.release()

    def parameters(self, params: Any) -> Any:
        if params is None or self.selects:
            return params
        return faiss.SearchParametersIVF(nprobe=params.nprobe)  # the selector is dropped, silently


class GpuIndexFlatIP(_GpuIndex):
    def __init__(self, resources: Any, dims: int, config: Any) -> None:
        assert isinstance(config, GpuIndexFlatConfig)
        half = faiss.IndexScalarQuantizer(dims, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        half.train(np.zeros((1, dims), np.float32))
        super().__init__(resources, half if config.useFloat16 else faiss.IndexFlatIP(dims), config)


class _Lists(_GpuIndex):
    def __init__(self, resources: Any, quantizer: Any, index: Any, config: Any) -> None:
        super().__init__(resources, index, config)
        self.selects = bool(config.use_cuvs)
        self.quantizer = quantizer
        self.cp = index.cp

    @property
    def nprobe(self) -> int:
        return int(self.index.nprobe)

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self.index.nprobe = value

    @staticmethod
    def split(arguments: tuple[Any, ...]) -> tuple[Any, int, int, tuple[Any, ...]]:
        """With or without a quantizer in front: (CPU quantizer, dims, lists, the rest)."""
        if isinstance(arguments[0], GpuIndexFlatIP):
            given, dims, lists, *rest = arguments
            return given.index, dims, lists, tuple(rest)
        dims, lists, *rest = arguments
        return faiss.IndexFlatIP(dims), dims, lists, tuple(rest)


class GpuIndexIVFFlat(_Lists):
    def __init__(self, resources: Any, *arguments: Any) -> None:
        quantizer, dims, lists, (metric, config) = self.split(arguments)
        assert isinstance(config, GpuIndexIVFFlatConfig)
        index = faiss.IndexIVFFlat(quantizer, dims, lists, metric)
        super().__init__(resources, quantizer, index, config)


class GpuIndexIVFScalarQuantizer(_Lists):
    def __init__(self, resources: Any, *arguments: Any) -> None:
        quantizer, dims, lists, (kind, metric, residual, config) = self.split(arguments)
        assert isinstance(config, GpuIndexIVFScalarQuantizerConfig)
        index = faiss.IndexIVFScalarQuantizer(quantizer, dims, lists, kind, metric, residual)
        super().__init__(resources, quantizer, index, config)


class GpuIndexIVFPQ(_Lists):
    def __init__(self, resources: Any, *arguments: Any) -> None:
        quantizer, dims, lists, (size, bits, metric, config) = self.split(arguments)
        assert isinstance(config, GpuIndexIVFPQConfig)
        index = faiss.IndexIVFPQ(quantizer, dims, lists, size, bits, metric)
        super().__init__(resources, quantizer, index, config)


class GpuIndexCagra(_GpuIndex):
    selects = True

    def __init__(self, resources: Any, dims: int, metric: int, config: Any) -> None:
        assert isinstance(config, GpuIndexCagraConfig)
        assert metric == faiss.METRIC_INNER_PRODUCT
        super().__init__(resources, faiss.IndexFlatIP(dims), config)
        self._numeric = faiss.Float32

    def train(self, x: Any, *, numeric_type: Any = faiss.Float32) -> None:
        self._numeric = numeric_type
        self.index.add(np.ascontiguousarray(x, np.float32))

    def parameters(self, params: Any) -> Any:
        assert isinstance(params, SearchParametersCagra)
        return faiss.SearchParameters(sel=params.sel) if params.sel is not None else None

    def search_c(self, n: int, x: Any, k: int, distances: Any, labels: Any, params: Any = None) -> None:
        if self._numeric != faiss.Float32:
            raise RuntimeError("Inconsistent numeric type for train and search")
        assert params.itopk_size >= k
        super().search_c(n, x, k, distances, labels, params)


def cast_integer_to_cudastream_t(handle: int) -> tuple[str, int]:
    return ("stream", handle)


def get_num_gpus() -> int:
    return 1


INDICES_64_BIT = 3


def __getattr__(name: str) -> Any:
    return getattr(faiss, name)
