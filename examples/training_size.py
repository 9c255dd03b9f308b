"""How the width, the depth and the number of samples enter training: three sweeps, and the law of each.

Width: from balanced starts the path of the product does not depend on the inner widths, exactly. Depth: the time to
learn a singular value from a start ε grows like ``ε^{−(1 − 2/N)}``, at N = 2 like ``log 1/ε``. Samples: with k samples
of n independent inputs and one output of norm 1, the loss falls at the rate ``2 λ_min(A^{1/2} C A^{1/2})``, C being the
covariance of the samples, which is about ``2(1 − √(n/k))²`` by the law of Marchenko and Pastur.
Run ``python examples/training_size.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows.limits import escape_time, hessian_eigenvalues, observed_rate
from dlngeo.geomstats import FixedRankMatrices
from dlngeo.problems import QuadraticCost

WIDTHS, DEPTHS = (2, 4, 16), (2, 3, 4, 8)
STARTS = np.geomspace(1e-2, 1e-6, 9)
INPUTS, RATIOS = 40, np.array([1.5, 2.0, 3.0, 5.0, 10.0, 20.0])


def widths(rng):
    """Largest distance between the paths of networks of different inner widths, and from an unbalanced start."""
    problem = QuadraticCost(rng.standard_normal((3, 4)))
    start = 0.5 * problem.minimum(2) + 0.1 * rng.standard_normal((3, 2)) @ rng.standard_normal((2, 4))
    times, paths = np.linspace(0, 4, 81), []
    for width in WIDTHS:
        weights = dlngeo.balanced_weights(start, (4, width, width, 3), 2, rng=rng)
        paths.append(dlngeo.training_flow(weights, problem.euclidean_gradient, times).points)
    weights = [2 * weights[0], weights[1], weights[2] / 2]
    paths.append(dlngeo.training_flow(weights, problem.euclidean_gradient, times).points)
    return times, [np.linalg.norm(path - paths[0], axis=(1, 2)) for path in paths[1:]]


def samples(rng, depth=2):
    """Observed and predicted rate of the loss for each number of samples."""
    space = FixedRankMatrices(1, INPUTS, 1, depth=depth)
    observed, predicted = [], []
    for ratio in RATIOS:
        inputs = rng.standard_normal((INPUTS, round(ratio * INPUTS)))
        target = rng.standard_normal((1, INPUTS))
        problem = QuadraticCost(target / np.linalg.norm(target), inputs @ inputs.T / inputs.shape[1])
        predicted.append(2 * hessian_eigenvalues(problem, problem.target, depth)[0])
        near = 0.9 * problem.target + 0.1 * rng.standard_normal((1, INPUTS)) / np.sqrt(INPUTS)
        times = np.linspace(0, 30 / predicted[-1], 200)
        flow = dlngeo.gradient_flow(space, problem.euclidean_gradient, near, times, cost=problem.cost)
        observed.append(observed_rate(flow.t, flow.losses, tail=0.1))
    return np.array(observed), np.array(predicted)


def main(seed=0):
    """Sweep widths, depths with starts, and numbers of samples; fit the powers."""
    rng = np.random.default_rng(seed)
    times, distances = widths(rng)
    escapes = {depth: np.array([escape_time(start, 1.0, depth) for start in STARTS]) for depth in DEPTHS}
    slopes = {depth: -np.polyfit(np.log(STARTS[-4:]), np.log(t[-4:]), 1)[0] for depth, t in escapes.items()}
    observed, predicted = samples(rng)
    return {
        "times": times,
        "distances": distances,
        "escapes": escapes,
        "slopes": slopes,
        "observed": observed,
        "predicted": predicted,
    }


def plot(result, path):
    """Draw the three sweeps."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for width, distance in zip((*WIDTHS[1:], "unbalanced"), result["distances"], strict=True):
        label = f"width {width}" if width != "unbalanced" else "unbalanced start"
        left.semilogy(result["times"][1:], np.maximum(distance[1:], 1e-17), label=label)
    left.set(xlabel="time", ylabel=f"distance from the path of width {WIDTHS[0]}", title="width: balanced starts agree")
    for depth, times in result["escapes"].items():
        law = f"power −{result['slopes'][depth]:.2f}" if depth > 2 else "logarithm"
        middle.loglog(STARTS, times, "o-", markersize=4, label=f"depth {depth}: {law}")
    middle.set(xlabel="start ε", ylabel="time to half of the target", title="depth: ε to the power −(1 − 2/N)")
    right.plot(RATIOS, result["observed"], "o", label="observed")
    right.plot(RATIOS, result["predicted"], "k+", markersize=12, label="predicted by the Hessian")
    fine = np.linspace(1.2, RATIOS[-1], 200)
    right.plot(fine, 2 * (1 - np.sqrt(1 / fine)) ** 2, "k:", label="2(1 − √(n/k))², many inputs")
    right.set(xlabel="samples per input, k/n", ylabel="rate of the loss", title="data: the least eigenvalue")
    for ax in (left, middle, right):
        ax.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    print("widths: largest distances", *(f"{d.max():.1e}" for d in outcome["distances"]))
    for depth, slope in outcome["slopes"].items():
        print(f"depth {depth}: time ~ start^-{slope:.3f}, predicted {1 - 2 / depth:.3f}")
    print("rates:", *(f"{a:.3f} ({b:.3f})" for a, b in zip(outcome["observed"], outcome["predicted"], strict=True)))
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_size.png")
