"""Does depth speed up gradient descent of a regression? Not for squares, but for fourth powers: Arora, Cohen and Hazan.

Run it as ``python tests/reproductions/implicit_acceleration.py [--seeds 0 1 2] [--out DIR]``: two minutes on one core.
An interrupted run goes on. At its end it writes ``implicit_acceleration.json``, a table and a picture.

S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by overparameterization",
ICML 2018, arXiv:1802.06509.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cells import Cell, parser, run, table
from matplotlib.figure import Figure

from dlngeo.flows.limits import end_to_end_step

DEPTHS, POWERS = (1, 2, 3), (2, 4)
SAMPLES, INPUTS, CONDITION, NOISE = 300, 8, 30.0, 0.05
START, REACH, LIMIT = 1e-3, 1e-5, 4000
RATES = tuple(float(2.0**k) for k in np.arange(-4, 5.5, 0.5))


def data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw correlated inputs, of a spectrum that decays, and one output, in units of its deviation."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((INPUTS, INPUTS)))[0]
    inputs = rng.standard_normal((SAMPLES, INPUTS)) * np.geomspace(1, 1 / math.sqrt(CONDITION), INPUTS) @ rotation
    signal = inputs @ rng.standard_normal(INPUTS)
    outputs = signal / signal.std() + NOISE * rng.standard_normal(SAMPLES)
    return inputs, outputs


def loss(inputs: np.ndarray, outputs: np.ndarray, w: np.ndarray, power: int) -> tuple[float, np.ndarray]:
    """Mean of ``|x·w − y|^p/p`` and its gradient."""
    residual = inputs @ w - outputs
    return float(np.mean(np.abs(residual) ** power) / power), inputs.T @ residual ** (power - 1) / len(outputs)


def least(inputs: np.ndarray, outputs: np.ndarray, power: int) -> float:
    """Minimum of the loss by Newton's method."""
    w = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    for _ in range(60):
        residual = inputs @ w - outputs
        hessian = (inputs.T * residual ** (power - 2)) @ inputs
        w = w - np.linalg.solve(hessian, inputs.T @ residual ** (power - 1)) / (power - 1)
    return loss(inputs, outputs, w, power)[0]


def by_layers(w: np.ndarray, gradient: np.ndarray, layers: list[np.ndarray], rate: float) -> np.ndarray:
    """Step of gradient descent on the layers themselves, of which all but the first are numbers; it changes them."""
    scalars = [float(a) for a in layers[1:]]
    product = math.prod(scalars)
    moves = [product * gradient]
    for a in range(len(scalars)):
        others = math.prod(scalars[:a] + scalars[a + 1 :])
        moves.append(np.asarray(others * (layers[0] @ gradient)))
    layers[:] = [layer - rate * move for layer, move in zip(layers, moves, strict=True)]
    return layers[0] * math.prod(float(a) for a in layers[1:])


def descend(seed: int, power: int, depth: int, rate: float, limit: int, explicit: bool) -> np.ndarray:
    """Excess of the loss after each step, relative to that of w = 0, until it is small, grows or takes too long."""
    inputs, outputs = data(seed)
    bottom = least(inputs, outputs, power)
    scale = loss(inputs, outputs, np.zeros(INPUTS), power)[0] - bottom
    w, history = np.full(INPUTS, START / math.sqrt(INPUTS)), []
    layers = [w / START ** (1 - 1 / depth), *[np.asarray(START ** (1 / depth))] * (depth - 1)]
    for _ in range(limit):
        value, gradient = loss(inputs, outputs, w, power)
        history.append((value - bottom) / scale)
        if not REACH < history[-1] < 10:
            break
        w = by_layers(w, gradient, layers, rate) if explicit else end_to_end_step(w, gradient, rate, depth)
    return np.array(history)


def compute(power: int, depth: int, seed: int) -> Cell:
    """Find the rate that is the fastest, and its path, by the end-to-end step, and on the layers themselves."""
    cell: Cell = {"power": power, "depth": depth, "seed": seed}
    for name in ("layers", "steps"):
        best, chosen = np.zeros(LIMIT + 1), 0.0
        for rate in reversed(RATES):
            path = descend(seed, power, depth, rate, len(best) - 1, name == "layers")
            if path[-1] <= REACH:
                best, chosen = path, rate
        cell |= {name: len(best) - 1, f"rate of {name}": chosen}
    places = np.unique(np.linspace(0, len(best) - 1, 150).astype(int))
    return cell | {"path": [[int(k), float(best[k])] for k in places]}


def key(cell: Cell) -> tuple[Any, ...]:
    """Tell cells apart."""
    return cell["power"], cell["depth"], cell["seed"]


def steps(cells: list[Cell]) -> str:
    """Fewest steps to the goal."""
    rows = []
    for power in POWERS:
        for depth in DEPTHS:
            found = sorted((c for c in cells if (c["power"], c["depth"]) == (power, depth)), key=lambda c: c["seed"])
            counts = [", ".join(str(c[name]) for c in found) for name in ("steps", "layers")]
            rates = ", ".join(f"{c['rate of layers']:.3g}" for c in found)
            rows.append([f"ℓ{power}", str(depth), *counts, rates])
    return table(("loss", "depth", "steps, end to end", "steps, layers", "step sizes of layers"), rows)


def draw(cells: list[Cell]) -> Figure:
    """Draw the best path of each depth, for the first seed."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    first = cells[0]["seed"]
    for ax, power in zip(figure.subplots(1, 2, sharey=True), POWERS, strict=True):
        for depth, color in zip(DEPTHS, ("#0072B2", "#D55E00", "#009E73"), strict=True):
            found = next(c for c in cells if key(c) == (power, depth, first))
            ax.semilogy(*np.array(found["path"]).T, color=color, label=f"depth {depth}: {found['steps']}")
        ax.set(xlabel="steps of gradient descent", title=f"residuals to the power {power}")
        ax.legend(title="steps to the goal")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("excess of the loss, relative")
    return figure


TABLES = (steps,)


def main() -> None:
    """Run what is not yet run, then write table and picture."""
    choice = parser(__doc__, "implicit-acceleration", seeds=(0, 1, 2)).parse_args()
    wanted = [(power, depth, seed) for power in POWERS for depth in DEPTHS for seed in choice.seeds]
    run("implicit_acceleration", key, wanted, compute, TABLES, draw, choice.out)


if __name__ == "__main__":
    main()
