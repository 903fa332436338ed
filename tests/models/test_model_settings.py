from __future__ import annotations

import msgspec
import pytest

from searchpipe.errors import ConfigError
from searchpipe.models import BUILTIN, DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER, ModelSettings
from searchpipe.models.resolve import settings_of, sources_of
from searchpipe.models.sources import ShippedSource, WheelSource


def test_settings_from_a_table() -> None:
    settings = msgspec.convert({"source": "file:m.onnx", "kind": "encoder", "max_tokens": 64}, ModelSettings)
    assert settings.max_tokens == 64
    assert settings.pooling == "mean"


@pytest.mark.parametrize(
    "table",
    [
        {"source": "file:m.onnx"},
        {"source": "file:m.onnx", "kind": "reranker"},
        {"source": "file:m.onnx", "kind": "encoder", "max_tokens": 0},
        {"source": "file:m.onnx", "kind": "encoder", "max_tokens": 10**6},
        {"source": "file:m.onnx", "kind": "encoder", "max_tokens": "64"},
        {"source": "file:m.onnx", "kind": "encoder", "sha256": "xyz"},
        {"source": "file:m.onnx", "kind": "encoder", "poling": "mean"},
    ],
)
def test_wrong_tables_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, ModelSettings)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'minilm-l6'"):
        settings_of("minilm-l7")
    with pytest.raises(ConfigError, match="Built in are"):
        settings_of("")


def test_builtin_models_state_licence_hashes_and_pinned_sources() -> None:
    assert BUILTIN[DEFAULT_ENCODER].settings.kind == "encoder"
    assert BUILTIN[DEFAULT_CROSS_ENCODER].settings.kind == "cross-encoder"
    for name, builtin in BUILTIN.items():
        assert builtin.settings.name == name
        assert builtin.settings.licence
        assert builtin.settings.sha256
        assert builtin.settings.tokenizer_sha256
        assert all(isinstance(s, WheelSource | ShippedSource) for s in sources_of(builtin.settings))
