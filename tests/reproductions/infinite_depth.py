"""Where do flows end that are shown a diagonal, and is it where the volume is large? Cohen, Menon and Veraszto.

Run it as ``python tests/reproductions/infinite_depth.py [--starts 1000] [--scales 0.1 0.01 0.0001] [--out DIR]``: a
quarter of an hour on one core. An interrupted run goes on. At its end it writes ``infinite_depth.json``, tables and
picture.

N. Cohen, G. Menon, Z. Veraszto, "Deep linear networks for matrix completion: an infinite depth limit", SIAM J. Appl.
Dyn. Syst. 22 (2023), arXiv:2210.12497.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows import FlowStatus
from dlngeo.flows.report import effective_rank
from dlngeo.geomstats import DLNMetric

DEPTHS: tuple[float | str, ...] = (2, 5, 10, 20, "∞")
LOSS, SHOWN, LAST, ANGLES = 1e-8, 400, 1e8, 720


def space_of(size: int, depth: float | str) -> GeneralLinear:
    """Square matrices with the normalised metric of a depth."""
    space = GeneralLinear(size, equip=False)
    space.equip_with_metric(DLNMetric, depth=math.inf if depth == "∞" else depth, normalized=True)
    return space


def ends(size: int, depth: float | str, scale: float, starts: int) -> np.ndarray:
    """Ends of the flows of ``½ Σ_i (X_ii − 1)²`` from matrices of normal entries, where the loss is small."""
    eye = np.eye(size)
    flows = dlngeo.gradient_flow(
        space_of(size, depth),
        lambda x: eye * (x - eye),
        scale * np.random.default_rng(size).standard_normal((starts, size, size)),
        LAST,
        cost=lambda x: 0.5 * np.sum((eye * (x - eye)) ** 2, axis=(-2, -1)),
        loss_below=LOSS,
        rtol=1e-8,
    )
    assert all(status is FlowStatus.EVENT for status in flows.status)
    return flows.ends


def volume(depth: float | str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Logarithm of the density ``√det g`` at the matrices of diagonal 1 with a and b beside it."""
    one = np.ones_like(a)
    points = np.stack([np.stack([one, a], axis=-1), np.stack([b, one], axis=-1)], axis=-2)
    return np.asarray(space_of(2, depth).metric.log_volume_density(points))


def percentile(depth: float | str, points: np.ndarray) -> np.ndarray:
    """Part of the circle ``a² + b² = const`` through each 2×2 point where the volume density is less than there."""
    a, b = points[:, 0, 1], points[:, 1, 0]
    angles = (np.arange(ANGLES) + 0.5) * 2 * np.pi / ANGLES
    here = volume(depth, a, b)
    radius = np.hypot(a, b)[:, None]
    return np.mean(volume(depth, radius * np.cos(angles), radius * np.sin(angles)) < here[:, None], axis=1)


def compute(size: int, depth: float | str, scale: float, starts: int) -> Cell:
    """Follow flows from many starts, and measure where they end."""
    points = ends(size, depth, scale, starts)
    spectra = np.linalg.svd(points, compute_uv=False)
    ranks = np.array([effective_rank(s) for s in spectra])
    cell: Cell = {"size": size, "depth": depth, "scale": scale, "starts": starts}
    cell |= {f"rank {q}": float(np.quantile(ranks, q / 100)) for q in (50, 90, 99)}
    positive = np.linalg.det(points) > 0  # as at the start: flows do not pass singular matrices
    cell |= {"positive": float(np.median(ranks[positive])), "negative": float(np.median(ranks[~positive]))}
    cell |= {"ratio": float(np.median(spectra[:, 1] / spectra[:, 0])), "norm": float(np.median(spectra[:, 0]))}
    if size == 2:
        cell["percentile"] = float(np.median(percentile(depth, points)))
        cell["shown"] = points[:SHOWN, [0, 1], [1, 0]].tolist()
    return cell


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return tuple(cell[name] for name in ("size", "depth", "scale", "starts"))


def ordered(cells: list[Cell], size: int) -> list[Cell]:
    """Cells of a size, by scale and depth."""
    return sorted((c for c in cells if c["size"] == size), key=lambda c: (-c["scale"], DEPTHS.index(c["depth"])))


def ranks(cells: list[Cell]) -> str:
    """Quantiles of the effective rank of the ends."""
    columns = ("rank 50", "rank 90", "rank 99", "positive", "negative", "ratio", "norm")
    rows = [
        [
            f"{c['size']}×{c['size']}",
            f"{c['scale']:g}",
            str(c["depth"]),
            *(f"{c[q]:.3g}" for q in columns),
        ]
        for size in (2, 3)
        for c in ordered(cells, size)
    ]
    head = (
        "matrices",
        "start",
        "depth",
        "median",
        "90 %",
        "99 %",
        "median, det > 0",
        "median, det < 0",
        "σ₂/σ₁, median",
        "σ₁, median",
    )
    return table(head, rows)


def volumes(cells: list[Cell]) -> str:
    """Volume at the ends, beside that of points of the same norm."""
    rows = []
    for depth in DEPTHS:
        found = [c["percentile"] for c in ordered(cells, 2) if c["depth"] == depth]
        power = 1.0 if depth == "∞" else 1 - 1 / float(depth)
        rows.append([str(depth), f"{power:g}", *(f"{100 * p:.1f} %" for p in found)])
    scales = [f"start {c['scale']:g}" for c in ordered(cells, 2) if c["depth"] == 2]
    return table(("depth", "volume density ~ σ₂ to minus", *scales), rows)


def draw(cells: list[Cell]) -> Figure:
    """Ends over the density of the volume on the plane of minima, and quantiles of the effective rank."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    grid = figure.subplots(2, 3)
    side = np.linspace(-3.5, 3.5, 300)
    a, b = np.meshgrid(side, side)
    least = min(c["scale"] for c in cells if c["size"] == 3)
    for ax, depth in zip(grid[0], (2, 5, "∞"), strict=True):
        level = volume(depth, a, b)
        ax.pcolormesh(a, b, level - np.median(level), vmin=-2, vmax=3, cmap="Blues", rasterized=True)
        cell = next(c for c in cells if c["size"] == 2 and c["depth"] == depth and c["scale"] == least)
        x, y = np.array(cell["shown"]).T
        ax.plot(x, y, ".", color="#D55E00", markersize=3)
        ax.set(title=f"depth {depth}: ends over log volume", xlabel="$X_{12}$", ylabel="$X_{21}$")
        ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    scales = sorted({c["scale"] for c in cells if c["size"] == 2})
    places = np.arange(len(DEPTHS))
    panels = [(2, scales[-1]), (2, scales[0]), (3, least)]
    for ax, (size, scale) in zip(grid[1], panels, strict=True):
        found = [c for c in ordered(cells, size) if c["scale"] == scale]
        for q, marker in ((99, "^"), (90, "s"), (50, "o")):
            label = "median" if q == 50 else f"{q} %"
            ax.plot(places, [c[f"rank {q}"] for c in found], marker=marker, label=label)
        ax.set_xticks(places, [str(c["depth"]) for c in found])
        ax.set(title=f"{size}×{size}, start {scale:g}", xlabel="depth", ylabel="effective rank of the end")
        ax.set_ylim(0.95, size + 0.05)
        ax.grid(alpha=0.3)
    grid[1, 0].legend()
    return figure


TABLES = (ranks, volumes)


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    choice = parser(__doc__, "infinite-depth", starts=1000, scales=(0.1, 0.01, 0.0001)).parse_args()
    scales, middle = choice.scales, sorted(choice.scales)[len(choice.scales) // 2]
    wanted = [(2, depth, scale, choice.starts) for scale in scales for depth in DEPTHS]
    wanted += [(3, depth, middle, choice.starts) for depth in DEPTHS]
    run("infinite_depth", key, wanted, compute, TABLES, draw, choice.out)


if __name__ == "__main__":
    main()
