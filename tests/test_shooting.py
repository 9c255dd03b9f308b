"""The integrator, the root finder and the search, on surfaces whose geodesics are known."""

import numpy as np
import pytest

from dlngeo.errors import GeodesicError, SingularError
from dlngeo.shooting import Connecting, Surface, at, connect, length, newton, rate, search, shoot


class Sphere(Surface):
    """The unit sphere in the space of points, shape=[..., 1, n], which ends at a height above the equator."""

    point_ndim = 2

    def __init__(self, top=2.0):
        self.top = top

    def acceleration(self, x, v):
        return -np.sum(v**2, axis=-1, keepdims=True) * x

    def inner(self, x, v, w):
        return np.sum(v * w, axis=(-2, -1))

    def crossed(self, before, after):
        return bool(np.any((before[..., -1] < self.top) & (after[..., -1] >= self.top)))

    def settle(self, x, v):
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        return x, v - np.sum(x * v, axis=-1, keepdims=True) * x

    def basis(self, x):
        return 2 * (np.linalg.svd(x)[2][1:, None, :],)

    def attempts(self, x0, x1, tolerance):
        chord = x1 - x0
        bound = length(lambda t: self.settle(x0 + t[:, None, None] * chord, chord)[0], self)
        for guess in (-4 * chord, 0.1 * chord, chord):
            yield bound, lambda guess=guess: newton(x0, at(x1), guess, self, tolerance)


def great_circle(rng, n=4):
    x, v = np.linalg.qr(rng.standard_normal((n, 2)))[0].T[:, None, :]
    return x, v


def test_geodesics_are_great_circles(rng):
    pairs = [great_circle(rng) for _ in range(3)]
    x, v = (np.stack(a) for a in zip(*pairs, strict=True))
    speed = np.array([0.5, 1.0, 3.0])[:, None, None]
    times = np.array([0.7, -1.2, 0.0, 2.0])
    points, velocities = shoot(x, speed * v, Sphere(), times)
    angle = times[:, None, None, None] * speed
    np.testing.assert_allclose(points, np.cos(angle) * x + np.sin(angle) * v, atol=1e-9)
    np.testing.assert_allclose(velocities, speed * (np.cos(angle) * v - np.sin(angle) * x), atol=3e-9)
    np.testing.assert_array_equal(points[2], x)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), 1, atol=1e-15)


def test_the_search_goes_on_until_a_geodesic_is_no_longer_than_the_known_path(rng):
    """The first guess leads round the other way."""
    x, v = great_circle(rng)
    x1 = np.cos(2.0) * x + np.sin(2.0) * v
    sphere = Sphere()
    (bound, first), *_ = sphere.attempts(x, x1, 1e-10)
    assert bound == pytest.approx(2.0, rel=1e-3)
    assert bound >= 2.0
    assert first().length == pytest.approx(2 * np.pi - 2, rel=1e-9)
    found = connect(x, x1, sphere)
    np.testing.assert_allclose(found.velocity, 2 * v, atol=1e-9)
    assert found.length == pytest.approx(2.0, rel=1e-10)
    assert found.residual <= 1e-10
    with pytest.raises(GeodesicError, match=r"length 4\.28 was found, but a path of length 2 exists") as caught:
        search([(bound, first)], 1e-10)
    assert caught.value.status == "not converged"


def test_a_search_that_misses_says_by_how_much(rng):
    x, v = great_circle(rng)
    outside = 1.5 * (np.cos(1.0) * x + np.sin(1.0) * v)  # of which the nearest point is a third of its norm away
    with pytest.raises(GeodesicError, match=r"misses the end point .*residual 3\.\de-01.*intermediate") as caught:
        newton(x, at(outside), v, Sphere(), 1e-10)
    assert caught.value.status == "not converged"
    assert caught.value.residual == pytest.approx(1 / 3, abs=0.03)


def test_a_target_may_move_as_the_end_does():
    """The nearest point of a circle of latitude, with velocities sought along one meridian alone."""
    north = np.array([[0.0, 0.0, 1.0]])
    x, v = np.array([[1.0, 0.0, 0.0]]), north

    class Meridian(Sphere):
        def basis(self, x):
            out = north - x[..., -1:] * x
            return 2 * ((out / np.linalg.norm(out))[None],)

    def latitude(end):
        across = end[:, :2] / np.linalg.norm(end[:, :2])
        return np.concatenate([np.cos(0.8) * across, [[np.sin(0.8)]]], axis=1)

    found = newton(x, latitude, 0.3 * v, Meridian(), 1e-10)
    np.testing.assert_allclose(found.velocity, 0.8 * v, atol=1e-9)


def test_the_time_of_a_crossing_is_found_within_a_step():
    x, v = np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    sphere = Sphere(top=np.sin(0.123))
    shoot(x, v, sphere, [0.122, -3.0])
    with pytest.raises(GeodesicError, match=r"just after time 0\.123, before time 1:") as caught:
        shoot(x, v, sphere)
    assert caught.value.status == "singular"
    with pytest.raises(GeodesicError, match=r"just after time 1 − [23]\.\de-04, before time 1:"):
        shoot(x, v, Sphere(top=np.sin(0.9997)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e301])
def test_what_is_no_number_is_no_point(bad):
    x = np.ones((1, 3))
    for pair in ((bad * x, x), (x, bad * x)):
        with pytest.raises(SingularError, match="double precision"):
            rate(Sphere(), *pair)


def test_nothing_to_try_is_a_failure():
    with pytest.raises(GeodesicError, match="nothing to try"):
        search([], 1e-10)
    assert search([(np.inf, lambda: Connecting(np.ones(1), 1.0, 0.0))], 0.0).length == 1
