"""Responses: JSON that is always valid, errors of one shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response

from searchpipe.errors import ClosedError, ForkedError, OverloadedError, SearchpipeError

MAX_RETRY_S = 60


class JsonResponse(Response):
    """JSON in UTF-8: numbers that are not finite are null, lone surrogates become question marks."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return encode(content)


def encode(content: Any) -> bytes:
    """``content`` as JSON; what JSON has no word for becomes text. Any thread."""
    try:
        return msgspec.json.encode(content, enc_hook=_plain)
    except UnicodeEncodeError:  # a lone surrogate, out of a request
        text = json.dumps(msgspec.to_builtins(content, enc_hook=_plain), ensure_ascii=False)
        return text.encode("utf-8", "replace")


def problem(
    status: int,
    code: str,
    message: str,
    *,
    cure: str = "",
    fields: list[dict[str, str]] | None = None,
    retry_s: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> JsonResponse:
    """An error; ``retry_s`` becomes the header ``Retry-After``."""
    sent = dict(headers or {})
    if retry_s is not None:
        sent["Retry-After"] = str(retry_s)
    content = {"error": {"code": code, "message": message, "cure": cure, "fields": fields or []}}
    return JsonResponse(content, status, sent)


def invalid(errors: Iterable[Mapping[str, Any]]) -> JsonResponse:
    """422: what pydantic found wrong with a request, by field."""
    fields = [{"field": _path(one["loc"]), "message": str(one["msg"])} for one in errors]
    first = fields[0] if fields else {"field": "", "message": "not valid"}
    where = f"{first['field']}: " if first["field"] else ""
    return problem(422, "invalid_request", f"{where}{first['message']}.", fields=fields)


def problem_of(error: SearchpipeError, *, retry_s: int) -> JsonResponse:
    """The answer to a query that was refused: 503 where trying again may help, 400 where it cannot."""
    status = 503 if isinstance(error, OverloadedError | ClosedError | ForkedError) else 400
    predicted = getattr(error, "retry_after_s", None)
    if predicted is not None:
        retry_s = max(1, min(MAX_RETRY_S, math.ceil(predicted)))
    return problem(
        status, error.code, str(error), cure=error.cure, retry_s=retry_s if status == 503 else None
    )


def retry_after(waiting: int, threads: int, seconds_each: float) -> int:
    """Whole seconds until ``waiting`` queries are through, 1 to 60: what a caller who is shed should wait."""
    if not seconds_each > 0 or math.isinf(seconds_each):
        return 1
    return max(1, min(MAX_RETRY_S, math.ceil(waiting * seconds_each / max(1, threads))))


def _path(location: tuple[int | str, ...]) -> str:
    """``("body", "filters", "price")`` as ``filters.price``; list places as ``[0]``."""
    text = ""
    for part in location[1:] if location[:1] == ("body",) else location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
