"""Networks, energies, points and comparisons that the tests of samplers share."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from dlngeo._linalg import haar
from dlngeo.sampling import SpectralPotential

SQUARES = SpectralPotential(lambda lam: np.sum(lam**2, -1) / 2, lambda lam: lam)
NETWORKS = [
    ((3, 3, 3), 3),
    ((3, 3, 3, 3, 3), 3),
    ((4, 2, 2, 6), 2),
    ((3, 5, 4, 6), 3),
    ((4, 4, 4), 2),
    ((4, 3), 2),
    ((2, 3, 2, 4), 1),
]
a_network = pytest.mark.parametrize(("widths", "rank"), NETWORKS, ids=str)


def cost(x):
    """Energy that depends on the frames."""
    m, n = x.shape[-2:]
    target = np.sin(np.arange(m * n)).reshape(m, n)
    return np.sum((x - target) ** 2, axis=(-2, -1)) / 2


def cost_gradient(x):
    m, n = x.shape[-2:]
    return x - np.sin(np.arange(m * n)).reshape(m, n)


def balanced(rng, chains, widths, rank, low=0.7, high=1.8):
    frames = [haar(rng, (chains, d, rank)) for d in widths]
    lam = np.sort(rng.uniform(low, high, (chains, rank)))[:, ::-1]
    return [(q * lam[:, None]) @ p.mT for p, q in pairwise(frames)]


def dense(sampler, frames, vector):
    """Tangent vectors layer by layer."""
    q = [frames[:, p, :d] for p, d in enumerate(sampler.widths)]
    sides = [vector.sides[:, p, :d] for p, d in enumerate(sampler.widths)]
    return [
        q[p + 1] @ vector.cores[:, p] @ q[p].mT + sides[p + 1] @ q[p].mT + q[p + 1] @ sides[p].mT
        for p in range(sampler.depth)
    ]


def flat(vectors):
    return np.concatenate([v.reshape(len(v), -1) for v in vectors], axis=1)


def relative(values, exact):
    """Relative deviation of chain means from an exact value, and its standard error."""
    means = values.mean(axis=1)
    return means.mean() / exact - 1, means.std(ddof=1) / len(means) ** 0.5 / abs(exact)


def extrapolated(run, h):
    """Deviation at zero step from those at h and h/2, whose bias is of first order, and its standard error."""
    (coarse, a), (fine, b) = run(h), run(h / 2)
    return 2 * fine - coarse, (4 * b**2 + a**2) ** 0.5


def assert_symplectic(at, directions, h=1e-5):
    """``Σ dW ∧ dp`` is what it was: ``at(direction, t)`` gives W and p on curves, and those they are mapped to."""
    rates = []
    for direction in directions:
        rates.append([(a - b) / (2 * h) for a, b in zip(at(direction, h), at(direction, -h), strict=True)])
    for (w1, p1, v1, q1), (w2, p2, v2, q2) in combinations(rates, 2):
        assert v1 @ q2 - v2 @ q1 == pytest.approx(w1 @ p2 - w2 @ p1, abs=1e-7)
        assert np.linalg.norm(v1 - w1) > 0.1  # not the identity


def assert_white(vectors, dim):
    """Vectors, shape=[4000, …], are white noise on a space of a dimension."""
    # A projector up to sampling errors, of size √(dim/n) in the operator norm.
    eigenvalues = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert np.sum(eigenvalues) == pytest.approx(dim, abs=6 * (2 * dim / 4000) ** 0.5)
    assert abs(eigenvalues[:dim] - 1).max() < 3 * (dim / 4000) ** 0.5
    np.testing.assert_allclose(eigenvalues[dim:], 0, atol=1e-12)


def starts(chains, rng):
    """Points of rank 2 among the 3×4 matrices."""
    return np.einsum("cik,cjk->cij", rng.standard_normal((chains, 3, 2)), rng.standard_normal((chains, 4, 2)))


def assert_same(a, b):
    """Samples are the same bit for bit."""
    assert (a.n_steps, a.status) == (b.n_steps, b.status)
    for ours, theirs in ((a.state, b.state), (a.statistics, b.statistics), ({"x": a.points}, {"x": b.points})):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
            assert ours[name].tobytes() == theirs[name].tobytes()
