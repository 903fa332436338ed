"""Engines of the store as models: the promoted version that fits this machine."""

from __future__ import annotations

from searchpipe.errors import ConfigError, ModelError, RegistryError
from searchpipe.models.settings import Kind, LocalModel, ModelSettings
from searchpipe.models.sources import EngineSource

_KINDS: dict[str, Kind] = {"pair": "cross-encoder", "query": "encoder"}


def resolve_engine(source: EngineSource, settings_or_name: ModelSettings | str = "") -> LocalModel:
    """Pick the engine's files for this machine and verify them; see :mod:`searchpipe.engine.pick`.

    The store is SEARCHPIPE_STORE or the user's own; where SEARCHPIPE_ENGINE_KEY names a key, only
    engines that it signed are taken. Any thread may call this.

    Raises:
        RegistryError: unknown, not promoted, damaged, not signed as required, or nothing fits.
        ConfigError: settings that contradict the engine.
        ModelError: the engine is no text model.

    """
    from searchpipe.engine.machine import this_machine
    from searchpipe.engine.pick import pick
    from searchpipe.engine.registry import Registry

    choice = pick(Registry(), source.name, this_machine(), source.version)
    manifest = choice.manifest
    kind = _KINDS.get(manifest.task)
    if kind is None or choice.tokenizer is None:
        raise ModelError(
            f"Engine {source.name} is a {manifest.task}, not a model of texts.",
            cure="Name an engine of a cross-encoder or a query encoder.",
        )
    if isinstance(settings_or_name, ModelSettings):
        _check(settings_or_name, source, kind, manifest.model.sha256)
    if choice.model is None:
        # Every chain of engines ends on the CPU.
        raise RegistryError(
            f"Engine {source.name} needs onnxruntime, which is not installed.",
            cure="pip install 'searchpipe[cpu]'",
        )
    return LocalModel(
        name=choice.label,
        kind=kind,
        model=choice.model,
        tokenizer=choice.tokenizer,
        sha256=choice.sha256,
        max_tokens=manifest.model.max_tokens,
        # The export pools by itself.
        pooling="none",
        normalize=manifest.model.normalize and kind == "encoder",
        query_prefix=manifest.model.query_prefix,
        document_prefix=manifest.model.document_prefix,
        plan=choice.plan,
        gpu_model=choice.gpu_model,
        gpu_prepared=choice.gpu_prepared,
        source_sha256=manifest.model.sha256,
    )


def _check(settings: ModelSettings, source: EngineSource, kind: Kind, sha256: str) -> None:
    if settings.kind != kind:
        raise ConfigError(f"{source} is a model of the kind {kind}, and the settings say {settings.kind}.")
    if settings.tokenizer:
        raise ConfigError(f"{source} brings its tokenizer.", cure="Leave tokenizer out.")
    if settings.sha256 and settings.sha256.lower() != sha256:
        raise ConfigError(f"{source} was made of the model {sha256}, and the settings say {settings.sha256}.")
