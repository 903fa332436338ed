"""Texts to vectors on an engine chain: queries of many callers share a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from searchpipe.errors import ModelError
from searchpipe.models.settings import LocalModel
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.runtime.engine_chain import EngineChain, Submit
from searchpipe.runtime.forecast import Forecast


class ChainTextEncoder:
    """Token ids in, one float32 vector each out; safe from many threads.

    The engines pool and normalise (:func:`searchpipe.backends.onnx_prepare.prepare_onnx`),
    so that a row of the output is a vector.

    Raises:
        ModelError: the model is no encoder.
    """

    # Of all calls together, well within the queue of a chain: a build makes two calls at once.
    texts_in_flight = 8192

    def __init__(self, local_model: LocalModel, chain: EngineChain, tokenizer: TextTokenizer) -> None:
        if local_model.kind != "encoder":
            raise ModelError(f"Model {local_model.name} is a {local_model.kind}, not an encoder.")
        self.model = local_model
        self.chain = chain
        self.tokenizer = tokenizer
        executor = chain.scorer.executor
        self.dim: int = executor.output_width
        special = {
            "cls_id": tokenizer.cls_id,
            "sep_id": tokenizer.sep_id,
            "pad_id": tokenizer.pad_id,
            "max_tokens": min(local_model.max_tokens, executor.longest_row),
        }
        self._special, self._packer = special, _core.TextPacker(**special)

    def encode(
        self,
        token_ids: Sequence[Int32],
        *,
        deadline: float | None = None,
        priority: int = 0,
        device_output: int = 0,
        meanwhile: Callable[[], None] | None = None,
    ) -> Float32:
        """Encode texts given as ids without special tokens: float32 ``[n, dim]``, in the order given.

        Args:
            token_ids: int32 ``(n,)`` each; longer ones are cut to the widest bucket.
            deadline: seconds of ``time.monotonic()``; texts not begun by then come back as NaN.
            priority: higher goes first.
            device_output: address of device memory, float32 ``[n, dim]``, that the vectors
                are in too when this returns: for an index on the same GPU. 0 for none.
            meanwhile: called once on this thread when the texts were submitted; what it raises is ignored.

        Raises:
            EngineError: the engine failed, none is ready, or it has no device memory to offer.
            OverloadedError, ClosedError: the queue is full, the engine closed.
        """
        request = self._request(token_ids, deadline, priority, device_output)
        forecaster = self.chain.forecaster
        if forecaster is None:
            return self.chain.run(request, meanwhile=meanwhile).reshape(-1, self.dim)
        with forecaster.running(len(token_ids)):
            return self.chain.run(request, meanwhile=meanwhile).reshape(-1, self.dim)

    def predict(self, lengths: Int32) -> Forecast | None:
        """How long :meth:`encode` of rows with these ``lengths`` (special tokens included) would take now.

        None if nobody knows.
        """
        forecaster = self.chain.forecaster
        return forecaster.predict(lengths) if forecaster is not None else None

    def encode_row(
        self,
        token_ids: Int32,
        *,
        deadline: float | None = None,
        priority: int = 0,
        device_output: int = 0,
        meanwhile: Callable[[], None] | None = None,
    ) -> Float32:
        """As :meth:`encode`, of one text: float32 ``(dim,)``."""
        chain, packer = self.chain, self._packer

        def request(scorer: _core.Scorer) -> _core.Ticket:
            return packer.prepare(scorer, token_ids, deadline, priority, device_output)

        forecaster = chain.forecaster
        if forecaster is None:
            return chain.run(request, meanwhile=meanwhile).reshape(self.dim)
        with forecaster.running(1):
            return chain.run(request, meanwhile=meanwhile).reshape(self.dim)

    def predict_row(self, length: int) -> Forecast | None:
        """As :meth:`predict`, of :meth:`encode_row` with a row of ``length`` tokens."""
        forecaster = self.chain.forecaster
        return forecaster.predict_row(length) if forecaster is not None else None

    async def encode_async(
        self, token_ids: Sequence[Int32], *, deadline: float | None = None, priority: int = 0
    ) -> Float32:
        """As :meth:`encode`, without blocking the event loop."""
        found = await self.chain.run_async(self._request(token_ids, deadline, priority, 0))
        return found.reshape(-1, self.dim)

    def encode_texts(self, texts: Sequence[str], *, prefix: str = "") -> Float32:
        """Encode texts, each after ``prefix`` (the model has its own for queries): float32 ``[n, dim]``."""
        return self.encode(self.tokenizer.ids_many([prefix + text for text in texts] if prefix else texts))

    def close(self) -> None:
        """Close the engines."""
        self.chain.close()

    def _request(
        self, token_ids: Sequence[Int32], deadline: float | None, priority: int, device_output: int
    ) -> Submit:
        special = self._special
        return lambda scorer: scorer.prepare_texts(
            token_ids, deadline=deadline, priority=priority, device_output=device_output, **special
        )
