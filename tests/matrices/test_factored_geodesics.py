"""Factored geodesics against closed forms, geodesics of full-size matrices, and each other."""

import math
import tracemalloc

import numpy as np
import oracles
import pymanopt
import pytest
from pymanopt.optimizers import ParticleSwarm

from dlngeo import DepthKernel
from dlngeo.errors import GeodesicError
from dlngeo.kernels import of_depth
from dlngeo.matrices.factored import connect_factored, shoot_factored
from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.pymanopt import FixedRank
from dlngeo.shooting import shoot

# m, n and singular values: generic, one side full, m < 2r with repeated values, square, rank 1.
SHAPES = [
    (7, 6, (1.9, 0.7, 0.3)),
    (3, 5, (1.0, 1.0, 0.2)),
    (5, 4, (1.5, 1.5, 0.6)),
    (3, 3, (1.2, 1.2, 1.2)),
    (8, 5, (0.1, 1.0)),
    (4, 3, (0.7,)),
]
DEPTHS = [1, 2, 3.5, 8, math.inf]
CASES = [(shape, d) for shape in SHAPES for d in DEPTHS if math.isfinite(d) or shape[0] == shape[1] == len(shape[2])]
over_cases = pytest.mark.parametrize(("shape", "depth"), CASES, ids=str)


def setup(rng, shape, depth, length=0.5):
    """A frame, and a velocity of a fraction of the distance to the singular matrices."""
    frame = Frame(*oracles.factors(rng, *shape), of_depth(depth))
    z = frame.split(rng.standard_normal(shape[:2]))
    norm = math.sqrt(frame.pair(z, frame.scale(z, -1)))
    far = np.min(frame.s / np.sqrt(np.diagonal(frame.phi)))
    return frame, times(z, length * far / norm)


def times(z, scalar):
    return Blocks(*(None if a is None else a * scalar for a in z))


def close(actual, expected, rtol):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.linalg.norm(expected))


@over_cases
def test_it_is_the_geodesic_of_the_full_matrix(shape, depth, rng):
    frame, z = setup(rng, shape, depth)
    u, s, vt = shoot_factored(frame, z)
    [end], _ = shoot(frame.point, frame.assemble(z), KernelSurface(frame.kernel, frame.rank), tolerance=1e-13)
    close(oracles.dense(u, s, vt), end, 1e-11)
    close(u.T @ u, np.eye(s.size), 1e-13)
    close(vt @ vt.T, np.eye(s.size), 1e-13)
    assert np.all(np.diff(s) <= 0)


@pytest.mark.parametrize(("shape", "depth"), [case for case in CASES if case[1] in (2, math.inf)], ids=str)
def test_the_logarithm_inverts_the_exponential(shape, depth, rng):
    frame, z = setup(rng, shape, depth)
    start = frame.u, frame.s, frame.vt
    end = shoot_factored(frame, z)
    velocity, length = connect_factored(start, end, frame.kernel)
    # End points agree to 1e-10; the smallest value of the kernel is what divides.
    tolerance = 1e-9 / np.min(frame.phi) * np.max(frame.phi)
    close(frame.assemble(velocity), frame.assemble(z), tolerance)
    assert length == pytest.approx(math.sqrt(frame.pair(z, frame.scale(z, -1))), rel=tolerance)
    for block, normal in ((velocity.left, frame.u), (velocity.right, frame.vt.T)):
        if block is not None:
            np.testing.assert_allclose(normal.T @ block, 0, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2.5])
def test_rank_one_is_a_cone(depth, rng):
    """At ``X = λ^N u vᵀ``, ``g = N dλ² + λ² (|du|² + |dv|²)``: a flat cone over the product of two spheres."""
    m, n, lam, angle = 6, 5, 1.3, 1.1
    frame = Frame(*oracles.factors(rng, m, n, [lam**depth]), DepthKernel(depth))
    (u,), (v,) = frame.u.T, frame.vt
    p, q = rng.standard_normal(m), rng.standard_normal(n)
    p, q = p - u * (u @ p), q - v * (v @ q)
    size = math.hypot(np.linalg.norm(p), np.linalg.norm(q)) / angle
    p, q = p / size, q / size  # the spheres turn by |p| and |q|, together by the angle
    lam_dot = -0.2
    end = shoot_factored(
        frame,
        Blocks(np.array([[depth * lam ** (depth - 1) * lam_dot]]), lam**depth * p[:, None], lam**depth * q[:, None]),
    )
    # Straight lines of the plane, in which the cone is unrolled by angles divided by √N.
    along, across = lam + lam_dot, lam * angle / math.sqrt(depth)
    radius = math.hypot(along, across)
    turn = math.atan2(across, along) * math.sqrt(depth) / angle

    def rotated(a, towards):
        speed = np.linalg.norm(towards)
        return math.cos(turn * speed) * a + math.sin(turn * speed) * towards / speed

    close(oracles.dense(*end), radius**depth * np.outer(rotated(u, p), rotated(v, q)), 1e-10)
    _, length = connect_factored((frame.u, frame.s, frame.vt), end, frame.kernel)
    assert length == pytest.approx(math.sqrt(depth * lam_dot**2 + lam**2 * angle**2), rel=1e-9)


def test_depth_two_on_positive_semidefinite_matrices_is_flat_in_the_factor(rng):
    """``(Y + tH)(Y + tH)ᵀ`` with ``YᵀH`` symmetric is a geodesic: twice Bures–Wasserstein, at rank 2 of 5."""
    y = rng.standard_normal((5, 2))
    h = rng.standard_normal((5, 2))
    generator = rng.standard_normal((2, 2))
    h = 0.1 * (h - y @ np.linalg.solve(y.T @ y, y.T @ h) + y @ np.linalg.solve(y.T @ y, generator + generator.T))
    frame = Frame.at(y @ y.T, DepthKernel(2), 2)
    end = shoot_factored(frame, frame.split(h @ y.T + y @ h.T))
    close(oracles.dense(*end), (y + h) @ (y + h).T, 1e-11)
    _, length = connect_factored((frame.u, frame.s, frame.vt), end, frame.kernel)
    assert length == pytest.approx(math.sqrt(2) * np.linalg.norm(h), rel=1e-9)


@pytest.mark.parametrize("depth", [1, 3.5])
def test_aligned_points_are_as_far_apart_as_their_layers(depth, rng):
    u, s, vt = oracles.factors(rng, 6, 5, (1.5, 0.8, 0.3))
    other = np.array([1.1, 0.9, 0.5])
    _, length = connect_factored((u, s, vt), (u, other, vt), DepthKernel(depth))
    assert length == pytest.approx(math.sqrt(depth) * np.linalg.norm(s ** (1 / depth) - other ** (1 / depth)), rel=1e-9)


def test_a_geodesic_into_a_singular_matrix_ends_there(rng):
    depth = 3.5
    frame = Frame(*oracles.factors(rng, 6, 5, (1.5, 0.8, 0.3)), DepthKernel(depth))
    # The layers shrink as Λ(1 − 1.2t): the end is at t = 1/1.2.
    with pytest.raises(GeodesicError, match=r"singular matrix just after time 0\.83") as caught:
        shoot_factored(frame, Blocks(-1.2 * depth * np.diag(frame.s), np.zeros((6, 3)), np.zeros((5, 3))))
    assert caught.value.status == "singular"


def test_an_end_that_loses_energy_is_refused(rng):
    frame, z = setup(rng, SHAPES[0], 3, length=8)
    with pytest.raises(GeodesicError, match=r"energy .* changed by \d\.\de-0[1-5]") as caught:
        shoot_factored(frame, z, tolerance=1e-3)
    assert caught.value.status == "not converged"


def test_no_velocity_and_no_distance(rng):
    manifold = FixedRank(6, 5, 2, 3, rng=rng)
    point = manifold.random_point()
    assert manifold.dist(point, point) == 0
    assert manifold.norm(point, manifold.log(point, point)) == 0
    end = manifold.exp(point, manifold.zero_vector(point))
    close(oracles.dense(*end), oracles.dense(*point), 1e-14)
    with pytest.raises(ValueError, match="tangent vector holds NaN"):
        manifold.exp(point, math.nan * manifold.random_tangent_vector(point))


def test_the_middle_is_half_way(rng):
    manifold = FixedRank(4, 3, 1, 3, rng=rng)
    a = manifold.random_point()
    b = manifold.retraction(a, 0.2 * manifold.random_tangent_vector(a))
    middle = manifold.pair_mean(a, b)
    half = manifold.dist(a, b) / 2
    assert manifold.dist(a, middle) == pytest.approx(half, rel=1e-7)
    assert manifold.dist(b, middle) == pytest.approx(half, rel=1e-7)


def test_nothing_of_the_size_of_the_matrix_is_formed(rng):
    size = 2000
    manifold = FixedRank(size, size, 2, 3, rng=rng)
    a = manifold.random_point()
    z = 0.1 * manifold.random_tangent_vector(a)
    tracemalloc.start()
    manifold.exp(a, z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size**2 / 10


def test_a_solver_without_derivatives_runs(rng):
    manifold = FixedRank(3, 2, 1, 2, rng=rng)
    start = manifold.random_point()
    target = oracles.dense(*manifold.retraction(start, 0.3 * manifold.random_tangent_vector(start)))

    @pymanopt.function.numpy(manifold)
    def cost(u, s, vt):
        return float(np.sum(((u * s) @ vt - target) ** 2))

    swarm = [manifold.retraction(start, 0.2 * manifold.random_tangent_vector(start)) for _ in range(5)]
    optimizer = ParticleSwarm(verbosity=0, max_iterations=2, population_size=5)
    result = optimizer.run(pymanopt.Problem(manifold, cost), initial_point=swarm)
    assert result.cost < min(cost(*p) for p in swarm)
