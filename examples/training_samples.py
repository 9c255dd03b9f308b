"""
How many samples make training fast?
====================================

With k samples of n independent inputs and one output of norm 1, the loss falls at the rate
``2 λ_min(A^{1/2} C A^{1/2})``, C being the covariance of the samples, which is about ``2(1 − √(n/k))²`` by the law of
Marchenko and Pastur: ten samples an input are far from twenty, and below two training all but stops.
Run ``python examples/training_samples.py [figure.png]``.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import dlngeo
from dlngeo.flows.limits import hessian_eigenvalues, observed_rate
from dlngeo.geomstats import FixedRankMatrices
from dlngeo.problems import QuadraticCost

INPUTS, DEPTH = 40, 2
RATIOS = np.array([1.5, 2.0, 3.0, 5.0, 10.0, 20.0])


def main(seed=0):
    """Observed and predicted rate of the loss for each number of samples."""
    rng = np.random.default_rng(seed)
    space = FixedRankMatrices(1, INPUTS, 1, depth=DEPTH)
    observed, predicted = [], []
    for ratio in RATIOS:
        inputs = rng.standard_normal((INPUTS, round(ratio * INPUTS)))
        target = rng.standard_normal((1, INPUTS))
        problem = QuadraticCost(target / np.linalg.norm(target), inputs @ inputs.T / inputs.shape[1])
        predicted.append(2 * hessian_eigenvalues(problem, problem.target, DEPTH)[0])
        near = 0.9 * problem.target + 0.1 * rng.standard_normal((1, INPUTS)) / np.sqrt(INPUTS)
        times = np.linspace(0, 30 / predicted[-1], 200)
        flow = dlngeo.gradient_flow(space, problem.euclidean_gradient, near, times, cost=problem.cost)
        observed.append(observed_rate(flow.t, flow.losses, tail=0.1))
    return {"observed": np.array(observed), "predicted": np.array(predicted)}


def plot(result, path):
    """Draw the rates."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    ax = figure.subplots()
    ax.plot(RATIOS, result["observed"], "o", label="observed")
    ax.plot(RATIOS, result["predicted"], "k+", markersize=12, label="predicted by the Hessian")
    fine = np.linspace(1.2, RATIOS[-1], 200)
    ax.plot(fine, 2 * (1 - np.sqrt(1 / fine)) ** 2, "k:", label="2(1 − √(n/k))², many inputs")
    ax.set(xlabel="samples per input, k/n", ylabel="rate of the loss")
    ax.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    outcome = main()
    for ratio, rate, theory in zip(RATIOS, outcome["observed"], outcome["predicted"], strict=True):
        print(f"{ratio:g} samples per input: rate {rate:.3f}, predicted {theory:.3f}")
    plot(outcome, sys.argv[1] if len(sys.argv) > 1 else "training_samples.png")
