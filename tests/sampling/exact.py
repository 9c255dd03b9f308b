"""Laws of singular values by quadrature in log σ, of any kernel and of energies of the singular values."""

import itertools

import numpy as np
from geomstats.geometry.general_linear import GeneralLinear

from dlngeo._linalg import haar
from dlngeo.geomstats import FixedRankMatrices, SpectralMetric


class Law:
    """``e^{−βE} dvol_g`` on the m×n matrices of rank r, ``E = Σ f(σ_k)``: nodes σ, shape=[k, r], and probabilities."""

    def __init__(self, kernel, m, n, r, f, beta, low=-14.0, high=3.0, count=50):
        x, w = np.polynomial.legendre.leggauss(count)
        x, w = (x + 1) / 2, w / 2
        logs, log = [], 0.0
        top = high
        for axis in np.meshgrid(*[np.arange(count)] * r, indexing="ij"):  # each between the lowest and the one before
            log = log + np.log(w[axis] * (top - low))
            top = low + (top - low) * x[axis]
            logs.append(top)
        s = np.exp(np.stack([part.ravel() for part in logs], axis=1))
        log = log.ravel() + np.sum(np.log(s) - np.log(kernel(s, s)) / 2, axis=1) - beta * np.sum(f(s), axis=1)
        for k, j in itertools.combinations(range(r), 2):
            log += np.log(s[:, k] ** 2 - s[:, j] ** 2) - np.log(kernel(s[:, k], s[:, j]))
        if m + n > 2 * r:
            log += (m + n - 2 * r) * np.sum(np.log(s) - np.log(kernel(s, 0 * s)) / 2, axis=1)
        p = np.exp(log - log.max())
        self.shape, self.s, self.p = (m, n, r), s, p / p.sum()

    def mean(self, f):
        return float(np.sum(self.p * f(self.s)))

    def draw(self, rng, chains, batches):
        """Factors u, σ, vt of this law at the nodes, between Haar frames; σ in batches, each by systematic sampling."""
        m, n, r = self.shape
        each = (np.arange(chains // batches) + rng.random((batches, 1))) / (chains // batches)
        s = self.s[np.minimum(np.searchsorted(np.cumsum(self.p), each.ravel()), len(self.p) - 1)]
        return haar(rng, (len(s), m, r)), s, haar(rng, (len(s), n, r)).mT


def space_of(kernel, m, n, r):
    """The m×n matrices of rank r with the metric of a kernel."""
    space = GeneralLinear(m, equip=False) if m == n == r else FixedRankMatrices(m, n, r, equip=False)
    space.equip_with_metric(SpectralMetric, kernel=kernel)
    return space
