"""From a configuration to the engines of a pipeline on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from searchpipe.device.plan import MIB, DevicePlan, Part
from searchpipe.device.usable import (
    driver_missing,
    faiss_without_gpu,
    load_cuda_libraries,
    onnxruntime_without_cuda,
    plan_missing,
)
from searchpipe.errors import ConfigError, DeviceMemoryError, EngineError, ModelFetchError, SearchpipeError
from searchpipe.gpu_buckets import encoder_buckets, pair_buckets
from searchpipe.gpu_engines import GpuEngines
from searchpipe.models import builtin
from searchpipe.models.cache import default_cache_dir

if TYPE_CHECKING:
    from searchpipe import _core
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.device.settings import GpuModelSettings
    from searchpipe.models import LocalModel
    from searchpipe.recall.open import RecallPlan
    from searchpipe.runtime.buckets import Bucket
    from searchpipe.runtime.engine_chain import EngineChain

_LOG = logging.getLogger("searchpipe.gpu")
_EPILOGUES_SHARE = 0.1  # of the memory that may be planned with: they save time, and nothing depends on them


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pipeline would like to have on a GPU; the models are resolved only if there is one."""

    encoder: Callable[[], LocalModel] | None = None
    scorer: Callable[[], LocalModel] | None = None
    dense: bool = False


def open_engines(snapshot: Snapshot, config: Config, wanted: Wanted) -> GpuEngines:
    """Open what ``config.gpu`` asks for; what stays None in the result is left to the CPU.

    The device's memory is planned, and logged at level INFO by ``searchpipe.gpu``, before any of
    it is taken. With ``use = "auto"`` what cannot be had is left to the CPU with the reason.

    Raises:
        EngineError: it was asked for with ``always`` and cannot be had; nothing is left open.
        DeviceMemoryError: the same, because it does not fit; the message holds the figures.
        ConfigError, ModelError: a model that is not the snapshot's, whatever the engine.
    """
    opener = _Opener(snapshot, config, wanted)
    try:
        opener.run()
    except BaseException:
        opener.engines.close()
        raise
    return opener.engines


@dataclass(slots=True)
class _Draft:
    """A model that is to go on the GPU."""

    name: str
    model: LocalModel
    files: GpuModelSettings
    gpu_model: Path | None
    buckets: list[Bucket]
    parts: list[Part]
    epilogues: bool


def _made_for_cpus(model: LocalModel) -> EngineError:
    return EngineError(
        f"{model.name} is made for CPUs: of its last layer it computes the first token alone, "
        "which no GPU runtime fuses",
        cure='Set models.scorer = "auto" for the large cross-encoder on a GPU, or gpu.scorer.model.',
    )


class _Opener:
    """Opens the parts one after the other, for one thread; what was opened is owned by ``engines``."""

    def __init__(self, snapshot: Snapshot, config: Config, wanted: Wanted) -> None:
        self.engines = GpuEngines()
        self._snapshot = snapshot
        self._config = config
        self._settings = config.gpu
        self._models: dict[str, tuple[Callable[[], LocalModel], GpuModelSettings]] = {}
        if wanted.encoder is not None:
            self._models["encoder"] = (wanted.encoder, config.gpu.encoder)
        if wanted.scorer is not None:
            self._models["scorer"] = (wanted.scorer, config.gpu.scorer)
        self._dense = wanted.dense and config.recall.gpu.use != "never"
        self._recall_plan: RecallPlan | None = None

    def run(self) -> None:
        if self._settings.use == "never" or not (self._models or self._dense):
            return
        device = self._device()
        if device is None:
            return
        from searchpipe.device.facts import facts_of

        facts = self.engines.facts = facts_of(device)
        free = facts.free_bytes
        reserve = self._settings.reserve_mb * MIB
        if self._settings.memory_mb:
            free = min(free, self._settings.memory_mb * MIB + reserve)
        drafts = [draft for name in list(self._models) if (draft := self._draft(name, free)) is not None]
        parts = tuple(part for draft in drafts for part in draft.parts)
        plan = DevicePlan(parts, free, facts.total_bytes, reserve, f"{facts.name} {facts.ordinal}")
        try:
            plan = self._planned(plan)
        except DeviceMemoryError as error:
            self._leave("gpu", error)
            return
        self.engines.plan = plan
        if drafts:
            load_cuda_libraries()
        for draft in drafts:
            self._open_model(draft)
        if self._recall_plan is not None:
            self._open_recall(self._recall_plan, plan)

    def _device(self) -> _core.Device | None:
        """The GPU, once everything cheaper has been asked."""
        from searchpipe.backends.device_engine import open_device

        reason = driver_missing() or self._drop_impossible()
        try:
            if reason:
                raise EngineError(f"{reason}.")
            return open_device(self._settings.device)
        except SearchpipeError as error:
            self.engines.reasons.clear()
            self._leave("gpu", error)
            return None

    def _drop_impossible(self) -> str:
        """Leave to the CPU what no installed package can run; returns why if nothing is left."""
        reasons: dict[str, str] = {}
        for name, (_, files) in self._models.items():
            reason = onnxruntime_without_cuda()
            if reason and files.plan:
                reason = plan_missing(files.plan)
            if reason:
                reasons[name] = reason
        if self._dense and (reason := faiss_without_gpu()):
            reasons["recall"] = reason
        if len(reasons) == len(self._models) + self._dense:
            return "; ".join(dict.fromkeys(reasons.values()))
        for name, reason in reasons.items():
            self._leave(name, EngineError(f"{reason}."))
            self._models.pop(name, None)
            self._dense = self._dense and name != "recall"
        return ""

    def _leave(self, name: str, error: Exception) -> None:
        """Leave a part to the CPU, or refuse to."""
        use = self._settings.use
        if name == "recall" and self._config.recall.gpu.use == "always":
            use = "always"
        if name == "gpu" and self._dense and self._config.recall.gpu.use == "always":
            use = "always"
        if use != "always":
            self.engines.reasons[name] = str(error).rstrip(".")
            return
        if isinstance(error, DeviceMemoryError):
            raise error
        what = "the GPU" if name == "gpu" else f"{name} on the GPU"
        raise EngineError(
            f"The configuration wants {what}, which cannot be had: {error}",
            cure='Set gpu.use = "auto" to fall back on the CPU.',
        ) from error

    def _draft(self, name: str, free: int) -> _Draft | None:
        """What a model will take of ``free`` bytes; None if it is left to the CPU."""
        from searchpipe.backends.dequantize import float_model
        from searchpipe.device.estimates import EPILOGUES, model_parts

        resolve, files = self._models[name]
        try:
            model = resolve()
        except ModelFetchError as error:  # the CPU may have one of its own
            self._leave(name, error)
            return None
        own_file = files.model or files.plan or model.plan or model.gpu_prepared
        if builtin.MADE_FOR_CPUS & {model.sha256, model.source_sha256} and not own_file:
            # Preparing it would take seconds, and then complain of an export that is not the user's.
            self._leave(name, _made_for_cpus(model))
            return None
        if files.model and not Path(files.model).is_file():
            raise ConfigError(f"gpu.{name}.model: there is no file {files.model}.")
        if name == "encoder":
            buckets = encoder_buckets(model.max_tokens)
        else:
            buckets = pair_buckets(self._snapshot.tokens, self._config.score, model.max_tokens)
        width = self._snapshot.dense.dim if name == "encoder" else 1
        try:
            gpu_model = (
                Path(files.model)
                if files.model
                else model.gpu_model
                or float_model(model.model, default_cache_dir() / "prepared", sha256=model.sha256)
            )
            parts = model_parts(
                name,
                gpu_model,
                buckets,
                lanes=self._settings.lanes,
                slots=self._settings.slots,
                output_width=width,
                epilogues=name == "scorer" and self._settings.epilogues and not model.gpu_prepared,
            )
        except SearchpipeError as error:
            self._leave(name, error)
            return None
        parts = [p for p in parts if not p.name.endswith(EPILOGUES) or p.nbytes <= _EPILOGUES_SHARE * free]
        epilogues = any(part.name.endswith(EPILOGUES) for part in parts)
        return _Draft(name, model, files, gpu_model, buckets, parts, epilogues)

    def _planned(self, models: DevicePlan) -> DevicePlan:
        """The plan with recall in it, if that fits beside the models; logged, and checked."""
        plan = models
        if self._dense and models.fits:
            from searchpipe.recall.open import plan_recall

            dense = self._snapshot.dense
            try:
                self._recall_plan = plan_recall(dense.count, dense.dim, self._config.recall.gpu, models)
                plan = models.with_parts(self._recall_plan.parts())
            except DeviceMemoryError as error:
                self._leave("recall", DeviceMemoryError(f"{error}\n{models.table()}"))
            except EngineError as error:
                self._leave("recall", error)
        _LOG.info("Device memory, as planned:\n%s", plan.table())
        return plan.check()

    def _open_model(self, draft: _Draft) -> None:
        try:
            chain = self._open_chain(draft)
        except SearchpipeError as error:
            self._leave(draft.name, error)
            return
        self.engines.owned.callback(chain.close)
        if draft.name == "encoder":
            self._take_encoder(draft.model, chain)
        else:
            self._take_scorer(draft.model, chain)

    def _open_chain(self, draft: _Draft) -> EngineChain:
        from searchpipe.backends.onnx_split import KINDS
        from searchpipe.runtime.open_chain import ChainOptions, open_chain

        settings = self._settings
        options = ChainOptions(
            device=settings.device,
            buckets=draft.buckets,
            lanes=settings.lanes,
            slots=settings.slots,
            threads=self._config.models.threads,
            plan=Path(draft.files.plan) if draft.files.plan else None,
            gpu_model=draft.gpu_model,
            epilogues=KINDS if draft.epilogues else (),
        )
        chain = open_chain(draft.model, options)
        if chain.forecaster is None:
            # The chain's own last link is for later: at the start the CPU's own engine is the better one.
            reasons = "; ".join(f"{state.name}: {state.reason}" for state in chain.states if state.reason)
            chain.close(drain=False)
            raise EngineError(f"No engine runs {draft.model.name} on the GPU: {reasons}")
        return chain

    def _take_encoder(self, model: LocalModel, chain: EngineChain) -> None:
        from searchpipe.models.tokenizer import TextTokenizer
        from searchpipe.runtime.text_encoder import ChainTextEncoder

        tokenizer = TextTokenizer(model.tokenizer, max_tokens=model.max_tokens - 2)
        self.engines.encoder = ChainTextEncoder(model, chain, tokenizer)

    def _take_scorer(self, model: LocalModel, chain: EngineChain) -> None:
        from searchpipe.models.tokenizer import TextTokenizer
        from searchpipe.runtime.pair_scorer import ChainPairScorer

        score = self._config.score
        tokenizer = TextTokenizer(
            model.tokenizer, max_tokens=max(score.max_query_tokens, score.max_doc_tokens)
        )
        try:
            self.engines.scorer = ChainPairScorer(
                model,
                chain,
                tokenizer,
                max_query_tokens=score.max_query_tokens,
                max_doc_tokens=score.max_doc_tokens,
            )
        except ValueError as error:
            raise ConfigError(f"Model {model.name} (at most {model.max_tokens} tokens): {error}") from error

    def _open_recall(self, wanted: RecallPlan, plan: DevicePlan) -> None:
        from searchpipe import _core
        from searchpipe.recall.open import build_recall

        settings = self._settings
        try:
            recall = build_recall(
                self._snapshot.dense,
                wanted,
                plan,
                self._config.recall.gpu,
                device=settings.device,
                stream=_core.Stream(_core.Device(settings.device)),
            )
        except SearchpipeError as error:
            self._leave("recall", error)
            return
        self.engines.owned.callback(recall.close)
        self.engines.recall = recall
        encoder = self.engines.encoder
        if encoder is not None:
            from searchpipe.runtime.device_vectors import DeviceVectors

            self.engines.places = DeviceVectors(
                _core.Device(settings.device),
                encoder.dim,
                ready=lambda: encoder.chain.forecaster is not None,
            )
            self.engines.owned.callback(self.engines.places.close)
