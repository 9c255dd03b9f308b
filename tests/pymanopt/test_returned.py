"""What costs and derivatives may return to the manifolds: real arrays of the shape of the matrix, or an error."""

import numpy as np
import pymanopt
import pytest

from dlngeo.pymanopt import Balanced, FixedRank, pull_back

BAD = {
    "scalar": (lambda x: 1.0, ValueError, r"has shape \(\); expected \(2, 3\)"),
    "row": (lambda x: x[:1], ValueError, r"has shape \(1, 3\); expected \(2, 3\)"),
    "transposed": (lambda x: x.T, ValueError, r"has shape \(3, 2\); expected \(2, 3\)"),
    "complex": (lambda x: x + 0j, TypeError, "must be real numbers, got an array of complex128"),
    "masked": (np.ma.masked_array, TypeError, "must be real numbers, got a masked array"),
    "objects": (lambda x: x.astype(object), TypeError, "must be real numbers, got an array of object"),
    "nothing": (lambda x: None, TypeError, "must be real numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_derivatives_that_would_be_broadcast_or_cut_are_refused_on_the_weights(name):
    bad, error, message = BAD[name]
    manifold = Balanced((3, 4, 2), rng=0)
    point = manifold.random_point()
    vector = manifold.random_tangent_vector(point)
    with pytest.raises(error, match=f"the gradient {message}"):
        pull_back(manifold, np.sum, bad).riemannian_gradient(point)
    problem = pull_back(manifold, np.sum, np.ones_like, lambda x, z: bad(z))
    with pytest.raises(error, match=f"the Hessian product {message}"):
        problem.riemannian_hessian(point, vector)


@pytest.mark.parametrize(("value", "error"), [(np.ones(1), ValueError), (1j, TypeError), (None, TypeError)])
def test_a_cost_on_the_weights_is_one_real_number(value, error):
    manifold = Balanced((3, 4, 2), rng=0)
    with pytest.raises(error, match="the cost"):
        pull_back(manifold, lambda x: value, np.ones_like).cost(manifold.random_point())


@pytest.mark.parametrize("name", ["complex", "masked", "objects"])
def test_derivatives_that_would_be_cut_are_refused_on_factored_matrices(name):
    bad, error, message = BAD[name]
    manifold = FixedRank(2, 3, 2, rng=0)
    point = manifold.random_point()
    for form, what in (
        (bad(np.ones((2, 3))), "the derivative"),
        ((np.ones((2, 1)), bad(np.ones((1, 3)))), "a factor of the derivative"),
        ((bad(np.ones((2, 2))), np.ones(2), np.ones((2, 3))), "the autodiff derivative"),
    ):
        problem = pymanopt.Problem(
            manifold,
            pymanopt.function.numpy(manifold)(lambda u, s, vt: 0.0),
            euclidean_gradient=pymanopt.function.numpy(manifold)(lambda u, s, vt, form=form: form),
        )
        with pytest.raises(error, match=f"{what} {message}"):
            problem.riemannian_gradient(point)
