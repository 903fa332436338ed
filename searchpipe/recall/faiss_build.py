"""From a plan and the vectors to one of FAISS's GPU indexes."""

from __future__ import annotations

from typing import Any

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.catalog.optional import require
from searchpipe.errors import MissingDependencyError
from searchpipe.recall.rule import IndexPlan, training_size

_BLOCK = 65_536
_SEED = 17
_KMEANS_ROUNDS = 12
_PQ_BITS = 8


def require_gpu_faiss() -> Any:
    """The module ``faiss`` with GPU support and at least one GPU.

    Raises:
        MissingDependencyError: it is not installed, is the CPU's, or sees no GPU.
    """
    faiss = require("faiss", "gpu")
    if not hasattr(faiss, "StandardGpuResources"):
        raise MissingDependencyError(
            "The installed FAISS has no GPU support.",
            cure="Uninstall faiss-cpu, then: pip install 'searchpipe[gpu]'",
        )
    if faiss.get_num_gpus() < 1:
        raise MissingDependencyError(
            "FAISS sees no GPU here.", cure="Check the driver with: searchpipe doctor"
        )
    return faiss


def make_resources(faiss: Any, *, device: int, stream: int, temp_bytes: int, pinned_bytes: int) -> Any:
    """Make the one StandardGpuResources of a device, bounded, and ordered by our stream.

    Args:
        faiss: the module.
        device: ordinal of the GPU.
        stream: a CUstream as a number, which must outlive the resources; 0 for FAISS's own.
        temp_bytes: device memory that FAISS keeps for temporaries (at most 1.5 GiB are ever used);
            what does not fit into it is allocated and freed by each search.
        pinned_bytes: pinned host memory for copies.
    """
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(temp_bytes)
    resources.setPinnedMemory(pinned_bytes)
    if stream:
        resources.setDefaultStream(device, faiss.cast_integer_to_cudastream_t(stream))
    return resources


def make_index(
    faiss: Any,
    resources: Any,
    plan: IndexPlan,
    vectors: Float32,
    *,
    device: int = 0,
    centroids: Float32 | None = None,
    use_cuvs: bool = False,
) -> tuple[Any, list[Any]]:
    """Make the index that ``plan`` describes.

    Args:
        faiss: the module.
        resources: of :func:`make_resources`.
        plan: what to make.
        vectors: float32 ``(count, dim)``, may be memory-mapped; read block by block except for a graph.
        device: ordinal of the GPU.
        centroids: float32 ``(lists, dim)`` of inverted lists, for example of an index that a CPU
            host built; learned from the vectors if None or of another number.
        use_cuvs: whether lists are searched by cuVS instead of FAISS's own kernels.

    Returns:
        The index, and objects that must live as long as it.
    """
    if plan.kind == "cagra":
        return _cagra(faiss, resources, plan, vectors, device)
    if plan.kind == "flat":
        config = faiss.GpuIndexFlatConfig()
        config.device = device
        config.use_cuvs = use_cuvs
        config.useFloat16 = plan.codes == "float16"
        index, kept = faiss.GpuIndexFlatIP(resources, plan.dim, config), [config]
    else:
        index, kept = _lists(faiss, resources, plan, device, centroids, use_cuvs)
        if not index.is_trained:
            index.train(_sample(vectors, plan))
    for start in range(0, plan.count, _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK], np.float32))
    if plan.lists:
        index.nprobe = plan.probes
    return index, kept


def centroids_of(faiss: Any, cpu_index: Any) -> Float32 | None:
    """The centres of a CPU index's lists, float32 ``(lists, dim)``; None if it has no lists."""
    lists = faiss.try_extract_index_ivf(cpu_index)
    if lists is None or not lists.is_trained:
        return None
    found: Float32 = faiss.downcast_index(lists.quantizer).reconstruct_n(0, lists.nlist)
    return found


def _lists(
    faiss: Any, resources: Any, plan: IndexPlan, device: int, centroids: Float32 | None, use_cuvs: bool
) -> tuple[Any, list[Any]]:
    kinds = {"float32": "IVFFlat", "float16": "IVFScalarQuantizer", "pq": "IVFPQ"}
    name = kinds[plan.codes]
    config = getattr(faiss, f"GpuIndex{name}Config")()
    config.device = device
    config.use_cuvs = use_cuvs
    config.indicesOptions = faiss.INDICES_64_BIT
    if plan.codes == "pq":
        # From 64 sub-quantizers on, float32 tables do not fit into shared memory.
        config.useFloat16LookupTables = True
    metric = faiss.METRIC_INNER_PRODUCT
    inner: tuple[Any, ...] = ()
    if plan.codes == "float16":
        # Not by residual: float16 of the vector itself is closer than of a sum of two parts.
        inner = (faiss.ScalarQuantizer.QT_fp16, metric, False, config)
    elif plan.codes == "pq":
        inner = (plan.sub_quantizers, _PQ_BITS, metric, config)
    else:
        inner = (metric, config)
    make = getattr(faiss, f"GpuIndex{name}")
    if centroids is None or centroids.shape != (plan.lists, plan.dim):
        index = make(resources, plan.dim, plan.lists, *inner)
        index.cp.seed = _SEED
        index.cp.niter = _KMEANS_ROUNDS
        return index, [config]
    flat = faiss.GpuIndexFlatConfig()
    flat.device = device
    quantizer = faiss.GpuIndexFlatIP(resources, plan.dim, flat)
    quantizer.add(np.ascontiguousarray(centroids, np.float32))
    return make(resources, quantizer, plan.dim, plan.lists, *inner), [config, flat, quantizer]


def _cagra(
    faiss: Any, resources: Any, plan: IndexPlan, vectors: Float32, device: int
) -> tuple[Any, list[Any]]:
    config = faiss.GpuIndexCagraConfig()
    config.device = device
    config.graph_degree = plan.graph_degree
    config.intermediate_graph_degree = 2 * plan.graph_degree
    index = faiss.GpuIndexCagra(resources, plan.dim, faiss.METRIC_INNER_PRODUCT, config)
    if plan.codes == "float16":
        data: Any = np.ascontiguousarray(vectors, np.float16)
        index.train(data, numeric_type=faiss.Float16)
    else:
        data = np.ascontiguousarray(vectors, np.float32)
        index.train(data)
    return index, [config, data]  # the index remembers where its training data was


def _sample(vectors: Float32, plan: IndexPlan) -> Float32:
    size = training_size(plan.count, plan.lists)
    chosen = np.random.default_rng(_SEED).choice(plan.count, size, replace=False)
    return np.ascontiguousarray(vectors[np.sort(chosen)], np.float32)
