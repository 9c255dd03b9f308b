"""Is the entropy of Menon and Yu the logarithm of the volume of the orbit, when this is measured by throwing points?

Run it as ``python tests/reproductions/entropy_formula.py [--samples 16000000] [--out DIR]``: two minutes on one core.
An interrupted run goes on. At its end it writes ``entropy_formula.json``, tables and picture.

G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from matplotlib.figure import Figure

import dlngeo
from dlngeo.thermodynamics.free_energy import orbit_volume
from dlngeo.weights.balanced import BalancedFrame
from dlngeo.weights.bases import horizontal_basis, normal_basis, vertical_basis
from dlngeo.weights.network import horizontal_lift

CASES = [(2, 2), (2, 3), (2, 4), (3, 2), (3, 3), (4, 3)]  # of (d, N)
BATCHES, BLOCK, RADII = 40, 50_000, 6


def spectrum(d: int) -> np.ndarray:
    """Singular values of the product."""
    return np.linspace(1.4, 0.6, d)


def frames(rng: np.random.Generator, count: int, d: int) -> np.ndarray:
    """Orthogonal matrices by the Haar measure."""
    q, r = np.linalg.qr(rng.standard_normal((count, d, d)))
    return np.asarray(q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :])


def layers(d: int, inner: list[np.ndarray]) -> list[np.ndarray]:
    """Balanced layers ``Q_p Λ Q_{p−1}ᵀ`` over diag σ."""
    lam = spectrum(d) ** (1 / (len(inner) + 1))
    eye = np.broadcast_to(np.eye(d), inner[0].shape)
    return [(q * lam) @ np.swapaxes(p, -1, -2) for p, q in itertools.pairwise([eye, *inner, eye])]


def thrown_volume(d: int, depth: int, samples: int, radius: float, seed: int = 0) -> tuple[float, float, np.ndarray]:
    """Volume of the orbit by the share of its points, drawn uniformly, that fall into balls around one of them.

    The share in a ball of radius ε is ``ω_n ε^n (1 + c ε² + …)/vol``, with ``ω_n`` the volume of the unit ball of the
    dimension n of the orbit. A line in ε² through the radii gives its value at ε = 0; batches give the standard error.
    """
    rng, n = np.random.default_rng(seed), (depth - 1) * d * (d - 1) // 2
    radii = radius * np.sqrt(np.linspace(0.2, 1, RADII))
    shares = np.zeros((BATCHES, RADII))
    base = layers(d, (depth - 1) * [np.eye(d)[None]])
    for batch in shares:
        left = samples // BATCHES
        while left > 0:
            count = min(left, BLOCK)
            drawn = layers(d, [frames(rng, count, d) for _ in range(depth - 1)])
            square = sum(np.sum((w - b) ** 2, axis=(1, 2)) for w, b in zip(drawn, base, strict=True))
            batch += np.sum(square[:, None] < radii**2, axis=0)
            left -= count
    shares /= samples // BATCHES
    ball = math.pi ** (n / 2) / math.gamma(n / 2 + 1) * radii**n
    weight = radii ** (n / 2)  # the larger balls hold more

    def at_zero(share: np.ndarray) -> float:
        return float(np.polynomial.Polynomial.fit(radii**2, share / ball, 2, w=weight)(0.0))

    each = np.array([at_zero(share) for share in shares])
    value, error = 1 / each.mean(), each.std(ddof=1) / math.sqrt(BATCHES) / each.mean() ** 2
    return float(value), float(error), np.array([radii, ball / shares.mean(axis=0)])


def gram_volume(d: int, depth: int) -> float:
    """Root of the Gram determinant of the velocities of the frames, times the volume of ``O(d)^{N−1}``."""
    lam = spectrum(d) ** (1 / depth)
    velocities = []
    for p, (k, j) in itertools.product(range(depth - 1), itertools.combinations(range(d), 2)):
        skew = np.zeros((d, d))
        skew[k, j], skew[j, k] = 1 / math.sqrt(2), -1 / math.sqrt(2)
        change = np.zeros((depth, d, d))
        change[p], change[p + 1] = skew * lam, -lam[:, None] * skew
        velocities.append(change.ravel())
    a = np.array(velocities)
    group = math.prod(2 * math.pi ** (k / 2) / math.gamma(k / 2) for k in range(1, d + 1)) * 2 ** (d * (d - 1) / 4)
    return math.sqrt(np.linalg.det(a @ a.T)) * group ** (depth - 1)


def bases(d: int, depth: int) -> dict[str, float]:
    """How far the bases are from orthonormal and from the spaces that they are to span."""
    rng = np.random.default_rng(1)
    u, v, *inner = frames(rng, depth + 1, d)
    lam = spectrum(d) ** (1 / depth)
    weights = np.stack([(q * lam) @ p.T for p, q in itertools.pairwise([v, *inner, u])])
    frame = BalancedFrame(weights)
    parts = {name: np.asarray(make(frame)).reshape(-1, depth * d * d) for name, make in BASES.items()}
    whole = np.concatenate(list(parts.values()))
    turns = []
    for p, (k, j) in itertools.product(range(depth - 1), itertools.combinations(range(d), 2)):
        skew, change = np.zeros((d, d)), np.zeros_like(weights)
        skew[k, j], skew[j, k] = 1, -1
        change[p], change[p + 1] = skew @ weights[p], -weights[p + 1] @ skew
        turns.append(change.ravel() / np.linalg.norm(change))
    off = np.array(turns) - np.array(turns) @ parts["vertical"].T @ parts["vertical"]
    momentum = rng.standard_normal((d, d))
    x, lift = dlngeo.end_to_end(weights), np.asarray(horizontal_lift(momentum, weights))
    core = u.T @ momentum @ v
    (k, j), powers = np.meshgrid(spectrum(d), spectrum(d), indexing="ij"), range(depth)
    image = u @ (core * sum(k ** (2 - 2 * (p + 1) / depth) * j ** (2 * p / depth) for p in powers)) @ v.T
    moved = sum(dlngeo.end_to_end([*weights[:p], lift[p], *weights[p + 1 :]]) for p in powers)
    gaps = np.max(np.abs(moved - image)), abs(np.sum(lift**2) - np.sum(momentum * image))
    assert np.allclose(np.linalg.svd(x, compute_uv=False), spectrum(d))
    return {
        "orthonormal": float(np.max(np.abs(whole @ whole.T - np.eye(len(whole))))),
        "vertical": float(np.max(np.abs(off))),
        "submersion": float(max(gaps)),
    }


BASES = {"horizontal": horizontal_basis, "vertical": vertical_basis, "normal": normal_basis}
RADIUS = {(2, 2): 0.8, (2, 3): 1.0, (2, 4): 1.3, (3, 2): 1.3}


def compute(d: int, depth: int, samples: int) -> Cell:
    """Measure the volume of one orbit in three ways, and test the bases."""
    cell: Cell = {"d": d, "depth": depth, "formula": float(orbit_volume(np.diag(spectrum(d)), depth))}
    cell |= {"gram": abs(gram_volume(d, depth) / cell["formula"] - 1), **bases(d, depth), "thrown": None}
    if (d, depth) in RADIUS:
        value, error, curve = thrown_volume(d, depth, samples, RADIUS[d, depth])
        cell |= {"thrown": value, "error": error, "radii": curve[0].tolist(), "volumes": curve[1].tolist()}
    return cell


def volumes(cells: list[Cell]) -> str:
    """Formula, Gram determinant and points thrown."""
    rows = []
    for c in cells:
        thrown = "" if c["thrown"] is None else f"{c['thrown']:.4g} ± {c['error']:.2g}"
        score = "" if c["thrown"] is None else f"{(c['thrown'] - c['formula']) / c['error']:+.1f}"
        rows.append([f"{c['d']}", f"{c['depth']}", f"{c['formula']:.4g}", f"{c['gram']:.0e}", thrown, score])
    return table(("d", "N", "formula", "Gram determinant, relative gap", "points thrown", "gap in s.e."), rows)


def orthonormality(cells: list[Cell]) -> str:
    """Errors of the bases."""
    names = "orthonormal", "vertical", "submersion"
    rows = [[f"{c['d']}", f"{c['depth']}", *(f"{c[name]:.0e}" for name in names)] for c in cells]
    return table(
        ("d", "N", "off orthonormal", "orbit velocities off the vertical span", "lifts: product and length"), rows
    )


def draw(cells: list[Cell]) -> Figure:
    """Volume from each ball over the square of its radius, with the formula at zero."""
    shown = [c for c in cells if c["thrown"] is not None]
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, c in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        square = np.array(c["radii"]) ** 2
        axes.axhline(c["formula"], color="0.5", linewidth=1, linestyle="--")
        axes.text(square[-1], c["formula"], "formula", color="0.4", fontsize=8, ha="right", va="bottom")
        axes.plot(square, c["volumes"], "o", color="#0072B2", markersize=4)
        axes.errorbar(0, c["thrown"], c["error"], fmt="s", color="#D55E00", markersize=4, capsize=3)
        axes.set(title=f"d = {c['d']}, N = {c['depth']}", xlabel="square of the radius")
        axes.title.set_fontsize(10)
    figure.axes[0].set_ylabel("volume of the orbit")
    return figure


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return cell["d"], cell["depth"]


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    options = parser(__doc__, "entropy-formula", samples=16_000_000).parse_args()

    def one(d: int, depth: int) -> Cell:
        return compute(d, depth, options.samples)

    run("entropy_formula", key, CASES, one, (volumes, orthonormality), draw, options.out)


if __name__ == "__main__":
    main()
