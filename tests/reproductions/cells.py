"""Cells of a long run, of which each finished one is a line of a file, so that an interrupted run goes on."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dlngeo.jobs.output import replace

DOCS = Path(__file__).parents[2] / "docs"

Cell = dict[str, Any]


def stored(key: Callable[[Cell], Hashable], store: Path, final: Path | None = None) -> list[Cell]:
    """Cells that are finished: those of the final file, and lines of the store, but for one that was cut short."""
    found = json.loads(final.read_text(encoding="utf-8")) if final is not None and final.exists() else []
    for line in store.read_text(encoding="utf-8").splitlines() if store.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return list({key(cell): cell for cell in found}.values())


def rounded(value: Any) -> Any:
    """To four digits, in all of a cell."""
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def run(
    name: str,
    key: Callable[[Cell], tuple[Any, ...]],
    wanted: Iterable[tuple[Any, ...]],
    compute: Callable[..., Cell],
    tables: Iterable[Callable[[list[Cell]], str]],
    draw: Callable[[list[Cell]], Figure],
    out: Path,
) -> None:
    """Compute what is wanted and not yet stored; then write ``name.json``, ``name-tables.md`` and ``name.png``.

    A cell is what ``compute(*key)`` returns.
    """
    out.mkdir(parents=True, exist_ok=True)
    store, final, wanted = out / f"{name}.jsonl", out / f"{name}.json", list(wanted)
    done = {key(cell): cell for cell in stored(key, store, final)}
    with store.open("a", encoding="utf-8") as file:
        file.write("\n")  # the last line may have been cut short
        for arguments in wanted:
            if arguments not in done:
                began = time.process_time()
                done[arguments] = compute(*arguments) | {"seconds": time.process_time() - began}
                file.write(json.dumps(done[arguments]) + "\n")
                file.flush()
                sys.stderr.write(" ".join(map(str, arguments)) + f": {done[arguments]['seconds']:.1f} s\n")
    found = [rounded(done[arguments]) for arguments in wanted]
    matplotlib.use("Agg")
    text = "[\n" + ",\n".join(json.dumps(cell) for cell in found) + "\n]\n"
    replace(final, lambda path: path.write_text(text, encoding="utf-8"))
    texts = "\n".join(table(found) for table in tables)
    replace(out / f"{name}-tables.md", lambda path: path.write_text(texts, encoding="utf-8"))
    replace(out / f"{name}.png", lambda path: draw(found).savefig(path, dpi=110))


def parser(doc: str | None, name: str, **defaults: Any) -> argparse.ArgumentParser:
    """Command line of a reproduction: the folder to write to, and numbers with their defaults."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path(name), help=f"folder (default: {name})")
    for option, value in defaults.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        kind = {"nargs": "+", "type": type(value[0])} if isinstance(value, tuple) else {"type": type(value)}
        made.add_argument(f"--{option}", default=value, help=f"default: {shown}", **kind)
    return made


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lines of Markdown."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def published(name: str, tables: Iterable[Callable[[list[Cell]], str]]) -> list[Cell]:
    """Cells of ``docs/NAME.json``, after making sure that ``docs/NAME.md`` has their tables."""
    found: list[Cell] = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for make in tables:
        assert make(found) in page, f"docs/{name}.md does not have the table {make.__name__} of docs/{name}.json"
    return found
