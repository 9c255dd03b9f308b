"""JAX has the closed-form derivatives too: eager and compiled, twice, in batches, at repeated singular values."""

import math

import autograd
import numpy as np
import oracles
import pytest

import dlngeo
from dlngeo.matrices.differentiable import frame_at
from dlngeo.matrices.frame import Frame
from dlngeo.thermodynamics.free_energy import (
    entropy,
    entropy_gradient,
    entropy_hessian,
    free_energy,
    free_energy_gradient,
    orbit_volume,
)

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy
ways = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
# m, n and the singular values: a repeated one, all equal, rectangular with a repeated one, and below full rank.
POINTS = {
    "pair": (3, 3, [1.5, 1.5, 0.5]),
    "equal": (3, 3, [0.8, 0.8, 0.8]),
    "tall": (4, 3, [1.2, 1.2, 0.7]),
    "rank 2 of 4x3": (4, 3, [1.1, 1.1]),
}
over_points = pytest.mark.parametrize("point", POINTS)
DEPTH = 3.5
KERNEL = dlngeo.DepthKernel(DEPTH)


@pytest.fixture(autouse=True)
def double():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def data(rng, point):
    m, n, s = POINTS[point]
    return oracles.dense(*oracles.factors(rng, m, n, s)), len(s), rng.standard_normal((3, m, n))


def scalars(rank):
    """Name → number made of the point and two matrices, of everything that is differentiable twice in the point."""

    def frame(*arrays):
        return frame_at(arrays[0], KERNEL, rank, *arrays)

    return {
        "inner": lambda x, y, z: frame(x, y, z).inner(y, z),
        "square": lambda x, y, z: frame(x, y).inner(y, y),
        "cometric": lambda x, y, z: (frame(x, y).cometric(y) * z).sum(),
        "project": lambda x, y, z: (frame(x, y).project(y) * z).sum(),
        "log volume": lambda x, y, z: frame(x).log_volume_density(),
        "entropy": lambda x, y, z: entropy(x, DEPTH, rank),
        "orbit volume": lambda x, y, z: orbit_volume(x, 4, rank) / float(orbit_volume(np.eye(*x.shape), 4, rank)),
        "free energy": lambda x, y, z: free_energy((x * x * y).sum(), x, DEPTH, 0.7, rank),
    }


def maybe(compiled, f):
    return jax.jit(f) if compiled else f


@ways
@over_points
def test_values_and_gradients_are_those_of_autograd_where_the_svd_has_none(rng, point, compiled):
    x, rank, (y, z, _) = data(rng, point)
    for name, f in scalars(rank).items():
        value, found = maybe(compiled, jax.value_and_grad(f, (0, 1, 2)))(x, y, z)
        assert float(value) == pytest.approx(float(f(x, y, z)), rel=1e-13), name
        exact = autograd.grad(lambda a, f=f: f(*a))((x, y, z)) if name != "free energy" else None
        if exact is None:  # the entropy in closed form, the energy by hand
            slope = free_energy_gradient(2 * x * y, x, DEPTH, 0.7, rank)
            exact = slope, x * x, 0 * z
        for got, want in zip(found, exact, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13, err_msg=name)


def test_the_derivative_of_the_svd_is_nan_there(rng):
    """What there was without the closed forms, and what a frame refuses to pass on."""
    x, rank, _ = data(rng, "pair")
    x = 1.5 * np.eye(3)
    through = jax.grad(lambda x: KERNEL(*jnp.linalg.svd(x)[1][:2]) + jnp.linalg.svd(x)[0].sum())
    assert np.isnan(through(x)).any()
    assert np.isfinite(jax.grad(lambda x: entropy(x, 3))(x)).all()
    for trace in (jax.grad, jax.jit):
        with pytest.raises(NotImplementedError, match=r"NaN where singular values coincide; use .*frame_at"):
            trace(lambda x: Frame.at(x, KERNEL, rank).inner(x, x))(x)


@ways
@over_points
def test_second_derivatives_are_second_differences(rng, point, compiled):
    """In all ambient directions, and mixed with the vectors, as those of autograd are."""
    x, rank, (y, z, w) = data(rng, point)
    v = rng.standard_normal(x.shape)
    for name, f in scalars(rank).items():

        def along(x, y, z, f=f):
            a, b = jax.grad(f, (0, 1))(x, y, z)
            return (a * w).sum() + (b * v).sum()

        a, b = maybe(compiled, jax.grad(along, (0, 1)))(x, y, z)
        exact = oracles.second_derivative(lambda h, f=f: f(x + h * w, y + h * v, z), step=0.05, levels=4)
        found = np.sum(a * w) + np.sum(b * v)
        assert found == pytest.approx(exact, rel=1e-7, abs=1e-6), name


@over_points
def test_reverse_over_reverse_is_the_hessian(rng, point):
    x, rank, (_, z, _) = data(rng, point)
    hessian = jax.jacrev(jax.jacrev(lambda x: entropy(x, DEPTH, rank)))(x)
    product = entropy_hessian(z, x, DEPTH, rank)
    np.testing.assert_allclose(np.einsum("ijkl,kl->ij", hessian, z), product, rtol=1e-12, atol=1e-12)
    for compiled in (False, True):
        f = maybe(compiled, lambda z, x: entropy_hessian(z, x, DEPTH, rank))
        np.testing.assert_allclose(f(jnp.asarray(z), jnp.asarray(x)), product, rtol=1e-12, atol=1e-12)
        in_z = maybe(compiled, jax.grad(lambda z, x, f=f: (f(z, x) * z).sum()))(
            z, x
        )  # though that in x is of third order
        np.testing.assert_allclose(in_z, 2 * product, rtol=1e-12, atol=1e-12)


@ways
@pytest.mark.parametrize("point", ["pair", "tall", "rank 2 of 4x3"])
def test_batches_are_mapped_summed_and_broadcast(rng, point, compiled):
    x, rank, (y, z, w) = data(rng, point)
    points = np.stack([x, 0.7 * x, x + 0.1 * y])
    for name, f in scalars(rank).items():
        mapped = maybe(compiled, jax.vmap(jax.grad(f), in_axes=(0, None, None)))(points, y, z)
        np.testing.assert_allclose(mapped, [jax.grad(f)(p, y, z) for p in points], rtol=1e-11, atol=1e-12, err_msg=name)
    # Over the vector alone, and broadcast by the function itself: the gradient in the point is the sum.
    vectors = np.stack([y, z])

    def total(x, vectors):
        return frame_at(x, KERNEL, rank, vectors).inner(vectors, w).sum()

    single = [jax.grad(total, (0, 1))(x, v) for v in vectors]
    a, b = maybe(compiled, jax.grad(total, (0, 1)))(x, vectors)
    np.testing.assert_allclose(a, sum(s[0] for s in single), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(b, [s[1] for s in single], rtol=1e-11, atol=1e-12)
    mapped = maybe(compiled, jax.vmap(jax.grad(total, 1), in_axes=(None, 0)))(x, vectors)
    np.testing.assert_allclose(mapped, b, rtol=1e-11, atol=1e-12)


@ways
def test_single_precision_stays_single(rng, compiled):
    x, rank, (y, z, _) = data(rng, "tall")
    for x64 in (True, False):
        jax.config.update("jax_enable_x64", x64)
        single = [jnp.asarray(a, jnp.float32) for a in (x, y, z)]
        for name, f in scalars(rank).items():
            value, gradient = maybe(compiled, jax.value_and_grad(f))(*single)
            assert value.dtype == gradient.dtype == jnp.float32
            exact = autograd.grad(f)(x, y, z) if name != "free energy" else 2 * x * y - entropy_gradient(x, DEPTH) / 0.7
            np.testing.assert_allclose(gradient, exact, atol=2e-4 * np.abs(exact).max(), err_msg=name)


@ways
def test_christoffel_maps_are_differentiable(rng, compiled):
    x, rank, (y, z, w) = data(rng, "tall")
    y, z = (Frame.at(x, KERNEL, rank).project(v) for v in (y, z))

    def f(x):
        return (frame_at(x, KERNEL, rank).christoffel(y, z) * w).sum()

    exact = autograd.grad(f)(x)
    np.testing.assert_allclose(maybe(compiled, jax.grad(f))(x), exact, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(maybe(compiled, f)(jnp.asarray(x)), f(x), rtol=1e-12)


def test_large_matrices_pass_through_the_compiler(rng):
    x = rng.standard_normal((120, 80))
    gradient = jax.jit(jax.grad(lambda x: entropy(x, 3)))(x)
    np.testing.assert_allclose(gradient, entropy_gradient(x, 3), rtol=1e-10, atol=1e-12)


def test_what_has_no_derivative_or_value_is_refused(rng):
    x, y = rng.standard_normal((2, 3, 3))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: entropy(x, 3), (x,), (y,))
    with pytest.raises(NotImplementedError, match=r"Frame\.half_power has no closed-form derivative"):
        jax.grad(lambda x: frame_at(x, KERNEL, None).half_power(y).sum())(x)
    with pytest.raises(NotImplementedError, match="third derivative of the entropy"):
        jax.grad(lambda x: (entropy_hessian(y, x, 3) * y).sum())(x)
    singular = np.diag([1.0, 1.0, 0.0])
    for f, message in (
        (
            lambda x: entropy(x, 3),
            "entropy is not differentiable at a singular matrix: the smallest singular value is 0",
        ),
        (lambda x: frame_at(x, KERNEL, None).inner(y, y), "metric is infinite at a singular matrix"),
        (lambda x: entropy(math.nan * x, 3), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.grad(f)(singular)
        with pytest.raises(Exception, match=message):  # compiled, the error of XLA quotes it
            jax.block_until_ready(jax.jit(jax.grad(f))(singular))
    with pytest.raises(ValueError, match="direction holds NaN"):
        entropy_hessian(jnp.asarray(math.nan * y), x, 3)
    with pytest.raises(ValueError, match="cost is NaN"):
        free_energy(jnp.asarray(math.nan), x, 3, 1.0)


def test_arrays_of_jax_that_are_not_traced_take_the_plain_frame(rng):
    x = jnp.asarray(rng.standard_normal((3, 3)))
    assert type(frame_at(x, KERNEL, None)) is Frame
    assert isinstance(frame_at(x, KERNEL, None).inner(x, x), jax.Array)
    assert isinstance(entropy(x, 3), jax.Array)
