"""Complex matrices for tests, and what they are among real ones of twice the size; nothing here imports the package.

The real form of a complex matrix is ``[[Re, −Im], [Im, Re]]``, whose singular values are doubled. The matrices of this
form are the fixed points of an isometry of every invariant metric, so totally geodesic, and their inner products are
twice those of the complex matrices: what holds of real matrices holds of complex ones.
"""

import numpy as np


def gaussian(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def real_form(z):
    z = np.asarray(z)
    return np.block([[z.real, -z.imag], [z.imag, z.real]])


def of_real_form(a):
    """The complex matrix of a real one of this form, and by how much it is not of this form."""
    m, n = a.shape[-2] // 2, a.shape[-1] // 2
    z = (a[..., :m, :n] + a[..., m:, n:] + 1j * (a[..., m:, :n] - a[..., :m, n:])) / 2
    return z, np.abs(real_form(z) - a).max()


def adjoint(a):
    return a.conj().swapaxes(-1, -2)


def haar(rng, m, r):
    return np.linalg.qr(gaussian(rng, m, r))[0]


def matrix(rng, m, n, s):
    """A complex matrix with given singular values, shape=[m, n]."""
    return (haar(rng, m, len(s)) * np.asarray(s)) @ adjoint(haar(rng, n, len(s)))


def tangent(rng, x, rank):
    """A tangent vector at x of the complex matrices of a rank."""
    z, (u, _, vt) = gaussian(rng, *x.shape), np.linalg.svd(x)
    pu, pv = u[:, rank:] @ adjoint(u[:, rank:]), adjoint(vt[rank:]) @ vt[rank:]
    return z - pu @ z @ pv


def power(a, exponent):
    """Real power of a positive semidefinite matrix, of its positive part where it is singular."""
    w, q = np.linalg.eigh(a)
    w = np.where(w > 1e-10 * w[-1], w, 0.0)
    return (q * np.where(w > 0, w, 1.0) ** exponent * (w > 0 if exponent else 1.0)) @ adjoint(q)


def cometric(x, p, depth):
    """The sum of matrix powers, at integer depth."""
    left, right = x @ adjoint(x), adjoint(x) @ x
    terms = range(1, depth + 1)
    return sum(power(left, (depth - k) / depth) @ p @ power(right, (k - 1) / depth) for k in terms)
