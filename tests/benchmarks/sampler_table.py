r"""Effective samples per second of samplers at equal bias: ``python tests/benchmarks/sampler_table.py``.

The energy is ``½‖X‖²`` on d×d matrices. To scale λ shows that ``⟨‖X‖²⟩ = D/(Nβ)``, with D the dimension of the
matrices under base noise and of the balanced weights under isotropic noise: what the bias is measured by. The
temperature makes it d under isotropic noise. All chains start in equilibrium.

A method is run at steps from coarse to fine until its bias is below 1 % at one and stays so at the next two. Methods
that are below it at no step are followed from equilibrium, in a second table: means of ``‖X‖²`` over intervals of time.
All run on one thread, with the same number of chains at a time.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from typing import NamedTuple

import numba
import numpy as np
from arviz_stats.base import array_stats
from geomstats.geometry.general_linear import GeneralLinear
from threadpoolctl import threadpool_limits

from dlngeo.geomstats import DLNMetric
from dlngeo.sampling import ConstrainedHMC, Langevin, UpstairsLangevin
from dlngeo.weights.balanced import dimension

BIAS = 0.01
PACKAGES = ("dlngeo", "numpy", "torch", "geoopt")


class Problem(NamedTuple):
    d: int
    depth: int
    noise: str

    @property
    def widths(self):
        return (self.d,) * (self.depth + 1)

    @property
    def beta(self):
        return dimension(self.widths, self.d) / (self.depth * self.d)

    @property
    def exact(self):
        """``⟨‖X‖²⟩``."""
        return (self.d**2 if self.noise == "base" else dimension(self.widths, self.d)) / (self.depth * self.beta)


def energy(x):
    return np.sum(x**2, axis=(1, 2)) / 2


def gradient(x):
    return x


def equilibrium(problem, chains, rng, steps=200):
    """Factors of chains in equilibrium, by HMC, from λ of about the right size; dense points would lose the small λ."""
    sampler = ConstrainedHMC(
        problem.widths, energy, gradient, problem.beta, 0.3 / problem.depth, 10, noise=problem.noise
    )
    u, _, vt = np.linalg.svd(rng.standard_normal((chains, problem.d, problem.d)))
    sampler, state = sampler.tuned((u, rng.uniform(0.8, 1, (chains, problem.d)), vt), steps, rng=rng)
    return sampler, sampler.factors(sampler.sample(state, steps, rng=rng).state)


def dense(start, depth):
    """Points of factors."""
    return (start.u * start.lam[:, None] ** depth) @ start.vt


class Chains:
    """Chains of a sampler of ours, which report ``‖X‖²``."""

    def __init__(self, sampler, start, rng):
        self.sampler, self.state, self.rng = sampler, sampler.start(start), rng

    def run(self, steps):
        samples = self.sampler.sample(self.state, steps, rng=self.rng)
        self.state = samples.state
        return 2 * samples.statistics["energy"]


def langevin(problem, start, step, rng):
    space = GeneralLinear(problem.d, equip=False)
    space.equip_with_metric(DLNMetric, depth=problem.depth)
    sampler = Langevin(space, gradient, problem.beta, step, potential=energy, noise=problem.noise)
    return Chains(sampler, start, rng)


def upstairs(problem, start, step, rng):
    sampler = UpstairsLangevin(problem.widths, gradient, problem.beta, step, potential=energy, noise=problem.noise)
    return Chains(sampler, start, rng)


class Reference:
    """The balanced factors multiplied, in plain NumPy: ``∏_p (Λ + Λ^{N−p} K Λ^{p−1})`` in the frame of X."""

    def __init__(self, problem, start, step, rng):
        self.problem, self.x, self.step, self.rng = problem, dense(start, problem.depth), step, rng

    def run(self, steps):
        d, depth, noise = self.problem
        beta, h, out, index = self.problem.beta, self.step, [], np.arange(d)
        for _ in range(steps):
            u, s, vt = np.linalg.svd(self.x)
            s = np.maximum(s, np.finfo(float).eps * s[:, :1])  # below, a dense X holds round-off, on some machines zero
            lam = s ** (1 / depth)
            left, right = lam[:, :, None], lam[:, None, :]
            with np.errstate(divide="ignore", invalid="ignore"):
                phi = (s[:, :, None] ** 2 - s[:, None, :] ** 2) / (left**2 - right**2)
            phi[:, index, index] = depth * lam ** (2 * depth - 2)
            force = u.mT @ gradient(self.x) @ vt.mT
            if noise == "isotropic":  # ∂S/∂σ of S = ½ Σ_{k<l} log φ
                with np.errstate(divide="ignore", invalid="ignore"):
                    slope = s[:, :, None] / (s[:, :, None] ** 2 - s[:, None, :] ** 2)
                    slope -= left**2 / (depth * s[:, :, None] * (left**2 - right**2))
                slope[:, index, index] = 0
                force[:, index, index] -= np.sum(slope, axis=2) / beta
            k = math.sqrt(2 * h / beta) * self.rng.standard_normal(phi.shape) / np.sqrt(phi) - h * force
            product = u * 1.0
            for p in range(depth, 0, -1):
                factor = left ** (depth - p) * k * right ** (p - 1)
                factor[:, index, index] += lam
                product = product @ factor
            self.x = product @ vt
            out.append(2 * energy(self.x))
        return np.stack(out, axis=1)


class Layers:
    """Noisy gradient descent on all layers in PyTorch: ``W ← W − h ∂E/∂W + √(2h/β) ξ``, from balanced weights."""

    def __init__(self, problem, start, step, rng):
        import torch

        self.torch, self.problem, self.step = torch, problem, step
        u, lam, vt = start
        lam = lam[:, :, None] * np.eye(problem.d)
        layers = [lam @ vt, *[lam] * (problem.depth - 2), u @ lam]
        self.weights = torch.tensor(np.stack(layers), requires_grad=True)
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def run(self, steps):
        torch, out = self.torch, []
        amplitude = math.sqrt(2 * self.step / self.problem.beta)
        for _ in range(steps):
            x = self.weights[0]
            for w in self.weights[1:]:
                x = w @ x
            torch.sum(x**2).div(2).backward()
            out.append(torch.sum(x.detach() ** 2, dim=(1, 2)))
            with torch.no_grad():
                noise = torch.randn(self.weights.shape, dtype=torch.float64, generator=self.generator)
                self.weights += amplitude * noise - self.step * self.weights.grad
                self.weights.grad = None
        return torch.stack(out, dim=1).numpy()


class Geoopt:
    """``RSGLD`` of geoopt, told the metric."""

    def __init__(self, problem, start, step, rng):
        import geoopt
        import torch

        class Space(geoopt.manifolds.base.Manifold):
            name, ndim, reversible = "depth N", 2, True

            def egrad2rgrad(self, x, u):
                left, s, right = torch.linalg.svd(x)
                a = s ** (2 / problem.depth)
                rows, columns = a[:, :, None], a[:, None, :]
                phi = sum(rows ** (problem.depth - p) * columns ** (p - 1) for p in range(1, problem.depth + 1))
                return left @ (phi * (left.mT @ u @ right.mT)) @ right

            def retr(self, x, u):
                return x + u

            def _unused(self, *args, **kwargs):
                raise NotImplementedError

            expmap = inner = logmap = proju = projx = transp = _unused
            _check_point_on_manifold = _check_vector_on_tangent = _unused

        torch.manual_seed(int(rng.integers(2**31)))
        self.torch, self.beta = torch, problem.beta
        self.x = geoopt.ManifoldParameter(torch.tensor(dense(start, problem.depth)), manifold=Space())
        # It takes the logarithm of the density, and its step is twice ours over β.
        self.sampler = geoopt.samplers.RSGLD([self.x], epsilon=2 * step / problem.beta)
        self.sampler.burnin = True  # else it keeps every point

    def run(self, steps):
        out = []
        for _ in range(steps):
            self.sampler.step(lambda: -self.beta * self.torch.sum(self.x**2) / 2)
            out.append(self.torch.sum(self.x.detach() ** 2, dim=(1, 2)))
        return self.torch.stack(out, dim=1).numpy()


class Run(NamedTuple):
    """What a run showed: bias and its standard error, effective samples, steps of all chains, seconds."""

    step: float
    bias: float
    error: float
    effective: float
    steps: int
    seconds: float

    @property
    def rate(self):
        return self.effective / self.seconds


def effective_samples(values):
    return float(array_stats.ess(np.ascontiguousarray(values), method="mean"))


def measure(chains, problem, step, seconds):
    """Run chains for a time after a third of it to settle; None if a step fails or is not finite."""
    parts, began, block = [], time.perf_counter(), 10
    try:
        with np.errstate(all="ignore"):
            chains.run(2)  # compiles
            while time.perf_counter() - began < seconds / 3:
                chains.run(block)
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                parts.append(chains.run(block))
    except (ValueError, np.linalg.LinAlgError, RuntimeError):
        return None
    took = time.perf_counter() - began
    values = np.concatenate(parts, axis=1) / problem.exact
    if not np.isfinite(values).all():
        return None
    effective = effective_samples(values)
    return Run(step, values.mean() - 1, values.std() / effective**0.5, effective, values.size, took)


def best(make, problem, start, steps, seconds, rng):
    """Run of the coarsest step at which, and at the two finer ones, the bias is below 1 %, and True; else the last."""
    runs = []
    for step in steps:
        run = measure(make(problem, start, step, rng), problem, step, seconds)
        if run is None:
            runs = []
            continue
        runs.append(run)
        first, *finer = runs[-3:]
        if len(finer) == 2 and abs(first.bias) < BIAS and all(abs(r.bias) < BIAS + 2 * r.error for r in finer):
            return first, True
    return (runs[-1] if runs else None), False


METHODS = {
    "dlngeo `Langevin`": langevin,
    "dlngeo `UpstairsLangevin`": upstairs,
    "NumPy, factors multiplied": Reference,
}
OTHERS = {"torch, SGLD on the layers": Layers, "geoopt `RSGLD`": Geoopt}
TIMES = (0.1, 0.3, 1.0, 3.0, 10.0)


def row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def shown(run, ours):
    return (
        f"{run.step:.2g}",
        f"{100 * run.bias:.1f} ± {100 * run.error:.1f}",
        f"{1e6 * run.seconds / run.steps:.3g}",
        f"{run.rate:,.0f}",
        f"{run.rate / ours.rate:.2g}",
    )


def compare(problem, chains, seconds, rng):
    """Rows of the first table."""
    hmc, start = equilibrium(problem, chains, rng)
    coarsest = 0.4 if problem.depth < 10 else 0.016
    steps = [coarsest * 2 ** (-k / 2) for k in range(15)]
    ours = None
    for method, make in METHODS.items():
        run, fine = best(make, problem, start, steps, seconds, rng)
        ours = ours or run
        cells = shown(run, ours)
        row(named(problem), method, *(cells if fine else (*cells[:3], "–", "–")))
    run = measure(Chains(hmc, start, rng), problem, hmc.step_size, seconds)
    row(named(problem), f"dlngeo `ConstrainedHMC`, steps a trajectory: {hmc.n_leapfrog}", *shown(run, ours))


def drift(problem, method, step, start, rng):
    """A row of the second table: where chains go from equilibrium."""
    chains, at, began, cells, steps = OTHERS[method](problem, start, step, rng), 0.0, time.perf_counter(), [], 0
    for t in TIMES:
        try:
            values = chains.run(round((t - at) / step))
        except RuntimeError:  # the decomposition of what is not finite
            values = np.array(math.nan)
        if not np.isfinite(values).all():
            cells += ["not finite"] * (len(TIMES) - len(cells))
            break
        at, steps = t, steps + values.size
        cells.append(f"{100 * (values.mean() / problem.exact - 1):+.0f} %")
    cost = f"{1e6 * (time.perf_counter() - began) / steps:.3g}" if steps else "–"
    row(named(problem), method, f"{step:g}", *cells, cost)


def named(problem):
    return f"{problem.d}², {problem.depth}, {problem.noise}"


def main():
    import torch

    torch.set_num_threads(1)
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES), "\n")
    row("d², N, noise", "method", "step h", "bias, %", "µs a step and chain", "effective samples / s", "of `Langevin`")
    row(*["---"] * 7)
    # Under base noise at depth 64 λ moves freely up to a wall, and ‖X‖² is too rarely large for a mean to 1 %.
    problems = [(3, 3, "isotropic"), (3, 64, "isotropic"), (20, 3, "isotropic"), (20, 64, "isotropic")]
    for d, depth, noise in [*problems, (3, 3, "base"), (20, 3, "base")]:
        compare(Problem(d, depth, noise), 200 if d == 3 else 20, 2.5, np.random.default_rng(0))
    drifts()


def drifts():
    """The second table."""
    print()
    row("d², N, noise", "method", "step h", *(f"until t = {t:g}" for t in TIMES), "µs a step and chain")
    row(*["---"] * 9)
    for noise, method, small in (("isotropic", "torch, SGLD on the layers", 0.002), ("base", "geoopt `RSGLD`", 0.002)):
        for d, depth in ((3, 3), (20, 3), (3, 64)) if noise == "isotropic" else ((3, 3), (20, 3)):
            problem, rng = Problem(d, depth, noise), np.random.default_rng(0)
            _, start = equilibrium(problem, 200 if d == 3 else 20, rng)
            with np.errstate(all="ignore"):
                drift(problem, method, small if depth < 10 else small / 10, start, rng)


if __name__ == "__main__":
    numba.set_num_threads(1)
    with threadpool_limits(1):
        main()
