"""How well the kernel of fitted offsets predicts the flow of networks near such weights, and of PyTorch's at the start.

Run it as ``python tests/reproductions/offset_errors.py [--out DIR]``; it writes ``offsets.json`` and
``offsets-table.md``, in seconds, and needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import dlngeo
from dlngeo.weights.offsets import fit_offsets

SIDE, SEEDS, DEPTHS = 4, range(50), (2, 3, 4)
NOISES = (1e-4, 1e-3, 1e-2)
PYTORCH = "PyTorch"


def near(depth: int, noise: float, seed: int) -> list[np.ndarray]:
    """Weights of offsets in [0, 1] over a matrix of singular values in [1/e, e], and normal noise in each entry."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((SIDE, SIDE)))[0] for _ in range(2))
    x = (u * np.exp(rng.uniform(-1, 1, SIDE))) @ v
    weights = dlngeo.balanced_weights(x, depth, rng=rng, offsets=rng.uniform(0, 1, depth))
    return [w + noise * rng.standard_normal(w.shape) for w in weights]


def initial(depth: int, seed: int) -> list[np.ndarray]:
    """Weights of ``torch.nn.Linear`` layers without biases, as they are made."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(a, b, bias=False) for a, b in pairwise([SIDE] * (depth + 1))]
    return [layer.weight.detach().numpy().astype(float) for layer in layers]


def compute(kind: str, depth: int, seed: int) -> dict[str, Any]:
    """Imbalance, error at the start, and its bound for all later weights of a least singular value no less."""
    weights = initial(depth, seed) if kind == PYTORCH else near(depth, float(kind), seed)
    fit = fit_offsets(weights)
    bound = float(fit.bound(dlngeo.end_to_end(weights)))
    found = {"imbalance": fit.imbalance, "error": fit.error, "bound": bound if np.isfinite(bound) else None}
    return {"kind": kind, "depth": depth, "seed": seed} | {
        name: value if value is None else float(f"{value:.4g}") for name, value in found.items()
    }


def table(cells: list[dict[str, Any]]) -> str:
    """The cells in a table, medians and ranges over the seeds."""
    lines = [
        "| weights | layers | imbalance beside offsets | error of the kernel | bound over error | bounded |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in (*map(str, NOISES), PYTORCH):
        for depth in DEPTHS:
            some = [cell for cell in cells if (cell["kind"], cell["depth"]) == (kind, depth)]
            ratios = [cell["bound"] / cell["error"] for cell in some if cell["bound"] is not None]
            name = "PyTorch's initial ones" if kind == PYTORCH else f"noise {kind}"
            entries = [shown([cell[column] for cell in some]) for column in ("imbalance", "error")]
            entries += [shown(ratios) if ratios else "–", f"{len(ratios)} of {len(some)}"]
            lines.append(f"| {name} | {depth} | {' | '.join(entries)} |")
    return "\n".join(lines)


def shown(values: list[float]) -> str:
    """Median and range."""
    return f"{np.median(values):.2g} ({min(values):.2g}–{max(values):.2g})"


def main() -> None:
    """Compute all cells and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs")
    out = parser.parse_args().out
    kinds = (*map(str, NOISES), PYTORCH)
    cells = [compute(kind, depth, seed) for kind in kinds for depth in DEPTHS for seed in SEEDS]
    text = "[\n" + ",\n".join(json.dumps(cell) for cell in cells) + "\n]\n"
    (out / "offsets.json").write_text(text, encoding="utf-8")
    (out / "offsets-table.md").write_text(table(cells) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
