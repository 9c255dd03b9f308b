"""Derivatives of the metric under autograd and PyTorch: at repeated singular values, every rank, twice, in batches."""

import math
import os
import subprocess
import sys

import autograd
import autograd.numpy as anp
import numpy as np
import oracles
import pytest
from user_kernels import Quadratic

from dlngeo import DepthKernel
from dlngeo.kernels import of_depth
from dlngeo.matrices.differentiable import DifferentiableFrame, frame_at
from dlngeo.matrices.frame import Frame

INF = math.inf
LIBRARIES = ["autograd", "torch"]
# m, n and the singular values: repeated, all equal, rectangular, and below full rank.
POINTS = {
    "apart": (3, 3, [2.0, 1.0, 0.4]),
    "pair": (3, 3, [1.5, 1.5, 0.5]),
    "equal": (3, 3, [0.8, 0.8, 0.8]),
    "tall": (4, 3, [1.2, 1.2, 0.7]),
    "wide": (2, 4, [1.1, 0.6]),
    "rank 2 of 4x4": (4, 4, [1.3, 1.3]),
    "rank 2 of 4x3": (4, 3, [1.0, 0.6]),
}
over_points = pytest.mark.parametrize("point", POINTS)
over_libraries = pytest.mark.parametrize("library", LIBRARIES)


def data(rng, point, count=3):
    m, n, s = POINTS[point]
    return oracles.dense(*oracles.factors(rng, m, n, s)), len(s), rng.standard_normal((count, m, n))


def gradients(library, f, *arrays):
    """Gradients of a scalar function in every argument, as NumPy arrays."""
    if library == "autograd":
        return autograd.grad(lambda a: f(*a))(tuple(arrays))
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    return [g.numpy() for g in torch.autograd.grad(f(*tensors), tensors)]


# First derivatives.


def functions(kernel, rank):
    """Name → scalar function of the point and two vectors through the frame."""

    def at(x, *vectors):
        return frame_at(x, kernel, rank, *vectors)

    return {
        "inner": lambda x, y, z: at(x, y, z).inner(y, z),
        "square": lambda x, y, z: at(x, y).inner(y, y) + 0 * z.sum(),
        "cometric": lambda x, y, z: (at(x, y).cometric(y) * z).sum(),
        "metric": lambda x, y, z: (at(x, y).metric(y) * z).sum(),
        "project": lambda x, y, z: (at(x, y).project(y) * z).sum(),
        "log_volume_density": lambda x, y, z: at(x, y).log_volume_density() + 0 * (y + z).sum(),
    }


def literals(depth, rank):
    """The same by singular bases and mpmath, with nothing of the package."""
    phi = oracles.naive(depth)

    def volume(x, y, z):
        s = np.linalg.svd(x)[1][:rank]
        pairs = sum(math.log(phi(a, b)) for a in s for b in s)
        nulls = sum(math.log(phi(a, 0.0)) for a in s) if sum(x.shape) > 2 * rank else 0.0
        return -(pairs + (sum(x.shape) - 2 * rank) * nulls) / 2

    def inverse(s, t):
        return 1 / phi(s, t)

    return {
        "inner": lambda x, y, z: np.sum(y * oracles.schur_cometric(x, z, inverse, rank)),
        "square": lambda x, y, z: np.sum(y * oracles.schur_cometric(x, y, inverse, rank)),
        "cometric": lambda x, y, z: np.sum(z * oracles.schur_cometric(x, y, phi, rank)),
        "metric": lambda x, y, z: np.sum(z * oracles.schur_cometric(x, y, inverse, rank)),
        "project": lambda x, y, z: np.sum(z * oracles.schur_cometric(x, y, lambda s, t: 1.0, rank)),
        "log_volume_density": volume,
    }


CASES = [(p, d) for p in POINTS for d in (1, 1.5, 3)] + [(p, INF) for p in ("apart", "pair", "equal")]


@over_libraries
@pytest.mark.parametrize(("point", "depth"), CASES)
def test_gradients_are_those_of_the_literal_definitions(rng, library, point, depth):
    """In all ambient directions, so that below full rank the truncation of the SVD is differentiated too."""
    x, rank, (y, z, w) = data(rng, point)
    literal = literals(depth, rank)
    for name, f in functions(of_depth(depth), rank).items():
        if name == "log_volume_density" and depth == 1:
            continue
        found = gradients(library, f, x, y, z)
        for i, gradient in enumerate(found):
            if name == "log_volume_density" and i:
                continue

            def along(h, i=i, f=literal[name]):
                return f(*(a + h * w if j == i else a for j, a in enumerate((x, y, z))))

            exact = oracles.derivative(along, step=0.04, levels=5)
            scale = np.linalg.norm(gradient) * np.linalg.norm(w) + 1
            assert abs(np.sum(gradient * w) - exact) < 2e-9 * scale, (name, i)


@over_libraries
def test_gradients_at_a_multiple_of_the_identity_are_known(rng, library):
    """``ψ_s(s, s) = ½(N − 1) s^{−2/N}`` gives ``∇_X g(Y, Z) = −(N − 1)/(2N²) s^{2/N−3} (YᵀZ + ZᵀY + YZᵀ + ZYᵀ)``."""
    depth, s = 5, 1.7
    y, z = rng.standard_normal((2, 3, 3))
    gradient = gradients(library, functions(DepthKernel(depth), None)["inner"], s * np.eye(3), y, z)[0]
    products = y.T @ z + z.T @ y + y @ z.T + z @ y.T
    exact = -(depth - 1) / (2 * depth**2) * s ** (2 / depth - 3) * products
    np.testing.assert_allclose(gradient, exact, rtol=1e-13, atol=1e-14)


def through_svd(library, x, y):
    """Gradient in x of ``g_X(Y, Y)`` at depth 2, differentiated through the SVD, as it would be without our rules."""
    if library == "autograd":

        def f(x):
            u, s, vt = anp.linalg.svd(x, full_matrices=False)
            return anp.sum((u.T @ y @ vt.T) ** 2 / (s[:, None] + s))

        with np.errstate(all="ignore"):
            return autograd.grad(f)(x)
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(x, requires_grad=True), torch.tensor(y)
    return torch.autograd.grad(Frame.at(x, DepthKernel(2)).inner(y, y), x)[0].numpy()


@over_libraries
def test_the_derivative_of_the_svd_fails_where_this_one_holds(rng, library):
    """Apart they agree; 1e-9 apart the SVD has lost five digits; at equal singular values it is NaN."""
    f = functions(DepthKernel(2), None)["square"]
    y, z = rng.standard_normal((2, 3, 3))
    u, _, vt = oracles.factors(rng, 3, 3, np.ones(3))

    def errors(x):
        ours = gradients(library, f, x, y, z)[0]
        literal = literals(2, 3)["square"]
        exact = np.reshape(
            [oracles.derivative(lambda h, e=e: literal(x + h * e, y, z), 0.04, 5) for e in np.eye(9).reshape(-1, 3, 3)],
            (3, 3),
        )
        return np.max(np.abs(ours - exact)), np.max(np.abs(ours - through_svd(library, x, y)))

    ours, svd = errors(oracles.dense(u, np.array([2.0, 1.0, 0.5]), vt))
    assert ours < 1e-9
    assert svd < 1e-12
    ours, svd = errors(oracles.dense(u, np.array([1.0, 1.0 - 1e-9, 0.5]), vt))
    assert ours < 1e-9
    assert svd > 1e-10
    ours, svd = errors(1.5 * np.eye(3))
    assert ours < 1e-9
    assert math.isnan(svd)


# Batches.


@over_libraries
@pytest.mark.parametrize("point", ["pair", "tall", "rank 2 of 4x4"])
def test_gradients_of_batches_are_summed_over_what_was_broadcast(rng, library, point):
    m, n, s = POINTS[point]
    rank = len(s)
    x = np.stack([oracles.dense(*oracles.factors(rng, m, n, s)) for _ in range(2)])  # (2, m, n)
    y, z = rng.standard_normal((3, 1, m, n)), rng.standard_normal((m, n))
    weights = rng.standard_normal((3, 2))
    for name, f in functions(DepthKernel(3), rank).items():
        if name == "log_volume_density":
            continue
        kernel = DepthKernel(3)

        def whole(x, y, z, name=name, kernel=kernel):
            frame = frame_at(x, kernel, rank, x, y, z)
            if name in ("inner", "square"):
                values = frame.inner(y, z if name == "inner" else y) + 0 * z.sum()
            else:
                values = (getattr(frame, name)(y) * z).sum(axis=(-2, -1))
            assert values.shape == (3, 2)
            return (values * like(weights, values)).sum()

        found = gradients(library, whole, x, y, z)
        exact = [np.zeros_like(a) for a in (x, y, z)]
        for i in range(3):
            for j in range(2):
                parts = gradients(library, f, x[j], y[i, 0], z)
                exact[0][j] += weights[i, j] * parts[0]
                exact[1][i, 0] += weights[i, j] * parts[1]
                exact[2] += weights[i, j] * parts[2]
        for a, b in zip(found, exact, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=1e-11)


@over_libraries
@pytest.mark.parametrize("point", ["pair", "tall", "rank 2 of 4x4"])
def test_second_derivatives_of_batches_are_those_of_their_members(rng, library, point):
    m, n, s = POINTS[point]
    x = np.stack([oracles.dense(*oracles.factors(rng, m, n, s)) for _ in range(3)])
    y = rng.standard_normal((m, n))

    def f(x):
        frame = frame_at(x, DepthKernel(3), len(s))
        return (frame.inner(like(y, x), like(y, x)) + frame.log_volume_density()).sum()

    np.testing.assert_allclose(second(library, f, x), [second(library, f, member) for member in x], atol=1e-9)


def like(array, other):
    """The array in the library of the other one."""
    return other.new_tensor(array) if hasattr(other, "new_tensor") else array


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("depth", [1, 2.5])
def test_torch_gradcheck(rng, point, depth):
    torch = pytest.importorskip("torch")
    x, rank, (y, z, _) = data(rng, point)
    kernel = of_depth(depth)
    arguments = [torch.tensor(a, requires_grad=True) for a in (x, np.stack([y, z]), z)]
    assert torch.autograd.gradcheck(lambda x, y, z: frame_at(x, kernel, rank).inner(y, z), arguments)
    assert torch.autograd.gradcheck(lambda x, y, _: frame_at(x, kernel, rank).cometric(y), arguments)
    assert torch.autograd.gradcheck(lambda x, *_: frame_at(x, kernel, rank).log_volume_density(), arguments[:1])


# Second derivatives.

HESSIANS = [(p, 3.5) for p in POINTS] + [("pair", 2), ("pair", INF), ("tall", 2), ("tall", 1), ("rank 2 of 4x3", 1)]


@over_libraries
@pytest.mark.parametrize("name", ["inner", "cometric", "log_volume_density"])
@pytest.mark.parametrize(("point", "depth"), HESSIANS)
def test_hessians_are_second_differences_of_the_values(rng, library, name, point, depth):
    """In all ambient directions again, normal ones of the manifold of rank r included, and mixed with the vectors."""
    x, rank, (y, z, w) = data(rng, point)
    v = rng.standard_normal(y.shape)
    f = functions(of_depth(depth), rank)[name]
    if library == "autograd":
        a = autograd.hessian(lambda x: f(x, y, z))(x)
        b = 0 * a if name == "log_volume_density" else autograd.jacobian(autograd.grad(f), 1)(x, y, z)
    else:
        torch = pytest.importorskip("torch")
        tensors = tuple(map(torch.tensor, (x, y)))
        (a, b), (c, d) = torch.autograd.functional.hessian(lambda x, y: f(x, y, torch.tensor(z)), tensors)
        a, b = a.numpy(), b.numpy()
        np.testing.assert_allclose(c.permute(2, 3, 0, 1).numpy(), b, atol=1e-11)
        assert float(d.abs().max()) == 0
    flat = a.reshape(x.size, x.size)
    np.testing.assert_allclose(flat, flat.T, atol=1e-11 * np.abs(flat).max() + 1e-13)
    found = np.einsum("ijkl,ij,kl->", a, w, w) + 2 * np.einsum("ijkl,ij,kl->", b, w, v)
    exact = oracles.second_derivative(lambda h: f(x + h * w, y + h * v, z), step=0.05, levels=4)
    assert found == pytest.approx(exact, rel=1e-7, abs=1e-6)


@pytest.mark.parametrize(("point", "depth"), [("equal", 3), ("wide", 1.5)])
def test_torch_gradgradcheck(rng, point, depth):
    torch = pytest.importorskip("torch")
    x, rank, (y, z, _) = data(rng, point)
    kernel = of_depth(depth)
    arguments = [torch.tensor(a, requires_grad=True) for a in (x, np.stack([y, z]), z)]
    assert torch.autograd.gradgradcheck(lambda x, y, z: frame_at(x, kernel, rank).inner(y, z), arguments)
    assert torch.autograd.gradcheck(lambda x, y, z: frame_at(x, kernel, rank).christoffel(y, z), arguments)


@over_libraries
@pytest.mark.parametrize(("point", "depth"), [("pair", 3), ("pair", INF), ("tall", 2.5), ("rank 2 of 4x4", 3)])
def test_christoffel_maps_and_hessians_are_those_of_the_frame_and_differentiable(rng, library, point, depth):
    x, rank, (y, z, w) = data(rng, point)
    frame = Frame.at(x, of_depth(depth), rank)
    cost = oracles.Cost(rng, *x.shape)
    y, z, w = (frame.project(v) for v in (y, z, w))
    path = oracles.curve(*(np.asarray(a) for a in (frame.u, frame.s, frame.vt)), w)
    g, h = cost.gradient(x), cost.hessian(x, z)
    for name, vectors in (("christoffel", (y, z)), ("christoffel", (z, z)), ("hessian", (z, g, h))):

        def f(x, name=name, vectors=vectors):
            at = frame_at(x, of_depth(depth), rank)
            vectors = [like(v, x) if library == "torch" else v for v in vectors]
            value = getattr(at, name)(*vectors)
            return (value * like(y, value)).sum() if library == "torch" else (value * y).sum()

        values = frame.christoffel(*vectors) if name == "christoffel" else frame.hessian(*vectors)
        if library == "torch":
            torch = pytest.importorskip("torch")
            tensor = torch.tensor(x, requires_grad=True)
            assert f(tensor).item() == pytest.approx(np.sum(values * y), abs=1e-12)
        else:
            assert autograd.value_and_grad(f)(x)[0] == pytest.approx(np.sum(values * y), abs=1e-12)
        found = np.sum(gradients(library, f, x)[0] * w)

        def plain(h, name=name, vectors=vectors):
            at = Frame.at(path(h), of_depth(depth), rank)
            return np.sum(getattr(at, name)(*vectors) * y)

        assert found == pytest.approx(oracles.derivative(plain), rel=1e-8, abs=1e-8), name


# What is refused.


@over_libraries
def test_a_kernel_of_the_user_is_differentiable_twice(rng, library):
    x, y = rng.standard_normal((2, 3, 3))
    # A(Y) = XXᵀY + YXᵀX, so ⟨Y, A Y⟩ = |XᵀY|² + |XYᵀ|².
    f = functions(Quadratic(), None)["cometric"]
    (gradient, _, _) = gradients(library, f, x, y, y)
    np.testing.assert_allclose(gradient, 2 * (y @ y.T @ x + x @ y.T @ y), atol=1e-12)
    twice = second(library, lambda x: f(x, like(y, x), like(y, x)), x)
    np.testing.assert_allclose(twice, 4 * (y @ y.T @ gradient + gradient @ y.T @ y), atol=1e-10)


def second(library, f, x):
    """The gradient of the squared norm of the gradient of f."""
    if library == "autograd":
        return autograd.grad(lambda x: anp.sum(autograd.grad(f)(x) ** 2))(x)
    torch = pytest.importorskip("torch")
    x = torch.tensor(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad((gradient**2).sum(), x)[0].numpy()


@over_libraries
def test_what_has_no_derivative_is_refused_and_says_what_to_do(rng, library):
    x, y = rng.standard_normal((2, 3, 3))
    kernel = DepthKernel(3)
    for name in ("ito_drift", "half_power", "split", "s"):
        with pytest.raises(NotImplementedError, match=rf"Frame\.{name} has no closed-form derivative.*detach"):
            gradients(library, lambda x, name=name: getattr(frame_at(x, kernel, None), name), x)
    with pytest.raises(AttributeError, match="has no attribute 'volume'"):
        gradients(library, lambda x: frame_at(x, kernel, None).volume, x)
    with pytest.raises(NotImplementedError, match="one order more than is available"):
        second(library, lambda x: (frame_at(x, kernel, None).christoffel(like(y, x), like(y, x)) ** 2).sum(), x)
    singular = np.diag([1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="not differentiable at a singular matrix: the smallest singular value is 0"):
        gradients(library, lambda x: frame_at(x, kernel, None).cometric(like(y, x)).sum(), singular)
    with pytest.raises(ValueError, match="metric is infinite at a singular matrix"):
        gradients(library, lambda x: frame_at(x, kernel, None).metric(like(y, x)).sum(), singular)


def test_forward_mode_is_refused_rather_than_sent_through_the_svd(rng):
    x, y = rng.standard_normal((2, 3, 3))
    with pytest.raises(NotImplementedError, match="JVP"):
        autograd.make_jvp(lambda x: frame_at(x, DepthKernel(3), None).inner(y, y))(x)(y)


def test_torch_forward_mode_is_refused_rather_than_sent_through_the_svd(rng):
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(a) for a in rng.standard_normal((2, 3, 3)))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        frame_at(torch.autograd.forward_ad.make_dual(x, y), DepthKernel(3), None).inner(y, y)


# Dispatch.


def test_plain_arrays_take_the_plain_frame(rng):
    x = rng.standard_normal((3, 3))
    assert type(frame_at(x, DepthKernel(2), None)) is Frame
    assert type(autograd.grad(lambda x: frame_at(x, DepthKernel(2), None).inner(x, x))(x)) is np.ndarray


def test_torch_tensors_without_history_take_the_plain_frame(rng):
    torch = pytest.importorskip("torch")
    x = torch.tensor(rng.standard_normal((3, 3)))
    assert type(frame_at(x, DepthKernel(2), None)) is Frame
    x.requires_grad_(True)
    assert type(frame_at(x, DepthKernel(2), None)) is DifferentiableFrame
    assert type(frame_at(x.detach(), DepthKernel(2), None, x)) is DifferentiableFrame
    with torch.no_grad():
        assert type(frame_at(x, DepthKernel(2), None)) is Frame
    y = torch.eye(3, dtype=torch.float32, requires_grad=True)
    value = frame_at(y + 1, DepthKernel(2), None).inner(y, y)
    assert value.dtype == torch.float32
    value.backward()
    assert y.grad.dtype == torch.float32


def test_torch_is_imported_by_who_uses_it_alone():
    code = (
        "import sys, dlngeo, dlngeo.matrices.differentiable, dlngeo.geomstats, numpy as np, autograd;"
        "from geomstats.geometry.general_linear import GeneralLinear;"
        "s = GeneralLinear(2, equip=False).equip_with_metric(dlngeo.geomstats.DLNMetric, depth=3);"
        "autograd.grad(lambda x: s.metric.inner_product(x, x, x))(np.eye(2));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "GEOMSTATS_BACKEND": "numpy"})
