"""The source model's files, copied beside the build so that later steps find what was checked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchpipe.engine.onnx_graph import hash_of, load_model
from searchpipe.engine.source_files import check_hash, locate
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.errors import RecipeError


class SourceStep:
    """Finds or fetches the source model, checks its hash and that it is whole; no state, any thread.

    Files: ``model`` (the ONNX file or the weights), ``tokenizer`` where there is one, and the
    others by their names.
    """

    name = "source"
    needs: tuple[str, ...] = ()

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Depends on the settings and on the content of the files named."""
        source = locate(inputs.recipe.source, inputs.recipe_folder)
        hashes = {name: hash_of(path) for name, path in sorted(source.files.items())}
        tokenizer = hash_of(source.tokenizer) if source.tokenizer else ""
        return {
            "model": inputs.recipe.source.model,
            "sha256": inputs.recipe.source.sha256,
            "files": hashes,
            "tokenizer": tokenizer,
        }

    def run(self, build: Build) -> StepOutput:
        """Copy the files.

        Raises:
            RecipeError: the model is missing, not what the recipe says, cut short, or has no tokenizer.
        """
        recipe = build.inputs.recipe
        source = locate(recipe.source, build.inputs.recipe_folder)
        digest = check_hash(recipe.source, source)
        if recipe.task != "ranker" and source.tokenizer is None:
            raise RecipeError(
                f"{source.model} has no tokenizer.json beside it.", cure="Name one in source.tokenizer."
            )
        folder = build.folder / "model"
        files: dict[str, Path] = {}
        for name, path in source.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            role = "model" if name.endswith((".onnx", ".safetensors", ".bin")) else name
            files[name if role in files else role] = target
        if source.kind == "onnx":
            load_model(files["model"])
        facts: dict[str, Any] = {
            "kind": source.kind,
            "model": recipe.source.model,
            "sha256": digest,
            "bytes": sum(path.stat().st_size for path in files.values()),
            "pooling": recipe.source.pooling or source.pooling or "",
            "normalize": source.normalize,
            "prefix": source.prefix,
        }
        if source.tokenizer is not None and recipe.task != "ranker":
            target = build.folder / "tokenizer.json"
            shutil.copyfile(source.tokenizer, target)
            files["tokenizer"] = target
            facts["tokenizer_sha256"] = hash_of(target)
        size = facts["bytes"] / 1e6
        build.say(f"source: {recipe.source.model}, {source.kind}, {size:.1f} MB, SHA-256 {digest[:12]}")
        return StepOutput(files, facts)
