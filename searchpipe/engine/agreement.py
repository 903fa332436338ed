"""Whether a rewritten model computes what its source does, on seeded inputs of several shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Array, Float32
from searchpipe.errors import RecipeError

Feeds = dict[str, Array]
Run = Callable[[Feeds], Float32]

# Float32 sums in another order differ by about 1e-6 of the largest value a layer; 12 layers stay far below.
FLOAT_TOLERANCE = 1e-3
# Dynamic int8 rounds every activation anew: 0.1 to 0.3 of the spread of a 12-layer model's scores.
QUANTISED_TOLERANCE = 0.5
_FLOAT = 1  # TensorProto.FLOAT
_ROWS_TOKENS = ((1, 5), (3, 17), (8, 32), (2, 64), (5, 128))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two models are apart.

    Attributes:
        shapes: of the inputs compared, rows x tokens (rows x columns for a ranker).
        values: numbers compared.
        max_diff: largest absolute difference.
        relative: root mean square of the differences over the spread (standard deviation) of the
            source's values, or over their size where they have next to no spread.
        tolerance: what ``relative`` was held against.
    """

    shapes: tuple[tuple[int, int], ...]
    values: int
    max_diff: float
    relative: float
    tolerance: float

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def text_feeds(
    names: Sequence[str], vocabulary: int, special: tuple[int, int, int], max_tokens: int, seed: int
) -> Iterator[Feeds]:
    """Rows [CLS] a [SEP] b [SEP] of random words, int64, every second row padded.

    Args:
        names: of the model's inputs.
        vocabulary: number of token ids.
        special: ids of CLS, SEP and PAD.
        max_tokens: longest row.
        seed: of the words and lengths.
    """
    rng = np.random.default_rng(seed)
    cls_id, sep_id, pad_id = special
    for rows, wide in (*_ROWS_TOKENS, (2, max_tokens)):
        tokens = max(4, min(wide, max_tokens))
        ids = rng.integers(0, vocabulary, (rows, tokens), dtype=np.int64)
        mask = np.ones((rows, tokens), np.int64)
        types = np.zeros((rows, tokens), np.int64)
        for row in range(rows):
            length = tokens if row % 2 == 0 else int(rng.integers(4, tokens + 1))
            middle = int(rng.integers(1, length - 2))
            ids[row, 0], ids[row, middle], ids[row, length - 1] = cls_id, sep_id, sep_id
            ids[row, length:], mask[row, length:] = pad_id, 0
            types[row, middle + 1 : length] = 1
        whole = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        yield {name: whole[name] for name in names}


def table_feeds(model: Any, seed: int) -> Iterator[Feeds]:
    """Random rows for a feature ranker (a ``ModelProto``): ids 0 and 1, normal floats."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [node for node in model.graph.input if node.name not in constants]
    for rows in (1, 3, 64):
        feeds: Feeds = {}
        for node in inputs:
            kind = node.type.tensor_type
            shape = (rows, *(max(1, dim.dim_value) for dim in kind.shape.dim[1:]))
            if kind.elem_type == _FLOAT:
                feeds[node.name] = rng.normal(size=shape).astype(np.float32)
            else:
                feeds[node.name] = rng.integers(0, 2, shape, dtype=np.int64)
        yield feeds


def open_run(path: Path, *, threads: int = 0) -> tuple[Run, Any]:
    """A function that runs an ONNX file on the CPU, its integers cast as it wants them; and its session.

    Raises:
        RecipeError: ONNX Runtime cannot load the file.
    """
    from searchpipe.backends.onnx_cpu import OnnxCpuEngine
    from searchpipe.errors import EngineError, ModelError

    try:
        engine = OnnxCpuEngine(path, threads=threads)
    except ModelError as error:
        raise RecipeError(f"ONNX Runtime cannot load {path.name}: {error}") from error

    def run(feeds: Feeds) -> Float32:
        try:
            return engine.run({name: feeds[name].astype(kind) for name, kind in engine.inputs.items()})
        except (EngineError, KeyError) as error:
            raise RecipeError(f"{path.name} does not run: {error}") from error

    return run, engine


def require_agreement(
    what: str, source: Run, made: Run, feeds: Sequence[Feeds], *, tolerance: float
) -> Agreement:
    """Compare two models' outputs.

    Args:
        what: named in messages, for example ``The fp32 export``.
        source: the reference.
        made: the model checked.
        feeds: inputs.
        tolerance: of :attr:`Agreement.relative`.

    Raises:
        RecipeError: shapes differ, a value is not finite where the source's is, or they are too far apart.
    """
    wanted: list[Float32] = []
    found: list[Float32] = []
    shapes = []
    for feed in feeds:
        shape = next(iter(feed.values())).shape
        shapes.append((int(shape[0]), int(shape[1]) if len(shape) > 1 else 1))
        a, b = np.asarray(source(feed), np.float32), np.asarray(made(feed), np.float32)
        if a.size != b.size or a.shape[0] != b.shape[0]:
            raise RecipeError(f"{what} gives {b.shape} for {shapes[-1]}, and the source {a.shape}.")
        wanted.append(a.ravel())
        found.append(b.ravel())
    expected, got = np.concatenate(wanted).astype(np.float64), np.concatenate(found).astype(np.float64)
    if not np.isfinite(expected).all():
        raise RecipeError("The source model gives NaN or infinity on seeded inputs.", cure="Train it again.")
    difference = np.abs(got - expected)
    spread = float(expected.std())
    if spread < 1e-6 * float(np.abs(expected).max(initial=0.0)):
        spread = float(np.abs(expected).max(initial=0.0))
    relative = float(np.sqrt(np.mean(difference**2))) / (spread or 1.0)
    agreement = Agreement(tuple(shapes), len(expected), float(difference.max()), relative, tolerance)
    if not relative <= tolerance:  # NaN is refused too
        told = ", ".join(f"{rows} x {tokens}" for rows, tokens in shapes)
        raise RecipeError(
            f"{what} differs from its source: on inputs of {told} by up to {agreement.max_diff:.4g}, "
            f"root mean square {relative:.3g} of the spread of its values; at most {tolerance:g} is allowed.",
            cure="Export the model anew, in evaluation mode and float32.",
        )
    return agreement
