"""φ and ψ against multiple precision, monomial sums and their functional equations."""

import itertools
import math
import warnings

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlngeo
from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel
from dlngeo.kernels import of_depth
from dlngeo.kernels._divided import NEAR

DEPTHS = [1, 1.5, 2, 3, 7, 64, 1000, math.inf]
TOLERANCE = 1e-12
ADJACENT = 1 + 2.0**-52

# Ratios of two singular values: adjacent doubles, the gap at which series and quotient meet, and the full range.
RATIOS = [1.0, ADJACENT, 1 + 1e-15, 1 + 1e-12, 1 + 1e-8, 1 + 1e-5, 1.001, 1 + NEAR / 2, math.exp(NEAR / 2)]
RATIOS += [1.01, 1.1, 2.0, 10.0, 1e4, 1e8, 1e30, 1e150, 1e300]
LARGEST = [1e150, 1.7e75, 3.3, 1.0, 0.11, 1e-75, 1e-150]


def pairs():
    for large, ratio in itertools.product(LARGEST, RATIOS):
        if large / ratio >= 0.999e-150:
            yield large, large / ratio
        if large * ratio <= 1.001e150:
            yield large, large * ratio
    for s in LARGEST:
        yield s, np.nextafter(s, 0)  # a ratio of 1 + 1.1e-16
        yield s, 0.0
    yield 0.0, 0.0


def triples():
    ratios = [1.0, ADJACENT, 1 + 1e-12, 1 + 1e-7, 1.003, 1.02, 2.7, 1e8, 1e150, 1e300]
    for x, p, q in itertools.product([1e150, 1.0, 1e-150], ratios, ratios):
        y, z = x / p, x / p / q
        if z >= 0.999e-150:
            yield x, y, z
    for x, p in itertools.product([1e150, 0.7, 1e-150], ratios):
        if x / p >= 0.999e-150:
            yield x, x / p, 0.0
        yield x, 0.0, 0.0


def assert_accurate(values, exact, arguments):
    errors = np.array([oracles.relative_error(v, e) for v, e in zip(values, exact, strict=True)])
    worst = int(np.argmax(errors))
    assert errors[worst] < TOLERANCE, (
        f"relative error {errors[worst]:.1e} at {tuple(map(float, arguments[worst]))}: "
        f"{values[worst]!r} instead of {float(exact[worst])!r}"
    )


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("depth", DEPTHS)
def test_phi_against_multiple_precision(depth, normalized):
    arguments = list(dict.fromkeys(pairs()))
    s, t = np.array(arguments).T
    with np.errstate(over="raise", divide="raise", invalid="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        values = of_depth(depth, normalized)(s, t)
    assert_accurate(values, [oracles.phi(a, b, depth, normalized) for a, b in arguments], arguments)


@pytest.mark.parametrize("depth", [*DEPTHS, 1.1, 4, 5])
def test_psi_against_multiple_precision(depth):
    arguments = list(dict.fromkeys(triples()))
    exact = [oracles.psi(x, y, z, depth) for x, y, z in arguments]
    r, s, t = np.array(arguments).T
    kernel = of_depth(depth)
    with np.errstate(divide="raise", invalid="raise", over="ignore"):
        values = kernel.divided_difference(r, s, t)
        assert_accurate(values, exact, arguments)
        # the other two places of r among the sorted values: no new definition is needed where ψ is symmetric
        for order in ((1, 0, 2), (2, 0, 1)):
            permuted = [tuple(a[i] for i in order) for a in arguments]
            values = kernel.divided_difference(*np.array(permuted).T)
            assert_accurate(values, [oracles.psi(*a, depth) for a in permuted], permuted)


@pytest.mark.parametrize("depth", DEPTHS)
def test_psi_warns_of_nothing_where_the_result_is_representable(depth):
    arguments = [a for a in triples() if oracles.psi(*a, depth) < oracles.HUGE]
    with np.errstate(over="raise", divide="raise", invalid="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        values = of_depth(depth).divided_difference(*np.array(arguments).T)
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize(("r", "t"), [(1.5e4, 1e-150), (3e4, 1e-150), (1e5, 1e-150), (1e150, 1e-5)])
def test_the_scale_of_psi_may_overflow_where_psi_does_not(r, t):
    """At infinite depth ``ψ_r(t, t) ≈ r²/(2t log(r/t))²``, a millionth of the scale ``r²/t²`` that it is made of."""
    exact = oracles.psi(r, t, t, math.inf)
    assert 1e302 < exact < oracles.HUGE
    assert oracles.relative_error(InfiniteDepthKernel().divided_difference(r, t, t), exact) < TOLERANCE


@pytest.mark.parametrize("depth", [1.03, 1.5, 2, 3, 64, math.inf])
def test_psi_loses_little_to_cancellation_on_both_sides_of_the_threshold(depth):
    """At singular values near 1 nothing but the series and the quotient can lose digits."""
    kernel = of_depth(depth)
    for gap in np.geomspace(1e-5, 1 / 16, 40):
        z = math.exp(-gap / 2)
        arguments = [(1.0, y, z) for y in (1.0, 1 - 0.9 * (1 - z), (1 + z) / 2, z)]
        arguments += [(z, 1.0, y) for _, y, _ in arguments]
        errors = [oracles.relative_error(kernel.divided_difference(*a), oracles.psi(*a, depth)) for a in arguments]
        assert max(errors) < (2e-15 if gap < 0.9 * NEAR else 2e-13)


@pytest.mark.parametrize("depth", [1.5, 3, 64])
def test_normalized_psi_against_multiple_precision(depth):
    arguments = [(1.0, 2.0, 3.0), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 1.0, 1e100), (1e-100, 1.0, 0.0)]
    values = DepthKernel(depth, normalized=True).divided_difference(*np.array(arguments).T)
    assert_accurate(values, [oracles.psi(*a, depth, normalized=True) for a in arguments], arguments)


singular_value = st.one_of(
    st.floats(1e-150, 1e150),
    st.floats(-150, 150).map(lambda e: 10.0**e),
    st.floats(0.5, 2.0),
)
real_depth = st.one_of(st.floats(1, 4), st.floats(0, 3).map(lambda e: 10.0**e), st.sampled_from(DEPTHS))


@st.composite
def near_triples(draw):
    """Three singular values of which some are equal or agree in up to sixteen digits."""
    x = draw(singular_value)
    gap = st.one_of(st.just(0.0), st.floats(-16, 0).map(lambda e: 10.0**e))
    y = min(max(x * (1 + draw(gap)), 1e-150), 1e150)
    z = min(max(draw(st.sampled_from([x, y])) * (1 - draw(gap) / 2), 1e-150), 1e150)
    return draw(st.permutations([x, y, z]))


@given(near_triples(), real_depth)
@settings(max_examples=400)
def test_psi_of_nearly_equal_values_against_multiple_precision(triple, depth):
    exact = oracles.psi(*triple, depth)
    with np.errstate(over="ignore"):
        value = of_depth(depth).divided_difference(*triple)
    assert oracles.relative_error(value, exact) < TOLERANCE


@given(singular_value, singular_value, singular_value, real_depth)
@settings(max_examples=200)
def test_phi_and_psi_of_any_values_against_multiple_precision(r, s, t, depth):
    kernel = of_depth(depth)
    assert oracles.relative_error(kernel(s, t), oracles.phi(s, t, depth)) < TOLERANCE
    with np.errstate(over="ignore"):
        value = kernel.divided_difference(r, s, t)
    assert oracles.relative_error(value, oracles.psi(r, s, t, depth)) < TOLERANCE


@pytest.mark.parametrize("depth", [1 + 1e-12, 1 + 1e-6, 1.03, 1e6, 1e12])
def test_depths_near_one_and_very_deep(depth):
    arguments = [(1.0, 2.0, 3.0), (2.0, 1.0, 1.0 + 1e-9), (1.0, 1.0, 1.0), (1e-150, 1e150, 1.0), (0.5, 3.0, 0.0)]
    kernel = DepthKernel(depth, normalized=True)
    r, s, t = np.array(arguments).T
    assert_accurate(kernel(r, s), [oracles.phi(a, b, depth, True) for a, b, _ in arguments], arguments)
    assert_accurate(
        kernel.divided_difference(r, s, t), [oracles.psi(*a, depth, normalized=True) for a in arguments], arguments
    )


@pytest.mark.parametrize("s", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("t", [1e-300, 1e-20, 1.0, 1e290])
def test_squares_that_overflow_do_no_harm_where_the_result_is_representable(s, t):
    """At depth 1.5 the kernel grows only like ``s^{2/3}``."""
    assert oracles.relative_error(DepthKernel(1.5)(s, t), oracles.phi(s, t, 1.5)) < TOLERANCE


@pytest.mark.parametrize(("s", "t"), [(1e150, 1e-250), (1e150, 1e-170), (1e100, 5e-324)])
@pytest.mark.parametrize("depth", [1000, math.inf])
def test_ratios_beyond_the_range_of_doubles(depth, s, t):
    kernel = of_depth(depth)
    assert oracles.relative_error(kernel(s, t), oracles.phi(s, t, depth)) < TOLERANCE
    assert oracles.relative_error(kernel.divided_difference(1.0, s, t), oracles.psi(1.0, s, t, depth)) < TOLERANCE


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 64])
def test_monomial_sums(depth, rng):
    r, s, t = np.exp(rng.uniform(-3, 3, (3, 50)))
    s[:10] = t[:10]
    r[5:15] = s[5:15]
    kernel = DepthKernel(depth)
    np.testing.assert_allclose(kernel(s, t), oracles.phi_monomials(s, t, depth), rtol=1e-13)
    expected = oracles.psi_monomials(r, s, t, depth) if depth > 1 else np.zeros(50)
    np.testing.assert_allclose(kernel.divided_difference(r, s, t), expected, rtol=TOLERANCE)


@given(singular_value, singular_value, singular_value, real_depth)
@settings(max_examples=150)
def test_functional_equations(r, s, t, depth):
    kernel = of_depth(depth)
    assert kernel(s, t) == kernel(t, s) > 0
    with np.errstate(over="ignore", under="ignore"):
        psi = kernel.divided_difference(r, s, t)
        assert psi == kernel.divided_difference(r, t, s)
        assert psi >= 0
        factor = 2.0**10  # exact, so that the ratios stay the same doubles
        if max(r, s, t) < 1e140:
            exponent = 0.0 if math.isinf(depth) else 2 / depth
            expected = factor ** (2 - exponent) * kernel(s, t)
            assert kernel(factor * s, factor * t) == pytest.approx(expected, rel=1e-12)
            if 1e-290 < psi < 1e290:
                scaled = kernel.divided_difference(factor * r, factor * s, factor * t)
                assert scaled == pytest.approx(factor**-exponent * psi, rel=1e-12)


@pytest.mark.parametrize("depth", DEPTHS)
def test_phi_lies_between_its_diagonal_values_and_increases(depth):
    """``φ/N`` is a mean of ``s^{2−2/N}`` and ``t^{2−2/N}``, hence monotone and between them."""
    kernel = of_depth(depth, normalized=True)
    s = np.geomspace(1e-6, 1e6, 61)
    phi, diagonal = kernel(s[:, None], s[None, :]), kernel(s, s)
    low, high = np.minimum(diagonal[:, None], diagonal), np.maximum(diagonal[:, None], diagonal)
    assert np.all(phi >= low * (1 - 1e-13))
    assert np.all(phi <= high * (1 + 1e-13))
    assert np.all(np.diff(phi, axis=0) > 0) or depth == 1


def test_normalized_depth_tends_to_infinite_depth_at_first_order():
    s, t = np.geomspace(1e-3, 10, 20)[:, None], np.geomspace(2e-3, 7, 15)[None, :]
    limit = InfiniteDepthKernel()
    for call, expected in (
        (lambda k: k(s, t), limit(s, t)),
        (lambda k: k.divided_difference(0.3, s, t), limit.divided_difference(0.3, s, t)),
    ):
        errors = [np.max(np.abs(call(DepthKernel(n, normalized=True)) / expected - 1)) for n in (1e3, 1e4, 1e5)]
        np.testing.assert_allclose(np.log10(np.divide(errors[:-1], errors[1:])), 1, atol=0.02)


def test_closed_values_at_zero():
    s = np.array([1e-150, 0.3, 2.0, 1e150])
    for depth in (1.5, 2, 3, 64):
        kernel = DepthKernel(depth)
        np.testing.assert_allclose(kernel(s, 0), s ** (2 - 2 / depth), rtol=1e-13)
        np.testing.assert_allclose(kernel(s, s), depth * s ** (2 - 2 / depth), rtol=1e-13)
        np.testing.assert_allclose(kernel.divided_difference(0, s, 0), s ** (-2 / depth), rtol=1e-13)
        assert kernel(0, 0) == 0
        assert np.all(kernel.divided_difference([0, 1.0], 0, 0) == math.inf)
    limit = InfiniteDepthKernel()
    assert np.all(limit(s, 0) == 0)
    assert limit(0, 0) == 0
    np.testing.assert_array_equal(limit.divided_difference(0, s, 2 * s), 0)
    assert np.all(DepthKernel(1)([0, 1, 2.0], 0) == 1)
    assert np.all(DepthKernel(1).divided_difference([0, 1, 2.0], 0, 0) == 0)


def test_shapes_broadcast_and_plain_numbers_are_taken():
    kernel = DepthKernel(3)
    s, t, r = np.ones((4, 1, 1)), np.full((3, 1), 2.0), np.full(2, 3.0)
    assert kernel(s, t).shape == (4, 3, 1)
    assert kernel.divided_difference(r, s, t).shape == (4, 3, 2)
    for depth_one in (DepthKernel(1), DepthKernel(1.0)):
        assert depth_one(s, t).shape == (4, 3, 1)
        assert depth_one.divided_difference(r, s, t).shape == (4, 3, 2)
    assert kernel(1, 8) == pytest.approx(63 / 3)
    assert kernel([1, 8], 8)[0] == pytest.approx(63 / 3)
    assert kernel(np.array([1, 8]), np.array(8)).dtype == np.float64
    assert kernel(np.ones(0), np.ones(0)).shape == (0,)


def test_single_precision_stays_single_and_accurate():
    s = np.float32([1e-10, 0.5, 0.5000001, 1, 3e9, 0])
    for depth in (2, 3, 64, math.inf):
        kernel = of_depth(depth)
        phi = kernel(s[:, None], s[None, :])
        psi = kernel.divided_difference(s[:, None, None], s[:, None], s)
        assert phi.dtype == psi.dtype == np.float32
        wide = s.astype(float)
        expected = kernel.divided_difference(wide[:, None, None], wide[:, None], wide)
        np.testing.assert_allclose(phi, kernel(wide[:, None], wide[None, :]), rtol=1e-5)
        fits = (expected < 1e38) & (expected > 1e-37)
        np.testing.assert_allclose(psi[fits], expected[fits], rtol=1e-4)


@pytest.mark.parametrize("depth", DEPTHS)
def test_torch_agrees_with_numpy(depth):
    torch = pytest.importorskip("torch")
    kernel = of_depth(depth)
    arguments = np.array([a for a in triples() if oracles.psi(*a, depth) < 1e290]).T
    phi, psi = kernel(*arguments[1:]), kernel.divided_difference(*arguments)
    r, s, t = map(torch.from_numpy, arguments)
    assert kernel(s, t).dtype == torch.float64
    np.testing.assert_allclose(kernel(s, t).numpy(), phi, rtol=1e-12)
    np.testing.assert_allclose(kernel.divided_difference(r, s, t).numpy(), psi, rtol=1e-12, atol=1e-307)
    assert kernel(torch.ones(3, dtype=torch.float32), 2.0).dtype == torch.float32


# Second and mixed divided differences.

HIGHER_DEPTHS = [1, 1 + 1e-8, 1.1, 1.5, 2, 2 + 1e-6, 2.5, 3, 4, 8, 50, 1000, math.inf]


def quadruples():
    """Values over ratios to 1e6 that coincide, nearly coincide, or lie on both sides of where the series take over."""
    random = np.random.default_rng(7)
    out = [
        (1.0, 1.0, 1.0, 1.0),
        (1e-3, 1e3, 1.0, 1e3),
        (1.0, 1.0 + 1e-15, 1e-6, 1.0),
        (2.0, 2.0, 3.0, 3.0),
        (2.0, 3.0, 2.0, 3.0),
    ]
    for _ in range(120):
        values = [10 ** random.uniform(-3, 3)]
        for kind in random.integers(4, size=3):
            base = values[random.integers(len(values))]
            far = math.expm1(-random.uniform(0, 13.8))
            values.append(base * (1 + (0.0, 10 ** random.uniform(-16, 0), random.uniform(-0.4, 0.4), far)[kind]))
        out.append(tuple(random.permutation(values)))
    return out


def exact_differences(values, depth):
    """Both differences by their defining quotients, at values moved apart by 1e-25."""
    with oracles.mpmath.workdps(160):
        step = oracles.mpmath.mpf(10) ** -25
        q, r, s, t = (oracles.mpmath.mpf(float(v)) * (1 + n * step) for n, v in enumerate(values))

        def phi(a, b):
            return oracles.mpmath.mpf(1) if depth == 1 else oracles._mp_phi(a, b, depth)

        def psi(a, b, c):
            return (phi(a, c) - phi(a, b)) / (c**2 - b**2)

        return (psi(q, r, t) - psi(q, r, s)) / (t**2 - s**2), (psi(r, s, t) - psi(q, s, t)) / (r**2 - q**2)


@pytest.mark.parametrize("depth", HIGHER_DEPTHS)
def test_second_and_mixed_differences_against_multiple_precision(depth):
    arguments = quadruples()
    exact = [exact_differences(a, depth) for a in arguments]
    kernel = of_depth(depth)
    columns = np.array(arguments).T
    with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        second, mixed = kernel.second_divided_difference(*columns), kernel.mixed_divided_difference(*columns)
    if depth == 1:
        np.testing.assert_array_equal(second, 0)
    else:
        assert_accurate(second, [e[0] for e in exact], arguments)
        assert np.all(second < 0)
    if depth in (1, 2):
        np.testing.assert_array_equal(mixed, 0)
    else:
        assert_accurate(mixed, [e[1] for e in exact], arguments)
        assert np.all(mixed * (depth - 2) > 0)


@pytest.mark.parametrize("depth", [1.5, 2, 3, 7.5, math.inf])
def test_second_and_mixed_differences_are_symmetric_homogeneous_and_scaled(depth):
    kernel = of_depth(depth)
    power = 2 if math.isinf(depth) else 2 + 2 / depth
    for q, r, s, t in quadruples()[:30]:
        for call, orders in (
            (kernel.second_divided_difference, itertools.permutations((r, s, t))),
            (kernel.mixed_divided_difference, ()),
        ):
            value = call(q, r, s, t)
            for order in orders:
                assert call(q, *order) == pytest.approx(value, rel=1e-12)
            assert 4.0**power * call(4 * q, 4 * r, 4 * s, 4 * t) == pytest.approx(value, rel=1e-12)
            normalised = kernel if math.isinf(depth) else DepthKernel(depth, normalized=True)
            again = getattr(normalised, call.__name__)(q, r, s, t)
            assert (1 if math.isinf(depth) else depth) * again == pytest.approx(value, rel=1e-14)
        value = kernel.mixed_divided_difference(q, r, s, t)
        for order in ((r, q, s, t), (q, r, t, s), (s, t, q, r)):
            assert kernel.mixed_divided_difference(*order) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 1.2, 1.5, 1.8, 2, 3, 8, math.inf])
def test_second_and_mixed_differences_at_zero_are_quotients_of_first_ones(depth):
    kernel = of_depth(depth)
    psi = kernel.divided_difference
    r, s, t = 1.3, 2.0, 0.7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place in (r, 0.0):
            value = (psi(place, s, t) - psi(place, s, 0)) / t**2
            assert kernel.second_divided_difference(place, s, 0, t) == pytest.approx(value, rel=1e-12)
        value = (psi(0, s, t) - psi(0, s, r)) / (t**2 - r**2)
        assert kernel.second_divided_difference(0, s, r, t) == pytest.approx(value, rel=1e-12)
        for low in (s, 0.0):
            value = (psi(r, low, t) - psi(0, low, t)) / r**2
            assert kernel.mixed_divided_difference(0, r, low, t) == pytest.approx(value, rel=1e-12, abs=1e-16)
        if depth > 1:
            assert kernel.second_divided_difference(r, 0, s, 0) == -math.inf
            expected = 0.0 if depth == 2 else math.copysign(math.inf, depth - 2)
            assert kernel.mixed_divided_difference(0, 0, s, t) == expected


def test_second_and_mixed_differences_broadcast_and_keep_their_type():
    torch = pytest.importorskip("torch")
    columns = np.array(quadruples()[:40]).T
    for depth in (1, 1.5, 2, 3, math.inf):
        kernel = of_depth(depth)
        for call in (kernel.second_divided_difference, kernel.mixed_divided_difference):
            assert call(np.ones((2, 1, 1)), np.ones((3, 1)), 2.0, np.ones(4)).shape == (2, 3, 4)
            assert call(*np.float32([1, 2, 3, 4])).dtype == np.float32
            theirs = call(*map(torch.from_numpy, columns))
            assert theirs.dtype == torch.float64
            np.testing.assert_allclose(theirs.numpy(), call(*columns), rtol=1e-12)


@pytest.mark.parametrize("kernel", [DepthKernel(1), DepthKernel(2.5), InfiniteDepthKernel()])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (-1e-3, ValueError, "non-negative.*-0.001"),
        (math.nan, ValueError, "finite.*nan"),
        (math.inf, ValueError, "finite.*inf"),
        (np.array([1.0, -2.0]), ValueError, "-2.0"),
        (np.array(1j), TypeError, "real.*complex128"),
    ],
)
def test_bad_singular_values_are_named(kernel, bad, error, message):
    with pytest.raises(error, match=message):
        kernel(bad, 1.0)
    with pytest.raises(error, match=message):
        kernel(1.0, bad)
    for place in range(3):
        arguments = [1.0, 2.0, 3.0]
        arguments[place] = bad
        with pytest.raises(error, match=message):
            kernel.divided_difference(*arguments)
    for call in (kernel.second_divided_difference, kernel.mixed_divided_difference):
        with pytest.raises(error, match=message):
            call(1.0, 2.0, bad, 4.0)


@pytest.mark.parametrize(
    ("depth", "error", "message"),
    [
        (0.5, ValueError, "at least 1, got 0.5"),
        (0, ValueError, "at least 1"),
        (-3, ValueError, "at least 1"),
        (math.nan, ValueError, "at least 1, got nan"),
        (-math.inf, ValueError, "at least 1"),
        (math.inf, ValueError, "use InfiniteDepthKernel"),
        (True, TypeError, "depth must be a real number, got True"),
        ("3", TypeError, "got '3' of type str"),
        (None, TypeError, "NoneType"),
        (2 + 0j, TypeError, "complex"),
    ],
)
def test_bad_depths_are_named(depth, error, message):
    with pytest.raises(error, match=message):
        DepthKernel(depth)


def test_kernels_tell_what_they_are():
    assert repr(DepthKernel(2.5, normalized=True)) == "DepthKernel(depth=2.5, normalized=True)"
    assert repr(InfiniteDepthKernel()) == "InfiniteDepthKernel()"
    assert InfiniteDepthKernel().depth == math.inf
    assert DepthKernel(np.int64(3)).depth == DepthKernel(np.float32(3)).depth == 3
    assert dlngeo.Kernel is Kernel
    assert isinstance(DepthKernel(2), Kernel)
    with pytest.raises(TypeError):
        Kernel()
