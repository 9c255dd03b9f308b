"""What check_kernel finds in kernels with one error each, and what plugging them in says."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear

import dlngeo
from dlngeo import DepthKernel, Kernel, check_kernel
from dlngeo.errors import KernelError, SingularError
from dlngeo.geomstats import SpectralMetric
from dlngeo.kernels import of_depth
from dlngeo.matrices.frame import Frame
from dlngeo.pymanopt import FixedRank


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


class WrongFactor(Quadratic):
    def divided_difference(self, r, s, t):
        return 2 + 0 * (r + s + t)


class WrongAtCoincidence(Quadratic):
    def divided_difference(self, r, s, t):
        return np.where(s == t, 0.0, 1.0) + 0 * r


class WrongSecond(Quadratic):
    def second_divided_difference(self, r, s, t, u):
        return 0.01 + 0 * (r + s + t + u)


class WrongMixed(Quadratic):
    def mixed_divided_difference(self, q, r, s, t):
        return 0.01 + 0 * (q + r + s + t)


class Number(Kernel):
    def __call__(self, s, t):
        return 1.0


class NumberOfDifference(Quadratic):
    def divided_difference(self, r, s, t):
        return 1.0


class Skewed(Kernel):
    def __call__(self, s, t):
        return s**2 + 1.1 * t**2


class Negative(Kernel):
    def __call__(self, s, t):
        return 1 - s * t


class Nan(Kernel):
    def __call__(self, s, t):
        return (s**2 - t**2) / (s - t)


class Kink(Kernel):
    def __call__(self, s, t):
        return np.maximum(s, t)


class SaysDepth(Kernel):
    depth = 3.0

    def __call__(self, s, t):
        return s + t


class WrongThird(DepthKernel):
    def third_divided_difference(self, q, r, s, t):
        return 2 * super().third_divided_difference(q, r, s, t)


WRONG = [
    (WrongFactor(), "divided_difference", "is 2 instead of 1"),
    (WrongAtCoincidence(), "divided_difference", "is 0 instead of 1"),
    (WrongSecond(), "second_divided_difference", "is 0.01 instead of"),
    (WrongMixed(), "mixed_divided_difference", "is 0.01 instead of"),
    (Number(), "shape", "returns a number, 1.0"),
    (NumberOfDifference(), "shape", "divided_difference returns a number"),
    (Skewed(), "symmetry", "φ(t, s)"),
    (Negative(), "positivity", "φ(s, t) is 0 at (s, t) = (1.0, 1.0)"),
    (Nan(), "positivity", "is nan"),
    (SaysDepth(), "depth 3", "instead of"),
    (WrongThird(3), "third_divided_difference", "instead of"),
]


@pytest.mark.parametrize(("kernel", "name", "finding"), WRONG, ids=lambda v: type(v).__name__)
def test_what_is_wrong_is_found_and_named(kernel, name, finding):
    report = check_kernel(kernel)
    assert not report
    assert [p.name for p in report.failures] == [name]
    assert finding in str(report)
    assert f"{name}: FAILED" in str(report)


@pytest.mark.parametrize(("kernel", "name", "finding"), WRONG, ids=lambda v: type(v).__name__)
def test_a_wrong_kernel_is_not_plugged_in(kernel, name, finding):
    for plug in (
        lambda: SpectralMetric(GeneralLinear(3, equip=False), kernel),
        lambda: FixedRank(5, 4, 2, kernel=kernel),
    ):
        with pytest.raises(KernelError, match=f"{name} fails"):
            plug()


def test_a_kink_is_named():
    assert check_kernel(Kink()).failures[0].name == "smoothness"


def test_the_page_on_kernels_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    exec(compile(re.search(r"```python\n(.*?)```", page, flags=re.S)[1], "docs/kernels.md", "exec"), {})
    assert "kernel PowerOfMean(theta=1.5): ok" in capsys.readouterr().out


def test_the_place_of_an_error_is_a_plain_one():
    (found,) = check_kernel(WrongAtCoincidence()).failures
    assert found.finding.endswith("at (r, s, t) = (1.0, 1.0, 1.0)")
    assert found.error > 1e6


@pytest.mark.parametrize("depth", [1, 1.01, 1.5, 2, 3, 7, 64, 1000, math.inf])
def test_the_kernels_of_the_network_pass(depth):
    for normalized in (False, True):
        report = check_kernel(of_depth(depth, normalized))
        assert report, report
    assert {"float32", "third_divided_difference", f"depth {depth:g}"} <= {p.name for p in report.properties}


def test_kernels_of_other_kinds_pass():
    class Rough(Kernel):
        def __call__(self, s, t):
            return 1 + s * t

    class Inverse(Kernel):
        def __call__(self, s, t):
            return 1 / (0.1 + s + t)

    for kernel in (Quadratic(), Rough(), Inverse()):
        report = check_kernel(kernel)
        assert report, report
        assert FixedRank(5, 4, 2, kernel=kernel).kernel is kernel
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
    class NanAtZero(Kernel):
        def __call__(self, s, t):
            return np.where((s == 0) | (t == 0), np.nan, s + t)

    x = np.ones((3, 2)) + np.eye(3, 2)
    with pytest.raises(KernelError, match=r"φ\(0, "):
        Frame.at(x, NanAtZero()).inner(x, x)
    with pytest.raises(KernelError, match="positivity"):
        FixedRank(3, 2, 2, kernel=NanAtZero())
    assert FixedRank(3, 3, 3, kernel=NanAtZero()).dim == 9  # where no singular value vanishes
