"""The manifest of a checked-in engine: what it is made of, how, where, and what it passed.

It lists every file with its hash. What a TensorRT plan needs of a machine is not repeated here:
that is in the plan's own manifest beside it (:mod:`searchpipe.backends.plan_manifest`), one of
the files listed, so there is one truth and the backend that opens the plan reads the same one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from searchpipe.decodable import decodable
from searchpipe.engine.machine import Machine
from searchpipe.engine.recipe import PRECISIONS, Precision, Task
from searchpipe.engine.signing import Signature, canonical
from searchpipe.engine.store_files import FileFacts
from searchpipe.errors import RegistryError

FORMAT = 1
MANIFEST = "manifest.json"
# No manifest is longer: the recipe and the figures of its gates; in bytes.
_MOST_BYTES = 32 * 1024 * 1024


class SourceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that the engine is made of; fields of :class:`searchpipe.models.settings.ModelSettings`."""

    name: str
    sha256: str
    max_tokens: int
    pooling: Literal["mean", "cls", "none"] = "none"
    normalize: bool = False
    query_prefix: str = ""
    document_prefix: str = ""
    licence: str = ""


class RecipeFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The recipe as it was read."""

    name: str
    sha256: str
    text: str


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One precision of the engine.

    Attributes:
        passed: whether it passed its gates, but for those that its recipe allows to fail; only such
            a variant is ever picked.
        onnx: place of its ONNX file in the engine's folder; empty where it was refused.
        plan: place of its TensorRT plan; empty for none. One that only failed gates of speed, on
            another machine, is kept.
        cuda: place of the ONNX file that passed on ONNX Runtime's CUDA provider; empty for none.
        refused: gates that it did not pass, and why.
    """

    passed: bool
    onnx: str = ""
    plan: str = ""
    cuda: str = ""
    refused: tuple[str, ...] = ()


class EngineManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that is known of one version of one engine.

    Attributes:
        format: of this file.
        name: of the engine; that of its recipe.
        version: ``v1``, ``v2``...: given when it is checked in.
        task: what it does.
        created: ISO 8601, UTC.
        searchpipe: version that built it.
        target: architecture that its gates ran on, and so what it is promoted for.
        model: the source model.
        recipe: with its text.
        chosen: precision that won the gates.
        variants: of each precision that was made.
        calibration: facts of the calibration; empty without one.
        profiles: shapes and buckets.
        gates: all results.
        built_on: machine that built and gated it.
        files: role -> file; every file of the folder but this one.
        signature: None for an unsigned engine.
    """

    format: int = FORMAT
    name: str
    version: str = ""
    task: Task
    created: str
    searchpipe: str
    target: str
    model: SourceModel
    recipe: RecipeFacts
    chosen: Precision
    variants: dict[Precision, Variant]
    calibration: dict[str, Any] = {}
    profiles: dict[str, Any] = {}
    gates: dict[str, Any] = {}
    built_on: Machine
    files: dict[str, FileFacts]
    signature: Signature | None = None

    def passed(self) -> list[Precision]:
        """Precisions that passed, the one chosen first, then from the lowest to the highest."""
        others = [p for p in reversed(PRECISIONS) if p in self.variants and p != self.chosen]
        return [p for p in (self.chosen, *others) if self.variants[p].passed]

    def signed_content(self) -> dict[str, Any]:
        """What a signature is of: everything but the signature."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        del content["signature"]
        return content

    def content_hash(self) -> str:
        """SHA-256 of what the engine is, whenever, under whatever number and by whomever it was signed."""
        content = self.signed_content()
        del content["version"], content["created"]
        return hashlib.sha256(canonical(content)).hexdigest()


def encode(manifest: EngineManifest) -> bytes:
    """The manifest as its file: indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(content: bytes, path: Path) -> EngineManifest:
    """Read a manifest's bytes; ``path`` is for messages.

    Raises:
        RegistryError: it is not one, is of a newer format, or names files outside its folder.
    """
    if len(content) > _MOST_BYTES:
        raise RegistryError(f"{path} has {len(content)} bytes; a manifest has at most {_MOST_BYTES}.")
    try:
        form = msgspec.json.decode(content, type=decodable(_Format)).format
        if form > FORMAT:
            raise RegistryError(
                f"{path} is of format {form}; this release reads up to {FORMAT}.", cure="Upgrade searchpipe."
            )
        manifest = msgspec.json.decode(content, type=decodable(EngineManifest))
    except msgspec.MsgspecError as error:
        raise RegistryError(
            f"{path} is not an engine's manifest: {error}.", cure="The file was changed or cut; build again."
        ) from error
    places = {facts.path for facts in manifest.files.values()}
    for place in places:
        if not is_plain_place(place):
            raise RegistryError(f"{path} names the file {place!r}, which is not in the engine's folder.")
    for precision, variant in manifest.variants.items():
        for place in (variant.onnx, variant.plan, variant.cuda):
            if place and place not in places:
                raise RegistryError(f"{path}: variant {precision} names {place!r}, which is not listed.")
    if manifest.chosen not in manifest.variants:
        raise RegistryError(f"{path}: {manifest.chosen} was chosen, and there is no such variant.")
    return manifest


def is_plain_place(place: str) -> bool:
    """Whether a place stays in the folder and can be a file's name on every system."""
    parts = place.split("/")
    return all(part not in ("", ".", "..") and not set(part) & set('\\:\0"<>|?*') for part in parts)


class _Format(msgspec.Struct):
    format: int
