"""Products taken a block of rows at a time, and QR factors by Cholesky, against NumPy's."""

import numpy as np
import pytest

from dlngeo._linalg import combine, gram
from dlngeo.matrices import retraction


@pytest.mark.parametrize("rows", [3, 8192, 20_000])
def test_blocks_make_up_the_whole(rows, rng):
    x, y = rng.standard_normal((2, rows, 3))
    z = np.asfortranarray(rng.standard_normal((rows, 2)))
    a, b = rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
    np.testing.assert_allclose(combine((x, a), (z, b)), x @ a + z @ b, atol=1e-13)
    np.testing.assert_allclose(combine((z, None), (y, a)), z + y @ a, atol=1e-13)
    np.testing.assert_allclose(combine((y, a), (z, None)), z + y @ a, atol=1e-13)
    np.testing.assert_allclose(gram(x, z), x.T @ z, atol=1e-13 * rows)
    assert combine((x.astype(np.float32), a.astype(np.float32))).dtype == np.float32


@pytest.mark.parametrize("grades", [0, 30, 400])  # decimal orders of magnitude; the squares of the last are no doubles
@pytest.mark.parametrize("angle", [1.0, 0.25, 1e-3, 1e-9])  # between two columns
def test_orthonormal_factors_are_exact_however_columns_are_scaled(angle, grades, rng):
    a = np.linalg.qr(rng.standard_normal((300, 4)))[0]
    a[:, 1] = np.cos(angle) * a[:, 0] + np.sin(angle) * a[:, 1]
    size = 10.0 ** np.linspace(grades / 2, -grades / 2, 4)
    with np.errstate(over="ignore"):  # as inside the retraction
        tall, small, r = retraction._orthonormalised(a * size)
    q = tall @ small
    reflected = np.array_equal(small, np.eye(4))
    assert reflected == (angle < 0.1 or grades > 280)  # Cholesky only where it is exact
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=2e-15)
    np.testing.assert_allclose(q @ (r / size), a, atol=2e-15)
    np.testing.assert_array_equal(r, np.triu(r))


def test_the_second_cholesky_factor_restores_what_the_first_loses():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        q, turn = np.linalg.qr(rng.standard_normal((300, 4)))[0], np.linalg.qr(rng.standard_normal((4, 4)))[0]
        a = q @ np.diag(np.geomspace(1, 1 / 7, 4)) @ turn  # the first factor alone loses up to 2e-14
        tall, small, r = retraction._orthonormalised(a)
        q = tall @ small
        np.testing.assert_allclose(q.T @ q, np.eye(4), atol=2e-15)
        np.testing.assert_allclose(q @ r, a, atol=1e-15)
