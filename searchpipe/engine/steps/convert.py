"""The model in each precision of the recipe, as ONNX files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.engine.fp16 import for_cuda, kept_fp32, share_in_fp16, to_fp16
from searchpipe.engine.int8 import quantisable, quantise, with_half_precision
from searchpipe.engine.onnx_graph import count_ops, hash_of, load_model, save_model
from searchpipe.engine.ranges import read_table
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.versions import versions_of
from searchpipe.errors import RecipeError

_VERSION = 2


class ConvertStep:
    """Writes ``fp32`` always, ``fp16`` and ``int8`` where the recipe makes them; no state, any thread.

    ``fp32_cuda`` and ``fp16_cuda`` are for ONNX Runtime's CUDA provider, ``int8_tensorrt`` (int8
    products, the rest in half precision) for TensorRT; the others run everywhere.
    """

    name = "convert"
    needs: tuple[str, ...] = ("export", "calibrate")

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Depends on ``[precision]`` and the versions of the tools."""
        return {
            "version": _VERSION,
            "precision": msgspec.to_builtins(inputs.recipe.precision),
            **versions_of("onnx", "onnxruntime"),
        }

    def run(self, build: Build) -> StepOutput:
        """Rewrite.

        Raises:
            RecipeError: an expression of the recipe fits no node, or a tool fails.
        """
        settings = build.inputs.recipe.precision
        exported = build.done["export"].files
        files: dict[str, Path] = {}
        facts: dict[str, Any] = {"made": list(settings.make)}
        for role in ("fp32", "fp32_cuda"):
            if role in exported:
                files[role] = Path(shutil.copyfile(exported[role], build.folder / f"{role}.onnx"))
        if "fp16" in settings.make:
            for role in ("fp32", "fp32_cuda"):
                if role in exported:
                    made, told = _half(build, role)
                    files[role.replace("fp32", "fp16")] = made
                    facts[role.replace("fp32", "fp16")] = told
        if "int8" in settings.make:
            files |= self._int8(build, facts)
        facts["files"] = {
            role: {"sha256": hash_of(path), "bytes": path.stat().st_size} for role, path in files.items()
        }
        return StepOutput(files, facts)

    def _int8(self, build: Build, facts: dict[str, Any]) -> dict[str, Path]:
        settings = build.inputs.recipe.precision
        source = build.done["export"].files["fp32"]
        table = read_table(build.done["calibrate"].files["table"])
        if table is None:
            raise RecipeError("The calibration table is damaged.", cure="Build again from calibrate.")
        nodes = quantisable(load_model(source), settings, table)
        path = quantise(source, table, nodes, build.folder / "int8.onnx")
        build.say(f"convert: int8, {len(nodes)} products")
        facts["int8"] = {"products": nodes, "left_alone_dead": list(table.dead)}
        files = {"int8": path}
        try:
            target = build.folder / "int8_tensorrt.onnx"
            files["int8_tensorrt"] = with_half_precision(path, settings, target)
        except RecipeError as error:
            # The plan is then built of the file with float32 between the products.
            facts["int8"]["tensorrt"] = str(error)
        return files


def _half(build: Build, role: str) -> tuple[Path, dict[str, Any]]:
    model = load_model(build.done["export"].files[role])
    settings = build.inputs.recipe.precision
    keep = kept_fp32(model, settings, patterns_must_fit=role == "fp32")
    if role == "fp32_cuda":
        keep = for_cuda(keep)
    made = to_fp16(model, keep)
    name = role.replace("fp32", "fp16")
    share = share_in_fp16(made)
    build.say(f"convert: {name}, {100 * share:.1f}% of the weights in half precision")
    facts = {
        "kept_nodes": sorted(keep.nodes),
        "kept_operators": sorted(keep.operators),
        "float32_inside": sorted(set(settings.keep_ops_fp32) - keep.operators),
        "casts": count_ops(made, {"Cast"}),
        "share_of_weights": share,
    }
    return save_model(made, build.folder / f"{name}.onnx"), facts
