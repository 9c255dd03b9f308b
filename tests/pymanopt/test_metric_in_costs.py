"""Costs that contain the metric, differentiated by pymanopt's autograd and PyTorch and minimised."""

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pymanopt
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.geomstats import DLNMetric
from dlngeo.pymanopt import from_geomstats

pytestmark = pytest.mark.skipif(gs.__name__ != "geomstats.numpy", reason="one backend of geomstats is enough")

TARGET = np.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, 0.0, 0.3]])


def free_energy(library):
    """``½|X − C|² + 0.1 log vol(X) + 0.1 g_X(Y, Y)``, and the manifold."""
    space = GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=4)
    manifold, metric = from_geomstats(space), space.metric
    y = np.arange(9.0).reshape(3, 3) / 9
    if library == "autograd":

        @pymanopt.function.autograd(manifold)
        def cost(x):
            noise = metric.log_volume_density(x) + metric.inner_product(y, y, x)
            return anp.sum((x - TARGET) ** 2) / 2 + 0.1 * noise

        return manifold, cost
    torch = pytest.importorskip("torch")
    c, y = torch.tensor(TARGET), torch.tensor(y)

    @pymanopt.function.pytorch(manifold)
    def cost(x):
        return ((x - c) ** 2).sum() / 2 + 0.1 * (metric.log_volume_density(x) + metric.inner_product(y, y, x))

    return manifold, cost


@pytest.mark.parametrize("library", ["autograd", "torch"])
def test_free_energies_are_minimised_from_the_identity_to_second_order(library):
    """At the start all singular values agree. Trust regions use Hessians, and agree with conjugate gradients."""
    manifold, cost = free_energy(library)
    problem = pymanopt.Problem(manifold, cost)
    newton = TrustRegions(verbosity=0, min_gradient_norm=1e-10).run(problem, initial_point=np.eye(3))
    assert newton.gradient_norm < 1e-10
    assert newton.iterations < 12
    first_order = ConjugateGradient(verbosity=0, min_gradient_norm=1e-7).run(problem, initial_point=np.eye(3))
    assert newton.cost == pytest.approx(first_order.cost, rel=1e-10)
    np.testing.assert_allclose(newton.point, first_order.point, atol=1e-6)
    gradient = problem.euclidean_gradient(newton.point)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
