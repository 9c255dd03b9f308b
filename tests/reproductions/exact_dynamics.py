"""Are the trajectories of the mode strengths those of the closed form? Saxe, McClelland and Ganguli, at every depth.

Run it as ``python tests/reproductions/exact_dynamics.py [--start 0.01] [--out DIR]``: a minute on one core. An
interrupted run goes on. At its end it writes ``exact_dynamics.json``, a table and a picture.

A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks", ICLR 2014, arXiv:1312.6120.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from geomstats.geometry.general_linear import GeneralLinear
from matplotlib.figure import Figure
from scipy.optimize import brentq
from scipy.special import hyp2f1

import dlngeo
from dlngeo.geomstats import DLNMetric
from dlngeo.problems import Regression

DEPTHS, STRENGTHS = (1, 2, 3, 4, 8), (1.5, 1.0, 0.7)
POINTS, LAYERS_UP_TO = 40, 4


def two_layers(t: np.ndarray, start: float, strength: float) -> np.ndarray:
    """Strength of a mode of two layers: a sigmoid, ``s e^{2st}/(e^{2st} − 1 + s/a_0)``."""
    return strength / (1 + (strength / start - 1) * np.exp(-2 * strength * t))


def time_at(a: Any, start: float, strength: float, depth: float) -> Any:
    """Time at which a mode has the strength a: ``∫ da/(N a^{2−2/N} (s − a))`` in closed form.

    With ``p = 1 − 2/N`` the integral of ``a^{−1−p}/(s − a)`` is ``−a^{−p} ₂F₁(1, −p; 1 − p; a/s)/(p s)``, a logarithm
    at ``N = 2``, where ``p = 0``.
    """
    if depth == 2:
        return np.log(a * (strength - start) / (start * (strength - a))) / (2 * strength)
    p = 1 - 2 / depth

    def primitive(x: Any) -> Any:
        return -(x**-p) * hyp2f1(1, -p, 1 - p, x / strength) / (p * strength)

    return (primitive(a) - primitive(start)) / depth


def strength_at(t: np.ndarray, start: float, strength: float, depth: float) -> np.ndarray:
    """Strength of a mode at times, from the closed form of the time."""
    if depth == 1:
        return strength + (start - strength) * np.exp(-t)
    if depth == 2:
        return two_layers(t, start, strength)
    top = strength * (1 - 1e-12)
    latest = time_at(top, start, strength, depth)
    values = []
    for when in t:
        # Of log a: the mode spends most of its time small.
        gap = lambda z, when=when: time_at(math.exp(z), start, strength, depth) - when  # noqa: E731
        low, high = math.log(start) - 1e-9, math.log(top)
        if when >= latest:  # it relaxes at a rate, to round-off
            rate = depth * strength ** (2 - 2 / depth)
            values.append(strength - (strength - top) * math.exp(-rate * (when - latest)))
        else:
            values.append(math.exp(brentq(gap, low, high, xtol=1e-14, rtol=1e-15)))
    return np.array(values)


def regression(seed: int = 0) -> tuple[Regression, np.ndarray, np.ndarray]:
    """Regression on whitened inputs, and the modes of its solution: three outputs of known strengths."""
    rng = np.random.default_rng(seed)
    inputs = np.array([2.0, 1.0, 0.4])[:, None] * rng.standard_normal((3, 60))
    u, v = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    whitener = Regression(inputs, inputs, whiten=True).whitener
    # E(X) = ½ ‖X − B Aᵀ (A Aᵀ)^{−1/2}‖² + const, so these outputs put the minimum at U S Vᵀ.
    outputs = (u * STRENGTHS) @ v.T @ whitener @ inputs
    return Regression(inputs, outputs, whiten=True), u, v


def compute(depth: int, start: float) -> Cell:
    """Compare the flow of the product, and of the layers, with the closed form of each mode."""
    problem, u, v = regression()
    half = [time_at(s / 2, start, s, depth) if depth > 1 else math.log(2) for s in STRENGTHS]
    times = np.linspace(0, 1.3 * max(half), POINTS)
    exact = np.stack([strength_at(times, start, s, depth) for s in STRENGTHS], axis=1)
    x0 = start * u @ v.T
    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=depth)
    flow = dlngeo.gradient_flow(space, problem.euclidean_gradient, x0, times, method="DOP853", rtol=1e-13, atol=1e-15)

    def apart(points: np.ndarray) -> float:
        seen = np.einsum("ki,tkl,li->ti", u, points, v)
        rest = points - np.einsum("ki,ti,li->tkl", u, seen, v)
        return float(max(np.abs(seen - exact).max(), np.abs(rest).max()))

    cell: Cell = {"depth": depth, "start": start, "flow": apart(flow.points)}
    if depth <= LAYERS_UP_TO:
        weights = dlngeo.balanced_weights(x0, depth, rng=1)
        layers = dlngeo.training_flow(
            weights, problem.euclidean_gradient, times, method="DOP853", rtol=1e-13, atol=1e-15
        )
        cell["layers"] = apart(layers.points)
    return cell | {"half": [float(t) for t in half], "t": times.tolist(), "strengths": exact.tolist()}


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return cell["depth"], cell["start"]


def agreement(cells: list[Cell]) -> str:
    """Largest distance from the closed form, and times at which modes are half learnt."""
    rows = []
    for c in cells:
        layers = f"{c['layers']:.0e}" if "layers" in c else ""
        rows.append([str(c["depth"]), f"{c['flow']:.0e}", layers, *(f"{t:.4g}" for t in c["half"])])
    halves = (f"half of mode s = {s:g} at t" for s in STRENGTHS)
    return table(("depth", "flow of X: largest error", "flow of layers", *halves), rows)


def draw(cells: list[Cell]) -> Figure:
    """Draw trajectories of the closed form, in units of the time at which the strongest mode is half learnt."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for ax, c in zip(figure.subplots(1, len(cells), sharey=True), cells, strict=True):
        t, problem, u, v = np.array(c["t"]), *regression()
        space = GeneralLinear(3, equip=False)
        space.equip_with_metric(DLNMetric, depth=c["depth"])
        flow = dlngeo.gradient_flow(
            space, problem.euclidean_gradient, c["start"] * u @ v.T, t, method="DOP853", rtol=1e-8
        )
        for k, color in enumerate(("#0072B2", "#D55E00", "#009E73")):
            ax.plot(t, np.array(c["strengths"])[:, k], color=color, label=f"s = {STRENGTHS[k]:g}")
            ax.plot(t, np.einsum("k,tkl,l->t", u[:, k], flow.points, v[:, k]), ".", color=color)
        ax.set(title=f"depth {c['depth']}", xlabel="time")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("strength of the mode")
    figure.axes[0].legend(title="closed form; dots: flow", fontsize=8, title_fontsize=8)
    return figure


TABLES = (agreement,)


def main() -> None:
    """Run what is not yet run, then write table and picture."""
    choice = parser(__doc__, "exact-dynamics", start=0.01).parse_args()
    wanted = [(depth, choice.start) for depth in DEPTHS]
    run("exact_dynamics", key, wanted, compute, TABLES, draw, choice.out)


if __name__ == "__main__":
    main()
