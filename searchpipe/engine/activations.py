"""Running a float32 model so that the inputs of its products can be seen, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from searchpipe.arrays import Array
from searchpipe.engine.agreement import Feeds
from searchpipe.engine.onnx_graph import tools
from searchpipe.errors import RecipeError

CalibrationDevice = Literal["cpu", "cuda"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def calibration_device(asked: Literal["auto", "cpu", "cuda"]) -> CalibrationDevice:
    """Where calibration runs: ``auto`` takes a GPU that ONNX Runtime can use.

    Raises:
        RecipeError: the recipe asks for CUDA, and it cannot be used here.
    """
    if asked == "cpu":
        return "cpu"
    from searchpipe.engine.gates.runtime import gpu_reason

    reason = gpu_reason()
    if not reason:
        return "cuda"
    if asked == "cuda":
        raise RecipeError(
            f"The recipe calibrates on a GPU, and there is none to use: {reason}.",
            cure='Set calibration.device to "auto" or "cpu".',
        )
    return "cpu"


def run_activations(
    model: Any,
    names: Sequence[str],
    batches: Iterable[Feeds],
    *,
    threads: int = 0,
    device: CalibrationDevice = "cpu",
) -> Iterator[tuple[Feeds, list[Array]]]:
    """Each batch with the values of the tensors ``names``, in their order.

    Args:
        model: a ``ModelProto`` in the standard form; used up.
        names: of tensors.
        batches: inputs.
        threads: of runs on the CPU; 0 for all cores.
        device: what the model runs on; the values come back to the host.

    Raises:
        RecipeError: ONNX Runtime cannot run the model there.
    """
    (onnx,) = tools("onnx")
    outputs = {node.name for node in model.graph.output}
    inputs = {node.name for node in model.graph.input}
    # An input of the graph cannot be its output too; it is read from the feeds.
    asked = [name for name in names if name not in inputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in outputs)
    session = _session(onnx.shape_inference.infer_shapes(model), threads, device)
    kinds = {node.name: np.int32 if "int32" in node.type else None for node in session.get_inputs()}
    for feeds in batches:
        given = {
            name: feeds[name] if kind is None else feeds[name].astype(kind) for name, kind in kinds.items()
        }
        found = dict(zip(asked, session.run(asked, given), strict=True)) if asked else {}
        yield feeds, [found[name] if name in found else feeds[name] for name in names]


def _session(model: Any, threads: int, device: CalibrationDevice) -> Any:
    from searchpipe.backends.cores import available_cores

    (onnxruntime,) = tools("onnxruntime")
    if device == "cuda":
        from searchpipe.device.usable import load_cuda_libraries

        load_cuda_libraries()
    options = onnxruntime.SessionOptions()
    # Optimised graphs have other tensors.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # TF32 would round the very values that are measured.
    providers = [(_CUDA, {"use_tf32": "0"}), _CPU] if device == "cuda" else [_CPU]
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # the runtime's exceptions share no base below Exception
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"The model cannot be run for calibration on {device}: {reason}") from error
    if device == "cuda" and _CUDA not in session.get_providers():
        raise RecipeError(
            "ONNX Runtime could not start its CUDA provider and fell back to the CPU.",
            cure='Repair the CUDA libraries, or set calibration.device to "cpu".',
        )
    return session
