"""Wherever a rank is declared, the kernel of layers whose flow leaves it is refused, with the cause and the remedy."""

import numpy as np
import oracles
import pytest
from geomstats.geometry.general_linear import GeneralLinear

import dlngeo
from dlngeo.geomstats import FixedRankMatrices, SpectralMetric
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract
from dlngeo.pymanopt import FixedRank
from dlngeo.thermodynamics.free_energy import entropy_gradient, free_energy
from dlngeo.thermodynamics.kernel_entropy import KernelEntropy
from dlngeo.weights.network import effective_cometric

LEAVES, STAYS = RelaxedDepthKernel([0.5, 1.0, 3.0]), RelaxedDepthKernel([0.0, 0.0, 1.0])


def retracted(kernel, m, n, rank):
    u, s, vt = oracles.factors(np.random.default_rng(0), m, n, np.ones(rank))
    frame = Frame(u, s, vt, kernel)
    return retract(frame, frame.split(0.1 * np.ones((m, n))))


DOORS = {
    "FixedRank": lambda kernel, m, n, rank: FixedRank(m, n, rank, kernel=kernel),
    "SpectralMetric": lambda kernel, m, n, rank: SpectralMetric(FixedRankMatrices(m, n, rank, equip=False), kernel),
    "equip_with_metric": lambda kernel, m, n, rank: FixedRankMatrices(m, n, rank, equip=False).equip_with_metric(
        SpectralMetric, kernel=kernel
    ),
    "KernelEntropy": lambda kernel, m, n, rank: KernelEntropy(m, n, kernel, rank),
    "entropy": lambda kernel, m, n, rank: dlngeo.entropy(np.eye(m, n), rank=rank, kernel=kernel),
    "entropy_gradient": lambda kernel, m, n, rank: entropy_gradient(np.eye(m, n), rank=rank, kernel=kernel),
    "free_energy": lambda kernel, m, n, rank: free_energy(0.0, np.eye(m, n), None, 1.0, rank, kernel=kernel),
    "retract": retracted,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_rank_that_the_flow_leaves_is_refused(door):
    message = r"\[2.5, 0.5, 0.0\] of the layers take their least value once.*= 1.25 > 0.*rank 2. Take rank 4"
    with pytest.raises(ValueError, match=message):
        DOORS[door](LEAVES, 5, 4, 2)
    DOORS[door](LEAVES, 5, 4, 4)
    DOORS[door](STAYS, 5, 4, 2)
    DOORS[door](RelaxedDepthKernel([1.0]), 5, 4, 2)  # the metric of Frobenius


def test_the_flow_leaves_the_rank_indeed():
    """Layers of a singular product and a least offset taken once move it to full rank, and no others do."""
    x, force = np.diag([1.0, 0.5, 0.0]), np.diag([0.0, 0.0, 1.0])
    for offsets, moves in (([0.0, 0.5, 2.5], True), ([0.0, 0.0, 1.0], False)):
        w = dlngeo.balanced_weights(x, 3, rank=2, rng=0, offsets=offsets)
        velocity = effective_cometric(force, w)
        assert velocity[2, 2] == pytest.approx(1.25 if moves else 0.0, abs=1e-14)


def test_spaces_of_full_rank_have_the_metric():
    space = GeneralLinear(3, equip=False).equip_with_metric(SpectralMetric, kernel=LEAVES)
    assert space.metric.squared_norm(np.eye(3), np.eye(3)) > 0
