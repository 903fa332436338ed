"""The search page at ``/``: one file, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from starlette.responses import Response


class SearchPage:
    """The page and a policy that lets the browser run its own script and style and nothing else."""

    def __init__(self) -> None:
        html = files("searchpipe.serve").joinpath("search_page.html").read_text("utf-8")
        self._body = html.encode()
        self._policy = "; ".join(
            (
                "default-src 'none'",
                f"script-src {_hashes(html, 'script')}",
                f"style-src {_hashes(html, 'style')}",
                "connect-src 'self'",
                "img-src data:",  # the empty icon
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            )
        )

    async def response(self) -> Response:
        """The page."""
        headers = {"Content-Security-Policy": self._policy, "Referrer-Policy": "no-referrer"}
        return Response(self._body, media_type="text/html; charset=utf-8", headers=headers)


def _hashes(html: str, tag: str) -> str:
    """The sources of all inline ``tag`` elements, as Content-Security-Policy names them."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
