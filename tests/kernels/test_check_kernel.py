"""What check_kernel finds in kernels with one error each, and what plugging them in says."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from user_kernels import Offset

import dlngeo
from dlngeo import DepthKernel, Kernel, check_kernel
from dlngeo.errors import KernelError, SingularError
from dlngeo.geomstats import SpectralMetric
from dlngeo.kernels import of_depth
from dlngeo.matrices.frame import Frame
from dlngeo.pymanopt import FixedRank


def kernel(base=Kernel, **functions):
    """A kernel of the given functions; what else it needs is that of a class."""
    members = {name: lambda self, *values, f=f: f(*values) for name, f in functions.items()}
    return type("Given", (base,), members)()


class Quadratic(Kernel):
    """``φ = s² + t²`` with all its differences."""

    def __call__(self, s, t):
        return s**2 + t**2

    def divided_difference(self, r, s, t):
        return 1 + 0 * (r + s + t)

    def second_divided_difference(self, r, s, t, u):
        return 0 * (r + s + t + u)

    def mixed_divided_difference(self, q, r, s, t):
        return 0 * (q + r + s + t)


class SaysDepth(Kernel):
    depth = 3.0

    def __call__(self, s, t):
        return s + t


class WrongThird(DepthKernel):
    def third_divided_difference(self, q, r, s, t):
        return 2 * super().third_divided_difference(q, r, s, t)


WRONG_AT_COINCIDENCE = kernel(Quadratic, divided_difference=lambda r, s, t: np.where(s == t, 0.0, 1.0) + 0 * r)
OF_ORDER_TWO = ("second_divided_difference", "mixed_divided_difference")
WRONG = {
    "factor": (
        kernel(Quadratic, divided_difference=lambda r, s, t: 2 + 0 * (r + s + t)),
        "divided_difference",
        "is 2 instead of 1",
    ),
    "coincidence": (WRONG_AT_COINCIDENCE, "divided_difference", "is 0 instead of 1"),
    **{
        name: (kernel(Quadratic, **{name: lambda *values: 0.01 + 0 * sum(values)}), name, "is 0.01 instead of")
        for name in OF_ORDER_TWO
    },
    "number": (kernel(__call__=lambda s, t: 1.0), "shape", "returns a number, 1.0"),
    "number of difference": (
        kernel(Quadratic, divided_difference=lambda r, s, t: 1.0),
        "shape",
        "divided_difference returns a number",
    ),
    "of numbers": (kernel(__call__=math.hypot), "shape", "raises TypeError at arrays"),
    "skewed": (kernel(__call__=lambda s, t: s**2 + 1.1 * t**2), "symmetry", "φ(t, s)"),
    "negative": (kernel(__call__=lambda s, t: 1 - s * t), "positivity", "φ(s, t) is 0 at (s, t) = (1.0, 1.0)"),
    "NaN": (kernel(__call__=lambda s, t: (s**2 - t**2) / (s - t)), "positivity", "is nan"),
    "depth": (SaysDepth(), "depth 3", "instead of"),
    "third": (WrongThird(3), "third_divided_difference", "instead of"),
}
over_wrong = pytest.mark.parametrize(("kernel", "name", "finding"), WRONG.values(), ids=WRONG)


@over_wrong
def test_what_is_wrong_is_found_and_named(kernel, name, finding):
    report = check_kernel(kernel)
    assert not report
    assert [p.name for p in report.failures] == [name]
    assert finding in str(report)
    assert f"{name}: FAILED" in str(report)


@over_wrong
def test_a_wrong_kernel_is_not_plugged_in(kernel, name, finding):
    for plug in (
        lambda: SpectralMetric(GeneralLinear(3, equip=False), kernel),
        lambda: FixedRank(5, 4, 2, kernel=kernel),
    ):
        with pytest.raises(KernelError, match=f"{name} fails"):
            plug()


def test_a_kink_is_named():
    assert check_kernel(kernel(__call__=np.maximum)).failures[0].name == "smoothness"


def test_the_page_on_kernels_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    exec(compile(re.search(r"```python\n(.*?)```", page, flags=re.S)[1], "docs/kernels.md", "exec"), {})
    assert "kernel PowerOfMean(theta=1.5): ok" in capsys.readouterr().out


def test_the_place_of_an_error_is_a_plain_one():
    (found,) = check_kernel(WRONG_AT_COINCIDENCE).failures
    assert found.finding.endswith("at (r, s, t) = (1.0, 1.0, 1.0)")
    assert found.error > 1e6


@pytest.mark.parametrize("depth", [1, 1.01, 1.5, 2, 3, 7, 64, 1000, math.inf])
def test_the_kernels_of_the_network_pass(depth):
    for normalized in (False, True):
        report = check_kernel(of_depth(depth, normalized))
        assert report, report
    assert {"float32", "third_divided_difference", f"depth {depth:g}"} <= {p.name for p in report.properties}


def test_kernels_of_other_kinds_pass():
    rough, inverse = kernel(__call__=lambda s, t: 1 + s * t), kernel(__call__=lambda s, t: 1 / (0.1 + s + t))
    for right in (Quadratic(), rough, inverse, Offset(0.01)):
        report = check_kernel(right)
        assert report, report
        assert FixedRank(5, 4, 2, kernel=right).kernel is right
    assert dlngeo.check_kernel is check_kernel


def test_a_wrong_library_is_found():
    pytest.importorskip("torch")

    class Boastful(Quadratic):
        array_api = True

        def __call__(self, s, t):
            return np.square(np.asarray(s)) + np.square(np.asarray(t))

    (found,) = check_kernel(Boastful()).failures
    assert (found.name, "ndarray, not Tensor" in found.finding) == ("PyTorch", True)


def test_no_kernel_at_all_is_a_type_error():
    for call in (check_kernel, lambda k: FixedRank(3, 3, 2, kernel=k)):
        with pytest.raises(TypeError, match=r"kernel must be a dlngeo.Kernel, got function"):
            call(lambda s, t: s + t)


class Patchy(Kernel):
    """Wrong at one value alone, which no check can know."""

    def __init__(self, value):
        self.value = value

    def __call__(self, s, t):
        return np.where((s == 0.625) | (t == 0.625), self.value, s + t)


@pytest.mark.parametrize("value", [math.nan, -1.0, 0.0])
def test_at_a_point_the_kernel_is_blamed_for_its_values_and_the_matrix_for_its_own(value):
    x = np.diag([2.0, 0.625])
    with pytest.raises(KernelError, match=r"φ\(2, 0.625\) is (nan|-1|0), but must be positive"):
        Frame.at(x, Patchy(value)).inner(x, x)
    with pytest.raises(SingularError, match="infinite at a singular matrix"):
        Frame.at(np.diag([2.0, 0.0]), Patchy(value)).inner(x, x)
    with pytest.raises(SingularError, match="infinite at a singular matrix"):
        Frame.at(np.diag([2.0, 1e-300]), DepthKernel(64)).inner(x, x)  # where φ is below the least double


def test_null_directions_blame_the_kernel_too():
    nan_at_zero = kernel(__call__=lambda s, t: np.where((s == 0) | (t == 0), np.nan, s + t))
    x = np.ones((3, 2)) + np.eye(3, 2)
    with pytest.raises(KernelError, match=r"φ\(0, "):
        Frame.at(x, nan_at_zero).inner(x, x)
    with pytest.raises(KernelError, match="positivity"):
        FixedRank(3, 2, 2, kernel=nan_at_zero)
    assert FixedRank(3, 3, 3, kernel=nan_at_zero).dim == 9  # where no singular value vanishes
