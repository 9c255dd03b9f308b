"""Cells of a long run, of which each finished one is a line of a file, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any


def stored(key: Callable[[dict[str, Any]], Hashable], store: Path, final: Path | None = None) -> list[dict[str, Any]]:
    """Cells that are finished: those of the final file, and lines of the store, but for one that was cut short."""
    found = json.loads(final.read_text(encoding="utf-8")) if final is not None and final.exists() else []
    for line in store.read_text(encoding="utf-8").splitlines() if store.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return list({key(cell): cell for cell in found}.values())
