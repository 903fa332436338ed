"""The models of a build: those that the settings name, or those that the caller brings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from searchpipe.catalog.manifest import ModelInfo
from searchpipe.catalog.vectors_writer import Encoder
from searchpipe.catalog.writers import Tokenizer
from searchpipe.errors import ConfigError
from searchpipe.models.settings import ModelsSettings

if TYPE_CHECKING:
    from searchpipe.backends import TextEncoder


@dataclass(frozen=True, slots=True)
class BuildModels:
    """Encoder and tokenizer with what the manifest says of them.

    ``document_prefix`` goes before every text that is encoded. An encoder that
    does not say which file it runs has an empty ``sha256``; its vectors are
    never used again by a later build.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    encoder_info: ModelInfo
    tokenizer_info: ModelInfo
    document_prefix: str
    opened: TextEncoder | None = None
    """The encoder, if the caller did not bring it."""

    @classmethod
    def open(
        cls,
        settings: ModelsSettings,
        encoder: Encoder | None,
        tokenizer: Tokenizer | None,
        *,
        max_pair_tokens: int,
        parallel: bool = False,
    ) -> BuildModels:
        """Resolve and load what the caller did not bring; ``max_pair_tokens`` are kept of a document.

        ``parallel`` tokenizes on all cores.

        Raises:
            ConfigError: when the settings name a model of another kind.
            ModelFetchError, ModelError, MissingDependencyError: when one cannot be had.

        """
        opened = None
        if encoder is None:
            encoder = opened = _open_encoder(settings)
        tokenizer_name = type(tokenizer).__name__
        if tokenizer is None:
            tokenizer, tokenizer_name = _open_tokenizer(settings, max_pair_tokens, parallel)
        model: Any = getattr(encoder, "model", None)
        path = getattr(tokenizer, "path", None)
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""
        return cls(
            encoder,
            tokenizer,
            ModelInfo(getattr(model, "name", type(encoder).__name__), _identity(model)),
            ModelInfo(tokenizer_name, digest),
            getattr(model, "document_prefix", ""),
            opened,
        )

    def close(self) -> None:
        """Release what was opened here, on any thread: a chunk that is being encoded ends at its next run."""
        if self.opened is not None:
            self.opened.close()


def _identity(model: Any) -> str:
    """The hash that a model goes by; empty for one that does not say."""
    return str(getattr(model, "identity", "") or getattr(model, "sha256", ""))


def _open_encoder(settings: ModelsSettings) -> TextEncoder:
    from searchpipe.backends import open_encoder
    from searchpipe.models import resolve

    model = resolve(settings.encoder)
    if model.kind != "encoder":
        raise ConfigError(f"models.encoder is {model.name}, a {model.kind}.", cure="Name an encoder.")
    return open_encoder(model, threads=settings.threads)


def _open_tokenizer(settings: ModelsSettings, max_pair_tokens: int, parallel: bool) -> tuple[Tokenizer, str]:
    from searchpipe.models import resolve
    from searchpipe.models.tokenizer import TextTokenizer

    model = resolve(settings.cpu_scorer)
    return TextTokenizer(model.tokenizer, max_tokens=max_pair_tokens, parallel=parallel), model.name
