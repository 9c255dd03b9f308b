"""
Does the width of the hidden layers matter?
===========================================

Not to what the network computes, if its weights are balanced: the path of the product does not depend on the inner
widths, exactly. From a start that is not balanced it is another path.
Run ``python examples/training_width.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import dlngeo
from dlngeo.problems import QuadraticCost

WIDTHS, RANK = (2, 4, 16), 2
COLORS = {"width 2": "gold", "width 4": "tab:orange", "width 16": "black", "not balanced": "tab:blue"}


def main(seed=0):
    """Train networks of each width from one matrix, and one of the last width from weights that are not balanced."""
    rng = np.random.default_rng(seed)
    problem = QuadraticCost(rng.standard_normal((3, 4)))
    start = 0.5 * problem.minimum(RANK) + 0.1 * rng.standard_normal((3, RANK)) @ rng.standard_normal((RANK, 4))
    times, paths = np.linspace(0, 4, 81), {}
    for width in WIDTHS:
        weights = dlngeo.balanced_weights(start, (4, width, width, 3), RANK, rng=rng)
        paths[f"width {width}"] = dlngeo.training_flow(weights, problem.euclidean_gradient, times).points
    weights = [2 * weights[0], weights[1], weights[2] / 2]
    paths["not balanced"] = dlngeo.training_flow(weights, problem.euclidean_gradient, times).points
    losses = {
        name: [problem.cost(x) - problem.cost(problem.minimum(RANK)) for x in path] for name, path in paths.items()
    }
    return {"times": times, "paths": paths, "losses": losses}


def plot(result, path):
    """Draw the singular values of the product, and the loss."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    widths = (8, 4.5, 1.5, 1.5)  # of the lines, since three of them coincide
    for (name, points), width, style in zip(result["paths"].items(), widths, ("-", "-", "-", "--"), strict=True):
        left.plot(result["times"], np.linalg.svd(points)[1][:, :RANK], style, linewidth=width, color=COLORS[name])
        right.semilogy(result["times"], result["losses"][name], style, linewidth=width, color=COLORS[name], label=name)
    left.set(xlabel="time", ylabel="singular values of the product", title="one path for all widths")
    right.set(xlabel="time", ylabel="loss above its minimum")
    figure.legend(loc="outside lower center", ncols=len(widths), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    first, *others = outcome["paths"].items()
    for name, points in others:
        print(f"{name}: at most {np.abs(points - first[1]).max():.1e} from the path of {first[0]}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_width.png")
