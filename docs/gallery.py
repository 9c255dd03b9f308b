"""How the gallery is made: each example runs as it does from a shell, and its picture goes where Sphinx wants it."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from sphinx_gallery.scrapers import figure_rst

DRAWN = Path(gettempdir()) / "dlngeo_gallery.png"


def arguments(conf: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """Arguments of an example: the file to draw to."""
    return [str(DRAWN)]


def pictures(block: Any, variables: dict[str, Any], conf: dict[str, Any]) -> str:
    """Take the picture that an example has drawn."""
    if not DRAWN.exists():
        return ""
    path = variables["image_path_iterator"].next()
    shutil.move(DRAWN, path)
    return figure_rst([path], conf["src_dir"])
