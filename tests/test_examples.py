"""Every example runs, says what its docstring says, and draws its picture."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, tmp_path):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main()
    picture = tmp_path / f"{name}.png"
    module.plot(result, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    return result


def test_every_example_has_a_test():
    tested = {name.removeprefix("test_example_") for name in globals() if name.startswith("test_example_")}
    assert tested == {path.stem for path in EXAMPLES.glob("*.py")}


def test_example_metric_in_geomstats(tmp_path):
    result = run("metric_in_geomstats", tmp_path)
    start = np.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, 0.0, 0.3]])
    end = np.array([[0.2, -0.5, 0.1], [0.8, 0.1, -0.6], [0.3, 0.9, 0.7]])
    depths = result["depths"]
    assert depths[1]["distance"] == pytest.approx(np.linalg.norm(start - end), rel=1e-8)
    distances = [found["distance"] for found in depths.values()]
    assert distances == sorted(distances, reverse=True)
    for found in depths.values():
        np.testing.assert_allclose(found["singular_values"][-1], np.linalg.svd(end)[1], rtol=1e-7)
    # The mean of two points is the middle of the geodesic between them.
    assert result["mean_to_ends"] == pytest.approx([depths[4]["distance"] / 2] * 2, rel=1e-4)


@pytest.mark.slow
def test_example_complex_completion(tmp_path):
    errors = run("complex_completion", tmp_path)
    for depth in (2, 3):
        # At half of the entries the complex matrix is found, and the one of its parts is not.
        assert errors["complex"][depth][1] < 0.1 < errors["stacked"][depth][1]
    # Depth 1 does not prefer low rank.
    assert errors["complex"][1][1] > 3 * errors["complex"][3][1]


def test_example_metric_in_pymanopt(tmp_path):
    errors = [found["held_out_error"] for found in run("metric_in_pymanopt", tmp_path).values()]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.4
    assert errors[-1] < 0.1


def test_example_other_manifolds(tmp_path):
    result = run("other_manifolds", tmp_path)
    bures, depth_2 = result["Bures–Wasserstein"], result["depth 2"]
    assert depth_2["distance"] == pytest.approx(np.sqrt(2) * bures["distance"], rel=1e-8)
    np.testing.assert_allclose(depth_2["determinant"], bures["determinant"], rtol=1e-8)
    # Infinitely deep, log-Euclidean and affine-invariant geodesics interpolate the determinant; Frobenius swells most.
    for name in ("infinite depth", "log-Euclidean", "affine-invariant"):
        log_determinant = np.log(result[name]["determinant"])
        np.testing.assert_allclose(np.diff(log_determinant, 2), 0, atol=1e-8)
    assert max(result["depth 1 (Frobenius)"]["determinant"]) > max(bures["determinant"])
    assert all(found["error"] < 1 for found in result.values())
    assert result["depth 1 (Frobenius)"]["error"] < 1e-8


def test_example_train_balanced(tmp_path):
    result = run("train_balanced", tmp_path)
    for name in ("SteepestDescent", "ConjugateGradient", "TrustRegions"):
        found = result[name]
        assert found["cost"] == pytest.approx(result["best"], rel=1e-9)
        assert found["imbalance"] < 1e-12
    gradients = result["TrustRegions"]["gradient_norms"]
    assert all(after < 10 * before**2 for before, after in pairwise(gradients[-4:]))  # quadratic convergence
    # Values are learnt one after another: each passes half its end when the next is still below a tenth of its own.
    values = result["SteepestDescent"]["singular_values"] / result["SteepestDescent"]["singular_values"][-1]
    for larger, smaller in ((0, 1), (1, 2)):
        assert values[np.argmax(values[:, larger] > 0.5), smaller] < 0.1


@pytest.mark.slow
def test_example_free_energy(tmp_path):
    result = run("free_energy", tmp_path)
    betas = np.geomspace(0.1, 10, 7)
    for depth, size in result["sizes"].items():
        np.testing.assert_allclose(size, np.sqrt((1 - 1 / depth) / betas)[:, None] * np.ones(3), rtol=1e-9)
    for found in result["flows"].values():
        np.testing.assert_allclose(found["flow"], found["theory"][::5], rtol=1e-7)
    # The least free energy leaves the equal singular values before they are unstable, in a jump.
    exponents, ratio = np.linspace(0.45, 0.75, 21), result["least"][:, 0] / result["least"][:, -1]
    assert np.all(ratio[exponents < result["threshold"]] > 10)
    assert np.all(ratio[exponents > 0.61] < 1 + 1e-6)
    np.testing.assert_allclose(result["least"][exponents > 0.61, 0], result["equal"][exponents > 0.61], rtol=1e-9)


def test_example_training_limit(tmp_path):
    result = run("training_limit", tmp_path)
    kinds = {name: (found["limit"].kind, found["triples"]) for name, found in result["flows"].items()}
    assert kinds == {
        "generic": ("minimiser", (0, 1)),
        "blind": ("saddle", (1, 2)),
        "almost blind": ("minimiser", (0, 1)),
    }
    # Both come close to the saddle, and the one leaves it as its Hessian says.
    close = [result["flows"][name]["nearest to the saddle"] for name in ("blind", "almost blind")]
    assert max(close) < 0.05
    eigenvalue = result["flows"]["blind"]["limit"].least_eigenvalue
    assert result["flows"]["almost blind"]["rate of escape"] == pytest.approx(-eigenvalue, rel=0.1)
    levels = {(0, 1): 0.5, (0, 2): 2.0, (1, 2): 4.5}  # half the squares of the singular values left out
    assert result["levels"] == pytest.approx(levels)
    for name, found in result["flows"].items():
        assert found["losses"][-1] == pytest.approx(levels[kinds[name][1]], abs=1e-6)


@pytest.mark.slow
def test_example_training_rate(tmp_path):
    for found in run("training_rate", tmp_path).values():
        assert found["observed"] == pytest.approx(found["predicted"], rel=0.01)
        assert np.all(found["losses"] <= found["bound"] * (1 + 1e-9))
        assert found["losses"][-1] == pytest.approx(1e-10 * found["losses"][0], rel=1e-3)


def test_example_training_depth(tmp_path):
    steps = {key: len(path) - 1 for key, path in run("training_depth", tmp_path).items()}
    assert steps[2, 1] < steps[2, 2] < steps[2, 3]
    assert steps[4, 1] > 3 * max(steps[4, 2], steps[4, 3])


@pytest.mark.slow
def test_example_training_size(tmp_path):
    result = run("training_size", tmp_path)
    for depth in (3, 4, 8):
        assert result["slopes"][depth] == pytest.approx(1 - 2 / depth, abs=0.01)
    assert result["slopes"][2] < 0.1
    for depth, (times, path) in result["paths"].items():
        half = result["escapes"][depth][2]  # of the start 1e-3
        assert np.interp(half, times, path) == pytest.approx(0.5, abs=0.02)
        assert path[-1] > 0.95


def test_example_training_width(tmp_path):
    first, *others, unbalanced = run("training_width", tmp_path)["paths"].values()
    assert all(np.abs(path - first).max() < 1e-8 for path in others)
    assert np.abs(unbalanced - first).max() > 0.1


@pytest.mark.slow
def test_example_training_samples(tmp_path):
    result = run("training_samples", tmp_path)
    # From above, as far as the next eigenvalue is close.
    np.testing.assert_allclose(result["observed"], result["predicted"], rtol=0.08)
    assert np.all(np.diff(result["predicted"]) > 0)


@pytest.mark.slow
def test_example_sampling_law(tmp_path):
    for found in run("sampling_law", tmp_path).values():
        for means in found["energy"].values():
            error = np.std(means, ddof=1) / np.sqrt(len(means))
            assert error < 0.01 * found["exact energy"]
            assert abs(np.mean(means) - found["exact energy"]) < 3 * error
        assert np.trapezoid(found["density"], found["grid"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_example_trust_regions(tmp_path):
    results = run("trust_regions", tmp_path)
    counts = {method: [] for method in ("ConjugateGradient", "TrustRegions")}
    for found in results.values():
        assert found["hessian_slope"] == pytest.approx(3, abs=0.1)
        for method, iterations in counts.items():
            iterations.append(len(found[method]["gradient_norms"]) - 1)
        norms = found["TrustRegions"]["gradient_norms"]
        assert norms[-1] < 1e-9
        assert norms[-1] < 1e-2 * norms[-2]  # quadratic convergence
        assert found["ConjugateGradient"]["cost"] == pytest.approx(found["TrustRegions"]["cost"], rel=1e-6)
    assert counts["ConjugateGradient"] == sorted(counts["ConjugateGradient"])
    assert max(counts["TrustRegions"]) < min(counts["ConjugateGradient"])


@pytest.mark.slow
def test_example_autodiff_solvers(tmp_path):
    """In a process of its own, since the NumPy backend has no derivatives."""
    code = (
        "import json, runpy, sys; example = runpy.run_path(sys.argv[1]); result = example['main']();"
        "example['plot'](result, sys.argv[2]);"
        "print(json.dumps([[n['path_error'], n['length_error']] for n in result['nodes'].values()]))"
    )
    picture = tmp_path / "autodiff_solvers.png"
    command = [sys.executable, "-c", code, EXAMPLES / "autodiff_solvers.py", picture]
    environment = {**os.environ, "GEOMSTATS_BACKEND": "autograd"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    errors = np.array(json.loads(output))
    assert np.all(errors[-1] < [2e-3, 5e-4])
    np.testing.assert_allclose(np.log2(errors[:-1, 0] / errors[1:, 0]), 1, atol=0.05)


@pytest.mark.slow
def test_example_own_metric(tmp_path):
    result = run("own_metric", tmp_path)
    assert all(found["report"] for found in result.values())
    assert all(found["observed_error"] < 1e-4 for found in result.values())
    # The faster φ grows, the lower the rank.
    errors = [found["held_out_error"] for found in result.values()]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > 0.8
    assert errors[-1] < 0.02
    # The volume of the metric has the density ∏|σ_k² − σ_l²| ∏ φ_kl^{-1/2} in the singular values.
    node, weight = np.polynomial.legendre.leggauss(400)
    s, t = 2 * (node[:, None] + 1), 2 * (node + 1)
    kernels = {"θ = 0": lambda s, t: 1, "θ = 1": lambda s, t: s + t, "θ = 1.5": lambda s, t: (s + t) ** 1.5}
    for name, phi in {"lifting": lambda s, t: 1 / (1 + s + t), **kernels}.items():
        energy = ((s**2 - 1) ** 2 + (t**2 - 1) ** 2) / 4
        density = np.abs(s**2 - t**2) * np.exp(-10 * energy) * weight[:, None] * weight
        density = density / (phi(s, t) * np.sqrt(phi(s, s) * phi(t, t)))
        exact = np.sum(density * energy) / np.sum(density)
        means = result[name]["energies"]
        error = np.std(means, ddof=1) / np.sqrt(len(means))
        assert error < 0.08 * exact
        assert abs(np.mean(means) - exact) < 3 * error
    # Half the logarithm of φ between the two singular values.
    found = result["θ = 1"]
    np.testing.assert_allclose(found["entropy"], np.log(found["path"].sum(axis=1)) / 2, rtol=1e-12)


@pytest.mark.slow
def test_example_submersion(tmp_path):
    result = run("submersion", tmp_path)
    assert result["projection_error"] < 1e-9
    assert result["alignment_error"] < 1e-8
    assert result["vertical_part"] < 1e-12
    assert result["quotient_distance"] == pytest.approx(result["distance"], rel=1e-8)
    distances, middle = result["distances"], len(result["angles"]) // 2
    assert distances[middle] == pytest.approx(result["distance"], rel=1e-8)
    assert np.argmin(distances) == middle
    assert np.all(np.delete(distances, middle) > result["distance"] + 0.05)
    assert np.all(result["chords"] < distances)


@pytest.mark.slow
def test_example_geometry_at_a_glance(tmp_path):
    result = run("geometry_at_a_glance", tmp_path)
    ends = np.diagonal(result["flows"].ends, axis1=1, axis2=2)
    np.testing.assert_allclose(2 * ends[:, 0] + ends[:, 1], 1, atol=1e-6)
    assert ends[0, 1] < 0.05  # from (0.01, 0.01) to the axis whose slope is steeper
    assert ends[5, 1] > 0.5
    # At depth 3, in the plane, ȧ/ḃ = 2|a|^{4/3}/|b|^{4/3}: 2 b^{−1/3} − a^{−1/3} is conserved.
    path = np.diagonal(result["flows"].points[5], axis1=1, axis2=2)
    np.testing.assert_allclose(np.diff(2 * path[:, 1] ** (-1 / 3) - path[:, 0] ** (-1 / 3)), 0, atol=1e-8)
    values = np.linalg.svd(result["training"].points, compute_uv=False)
    np.testing.assert_allclose(values[-1], [2, 1.2, 0.6], rtol=1e-3)
    for k in (1, 2):  # the next is below a tenth of its end when one has reached half of its own
        assert values[np.argmax(values[:, k - 1] > 0.5 * values[-1, k - 1]), k] < 0.1 * values[-1, k]


@pytest.mark.slow
def test_example_unknown_rank(tmp_path):
    nuclear, four, infinite = (max(ratios) for ratios in run("unknown_rank", tmp_path).values())
    assert max(four, infinite) <= 1.5
    assert nuclear >= 4
