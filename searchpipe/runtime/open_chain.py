"""The usual chain for one model: TensorRT, ONNX Runtime on the GPU (packed, then padded), then on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from searchpipe.backends.device_engine import DeviceEngine, open_device
from searchpipe.backends.host_engine import host_executor
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.backends.onnx_cuda import open_onnx_cuda
from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from searchpipe.backends.onnx_split import KINDS
from searchpipe.backends.tensorrt import open_tensorrt
from searchpipe.models.cache import default_cache_dir
from searchpipe.models.settings import LocalModel
from searchpipe.runtime.buckets import Bucket, choose_buckets, choose_packed_buckets
from searchpipe.runtime.engine_chain import EngineChain
from searchpipe.runtime.links import Link, Opened, check_device

if TYPE_CHECKING:
    from searchpipe import _core

_LOG = logging.getLogger("searchpipe.gpu")


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """How the engines of a chain are opened.

    ``device``: ordinal of the GPU. ``buckets``: shapes (rows, tokens a row) that GPU engines are
    prepared for; empty for a grid up to ``max_rows`` rows and ``max_tokens`` tokens.
    ``packed``: ONNX Runtime on the GPU runs cross-encoders on rows without padding, as many
    and as long as ``buckets`` allow; padded rows where a model has no such form.
    ``epilogues``: of :data:`searchpipe.backends.onnx_split.KINDS`, products of packed rows that
    cuBLASLt computes with their bias and GELU, where it can; they take more device memory.
    ``token_step``: see :func:`searchpipe.runtime.buckets.choose_packed_buckets`.
    ``lanes``, ``slots``: see :func:`searchpipe.backends.device_engine.open_lanes`.
    ``threads``: of the CPU engine, 0 for all cores. ``plan``: a TensorRT plan with its
    manifest beside it, None for the one that the model brings, if any. ``gpu_model``: the
    ONNX export that is prepared for the GPU, None for the one that the model brings, or
    else for the model itself (which must not be quantised for the CPU then). ``cache``:
    folder for prepared models, None for the user's cache folder.
    """

    device: int = 0
    buckets: Sequence[Bucket] = ()
    max_rows: int = 256
    max_tokens: int = 128
    packed: bool = True
    epilogues: Sequence[str] = KINDS
    token_step: int = 1024
    lanes: int = 1
    slots: int = 3
    threads: int = 0
    plan: Path | None = None
    gpu_model: Path | None = None
    cache: Path | None = None


def open_chain(model: LocalModel, options: ChainOptions | None = None) -> EngineChain:
    """Open the first engine that works here, and keep the others ready to follow.

    Raises:
        EngineError: none works; the message has every reason.
    """
    chosen = options or ChainOptions()
    buckets = list(chosen.buckets) or choose_buckets(
        max_rows=chosen.max_rows, max_tokens=min(chosen.max_tokens, model.max_tokens)
    )
    links = [
        Link("onnx-cuda-packed", lambda: _onnx_cuda_packed(model, buckets, chosen)),
        Link("onnx-cuda", lambda: _onnx_cuda(model, buckets, chosen)),
        Link("onnx-cpu", lambda: _onnx_cpu(model, buckets, chosen)),
    ]
    # A prepared file has passed the gates as it is: its rows stay padded.
    as_it_is = model.gpu_prepared and chosen.gpu_model in (None, model.gpu_model)
    if not chosen.packed or as_it_is or model.kind != "cross-encoder":
        del links[0]
    plan = chosen.plan or model.plan
    if plan is not None:
        links.insert(0, Link("tensorrt", lambda: _tensorrt(model, plan, buckets, chosen)))
    return EngineChain(links)


def _tensorrt(model: LocalModel, plan: Path, buckets: list[Bucket], options: ChainOptions) -> Opened:
    device = open_device(options.device)
    return _opened(
        open_tensorrt(plan, device, buckets, lanes=options.lanes, slots=options.slots, name=model.name),
        device,
    )


def _onnx_cuda(model: LocalModel, buckets: list[Bucket], options: ChainOptions) -> Opened:
    # The driver first: preparing a model takes seconds, and is of no use without one.
    device = open_device(options.device)
    encoder = model.kind == "encoder"
    prepare = PrepareOptions(
        pooling=model.pooling if encoder else "none", normalize=encoder and model.normalize
    )
    source = options.gpu_model or model.gpu_model or model.model
    as_it_is = model.gpu_prepared and source == model.gpu_model
    prepared = source if as_it_is else _prepare(model, options, prepare)
    return _opened(
        open_onnx_cuda(prepared, device, buckets, lanes=options.lanes, slots=options.slots, name=model.name),
        device,
    )


def _onnx_cuda_packed(model: LocalModel, buckets: list[Bucket], options: ChainOptions) -> Opened:
    device = open_device(options.device)
    longest_row = max(tokens for _, tokens in buckets)
    packed = choose_packed_buckets(
        max_rows=max(rows for rows, _ in buckets), longest_row=longest_row, token_step=options.token_step
    )
    prepared = _prepare(model, options, PrepareOptions(packed=True))

    def opened(epilogues: Sequence[str]) -> DeviceEngine:
        return open_onnx_cuda(
            prepared,
            device,
            packed,
            longest_row=longest_row,
            lanes=options.lanes,
            slots=options.slots,
            epilogues=epilogues,
            name=model.name,
        )

    engine = _with_epilogues(model, opened, options.epilogues) if options.epilogues else None
    return _opened(engine or opened(()), device)


def _with_epilogues(
    model: LocalModel, opened: Callable[[Sequence[str]], DeviceEngine], epilogues: Sequence[str]
) -> DeviceEngine | None:
    """The engine with them; None where cuBLASLt, the model or the memory does not allow it."""
    try:
        engine = opened(epilogues)
    except Exception as error:  # libraries raise what they like; without epilogues the reason is found again
        reason = f"{type(error).__name__}: {error}"
    else:
        if not engine.not_captured:
            return engine
        reason = next(iter(engine.not_captured.values()))
        engine.close()  # one call for each step and batch costs more than they save
    _LOG.info("%s on packed rows goes without cuBLASLt's epilogues: %s", model.name, reason)
    return None


def _prepare(model: LocalModel, options: ChainOptions, prepare: PrepareOptions) -> Path:
    source = options.gpu_model or model.gpu_model or model.model
    return prepare_onnx(source, options.cache or default_cache_dir() / "prepared", prepare)


def _onnx_cpu(model: LocalModel, buckets: list[Bucket], options: ChainOptions) -> Opened:
    engine = OnnxCpuEngine(model.model, threads=options.threads, name=model.name)
    executor = host_executor(engine, model, buckets)
    return Opened(executor, engine.close, f"onnxruntime on the CPU, {engine.threads} thread(s)")


def _opened(engine: DeviceEngine, device: _core.Device) -> Opened:
    return Opened(
        engine.executor, engine.close, engine.describe(), on_gpu=True, check=lambda: check_device(device)
    )
