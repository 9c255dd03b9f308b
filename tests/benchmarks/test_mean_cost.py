"""The Fréchet mean at depth 2 is that of Bures–Wasserstein; both times are shown."""

import time

import geomstats.backend as gs
import numpy as np
import pytest
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from geomstats.learning.frechet_mean import FrechetMean

from dlngeo.geomstats import DLNMetric

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(("d", "count"), [(3, 20), (8, 60)])
def test_the_mean_at_depth_2_is_that_of_bures_and_wasserstein(d, count, rng):
    roots = rng.standard_normal((count, d, 3 * d))
    points = gs.from_numpy(roots @ roots.mT / (3 * d))
    found, seconds = {}, {}
    for name, metric, options in (("depth 2", DLNMetric, {"depth": 2}), ("theirs", SPDBuresWassersteinMetric, {})):
        space = SPDMatrices(d, equip=False).equip_with_metric(metric, **options)
        estimator = FrechetMean(space).set(max_iter=60, epsilon=1e-14)
        estimator.fit(points[:3])  # compiles what is compiled
        start = time.perf_counter()
        found[name] = gs.to_numpy(estimator.fit(points).estimate_)
        seconds[name] = time.perf_counter() - start
    print(", ".join(f"{name}: {1e3 * value:.0f} ms" for name, value in seconds.items()))
    # Independent of both: the fixed point M = mean of (M^½ X M^½)^½ of the barycentre (Agueh and Carlier, 2011).
    mean = found["depth 2"]
    root = power(mean, 0.5)
    np.testing.assert_allclose(
        np.mean([power(root @ x @ root, 0.5) for x in gs.to_numpy(points)], axis=0), mean, atol=1e-6
    )
    np.testing.assert_allclose(mean, found["theirs"], atol=1e-6)


def power(a, exponent):
    values, vectors = np.linalg.eigh(a)
    return (vectors * values**exponent) @ vectors.T
