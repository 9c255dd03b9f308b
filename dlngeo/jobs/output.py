"""Files that are replaced at once: a reader never sees half of one. The two that a job writes are among them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["replace", "save"]


def replace(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, and move it there.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save(result: dict[str, Any], folder: str | Path, draw: Callable[[dict[str, Any]], Any]) -> tuple[Path, Path]:
    """Write ``result.json`` and ``figure.png`` into a folder, made if need be.

    Parameters
    ----------
    result : dict
        What JSON can hold, without NaN or infinity.
    folder : str or Path
        Folder.
    draw : callable
        Result → matplotlib figure. It is given what was written, so that the file is known to suffice.

    Returns
    -------
    json, figure : Path
        The files.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, allow_nan=False, ensure_ascii=False)
    written = replace(folder / "result.json", lambda path: path.write_text(text, encoding="utf-8"))
    figure = draw(json.loads(text))
    return written, replace(folder / "figure.png", lambda path: figure.savefig(path, dpi=150))
