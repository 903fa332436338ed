"""searchpipe: an embedded e-commerce search pipeline that answers inside a deadline."""

from __future__ import annotations

__version__ = "0.1.0"
