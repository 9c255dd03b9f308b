"""What the artists draw is what is computed without them: closed forms, conserved quantities and known minima."""

import io
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from matplotlib.figure import Figure
from pymanopt.optimizers import SteepestDescent

import dlngeo
from dlngeo import DepthKernel
from dlngeo.flows import gradient_descent
from dlngeo.jobs.output import History
from dlngeo.plotting import plot_flows, plot_geodesics, plot_landscape, plot_singular_values
from dlngeo.problems import MatrixCompletion, solve
from dlngeo.pymanopt import FixedRank

FREE = [[1, np.nan], [np.nan, 1]]

ROTATED = np.array([[0.8, -0.6], [0.6, 0.8]]), np.array([[0.0, 1.0], [1.0, 0.0]])


def lines(axes, label):
    return [line.get_xydata() for line in axes.lines if line.get_label() == label]


def volume_of_o2():
    return 4 * math.sqrt(2) * math.pi  # two circles of radius √2


def entropy_of_two(s, depth):
    s = np.moveaxis(s, -1, 0)
    power = 2 / depth
    phi = (s[0] ** 2 - s[1] ** 2) / (s[0] ** power - s[1] ** power)
    return (depth - 1) * math.log(volume_of_o2()) + np.log(phi) / 2


# Geodesics.


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_the_spectra_of_aligned_frames_move_straight_in_their_roots(depth):
    (q, p), ends = ROTATED, np.array([[2.0, 0.3], [0.5, 1.7]])
    axes = plot_geodesics(*((q * s) @ p for s in ends), {"this": depth})
    assert sorted(text.get_text() for text in axes.texts) == ["this"]
    found = lines(axes, "this")
    t = found[0][:, 0]
    exact = ((1 - t)[:, None] * ends[0] ** (1 / depth) + t[:, None] * ends[1] ** (1 / depth)) ** depth
    np.testing.assert_allclose(np.column_stack([z[:, 1] for z in found]), -np.sort(-exact, axis=1), rtol=1e-8)


def test_determinants_of_infinite_depth_are_geometric_and_those_of_depth_one_quadratic():
    x, y = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([[0.2, -0.9], [1.1, 0.4]])
    axes = plot_geodesics(x, y, show="determinant")
    assert len({text.get_color() for text in axes.texts}) == 5
    (deep,), (flat,) = lines(axes, "depth ∞"), lines(axes, "depth 1")
    np.testing.assert_allclose(np.diff(np.log(deep[:, 1]), 2), 0, atol=1e-9)
    t = flat[:, 0, None, None]
    np.testing.assert_allclose(flat[:, 1], np.linalg.det((1 - t) * x + t * y), rtol=1e-9)


def test_metrics_of_geomstats_and_kernels_are_drawn_as_depths_are(rng):
    x, y = (a @ a.T for a in rng.standard_normal((2, 3, 3)))
    space = SPDMatrices(3, equip=False)
    space.equip_with_metric(SPDBuresWassersteinMetric)
    axes = plot_geodesics(x, y, [2, space.metric, dlngeo.DepthKernel(2)], show=lambda z: z[:, 0, 1])
    (a,), (b,), (c,) = (lines(axes, name) for name in ("depth 2", "BuresWasserstein", "DepthKernel"))
    np.testing.assert_allclose(a, b, atol=1e-8)
    np.testing.assert_allclose(a, c, atol=1e-12)


def test_ellipses_are_images_of_the_unit_circle():
    x, y = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([[0.2, -0.9], [1.1, 0.4]])
    axes = plot_geodesics(x, y, [1], show="ellipses")
    found = lines(axes, "depth 1")
    size = 0.45 / max(np.linalg.norm((1 - t) * x + t * y, 2) for t in np.linspace(0, 1, len(found)))
    for k, curve in enumerate(found):
        t = k / (len(found) - 1)
        back = np.linalg.solve(size * ((1 - t) * x + t * y), (curve - [k, 0]).T)
        np.testing.assert_allclose(np.linalg.norm(back, axis=0), 1, rtol=1e-9)


def test_rank_one_moves_on_cones(rng):
    u, v = rng.standard_normal((2, 3))
    axes = plot_geodesics(np.outer(u, v), 8 * np.outer(u, v), [3], rank=1)
    *_, largest = sorted((z[:, 1] for z in lines(axes, "depth 3")), key=max)
    t = np.linspace(0, 1, len(largest))
    np.testing.assert_allclose(largest, np.linalg.norm(u) * np.linalg.norm(v) * (1 + t) ** 3, rtol=1e-9)


# Entropy and free energy.


@pytest.mark.parametrize("depth", [2, 5])
def test_contours_are_level_sets_of_entropy_and_free_energy(depth):
    def cost(x):
        return np.sum(x**2, axis=(-2, -1))

    pair = plot_landscape([[np.nan, 1.5], [np.nan, -0.5]], depth, 2.0, cost=cost, limits=(0.1, 2.1, 0.2, 2.2))
    for axes, free in zip(pair, (False, True), strict=True):
        filled = axes.collections[0]
        checked = 0
        for level, segments in zip(axes.collections[1].levels, axes.collections[1].allsegs, strict=True):
            for segment in segments:
                x = np.stack([np.column_stack([p, [1.5, -0.5]]) for p in segment])
                values = entropy_of_two(np.linalg.svd(x, compute_uv=False), depth)
                values = cost(x) - values / 2 if free else values
                np.testing.assert_allclose(values, level, atol=2e-3)
                checked += len(segment)
        assert checked > 100
        assert filled.levels[0] < filled.levels[-1]
    # det = −0.5 a − 1.5 b vanishes at no positive entries.
    assert lines(pair[1], "rank one") == []


@pytest.mark.parametrize("depth", [2, 3])
def test_minima_of_a_quadratic_energy_are_multiples_of_orthogonal_matrices(depth):
    size = math.sqrt((depth - 1) / (2 * depth))  # at β = 1
    row = size * np.array([0.6, 0.8])
    pair = plot_landscape(
        [row, [np.nan, np.nan]], depth, 1.0, cost=lambda x: np.sum(x**2, axis=(-2, -1)) / 2, limits=(-1, 1, -1, 1)
    )
    assert lines(pair[0], "minimum") == []
    found = sorted(np.vstack(lines(pair[1], "minimum")).tolist())
    np.testing.assert_allclose(found, size * np.array([[-0.8, 0.6], [0.8, -0.6]]), atol=1e-7)


def decay_of(depth):
    return lambda x: depth / 2 * (np.linalg.svd(x, compute_uv=False) ** (2 / depth)).sum(axis=-1)


@pytest.mark.parametrize(("beta", "size"), [(8, 2.0), (0.3, (2 / 0.9) ** 1.5)])
def test_with_weight_decay_minima_are_of_rank_one(beta, size):
    """There F = 3σ^{2/3}/2 − (2/3β) log σ, which is least at σ^{2/3} = 2/3β, if σ = a + 1/a ≥ 2 allows it."""
    axes = plot_landscape(FREE, 3, beta, cost=decay_of(3))[1]
    for curve in lines(axes, "rank one"):
        np.testing.assert_allclose(np.prod(curve, axis=1), 1, rtol=1e-9)
    found = np.vstack(lines(axes, "minimum"))
    assert len(found) == (2 if size == 2 else 4)
    np.testing.assert_allclose(np.prod(found, axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.sum(axis=1)), size, rtol=1e-5)  # F rounds at σ₂^{2/3} ≈ 1e-11


def test_the_nuclear_norm_is_least_on_a_line_and_no_point_of_it_is_marked():
    """At depth 2 both are functions of Σσ alone, and (Σσ)² = 4 + (a − b)² where det > 0."""
    assert lines(plot_landscape(FREE, 2, 8.0, cost=decay_of(2))[1], "minimum") == []


def test_without_a_cost_nothing_is_least():
    assert lines(plot_landscape(FREE, 3, 1.0)[1], "minimum") == []


# Flows.


def diagonal_flows(depth, starts, slope, t):
    space = GeneralLinear(2, equip=False)
    space.equip_with_metric(dlngeo.DLNMetric, depth=depth)
    return dlngeo.gradient_flow(space, slope, np.array([np.diag(s) for s in starts]), t)


def test_paths_keep_what_depth_two_conserves_and_end_in_the_valley():
    def residual(x):
        return 2 * x[..., 0, 0] + x[..., 1, 1] - 1

    starts = [(0.05, 0.02), (0.3, 1.2), (1.3, 0.4)]
    flows = diagonal_flows(2, starts, lambda x: np.diag([2.0, 1.0]) * residual(x), np.linspace(0, 40, 60))
    axes = plot_flows(flows, residual=residual)
    paths = [path for path in lines(axes, "flow") if len(path) > 1]
    assert len(paths) == 3
    for path, start in zip(paths, starts, strict=True):
        np.testing.assert_allclose(path[0], start, rtol=1e-12)
        np.testing.assert_allclose(np.diff(np.log(path[:, 0]) - 2 * np.log(path[:, 1])), 0, atol=1e-8)
        assert 2 * path[-1, 0] + path[-1, 1] == pytest.approx(1, abs=1e-6)
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    for end, hollow in ((0, True), (-1, False)):  # circles where they begin, dots where they end
        at = [dot.get_xydata()[0] for dot in dots if (dot.get_markerfacecolor() == "white") is hollow]
        np.testing.assert_array_equal(at, [path[end] for path in paths])
    (valley,) = lines(axes, "zero loss")
    np.testing.assert_allclose(2 * valley[:, 0] + valley[:, 1], 1, atol=1e-10)
    np.testing.assert_allclose(np.prod(np.vstack(lines(axes, "singular")), axis=1), 0, atol=1e-12)


def test_curved_valleys_of_two_residuals_are_exact_and_drawn_once():
    def residual(x):
        r = np.sum(x**2, axis=(-2, -1)) - 1
        return np.stack([r, 3 * r], axis=-1)

    flow = diagonal_flows(1, [(0.5, 0.2)], lambda x: x * (np.sum(x**2) - 1), [0.0, 1.0])[0]
    turned = np.array([[0, 1], [1, 0]]) / 2
    axes = plot_flows(flow, (np.eye(2) / 2, turned), residual=residual, limits=(-2, 2, -2, 2))
    valley = lines(axes, "zero loss")
    assert len(valley) == 1
    np.testing.assert_allclose(np.linalg.norm(valley[0], axis=1), np.sqrt(2), rtol=1e-9)
    apart = plot_flows(
        flow, (np.eye(2) / 2, turned), residual=lambda x: x[..., 0, :1] - [0.3, 0.5], limits=(-2, 2, -2, 2)
    )
    assert lines(apart, "zero loss") == []  # where one vanishes, and the other does not
    singular = np.vstack(lines(axes, "singular"))
    np.testing.assert_allclose(np.abs(singular[:, 0]), np.abs(singular[:, 1]), atol=1e-3)  # they meet in the middle
    start = lines(axes, "flow")[0][0]
    np.testing.assert_allclose(start, [0.7, 0.0], atol=1e-12)  # diag(0.5, 0.2) = 0.7 (I/2) + what is off the plane


# Singular values.


def test_singular_values_are_those_of_the_products(rng):
    weights = dlngeo.balanced_weights(0.1 * rng.standard_normal((3, 3)), 3, rng=rng)
    target = rng.standard_normal((3, 3))
    flow = dlngeo.training_flow(weights, lambda x: x - target, [0.0, 1.0, 5.0])
    descent = gradient_descent(weights, lambda x: x - target, 0.01, 20, every=5)
    for found, t, points in ((flow, flow.t, flow.points), (descent, descent.steps, descent.points)):
        axes = plot_singular_values(found, targets=[1, 2], axes=Figure().subplots())
        for k in range(3):
            (curve,) = lines(axes, rf"$\sigma_{{{k + 1}}}$")
            np.testing.assert_allclose(curve[:, 0], t)
            np.testing.assert_allclose(curve[:, 1] ** 2, np.linalg.eigvalsh(points @ points.swapaxes(1, 2))[:, 2 - k])
        assert [line.get_ydata()[0] for line in axes.lines[:2]] == [1, 2]
        assert sorted(text.get_text() for text in axes.texts) == [rf"$\sigma_{{{k}}}$" for k in (1, 2, 3)]


def test_small_ones_of_factored_flows_are_those_of_the_factors():
    space = GeneralLinear(2, equip=False)
    space.equip_with_metric(dlngeo.DLNMetric, depth=2)
    start = np.eye(2), np.array([1.0, 1e-40]), np.eye(2)
    axes = plot_singular_values(dlngeo.gradient_flow(space, lambda x: x - np.eye(2), start, [0.0, 1.0]), log=True)
    (curve,) = lines(axes, r"$\sigma_{2}$")
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(curve[:, 1], [1e-40, 1e-40 * np.exp(2)], rtol=1e-9)  # σ̇ = −2σ(σ − 1)


def test_runs_and_histories_are_drawn(rng):
    x = np.outer(*rng.standard_normal((2, 6)))
    rows, cols = np.nonzero(rng.random(x.shape) < 0.7)
    problem = MatrixCompletion(rows, cols, x[rows, cols], x.shape).problem(FixedRank(6, 6, 2, depth=2, rng=0))
    found = solve(problem, SteepestDescent(verbosity=0, max_iterations=5))
    axes = plot_singular_values(found)
    history = History("iteration", "singular_values")
    for record in found.history:
        history.add(record.iteration, lambda r=record: (r.iteration, r.singular_values.tolist()))
    for drawn in (axes, plot_singular_values(history.columns)):
        curves = np.column_stack([line.get_ydata() for line in drawn.lines])
        np.testing.assert_array_equal(curves, [record.singular_values for record in found.history])


# What is refused, and what is left alone.


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: plot_geodesics(np.eye(2), np.eye(3)), ValueError, "one shape"),
        (lambda: plot_geodesics(np.eye(3), np.eye(3), show="ellipses"), ValueError, "2×2"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), show="angles"), ValueError, "angles"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), []), ValueError, "no metric"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), show=np.trace), ValueError, "give numbers for each"),
        (lambda: plot_geodesics(np.eye(2), np.diag([1, -1])), dlngeo.GeodesicError, "determinant"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), axes=3), TypeError, "matplotlib Axes"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), 3), TypeError, "metrics must be"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), [None]), TypeError, "depth must be a real number"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), [DepthKernel(2), DepthKernel(3)]), ValueError, "one name"),
        (lambda: plot_geodesics(np.eye(2), np.eye(2), [1], n_points=1), ValueError, "n_points must be at least 2"),
        (lambda: plot_landscape(np.eye(2), 2, 1.0), ValueError, "NaN in two"),
        (lambda: plot_landscape([[np.inf, np.nan], [np.nan, 1]], 2, 1.0), ValueError, "finite"),
        (lambda: plot_landscape([["1", "2"], ["3", "4"]], 2, 1.0), TypeError, "the matrix must be real"),
        (lambda: plot_landscape(FREE, 2, 1.0, n_grid=1), ValueError, "n_grid must be at least 2"),
        (lambda: plot_landscape(FREE, 2, 1.0, limits=(1, 2)), ValueError, "limits must be"),
        (lambda: plot_landscape(FREE, 2, 1.0, limits=(2, 1, 0, 1)), ValueError, "left < right"),
        (lambda: plot_landscape(FREE, 2, 1.0, cost=3), TypeError, "cost must be a function"),
        (lambda: plot_landscape(FREE, 2, 0.0), ValueError, "beta"),
        (lambda: plot_landscape(FREE, 2, 1.0, cost=np.sum), ValueError, "one for each"),
        (lambda: plot_landscape(FREE, 2, 1.0, axes=[1, 2]), TypeError, "pair"),
        (lambda: plot_flows([]), ValueError, "no flows"),
        (lambda: plot_flows(FLOW, ((0, 0), (0, 0))), ValueError, "orthogonal"),
        (lambda: plot_flows(FLOW, ((0, 0), (0, 2))), ValueError, "no entry"),
        (lambda: plot_flows(FLOW, (np.eye(3), (0, 1))), ValueError, "shape"),
        (lambda: plot_flows(FLOW, residual=np.sum), ValueError, "residual"),
        (lambda: plot_flows(3), TypeError, "flows must be what gradient_flow"),
        (lambda: plot_flows([FLOW, None]), TypeError, "flows must be what gradient_flow"),
        (lambda: plot_flows(FLOW, 3), ValueError, "two directions"),
        (lambda: plot_flows(FLOW, origin=np.eye(3)), ValueError, "the origin has shape"),
        (lambda: plot_flows(FLOW, residual=3), TypeError, "residual must be a function"),
        (lambda: plot_flows(FLOW, limits=(0, np.nan, 0, 1)), ValueError, "limits must be"),
        (lambda: plot_flows(dlngeo.training_flow(2 * [1j * np.eye(2)], np.copy, 0.1)), TypeError, "imaginary part"),
        (lambda: plot_singular_values(3), TypeError, "int"),
        (lambda: plot_singular_values({"t": [0, 1], "singular_values": [["a"], ["b"]]}), TypeError, "singular values"),
    ],
)
def test_bad_input_says_what_to_give(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


FLOW = diagonal_flows(2, [(0.5, 0.2)], lambda x: x - np.eye(2), [0.0, 1.0])


def test_pyplot_is_left_alone():
    before = plt.get_fignums()
    plot_singular_values({"t": [0, 1], "singular_values": np.ones((2, 1))}).figure.savefig(io.BytesIO())
    assert plt.get_fignums() == before  # other tests may have left some
