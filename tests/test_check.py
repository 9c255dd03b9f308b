"""Validation: what passes is converted, what fails is named with its value and a remedy."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse

from dlngeo import _check


@pytest.mark.parametrize("value", [1, 2.5, np.int64(3), np.float32(2), Fraction(7, 2)])
def test_depth_accepts_real_numbers(value):
    result = _check.depth(value)
    assert type(result) is float
    assert result == value


def test_infinite_depth_needs_permission():
    assert _check.depth(math.inf, allow_infinite=True) == math.inf
    with pytest.raises(ValueError, match="InfiniteDepthKernel"):
        _check.depth(math.inf)
    with pytest.raises(ValueError, match="at least 1"):
        _check.depth(-math.inf, allow_infinite=True)


@pytest.mark.parametrize("value", [True, np.True_, "2", None, 2j, [2], np.array([2.0])])
def test_depth_rejects_other_types(value):
    with pytest.raises(TypeError, match="depth must be a real number"):
        _check.depth(value)


@pytest.mark.parametrize("value", [math.nextafter(1, 0), 0, -1, math.nan])
def test_depth_rejects_less_than_one(value):
    with pytest.raises(ValueError, match=r"at least 1.*Frobenius"):
        _check.depth(value)


def test_positive_integer():
    assert _check.positive_integer(np.int32(4), "steps") == 4
    assert type(_check.positive_integer(np.int32(4), "steps")) is int
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        _check.positive_integer(0, "steps")
    for value in (1.0, "1", None, True):
        with pytest.raises(TypeError, match="steps must be an integer"):
            _check.positive_integer(value, "steps")


def test_integers_with_a_bound():
    assert _check.integer(np.int8(0), "seed", 0) == 0
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        _check.integer(-1, "seed", 0)
    with pytest.raises(ValueError, match="width must be at least 3, got 2"):
        _check.integer(2, "width", 3)
    with pytest.raises(TypeError, match="seed must be an integer, got True"):
        _check.integer(True, "seed", 0)


def test_rank():
    assert _check.rank(2, 3, 2) == 2
    with pytest.raises(ValueError, match=r"rank 3 exceeds min\(m, n\) = 2 of a 3×2 matrix"):
        _check.rank(3, 3, 2)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        _check.rank(0, 3, 2)
    with pytest.raises(TypeError, match="rank must be an integer"):
        _check.rank(1.5, 3, 2)


def test_shapes_and_offsets():
    assert _check.shape([np.int64(3), 2]) == (3, 2)
    for value in (3, "ab", (3,), (3, 2, 1)):
        with pytest.raises(ValueError, match="shape must be a pair"):
            _check.shape(value)
    with pytest.raises(TypeError, match=r"the number of rows must be an integer, got 2\.5"):
        _check.shape((2.5, 3))
    assert _check.offsets(iter([1, -2.5])).tolist() == [1.0, -2.5]
    for value in ([], 3.0, [[0, 1], [2, 3]], [0, math.nan]):
        with pytest.raises(ValueError, match="offsets must be one or more finite numbers"):
            _check.offsets(value)
    with pytest.raises(ValueError, match="offsets must be 3 finite numbers"):
        _check.offsets([0, 1], 3)
    for value in ("12", ["a", "b"], None, [1j, 0]):
        with pytest.raises(TypeError, match="offsets must be real numbers"):
            _check.offsets(value)


def test_fields():
    assert _check.field("complex") == "complex"
    for value in ("quaternion", None, np.array(["real", "complex"])):
        with pytest.raises(ValueError, match="field must be"):
            _check.field(value)


def test_floating_takes_the_type_of_the_arrays():
    xp, a, b = _check.floating([1, 2], 3)
    assert a.dtype == b.dtype == np.float64
    _, a, b, c = _check.floating(np.float32([1]), 2, np.array([3]))
    assert a.dtype == b.dtype == c.dtype == np.float32
    _, a, b = _check.floating(np.array([1]), np.array([2.0], dtype=np.float32))
    assert a.dtype == b.dtype == np.float32
    with pytest.raises(TypeError, match=r"must be real numbers, got an array of complex64"):
        _check.floating(np.complex64(1))
    array = np.ones(3)
    assert _check.floating(array)[1] is array
    assert xp.asarray(1.0).dtype == np.float64


def test_floating_takes_the_namespace_of_the_arrays():
    torch = pytest.importorskip("torch")
    xp, a, b = _check.floating(torch.ones(2, dtype=torch.float32), 2.0)
    assert isinstance(b, torch.Tensor)
    assert a.dtype == b.dtype == torch.float32
    assert xp.asarray(1.0).dtype == torch.float32
    assert _check.floating(torch.ones(2, dtype=torch.int64))[1].dtype == torch.float64


def test_singular_values():
    xp, a, b = _check.singular_values([0, 1], np.array([5e-324, 1e308]))
    np.testing.assert_array_equal(a, [0, 1])
    np.testing.assert_array_equal(b, [5e-324, 1e308])
    assert xp.sum(a) == 1
    for bad in (-5e-324, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=rf"non-negative, got {bad}; take them from an SVD"):
            _check.singular_values(1.0, [2.0, bad])


def test_finite():
    _check.finite(np, np.ones(3), "the point")
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=r"the point holds NaN or infinite.*remove or replace"):
            _check.finite(np, np.array([1.0, bad]), "the point")


def test_what_a_function_returns_is_an_array_of_its_shape_and_type():
    array = np.arange(6.0).reshape(2, 3)
    assert _check.returned(array, (2, 3), "the gradient") is array
    for value in ([[1, 2]], np.array([[1, 2]], dtype=np.int8), np.array([[1, 2]], dtype=np.float32)):
        out = _check.returned(value, (1, 2), "the gradient")
        assert out.dtype == np.float64
        assert out.tolist() == [[1.0, 2.0]]
    assert _check.returned(np.float32(2), (), "the cost", dtype=None).dtype == np.float32
    assert _check.returned(3, (), "the cost", dtype=None).dtype == np.float64
    assert np.isnan(_check.returned(math.nan, (), "the cost", finite=False))


@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_array([1.0, 2.0], mask=[False, True]),
        np.array([1.0 + 0j, 2.0]),
        np.array([1.0, None]),
        ["1", "2"],
        [[1.0], [1.0, 2.0]],
        None,
        lambda x: x,
        scipy.sparse.csr_array([[1.0, 2.0]]),
    ],
    ids=["masked", "complex", "object", "text", "ragged", "None", "function", "sparse"],
)
def test_what_is_no_array_of_real_numbers_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"^the gradient must be (real numbers|an array), got "):
        _check.returned(value, (2,), "the gradient")


def test_a_tensor_that_requires_a_gradient_is_refused_by_name():
    torch = pytest.importorskip("torch")
    assert _check.returned(torch.ones(2), (2,), "the gradient").tolist() == [1, 1]
    with pytest.raises(TypeError, match=r"the gradient must be real numbers, got Tensor: .*detach"):
        _check.returned(torch.ones(2, requires_grad=True), (2,), "the gradient")


@pytest.mark.parametrize("shape", [(), (1,), (3,), (3, 1), (1, 3, 2), (2, 3)])
def test_nothing_is_broadcast(shape):
    with pytest.raises(ValueError, match=r"the gradient has shape \(.*\); expected \(3, 2\)\. Each row apart\."):
        _check.returned(np.ones(shape), (3, 2), "the gradient", remedy="Each row apart.")
    with pytest.raises(ValueError, match=r"expected \(3, 2\)\. Nothing is broadcast"):
        _check.returned(np.ones(shape), (3, 2), "the gradient")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_its_place(bad):
    with pytest.raises(ValueError, match=rf"the gradient holds NaN or infinite entries, the first {bad} at \(1, 0\)"):
        _check.returned(np.array([[1.0, 2.0], [bad, bad]]), (2, 2), "the gradient")
    with pytest.raises(ValueError, match=rf"the first {bad} at \(\)"):
        _check.returned(bad, (), "the cost")
