"""Is noise orthogonal to the orbits the same as isotropic noise with a drift towards small orbits?

Run it as ``python tests/reproductions/projected_noise.py [--chains 4000] [--step 0.02] [--out DIR]``: two minutes on
one core. An interrupted run goes on. At its end it writes ``projected_noise.json``, tables and picture.

G. Menon, A. J. Stromme, A. Vacher, "On the implicit regularization of Langevin dynamics with projected noise", COLT
2026, arXiv:2602.12257.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from matplotlib.figure import Figure

from dlngeo.sampling import UpstairsLangevin
from dlngeo.thermodynamics.entropy import SpectralEntropy
from dlngeo.thermodynamics.equilibria import relaxation
from dlngeo.thermodynamics.free_energy import entropy_gradient
from dlngeo.thermodynamics.laws import SpectralLaw

SIDE, DEPTH, BETA, LAST, TIMES, SETTLED = 3, 2, 4.0, 6.0, 30, 8
AT = 0, 1, 4, 9, 29
START = np.diag([1.5, 0.8, 0.3])


def energy(x: np.ndarray) -> np.ndarray:
    """``½‖X‖²``."""
    return 0.5 * np.sum(x**2, axis=(-2, -1))


def corrected(x: np.ndarray) -> np.ndarray:
    """Gradient of ``E + S/β``: the drift that projected noise is said to add, towards orbits of small volume."""
    return np.asarray(x + entropy_gradient(x, DEPTH) / BETA)


# Name: noise, anisotropy, gradient of the potential, and the noise of the law that the product then has.
PROCESSES: dict[str, tuple[str, float, Callable[[np.ndarray], np.ndarray], str]] = {
    "projected": ("base", 1.0, lambda x: x, "base"),
    "isotropic, corrected": ("isotropic", 1.0, corrected, "base"),
    "isotropic": ("isotropic", 1.0, lambda x: x, "isotropic"),
    "a quarter across": ("isotropic", 0.25, lambda x: x, "isotropic"),
    "along the orbits": ("isotropic", 0.0, lambda x: x, "isotropic"),
}


def exact(noise: str, kappa: float) -> float:
    """Mean energy: of the stationary law by quadrature, and without noise across at time ``LAST`` by the flow of F."""
    entropy = SpectralEntropy(SIDE, SIDE, DEPTH)
    if kappa == 0:
        end = relaxation(lambda s: s, entropy, BETA, np.diag(START), [0.0, LAST])[-1]
        return float(np.sum(end**2) / 2)
    law = SpectralLaw(lambda s: 0.5 * np.sum(s**2, axis=-1), entropy, BETA, noise, kappa=kappa)
    return law.mean(lambda s: 0.5 * np.sum(s**2, axis=-1))


def compute(name: str, chains: int, step: float) -> Cell:
    """Mean energy of the product over time from one start, and over its last quarter, beside what is exact."""
    noise, kappa, gradient, law = PROCESSES[name]
    thin = round(LAST / TIMES / step)
    sampler = UpstairsLangevin((SIDE,) * (DEPTH + 1), gradient, BETA, step, noise=noise, kappa=kappa)
    seed = list(PROCESSES).index(name)  # the gaps between processes are those of independent ones
    starts = np.broadcast_to(START, (chains, SIDE, SIDE))
    points = np.asarray(sampler.sample(starts, thin * TIMES, thin=thin, rng=seed).points)
    found = np.stack([energy(points[:, i]) for i in range(TIMES)])
    settled = found[-1] if kappa == 0 else found[-SETTLED:].mean(axis=0)
    root = np.sqrt(chains)
    cell: Cell = {"process": name, "exact": exact(law, kappa)}
    cell |= {"mean": float(settled.mean()), "mean error": float(settled.std(ddof=1) / root)}
    cell |= {"value": found.mean(axis=1).tolist(), "error": (found.std(axis=1, ddof=1) / root).tolist()}
    return cell


def laws(cells: list[Cell]) -> str:
    """Mean energies at the end beside the exact ones."""
    rows = []
    for c in cells:
        mean, error = c["mean"], c["mean error"]
        score = f"{(mean - c['exact']) / error:+.1f}"
        rows.append([c["process"], f"{mean:.4f} ± {error:.4f}", f"{c['exact']:.4f}", score])
    return table(("noise", "mean of ½‖X‖²", "exact", "gap in s.e."), rows)


def equivalence(cells: list[Cell]) -> str:
    """Two processes at the same times, in standard errors."""
    found = {c["process"]: c for c in cells}
    rows = []
    first = found["projected"]
    for name in ("isotropic, corrected", "isotropic"):
        other = found[name]
        gaps = [
            (a - b) / np.hypot(e, f)
            for a, b, e, f in zip(first["value"], other["value"], first["error"], other["error"], strict=True)
        ]
        rows.append([name, *(f"{gaps[i]:+.1f}" for i in AT), f"{np.max(np.abs(gaps)):.1f}"])
    times = [f"t = {(i + 1) * LAST / TIMES:g}" for i in AT]
    return table(("projected noise against", *times, f"largest of {TIMES}"), rows)


def draw(cells: list[Cell]) -> Figure:
    """Mean energies over time, and the exact ones at the right."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    styles = ["-", "--", "-", "-", "-"]
    shades = ["#0072B2", "#56B4E9", "#D55E00", "#009E73", "0.3"]
    t = (np.arange(TIMES) + 1) * LAST / TIMES
    for c, style, color in zip(cells, styles, shades, strict=True):
        value, error = np.array(c["value"]), np.array(c["error"])
        axes.fill_between(t, value - 2 * error, value + 2 * error, color=color, alpha=0.25, linewidth=0)
        axes.plot(t, value, style, color=color, linewidth=1.5)
        axes.plot(LAST * 1.02, c["exact"], "<", color=color, markersize=6)
        down = c["process"] in ("isotropic, corrected",)
        axes.annotate(
            c["process"],
            (LAST * 1.05, c["exact"]),
            (LAST * 1.05, c["exact"] - (0.05 if down else 0)),
            color=color,
            va="center",
            annotation_clip=False,
            fontsize=9,
        )
    axes.set(xlabel="time", ylabel="mean of ½‖X‖²", xlim=(0, LAST * 1.04))
    return figure


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return (cell["process"],)


def main() -> None:
    """Run what is not yet run, then write tables and picture."""
    options = parser(__doc__, "projected-noise", chains=4000, step=0.02).parse_args()

    def one(name: str) -> Cell:
        return compute(name, options.chains, options.step)

    run("projected_noise", key, [(name,) for name in PROCESSES], one, (laws, equivalence), draw, options.out)


if __name__ == "__main__":
    main()
