"""What a recipe's source names: a built-in model, an ONNX file, a Hugging Face folder or a hub name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from searchpipe.engine.onnx_graph import hash_of
from searchpipe.engine.recipe import SourceSettings
from searchpipe.errors import MissingDependencyError, RecipeError
from searchpipe.models.builtin import BUILTIN

Pooling = Literal["mean", "cls", "none"]
_HUB = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
HUGGINGFACE_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "pytorch_model.bin",
    "tokenizer.json",
    "modules.json",
    "*_Pooling/config.json",
)


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """A source model's files on this machine; immutable.

    Attributes:
        kind: what the model file is.
        model: ONNX file, or the folder of a Hugging Face model.
        files: path inside the copy -> file, everything that makes the model.
        tokenizer: tokenizer.json; None for a model that reads no text.
        pooling: of an encoder, where its card says so.
        normalize: whether its vectors have unit length.
        prefix: put before a query.
    """

    kind: Literal["onnx", "huggingface"]
    model: Path
    files: dict[str, Path]
    tokenizer: Path | None
    pooling: Pooling | None = None
    normalize: bool = True
    prefix: str = ""


def locate(settings: SourceSettings, folder: Path) -> SourceFiles:
    """Find, or fetch into the model cache, the files of a source.

    Args:
        settings: ``[source]`` of a recipe.
        folder: of the recipe; relative paths start there.

    Raises:
        RecipeError: there is no such file or folder, or it is no model.
        ModelFetchError: a built-in model cannot be fetched.
        MissingDependencyError: a hub name without the extra ``hf``.
    """
    tokenizer = _tokenizer(settings, folder)
    if settings.model in BUILTIN:
        from searchpipe.models import resolve

        local = resolve(settings.model)
        return SourceFiles(
            "onnx",
            local.model,
            {local.model.name: local.model},
            tokenizer or local.tokenizer,
            local.pooling,
            local.normalize,
            local.query_prefix,
        )
    path = folder / settings.model
    if path.is_dir():
        return _huggingface(path, tokenizer)
    if path.suffix == ".onnx" or path.is_file():
        if not path.is_file():
            raise RecipeError(f"There is no model {path}.", cure="Correct source.model in the recipe.")
        beside = path.with_name("tokenizer.json")
        files = {path.name: path}
        # Weights of large exports lie beside the file; so does what says a ranker's columns.
        beside_it = [*path.parent.glob(f"{path.name}?data"), path.with_suffix(".json")]
        files |= {item.name: item for item in beside_it if item.is_file()}
        return SourceFiles("onnx", path, files, tokenizer or (beside if beside.is_file() else None))
    if _HUB.match(settings.model):
        return _huggingface(_fetch(settings.model), tokenizer)
    raise RecipeError(
        f"source.model is {settings.model!r}: no built-in model, ONNX file, folder or hub name.",
        cure=f"Built in are {', '.join(BUILTIN)}; paths start at the recipe's folder.",
    )


def check_hash(settings: SourceSettings, source: SourceFiles) -> str:
    """Return the SHA-256 of the model file (the weights, for Hugging Face).

    Raises:
        RecipeError: it is not what the recipe says.
    """
    name = next((name for name in source.files if name.endswith((".onnx", ".safetensors", ".bin"))), "")
    digest = hash_of(source.files[name])
    if settings.sha256 and digest != settings.sha256.lower():
        raise RecipeError(
            f"{source.files[name]} has SHA-256 {digest}, and the recipe says {settings.sha256.lower()}.",
            cure="Correct source.sha256 if the file is good.",
        )
    return digest


def _tokenizer(settings: SourceSettings, folder: Path) -> Path | None:
    if not settings.tokenizer:
        return None
    if settings.tokenizer in BUILTIN:
        from searchpipe.models import resolve

        return resolve(settings.tokenizer).tokenizer
    path = folder / settings.tokenizer
    if not path.is_file():
        raise RecipeError(f"There is no tokenizer {path}.", cure="Correct source.tokenizer in the recipe.")
    return path


def _huggingface(folder: Path, tokenizer: Path | None) -> SourceFiles:
    files = {
        str(path.relative_to(folder)): path
        for pattern in HUGGINGFACE_FILES
        for path in sorted(folder.glob(pattern))
    }
    if "config.json" not in files or not any(name.endswith((".safetensors", ".bin")) for name in files):
        raise RecipeError(
            f"{folder} is no Hugging Face model: it needs config.json and model.safetensors.",
            cure="Name the folder that save_pretrained wrote, or an ONNX file.",
        )
    if any(name.endswith(".safetensors") for name in files):
        files.pop("pytorch_model.bin", None)
    return SourceFiles("huggingface", folder, files, tokenizer or files.get("tokenizer.json"))


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"Fetching {name} needs the package huggingface_hub.",
            cure="Install it: pip install 'searchpipe[hf]'.",
        ) from error
    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=list(HUGGINGFACE_FILES))
        )
    except Exception as error:  # the hub's client raises many kinds, among them plain OSError
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"{name} cannot be fetched from the hub: {reason}", cure="Fetch it elsewhere and name its folder."
        ) from error
