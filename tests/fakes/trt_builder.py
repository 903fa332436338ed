"""A stand-in for the building half of the module ``tensorrt``; names and arguments are the real ones.

Its plans hold what the builder was told. A model whose file says ``refused`` does not parse, one
that says ``unbuildable`` gives no plan.
"""

from __future__ import annotations

import enum
import json
from typing import Any

from tests.fakes.tensorrt import DataType, ILogger

__version__ = "11.1.0.106"


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class BuilderFlag(enum.IntEnum):
    EDITABLE_TIMING_CACHE = 19


class Tensor:
    def __init__(self, name: str, dtype: DataType, shape: tuple[int, ...]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = b""
        names = ("input_ids", "attention_mask")
        self._inputs = [Tensor(name, DataType.INT32, (-1, -1)) for name in names]
        self.num_inputs, self.num_outputs = 2, 1

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        assert index == 0
        return Tensor("logits", DataType.FLOAT, (-1, 1))


class ParserError:
    def desc(self) -> str:
        return "no importer for operator Strange"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self.num_errors = network, 0

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self._network.model = model
        self.num_errors = int(b"refused" in model)
        return not self.num_errors

    def get_error(self, index: int) -> ParserError:
        assert index < self.num_errors
        return ParserError()


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self.shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def serialize(self) -> bytes:
        return self.blob


class IBuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.profiles: list[dict[str, Any]] = []
        self.flags: list[str] = []
        self.workspace = 0
        self._cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return ignore_mismatch or not cache.blob.startswith(b"other gpu")

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.append(flag.name)


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        if b"unbuildable" in network.model:
            self._logger.log(ILogger.ERROR, "no implementation for node MatMul_3")
            return None
        cache = config.get_timing_cache()
        if cache is not None:
            cache.blob += b"+tactics"
        told = {
            "flags": network.flags,
            "profiles": config.profiles,
            "builder_flags": config.flags,
            "level": config.builder_optimization_level,
            "workspace": config.workspace,
        }
        return json.dumps(told).encode()
