"""What holds for the kernels of the network is not taken for granted of kernels made from them."""

import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear

import dlngeo
from dlngeo import DepthKernel, InfiniteDepthKernel, Kernel, check_kernel
from dlngeo.geomstats import SpectralMetric
from dlngeo.kernels import of_depth
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract
from dlngeo.sampling import Langevin


class Half(DepthKernel):
    """Half of a depth kernel, with the four functions that are documented."""

    def __call__(self, s, t):
        return super().__call__(s, t) / 2

    def divided_difference(self, r, s, t):
        return super().divided_difference(r, s, t) / 2

    def second_divided_difference(self, r, s, t, u):
        return super().second_divided_difference(r, s, t, u) / 2

    def mixed_divided_difference(self, q, r, s, t):
        return super().mixed_divided_difference(q, r, s, t) / 2


class HalfOfPhi(DepthKernel):
    """The same, by φ alone."""

    def __call__(self, s, t):
        return super().__call__(s, t) / 2


class HalfOfDepth(HalfOfPhi):
    """The same, which says that it is a multiple."""

    @property
    def depth(self):
        return self._depth


class Mixed(HalfOfPhi, InfiniteDepthKernel):
    """Where the differences come from another class than φ."""


HALVES = [Half, HalfOfPhi, HalfOfDepth]


def point(rng, kernel, m=3, n=3, r=3):
    u, vt = np.linalg.qr(rng.standard_normal((m, m)))[0][:, :r], np.linalg.qr(rng.standard_normal((n, n)))[0][:r]
    return Frame(u, np.array([1.7, 0.8, 0.3])[:r], vt, kernel)


def test_a_new_phi_resets_what_was_true_of_the_old_one():
    assert [kernel(3).depth for kernel in HALVES] == [None, None, 3]
    assert Mixed(3).depth is None
    for half in (*HALVES, Mixed):
        kernel = half(3)
        assert not kernel.array_api
        assert kernel.third_divided_difference(1.0, 1.0, 1.0, 1.0) is None
        assert check_kernel(kernel), check_kernel(kernel)

    class Named(DepthKernel):
        def __repr__(self):
            return "named"

    assert (Named(3).depth, Named(3).array_api) == (3, True)
    assert Named(3).third_divided_difference(1.0, 1.0, 1.0, 1.0) == DepthKernel(3).third_divided_difference(1, 1, 1, 1)

    class NewDifference(DepthKernel):
        def divided_difference(self, r, s, t):
            return super().divided_difference(r, s, t)

    assert (NewDifference(3).depth, NewDifference(3).array_api) == (3, False)


def test_depth_is_declared_by_the_kernels_that_have_one():
    class Bare(Kernel):
        def __call__(self, s, t):
            return 1 + 0 * (s + t)

    assert Bare().depth is None
    assert of_depth(3).depth == 3
    assert of_depth(math.inf, normalized=True).depth == math.inf
    assert repr(of_depth(2.5, True)) == repr(DepthKernel(2.5, normalized=True))
    assert [of_depth(3).at_one, of_depth(3, True).at_one, of_depth(math.inf).at_one] == [3, 1, 1]
    with pytest.raises(ValueError, match="at least 1"):
        of_depth(0.5)
    assert pickle.loads(pickle.dumps(of_depth(3))).depth == 3


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("m", "n", "r"), [(3, 3, 3), (4, 3, 2)])
@pytest.mark.parametrize("depth", [1.5, 3])
def test_half_a_kernel_is_twice_the_metric_everywhere(rng, half, m, n, r, depth):
    """``φ/2``: geodesics and connection are the same, curvature and drift are halved, the metric is doubled."""
    frame, halved = point(rng, DepthKernel(depth), m, n, r), None
    halved = Frame(frame.u, frame.s, frame.vt, half(depth))
    y, z = (frame.project(a) for a in rng.standard_normal((2, m, n)))
    close = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(halved.inner(y, z), 2 * frame.inner(y, z), rtol=1e-14)
    np.testing.assert_allclose(halved.christoffel(y, z), frame.christoffel(y, z), **close)
    np.testing.assert_allclose(2 * halved.ito_drift(), frame.ito_drift(), **close)
    ours, known = Curvature(halved), Curvature(frame)
    np.testing.assert_allclose(2 * ours.sectional(y, z), known.sectional(y, z), **close)
    np.testing.assert_allclose(2 * ours.scalar(), known.scalar(), **close)


@pytest.mark.parametrize("depth", [2.5, 4])
def test_the_retraction_of_the_network_is_taken_by_multiples_that_say_so(rng, depth):
    frame = point(rng, DepthKernel(depth), 5, 4, 3)
    z = frame.split(0.2 * rng.standard_normal((5, 4)))

    def end(kernel, step):
        u, s, vt = retract(Frame(frame.u, frame.s, frame.vt, kernel), type(z)(*(step * part for part in z)))
        return (u * s) @ vt

    exact = end(DepthKernel(depth), 1.0)
    np.testing.assert_allclose(end(HalfOfDepth(depth), 1.0), exact, atol=1e-13)
    for half in (Half, HalfOfPhi):
        apart = [np.linalg.norm(end(half(depth), step) - end(DepthKernel(depth), step)) for step in (0.2, 0.1)]
        assert np.log2(apart[0] / apart[1]) == pytest.approx(3, abs=0.3)  # another retraction of second order


@pytest.mark.parametrize("half", HALVES)
def test_geodesics_flows_and_chains_of_half_a_kernel(rng, half):
    whole, halved = (SpectralMetric(GeneralLinear(3, equip=False), kernel) for kernel in (DepthKernel(3), half(3)))
    x = np.diag([1.4, 0.9, 0.5]) + 0.1 * rng.standard_normal((3, 3))
    v, target = 0.3 * rng.standard_normal((2, 3, 3))
    end = whole.exp(v, x)
    np.testing.assert_allclose(halved.exp(v, x), end, atol=1e-9)
    np.testing.assert_allclose(halved.log(end, x), whole.log(end, x), atol=1e-8)
    assert halved.dist(end, x) == pytest.approx(math.sqrt(2) * whole.dist(end, x), rel=1e-8)

    def space(metric):
        out = GeneralLinear(3, equip=False)
        out.metric = metric
        return out

    for coordinates in ("auto", "dense"):
        flows = [
            dlngeo.gradient_flow(space(metric), lambda x: x - target, x, np.array([0.0, t]), coordinates=coordinates)
            for metric, t in ((whole, 0.4), (halved, 0.8))
        ]
        np.testing.assert_allclose(flows[0].points[-1], flows[1].points[-1], atol=1e-6)


def test_chains_of_half_a_kernel_take_twice_the_step():
    """``E = ½ Σ λ²``, a function of the singular values: the same noise moves both chains alike."""

    def chain(kernel, step):
        space = GeneralLinear(2, equip=False)
        space.equip_with_metric(SpectralMetric, kernel=kernel)
        sampler = Langevin(space, lambda x: x, beta=2.0, step_size=step)
        return sampler.sample(np.stack([np.eye(2)] * 3), 20, rng=1).points

    known = chain(DepthKernel(3), 1e-3)
    np.testing.assert_allclose(chain(HalfOfDepth(3), 2e-3), known, atol=1e-10)
    plain = chain(HalfOfPhi(3), 2e-3)
    np.testing.assert_allclose(chain(Half(3), 2e-3), plain, atol=1e-9)


PYTORCH = """
import numpy as np, torch, geomstats.backend as gs
from geomstats.geometry.general_linear import GeneralLinear
from dlngeo import Kernel
from dlngeo.geomstats import SpectralMetric

class Mean(Kernel):
    def __call__(self, s, t):
        return (s**2 + t**2) / 2 + 0 * np.add(s, t)
    def divided_difference(self, r, s, t):
        return 0.5 + 0 * (np.add(r, s) + t)

class Root(Kernel):
    def __call__(self, s, t):
        return np.sqrt(s) + np.sqrt(t) + np.ones(np.broadcast_shapes(s.shape, t.shape))

x = gs.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, 0.0, 0.3]])
for kernel in (Mean(), Root()):
    metric = SpectralMetric(GeneralLinear(3, equip=False), kernel)
    y = gs.eye(3)
    assert isinstance(metric.norm(y, x), torch.Tensor)
    print(float(metric.squared_norm(y, x)), float(metric.scalar_curvature(x)), float(metric.exp(0.1 * y, x).sum()))
    point = x.clone().requires_grad_(True)
    metric.squared_norm(y, point).backward()
    print(float(point.grad.sum()), float(metric.log_volume_density(x)))
"""


def test_a_kernel_of_numpy_works_on_the_pytorch_backend():
    """In a process of its own each: geomstats has one backend."""
    pytest.importorskip("torch")
    numpy = PYTORCH.replace("torch.Tensor", "object").replace("import numpy as np, torch", "import numpy as np")
    numpy = numpy[: numpy.index("    point = ")]
    outputs = []
    for code, backend in ((PYTORCH, "pytorch"), (numpy, "numpy")):
        environment = {**os.environ, "GEOMSTATS_BACKEND": backend}
        command = [sys.executable, "-c", code]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        outputs.append([[float(word) for word in line.split()] for line in output.splitlines()])
    np.testing.assert_allclose(outputs[0][::2], outputs[1], rtol=1e-8)
    assert all(math.isfinite(number) for line in outputs[0] for number in line)


def test_tensors_with_history_are_refused_by_kernels_of_numpy():
    torch = pytest.importorskip("torch")
    s = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(TypeError, match="array_api = True"):
        HalfOfPhi(3)(s, s)
    assert HalfOfPhi(3)(s.detach(), 2.0).dtype == torch.float64
    assert DepthKernel(3)(s, s).requires_grad
