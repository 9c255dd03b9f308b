"""
Does depth speed up gradient descent?
=====================================

It slows a quadratic loss down, and speeds a quartic one up. Linear regression with one output and the loss
``mean |x·w − y|^p/p``. Gradient descent on N layers is run in the closed form of their product w, each depth with its
best step size. For p = 2 one layer is the fastest. For p = 4 the curvature vanishes with the residuals, and deeper
networks need a fraction of the steps: in terms of w their steps get longer as ‖w‖ grows from a small start. It is the
finding of Arora, Cohen and Hazan (2018), on normal inputs of condition 4 instead of their data.
Run ``python examples/training_depth.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

from dlngeo.flows.limits import end_to_end_step

DEPTHS, POWERS = (1, 2, 3), (2, 4)
STEPS = np.geomspace(0.05, 20, 40)
SAMPLES, INPUTS, NOISE, START, REACH, LIMIT = 300, 6, 0.05, 1e-3, 1e-5, 400


def excesses(inputs, outputs, power, depth, step_size, least):
    """Excess of the loss after each step, relative to that of w = 0, until it is small, diverges or takes too long."""
    w, history = np.full(INPUTS, START), []
    zero = np.mean(np.abs(outputs) ** power) / power - least
    for _ in range(LIMIT):
        residual = inputs @ w - outputs
        history.append((np.mean(np.abs(residual) ** power) / power - least) / zero)
        if not REACH < history[-1] < 10:
            break
        gradient = inputs.T @ (np.sign(residual) * np.abs(residual) ** (power - 1)) / SAMPLES
        w = end_to_end_step(w, gradient, step_size, depth)
    return np.array(history)


def least_loss(inputs, outputs, power):
    """Minimum of the loss by Newton's method."""
    w = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    for _ in range(50):
        residual = inputs @ w - outputs
        weights = np.abs(residual) ** (power - 2)
        w -= np.linalg.solve((inputs.T * weights) @ inputs, inputs.T @ (weights * residual)) / (power - 1)
    return np.mean(np.abs(inputs @ w - outputs) ** power) / power


def main(seed=0):
    """Find, for each power and depth, the step size that reaches the goal soonest, and its path."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((SAMPLES, INPUTS)) * np.geomspace(1, 0.5, INPUTS)
    signal = inputs @ rng.standard_normal(INPUTS)
    outputs = signal / signal.std() + NOISE * rng.standard_normal(SAMPLES)
    results = {}
    for power in POWERS:
        least = least_loss(inputs, outputs, power)
        for depth in DEPTHS:
            paths = [excesses(inputs, outputs, power, depth, step, least) for step in STEPS]
            done = [path for path in paths if path[-1] <= REACH]
            results[power, depth] = min(done, key=len)
    return results


def plot(results, path):
    """Draw the best path of each depth, for each power."""
    figure = Figure(figsize=(8.5, 4), layout="constrained")
    for ax, power in zip(figure.subplots(1, 2, sharey=True), POWERS, strict=True):
        for depth in DEPTHS:
            found = results[power, depth]
            (line,) = ax.loglog(np.arange(1, len(found) + 1), found, linewidth=2, label=f"depth {depth}")
            ax.plot(len(found), found[-1], "o", color=line.get_color())
            ax.annotate(
                f"{len(found) - 1}",
                (len(found), found[-1]),
                (0, -6),
                textcoords="offset points",
                color=line.get_color(),
                ha="center",
                va="top",
            )
        ax.set(xlabel="steps of gradient descent", title=f"residuals to the power {power}", ylim=(REACH / 5, 3))
        ax.set_ylabel("excess of the loss, relative" if power == POWERS[0] else "")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(DEPTHS), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for (power, depth), found in outcome.items():
        print(f"power {power}, {depth} layers: {len(found) - 1} steps")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_depth.png")
