"""encode: the query's tokens to one vector."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from searchpipe.cache import BoundedCache, bypassed
from searchpipe.errors import OverloadedError
from searchpipe.gate import ComputeGate
from searchpipe.stages.base import Work
from searchpipe.stages.forecasting import ForecastingEncoder, RowEncoder, begin_by, takes_meanwhile

if TYPE_CHECKING:
    from searchpipe.runtime.device_vectors import DeviceVectors


class Encoder(Protocol):
    """What the stage needs of an encoder; :class:`searchpipe.backends.encoder.TextEncoder` is one."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, token_ids: list[Int32]) -> Float32:
        """Float32 ``(n, dim)`` of ``n`` token id arrays; any thread."""
        ...


class Encode:
    """Fills ``vector``, unless the engine cannot be had in time: recall is then lexical alone.

    While the encoder writes a vector to device memory, the stages after it can prepare: recall puts its
    search on the device behind the encoder.

    Args:
        encoder: makes the vectors; perhaps a :class:`searchpipe.stages.forecasting.ForecastingEncoder`.
        gate: shared with the other stages that run models on the same cores; an encoder that predicts
            merges its callers itself and needs none.
        places: device memory where an encoder that predicts leaves the vectors as well; None for none.
        cache: of the vectors of token ids, float32 ``(dim,)``; None for none. What is found there is on
            the host alone, so that recall on a GPU copies it.
        model: its name, for :meth:`describe`.

    Attributes:
        leaves_time: whether later stages can prepare while this one waits for its device.
    """

    name = "encode"
    reads: tuple[str, ...] = ("tokens",)
    writes: tuple[str, ...] = ("vector",)
    essential = False

    def __init__(
        self,
        encoder: Encoder,
        gate: ComputeGate,
        *,
        places: DeviceVectors | None = None,
        cache: BoundedCache[Float32] | None = None,
        model: str = "encoder",
    ) -> None:
        self._encoder = encoder
        self._forecasting = cast(ForecastingEncoder, encoder) if hasattr(encoder, "predict") else None
        self._alone = (
            cast(RowEncoder, encoder) if self._forecasting and hasattr(encoder, "encode_row") else None
        )
        takes_time = self._forecasting is not None and takes_meanwhile(self._forecasting)
        self.leaves_time = takes_time and places is not None
        self._gate = gate
        self._places = places
        self.cache = cache
        self._model = model
        self._asked = f"{self.name} request"

    def run(self, work: Work) -> None:
        """Encode the query."""
        assert work.tokens is not None
        cache, key = self.cache, b""
        if cache is not None and bypassed():
            cache = None
        if cache is not None:
            key = np.asarray(work.tokens, np.int32).tobytes()
            if (known := cache.get(key)) is not None:
                work.vector = known.copy()
                work.decision = f"{len(work.tokens)} tokens, cached"
                return
        size = len(work.tokens) + 2  # [CLS] and [SEP]
        vector = self._step(work, size) if self._forecasting is None else self._request(work, size)
        if vector is None:
            return
        if not _core.all_finite(vector):
            work.device_vector = None
            work.degrade("bad_scores", "dense recall")
            return
        work.vector = vector
        work.decision = f"{len(work.tokens)} tokens"
        if cache is not None:
            kept = np.array(vector, np.float32)  # a copy: not the whole batch that it is a row of
            cache.put(key, kept, len(key) + kept.nbytes)

    def _request(self, work: Work, size: int) -> Float32 | None:
        """Ask an engine that merges its callers; None if it was given up."""
        encoder, alone, tokens = self._forecasting, self._alone, work.tokens
        assert encoder is not None
        assert tokens is not None
        deadline = None
        if not work.deadline.unlimited:
            forecast = alone.predict_row(size) if alone else encoder.predict(np.array([size], np.int32))
            if forecast is None:
                return self._step(work, size)
            allowance = work.allowance()
            if forecast.wait_s + forecast.run_s > allowance:
                work.degrade("busy" if forecast.run_s <= allowance else "deadline", "dense recall")
                return None
            deadline = begin_by(allowance, forecast)
        place = self._places.take() if self._places is not None else None
        asked: dict[str, Any] = {"deadline": deadline, "priority": work.query.priority}
        if place is not None:
            asked["device_output"] = place.address
            if self.leaves_time:
                asked["meanwhile"] = work.prepare_later
                work.device_place = place
        try:
            with work.step(self._asked, size):
                vector: Float32 = (
                    alone.encode_row(tokens, **asked) if alone else encoder.encode([tokens], **asked)[0]
                )
        except OverloadedError:
            work.degrade("busy", "dense recall")
            return None
        finally:
            work.device_place = None
        if deadline is not None and time.monotonic() >= deadline and np.isnan(vector).all():
            work.degrade("busy", "dense recall")
            return None
        if place is not None:
            place.host = vector
            work.device_vector = place
        return vector

    def _step(self, work: Work, size: int) -> Float32 | None:
        """Run the model on this query alone, if the cost model says that it fits; None if it was given up."""
        assert work.tokens is not None
        cost = work.costs.predict(self.name, size) or 0.0
        if cost > work.allowance():
            work.costs.relax(self.name, size)
            work.degrade("deadline", "dense recall")
            return None
        # Before the scorer: an encoded query is worth more than one more scored pair.
        with self._gate.enter(work, priority=0, timeout_s=work.allowance() - cost) as passed:
            if not passed:
                work.degrade("busy", "dense recall")
                return None
            with work.step(self.name, size):
                vector: Float32 = self._encoder.encode([work.tokens])[0]
        return vector

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return f"{self._model}, {self._encoder.dim} dimensions"
