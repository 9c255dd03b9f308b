"""Layers that are balanced up to multiples of the identity: their kernel, its differences and its retraction."""

import math

import mpmath
import numpy as np
import oracles
import pytest
import scipy.integrate

from dlngeo import DepthKernel, check_kernel
from dlngeo.kernels import RelaxedDepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract
from dlngeo.pymanopt import FixedRank

OFFSETS = ([0.0, 0.7, 0.2, 1.3], [0.0, 1.5], [0.0, 0.0, 0.4], [0.3, 0.3, 5.0, 1.0, 1.0])
ZERO, ONE = np.zeros(1), np.ones(1)


def exact_nodes(offsets, values):
    """``x`` with ``∏(x + c) = σ²``, by Newton's method from above in the logarithm, in multiple precision."""
    found = []
    for value in values:
        target, y = 2 * mpmath.log(value), None
        above = sorted((c for c in offsets if c > 0), reverse=True)
        y = min(
            (target - sum(map(mpmath.log, above[:k]))) / (len(offsets) - k)
            for k in range(len(above) + (len(above) < len(offsets)))
        )
        for _ in range(300):
            x = mpmath.exp(y)
            step = (sum(mpmath.log(x + c) for c in offsets) - target) / sum(x / (x + c) for c in offsets)
            y -= step
            if abs(step) < mpmath.mpf(10) ** -90:
                break
        found.append(mpmath.exp(y))
    return found


def exact_difference(offsets, nodes):
    """``h[x_0, …]`` from the coefficients of h: ``Σ_m a_m H_{m−k}(x_0, …, x_k)``, H complete homogeneous."""
    n, k = len(offsets), len(nodes) - 1
    coefficients = [mpmath.mpf(1)]
    for c in offsets:
        coefficients = [
            (coefficients[m - 1] if m else 0) + (coefficients[m] * c if m < len(coefficients) else 0)
            for m in range(len(coefficients) + 1)
        ]
    homogeneous = [mpmath.mpf(1)] + [mpmath.mpf(0)] * n
    for x in nodes:
        for m in range(1, n + 1):
            homogeneous[m] += x * homogeneous[m - 1]
    return sum(coefficients[m] * homogeneous[m - k] for m in range(k, n + 1))


def cases():
    rng = np.random.default_rng(0)
    for trial in range(30):
        n = int(rng.choice([1, 2, 3, 5, 8, 64]))
        wide = trial % 2
        offsets = 10 ** rng.uniform(-100 if wide else -2, 100 if wide else 2, n)
        offsets[: 1 + (trial % 3 == 0)] = 0
        values = 10 ** (rng.uniform(-150, 150, 4) if trial % 5 else rng.uniform(-1, 1, 4))
        if trial % 7 == 0:
            values[1] = values[0] * (1 + 1e-9 * (trial % 2))
        yield offsets, values


def test_differences_hold_their_digits_for_all_offsets_and_singular_values():
    with mpmath.workdps(100):
        for offsets, values in cases():
            kernel = RelaxedDepthKernel(offsets, normalized=True)
            c = [mpmath.mpf(float(v)) for v in kernel.offsets]
            x, (one,) = exact_nodes(c, map(float, values)), exact_nodes(c, [1])
            unit = exact_difference(c, [one, one])
            full, pairs = exact_difference(c, x), [exact_difference(c, x[:2]), exact_difference(c, x[2:])]
            q, r, s, t = (np.array([v]) for v in values)
            for found, exact in (
                (kernel(q, r), pairs[0] / unit),
                (kernel.divided_difference(q, s, t), exact_difference(c, [x[0], *x[2:]]) / pairs[1] / unit),
                (kernel.third_divided_difference(q, r, s, t), full / unit**3),
                (kernel.mixed_divided_difference(q, r, s, t), full / unit / pairs[0] / pairs[1]),
            ):
                if 1e-300 < abs(exact) < 1e300:
                    assert abs(float(found[0] / exact - 1)) < 2e-14, (offsets, values)
                else:
                    assert found[0] == pytest.approx(float(exact), abs=1e-299)


def test_logarithms_of_what_is_no_double():
    with mpmath.workdps(60):
        for offsets in ([0.0, 0.0, 0.4], [0.0, 1.5], [0.0, 0.0, 1e-200, 3.0], [0.3, 5.0, 0.3, 0.3, 1e100]):
            for normalized in (False, True):
                kernel = RelaxedDepthKernel(offsets, normalized)
                c = [mpmath.mpf(float(v)) for v in kernel.offsets]
                (one,) = exact_nodes(c, [1])
                unit = exact_difference(c, [one, one]) if normalized else 1
                for u, v in ((-3.0, -3.0), (0.4, -2.0), (-1e4, -1e3), (-800.0, 700.0), (2e3, 2e3)):
                    x = exact_nodes(c, [mpmath.exp(u), mpmath.exp(v)])
                    exact = float(mpmath.log(exact_difference(c, x) / unit))
                    found = float(kernel.logarithm(np.array(u), np.array(v)))
                    assert found == pytest.approx(exact, rel=1e-14, abs=1e-13)
    zero = np.array(-np.inf)
    assert RelaxedDepthKernel([0.0, 1.0, 2.0]).logarithm(zero, zero) == pytest.approx(math.log(2))
    assert RelaxedDepthKernel([0.0, 0.0, 2.0]).logarithm(zero, zero) == -np.inf


@pytest.mark.parametrize("close", [False, True])
def test_the_second_difference_in_one_argument(close):
    rng = np.random.default_rng(1)
    with mpmath.workdps(120):
        for offsets in OFFSETS:
            kernel = RelaxedDepthKernel(offsets)
            c = [mpmath.mpf(float(v)) for v in kernel.offsets]
            values = 1 + 1e-4 * rng.uniform(size=4) if close else 10 ** rng.uniform(-3, 3, 4)
            x = exact_nodes(c, map(float, values))
            psi = [exact_difference(c, [x[0], x[1], v]) / exact_difference(c, [x[1], v]) for v in x[2:]]
            exact = (psi[1] - psi[0]) / (mpmath.mpf(float(values[3])) ** 2 - mpmath.mpf(float(values[2])) ** 2)
            found = kernel.second_divided_difference(*(np.array([v]) for v in values))[0]
            assert abs(float(found / exact - 1)) < 1e-12


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("normalized", [False, True])
def test_it_is_a_kernel(offsets, normalized):
    report = check_kernel(RelaxedDepthKernel(offsets, normalized))
    assert report, report


@pytest.mark.parametrize("n", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("normalized", [False, True])
def test_equal_offsets_are_a_depth(n, normalized):
    relaxed, deep = RelaxedDepthKernel(np.full(n, 2.5), normalized), DepthKernel(n, normalized)
    q, r, s, t = np.array([[1.3, 2.0, 0.4], [0.2, 0.2, 3.0], [0.7, 0.7, 0.1], [0.7, 0.3, 5.0]])
    assert relaxed.depth == n
    for name, values in (
        ("__call__", (s, t)),
        ("__call__", (s, 0 * t)),
        ("divided_difference", (r, s, t)),
        ("second_divided_difference", (q, r, s, t)),
        ("mixed_divided_difference", (q, r, s, t)),
        ("third_divided_difference", (q, r, s, t)),
    ):
        np.testing.assert_allclose(
            getattr(relaxed, name)(*values), getattr(deep, name)(*values), rtol=2e-12, atol=1e-12
        )


def test_what_is_infinite_at_zero():
    """Where the least offset is taken once, zero is a regular point."""
    for offsets, infinite in (([0.0, 0.0, 1.0], True), ([0.0, 1.0, 2.0], False)):
        kernel = RelaxedDepthKernel(offsets)
        assert kernel.conserves_rank == infinite
        assert kernel.smooth_at_zero != infinite
        assert (kernel(ZERO, ZERO)[0] == 0) == infinite
        assert (kernel.divided_difference(ZERO, ZERO, ZERO)[0] == math.inf) == infinite
        assert (kernel.second_divided_difference(ONE, ONE, ZERO, ZERO)[0] == -math.inf) == infinite
        assert (kernel.mixed_divided_difference(ZERO, ZERO, ONE, ONE)[0] == math.inf) == infinite
    assert RelaxedDepthKernel([0.0, 1.0, 2.0])(ZERO, ZERO)[0] == 2.0
    # h is of degree two, and has no third difference.
    assert RelaxedDepthKernel([0.0, 0.0]).mixed_divided_difference(ZERO, ZERO, ONE, ONE)[0] == 0


def test_two_layers_mix_dynamics():
    s, t, delta = np.array([1.3, 0.4]), np.array([0.2, 0.4]), 0.75
    np.testing.assert_allclose(
        RelaxedDepthKernel([0, 2 * delta])(s, t), np.hypot(s, delta) + np.hypot(t, delta), rtol=1e-14
    )


def test_a_far_offset_leaves_one_layer_fewer():
    s, t = np.array([1.3, 0.4]), np.array([0.2, 0.4])
    lazy = RelaxedDepthKernel([0, 0, 1e100], normalized=True)
    np.testing.assert_allclose(lazy(s, t), DepthKernel(2, normalized=True)(s, t), rtol=1e-14)


def layers(u, s, vt, offsets, rng):
    """Layers of ``(x + c_p)^{1/2}`` in random inner frames, square, for X of full rank."""
    kernel = RelaxedDepthKernel(offsets)
    shift = min(offsets)
    frames = [vt.T, *(oracles.orthogonal(rng, len(s)) for _ in offsets[1:]), u]
    return [(frames[p + 1] * np.sqrt(kernel.shared(s) + offsets[p] - shift)) @ frames[p].T for p in range(len(offsets))]


def gradients(weights, force):
    product = [np.eye(force.shape[1])]
    for w in weights:
        product.append(w @ product[-1])
    above, out = np.eye(len(force)), []
    for w, below in zip(weights[::-1], product[-2::-1], strict=True):
        out.append(above.T @ force @ below.T)
        above = above @ w
    return out[::-1]


def multiplied(weights):
    product = weights[0]
    for w in weights[1:]:
        product = w @ product
    return product


@pytest.mark.parametrize("offsets", OFFSETS)
def test_layers_follow_the_flow_of_the_metric(offsets):
    rng = np.random.default_rng(0)
    u, s, vt = oracles.orthogonal(rng, 3), np.array([1.1, 0.6, 0.2]), oracles.orthogonal(rng, 3)
    target, kernel = rng.standard_normal((3, 3)), RelaxedDepthKernel(offsets)

    def up(_, flat):
        weights = list(flat.reshape(len(offsets), 3, 3))
        return -np.concatenate([g.ravel() for g in gradients(weights, multiplied(weights) - target)])

    def down(_, flat):
        x = flat.reshape(3, 3)
        return -Frame.at(x, kernel, 3).cometric(x - target).ravel()

    start = layers(u, s, vt, offsets, rng)
    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-13}
    weights = scipy.integrate.solve_ivp(up, (0, 1), np.ravel(start), **options).y[:, -1].reshape(-1, 3, 3)
    x = scipy.integrate.solve_ivp(down, (0, 1), multiplied(start).ravel(), **options).y[:, -1].reshape(3, 3)
    assert np.linalg.norm(x - multiplied(start)) > 0.1
    np.testing.assert_allclose(multiplied(list(weights)), x, atol=1e-9)


@pytest.mark.parametrize("offsets", OFFSETS)
def test_the_retraction_multiplies_layers_that_are_stepped(offsets):
    """For any order of the layers, as ``∏(C + c_p)`` has none."""
    rng = np.random.default_rng(0)
    u, s, vt = oracles.orthogonal(rng, 3), np.array([1.1, 0.6, 0.2]), oracles.orthogonal(rng, 3)
    frame, force = Frame(u, s, vt, RelaxedDepthKernel(offsets)), 0.1 * rng.standard_normal((3, 3))
    weights = layers(u, s, vt, offsets, rng)
    stepped = multiplied([w + g for w, g in zip(weights, gradients(weights, force), strict=True)])
    end = retract(frame, frame.split(frame.cometric(force)))
    np.testing.assert_allclose(oracles.dense(*end), stepped, atol=1e-14)


@pytest.mark.parametrize(("shape", "offsets"), [((4, 3), [0.7, 1.3, 0.0]), ((3, 4), [0.0, 1.3, 0.7])])
def test_the_outer_layer_without_offset_moves_the_null_space(shape, offsets):
    rng = np.random.default_rng(0)
    u, s, vt = oracles.factors(rng, *shape, np.array([1.1, 0.6, 0.2]))
    frame, force = Frame(u, s, vt, RelaxedDepthKernel(offsets)), 0.1 * rng.standard_normal(shape)
    weights = layers(u, s, vt, offsets, rng)
    stepped = multiplied([w + g for w, g in zip(weights, gradients(weights, force), strict=True)])
    end = retract(frame, frame.split(frame.cometric(force)))
    np.testing.assert_allclose(oracles.dense(*end), stepped, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "rank", "offsets"),
    [
        ((3, 3), 3, [0.0, 0.5, 0.0, 1.3]),
        ((5, 4), 2, [0.0, 0.5, 0.0, 1.3]),
        # One outer layer has an offset: the other one, on the side of the null space, must have none.
        ((4, 3), 3, [0.0, 0.5, 1.3]),
        ((3, 4), 3, [0.0, 0.5, 1.3]),
    ],
)
@pytest.mark.parametrize("normalized", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_retraction_is_of_second_order(shape, rank, offsets, normalized):
    kernel = RelaxedDepthKernel(offsets, normalized)
    space = FixedRank(*shape, rank, kernel=kernel, rng=0)
    x = space.random_point()
    v = space.random_tangent_vector(x)
    steps, errors = 0.02 * 0.5 ** np.arange(2), []
    for step in steps:
        end, exact = (f(x, step * v) for f in (space.retraction, space.exp))
        errors.append(np.linalg.norm(oracles.dense(*end) - oracles.dense(*exact)))
    slope, _ = np.polyfit(np.log(steps), np.log(errors), 1)
    assert slope == pytest.approx(3, abs=0.1)


def test_options_are_checked():
    for offsets in ([], [0.0, math.nan], [math.inf, 0.0], [-1.7e308, 1.7e308], [[0.0, 1.0], [2.0, 3.0]]):
        with pytest.raises(ValueError, match="offsets must"):
            RelaxedDepthKernel(offsets)
    assert repr(RelaxedDepthKernel([2, 1])) == "RelaxedDepthKernel(offsets=[1.0, 0.0], normalized=False)"
