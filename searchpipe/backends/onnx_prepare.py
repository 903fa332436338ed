"""An ONNX export rewritten for the GPU: attention fused, half precision, int32 inputs, pooling inside.

Done once, offline, on any machine; needs no GPU.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from searchpipe.backends.onnx_pack import pack_graph
from searchpipe.backends.onnx_prune import constant_value, prune, source_of
from searchpipe.errors import MissingDependencyError, ModelError, RecipeError

# Part of the cache's key: raise it when the rewrite changes.
_REWRITE_VERSION = 5
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_SMALLEST_NORM = 1e-12
_CHUNK_BYTES = 1 << 20
# Operators of dynamic int8 quantisation, which ONNX Runtime's CUDA provider leaves to the CPU.
_CPU_ONLY = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
# What ONNX Runtime's optimizer makes of softmax(q k' / sqrt(d) + mask) v.
_ATTENTION = {"Attention", "MultiHeadAttention"}
# Reductions take their axes as an input from this operator set on.
_OLDEST_OPSET = 13


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What to do to the export.

    ``fp16``: weights and activations in half precision; a cross-encoder's last projection, and so its
    scores, and all inputs and outputs stay float32.
    ``fused``: attention, LayerNorm and GELU as ONNX Runtime's own operators; TensorRT
    knows none of them and wants False. ``pooling`` and ``normalize``: what an encoder's
    hidden states [rows, tokens, d] become, [rows, d]; ``"none"`` leaves the output as it is.
    ``packed``: the inputs of :mod:`searchpipe.backends.onnx_pack`, for cross-encoders, fused.
    """

    fp16: bool = True
    fused: bool = True
    pooling: Literal["mean", "cls", "none"] = "none"
    normalize: bool = False
    packed: bool = False


def prepare_onnx(model_path: Path, out: Path, options: PrepareOptions | None = None) -> Path:
    """Rewrite ``model_path`` into the folder ``out``; return the file, made anew only if it is not there.

    Its name holds the hash of the model's content, of the options and of the
    versions of the tools, so one folder serves any number of models.

    Raises:
        ModelError: the file cannot be read, is not ONNX, its inputs are not those of a text model, its
            attention was to be fused and was not recognised, or it has no packed form.
        MissingDependencyError: the packages onnx, onnxruntime or sympy are not installed.
    """
    chosen = options or PrepareOptions()
    onnx, onnxruntime = _tools()
    key = _cache_key(model_path, chosen, {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__})
    target = out / f"{model_path.stem}-{key[:16]}.onnx"
    if target.exists():
        return target
    model = _rewrite(onnx, model_path, chosen)
    out.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=out)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _tools() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime

        # Without it the tools cannot infer shapes, and half precision goes wrong silently.
        importlib.import_module("sympy")
    except ImportError as error:
        raise MissingDependencyError(
            f"Preparing a model for the GPU needs the package {error.name}.",
            cure="Install it: pip install 'searchpipe[gpu]'.",
        ) from error
    return onnx, onnxruntime


def _cache_key(path: Path, options: PrepareOptions, tools: dict[str, str]) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    recipe = {"rewrite": _REWRITE_VERSION, "options": asdict(options), "tools": tools}
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    return digest.hexdigest()


def _rewrite(onnx: Any, path: Path, options: PrepareOptions) -> Any:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    # The tools log every fusion they try, at warning level.
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    try:
        loaded = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise what they like
        raise ModelError(f"{path} is not an ONNX model: {' '.join(str(error).split())[:200]}") from error
    _check_inputs(path, loaded)
    # Counted first: the optimizer changes what it is given.
    softmaxes = _count(loaded, {"Softmax"})
    fusion = FusionOptions("bert")
    optimized = optimize_model(
        loaded,
        model_type="bert",
        num_heads=0,  # found in the graph
        hidden_size=0,
        opt_level=0,
        use_gpu=True,
        optimization_options=fusion if options.fused else _no_fusion(fusion),
    )
    if options.fused:
        _check_attention(path, softmaxes, optimized.model)
    model = _to_fp16(path, optimized.model) if options.fp16 else optimized.model
    _drop_counted_positions(onnx, model)
    take_int32(onnx, model)
    if options.pooling != "none":
        append_pooling(onnx, model, options)
    if options.packed:
        pack_graph(onnx, model)
    return model


def _to_fp16(path: Path, model: Any) -> Any:
    """Half precision but for the last projection: in half precision scores of -11 step by 0.008."""
    from searchpipe.engine.fp16 import Fp32Choice, to_fp16
    from searchpipe.engine.onnx_graph import last_projection, name_nodes

    name_nodes(model)
    try:
        return to_fp16(model, Fp32Choice(frozenset(last_projection(model)), frozenset()))
    except RecipeError as error:
        raise ModelError(f"{path}: {error}") from error


def _no_fusion(fusion: Any) -> Any:
    for name in vars(fusion):
        if name.startswith("enable_") and name != "enable_shape_inference":
            setattr(fusion, name, False)
    return fusion


def _check_inputs(path: Path, model: Any) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    found = [node.name for node in model.graph.input if node.name not in constants]
    if not {"input_ids", "attention_mask"} <= set(found) <= set(_TEXT_INPUTS):
        raise ModelError(
            f"{path} has the inputs {', '.join(found) or 'none'}; expected input_ids, attention_mask and, "
            "optionally, token_type_ids.",
            cure="Export the model with these names.",
        )
    dynamic = sorted({node.op_type for node in model.graph.node} & _CPU_ONLY)
    if dynamic:
        raise ModelError(
            f"{path} is quantised for the CPU (it has {', '.join(dynamic)}), which no GPU runtime takes.",
            cure="Name the fp32 export of the model.",
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        raise ModelError(
            f"{path} uses ONNX operator set {opset}, older than {_OLDEST_OPSET}.",
            cure=f"Export it with opset_version={_OLDEST_OPSET} or newer.",
        )


def _check_attention(path: Path, softmaxes: int, model: Any) -> None:
    """Refuse attention left as single operations: slow, and its logits overflow in half precision."""
    fused = _count(model, _ATTENTION)
    left = _count(model, {"Softmax"})
    if not softmaxes or (fused and not left):
        return
    raise ModelError(
        f"{path}: ONNX Runtime fused the attention of {fused} of {softmaxes} layers; it does not know the "
        "form that this export gives the others.",
        cure="Export it with the eager attention of transformers, or prepare it with fused=False.",
    )


def _count(model: Any, kinds: set[str]) -> int:
    return sum(node.op_type in kinds for node in model.graph.node)


def take_int32(onnx: Any, model: Any) -> None:
    """Declare the inputs int32; what wants int64 gets a cast, existing casts read them as they are."""
    tensor = onnx.TensorProto
    graph = model.graph
    casts: list[Any] = []
    for node in graph.input:
        if node.type.tensor_type.elem_type != tensor.INT64:
            continue
        node.type.tensor_type.elem_type = tensor.INT32
        wide = f"{node.name}_int64"
        readers = [reader for reader in graph.node if reader.op_type != "Cast" and node.name in reader.input]
        for reader in readers:
            for place, name in enumerate(reader.input):
                if name == node.name:
                    reader.input[place] = wide
        if readers:
            casts.append(onnx.helper.make_node("Cast", [node.name], [wide], name=wide, to=tensor.INT64))
    # Nodes are kept in order of computation: the casts come first.
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_counted_positions(onnx: Any, model: Any) -> None:
    """Let fused embeddings count positions themselves: ONNX Runtime slices 0, 1, 2 ... on the CPU."""
    graph = model.graph
    for node in graph.node:
        if node.op_type != "EmbedLayerNormalization" or len(node.input) < 9:
            continue
        source = source_of(graph, node.input[8])
        if source is None or source.op_type != "Slice":
            continue
        counted, begin = (constant_value(onnx, graph, name) for name in source.input[:2])
        step = constant_value(onnx, graph, source.input[4]) if len(source.input) > 4 else None
        if counted is None or begin is None or begin.any() or (step is not None and (step != 1).any()):
            continue
        if counted.ndim == 2 and len(counted) == 1 and (counted[0] == range(counted.size)).all():
            del node.input[8]
    prune(graph)


def append_pooling(onnx: Any, model: Any, options: PrepareOptions) -> None:
    """Pool the first output in float32; it keeps no other output.

    mean: sum(hidden * mask) / sum(mask); cls: hidden[:, 0]; then x / max(|x|, 1e-12) if normalised.
    """
    helper, tensor = onnx.helper, onnx.TensorProto
    graph = model.graph
    hidden = graph.output[0].name
    nodes: list[Any] = []

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"pool_{name}"], name=f"pool_{name}", **attributes))
        return f"pool_{name}"

    def constant(name: str, kind: int, values: list[float]) -> str:
        graph.initializer.append(helper.make_tensor(f"pool_{name}", kind, [len(values)], values))
        return f"pool_{name}"

    tokens_axis = constant("tokens_axis", tensor.INT64, [1])
    if options.pooling == "cls":
        first = constant("first", tensor.INT64, [0])
        row = add("Gather", [hidden, first], "first_token", axis=1)
        pooled = add("Squeeze", [row, tokens_axis], "cls")
    else:
        last_axis = constant("last_axis", tensor.INT64, [2])
        mask = add("Cast", ["attention_mask"], "mask", to=tensor.FLOAT)
        weights = add("Unsqueeze", [mask, last_axis], "weights")
        weighted = add("Mul", [hidden, weights], "weighted")
        total = add("ReduceSum", [weighted, tokens_axis], "total", keepdims=0)
        count = add("ReduceSum", [mask, tokens_axis], "count", keepdims=1)
        pooled = add("Div", [total, count], "mean")
    if options.normalize:
        smallest = constant("smallest", tensor.FLOAT, [_SMALLEST_NORM])
        squared = add("Mul", [pooled, pooled], "squared")
        square = add("ReduceSum", [squared, tokens_axis], "square", keepdims=1)
        norm = add("Sqrt", [square], "norm")
        safe = add("Max", [norm, smallest], "safe_norm")
        pooled = add("Div", [pooled, safe], "unit")
    nodes.append(helper.make_node("Identity", [pooled], ["vectors"], name="pool_output"))
    graph.node.extend(nodes)
    dim = graph.output[0].type.tensor_type.shape.dim
    width: int | str = dim[-1].dim_value if len(dim) and dim[-1].dim_value else "dim"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("vectors", tensor.FLOAT, ["batch", width]))
