"""Where the project's own recipes and models lie: `engines/` of the checkout, `_engines/` once installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def engines_folder() -> Path:
    """Folder of the recipes and the small models that come with searchpipe.

    An installed package holds a copy, which setup.py makes; a checkout has the folder itself.
    """
    installed = _PACKAGE / "_engines"
    return installed if installed.is_dir() else _PACKAGE.parent / "engines"
