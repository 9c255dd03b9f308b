"""The test cases that geomstats ships, run on our spaces and metrics.

geomstats ships the tests, but not the data that activate them: a test ``test_x`` runs if the data have ``x_test_data``.
All are activated here but those of curvature, parallel transport and derivatives of the metric matrix, which geomstats
2.8.0 has for vector points only (see ``test_learning.py``), and those of pseudo-inverses and injectivity radii.
"""

import geomstats.backend as gs
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.test.data import TestData
from geomstats.test.parametrizers import DataBasedParametrizer
from geomstats.test.random import RandomDataGenerator
from geomstats.test_cases.geometry.base import LevelSetTestCase
from geomstats.test_cases.geometry.fiber_bundle import FiberBundleTestCase
from geomstats.test_cases.geometry.manifold import ManifoldTestCase
from geomstats.test_cases.geometry.mixins import ProjectionTestCaseMixins
from geomstats.test_cases.geometry.riemannian_metric import RiemannianMetricTestCase

from dlngeo.geomstats import BalancedMatrices, DLNMetric, FixedRankMatrices, GaugeAction


def cases(kind, names):
    """Data methods for tests of one kind, named in one string: 'random', 'vec', 'shape', or these with times."""

    def method(self):
        return getattr(self, f"generate_{kind}")()

    return {f"{name}_test_data": method for name in names.split()}


class Data(TestData):
    """One trial each: more would hide failures. Two sizes of batch."""

    trials = 1
    fail_for_autodiff_exceptions = True
    fail_for_not_implemented_errors = True
    N_VEC_REPS = (2,)
    N_SHAPE_POINTS = (1, 3)
    N_RANDOM_POINTS = (1, 2)
    N_TIME_POINTS = (3,)


MANIFOLD = {
    **cases("vec_data", "belongs_vec is_tangent_vec to_tangent_vec regularize_vec projection_vec"),
    **cases(
        "random_data",
        "not_belongs random_point_belongs to_tangent_is_tangent regularize_belongs "
        "random_tangent_vec_is_tangent projection_belongs",
    ),
    **cases("shape_data", "random_point_shape random_tangent_vec_shape"),
}

CLOSED_FORMS = {
    **cases(
        "vec_data",
        "christoffels_vec geodesic_equation_vec metric_matrix_vec cometric_matrix_vec inner_product_vec "
        "squared_norm_vec norm_vec normalize_vec exp_vec",
    ),
    **cases(
        "random_data",
        "inner_product_is_symmetric norm_is_positive normalize_is_unitary exp_belongs exp_geodesic_ivp",
    ),
    **cases("vec_data_with_time", "geodesic_ivp_vec"),
    **cases("random_data_with_time", "geodesic_ivp_belongs"),
}

LOGARITHMS = {
    **cases("vec_data", "log_vec dist_vec"),
    **cases(
        "random_data",
        "log_is_tangent exp_after_log log_after_exp dist_is_symmetric dist_is_positive dist_is_log_norm "
        "dist_point_to_itself_is_zero dist_triangle_inequality squared_dist_is_symmetric "
        "squared_dist_is_positive geodesic_boundary_points",
    ),
    **cases("random_data_with_time", "geodesic_bvp_reverse geodesic_bvp_belongs"),
    **cases("vec_data_with_time", "geodesic_bvp_vec"),
}


LEVEL_SET = {**MANIFOLD, **cases("vec_data", "submersion_vec tangent_submersion_vec")}

WITHOUT_MATRICES = {
    name: method
    for name, method in CLOSED_FORMS.items()
    if name.removesuffix("_vec_test_data") not in ("christoffels", "metric_matrix", "cometric_matrix")
}

FIBER_BUNDLE = {
    **cases(
        "vec_data",
        "riemannian_submersion_vec lift_vec tangent_riemannian_submersion_vec align_vec "
        "horizontal_projection_vec vertical_projection_vec is_horizontal_vec is_vertical_vec "
        "horizontal_lift_vec integrability_tensor_vec",
    ),
    **cases(
        "random_data",
        "riemannian_submersion_belongs_to_base lift_belongs_to_total_space "
        "riemannian_submersion_after_lift tangent_riemannian_submersion_is_tangent "
        "log_after_align_is_horizontal horizontal_projection_is_horizontal vertical_projection_is_vertical "
        "tangent_riemannian_submersion_after_vertical_projection horizontal_lift_is_horizontal "
        "tangent_riemannian_submersion_after_horizontal_lift",
    ),
}


class Moderate(RandomDataGenerator):
    """Points near a regular one and vectors short enough not to run into singular matrices: no trial is lost."""

    def __init__(self, space):
        super().__init__(space, amplitude=10.0)
        self.centre = gs.cast(2.0 * gs.eye(*space.shape), gs.eye(1).dtype)
        if getattr(space, "rank", None):
            self.centre = space.projection(
                self.centre + gs.array([[0.1 * i + 0.2 * j for j in range(space.n)] for i in range(space.m)])
            )

    def random_point(self, n_points=1):
        return self.space.projection(self.centre + 0.3 * self.point_to_project(n_points))

    def point_to_project(self, n_points=1):
        return gs.random.normal(size=(n_points, *self.space.shape) if n_points > 1 else self.space.shape)


class ModerateWeights(Moderate):
    """Balanced weights near the identities."""

    def __init__(self, space):
        RandomDataGenerator.__init__(self, space, amplitude=10.0)

    def random_point(self, n_points=1):
        return self.space.projection(self.point_to_project(n_points))

    def point_to_project(self, n_points=1):
        return gs.eye(self.space.d) + 0.1 * super().point_to_project(n_points)


def general_linear(depth):
    return GeneralLinear(3, positive_det=True, equip=False).equip_with_metric(DLNMetric, depth=depth)


class TestFixedRankMatrices(ProjectionTestCaseMixins, ManifoldTestCase, metaclass=DataBasedParametrizer):
    space = FixedRankMatrices(4, 3, 2)
    data_generator = Moderate(space)
    testing_data = type("FixedRankData", (Data,), MANIFOLD)()


class TestDLNMetricOnGeneralLinear(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    space = general_linear(3)
    data_generator = Moderate(space)
    SPD = cases("random_data", "metric_matrix_is_spd")
    testing_data = type("GeneralLinearData", (Data,), {**CLOSED_FORMS, **LOGARITHMS, **SPD})()


class TestDLNMetricOfInfiniteDepth(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    space = general_linear(float("inf"))
    data_generator = Moderate(space)
    testing_data = type("InfiniteData", (Data,), CLOSED_FORMS)()


class TestDLNMetricOnFixedRankMatrices(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    space = FixedRankMatrices(3, 2, 1, depth=2)
    data_generator = Moderate(space)
    testing_data = type("FixedRankMetricData", (Data,), {**CLOSED_FORMS, **LOGARITHMS})()


class TestBalancedMatrices(LevelSetTestCase, metaclass=DataBasedParametrizer):
    space = BalancedMatrices(3, 3)
    data_generator = ModerateWeights(space)
    testing_data = type("BalancedData", (Data,), LEVEL_SET)()


class TestFrobeniusMetricOnBalancedMatrices(RiemannianMetricTestCase, metaclass=DataBasedParametrizer):
    space = BalancedMatrices(2, 3)
    data_generator = ModerateWeights(space)
    testing_data = type("FrobeniusData", (Data,), {**WITHOUT_MATRICES, **LOGARITHMS})()


class TestEndToEndBundle(FiberBundleTestCase, metaclass=DataBasedParametrizer):
    total_space = BalancedMatrices(2, 3).equip_with_group_action(GaugeAction(2, 3))
    total_space.equip_with_quotient()
    base = GeneralLinear(2, positive_det=True, equip=False)
    data_generator = ModerateWeights(total_space)
    base_data_generator = Moderate(base)
    testing_data = type("BundleData", (Data,), FIBER_BUNDLE)()


def test_the_cases_are_those_that_geomstats_ships():
    """A name that geomstats renames would silently drop a test."""
    shipped = dir(RiemannianMetricTestCase) + dir(LevelSetTestCase) + dir(FiberBundleTestCase)
    for name in {**MANIFOLD, **LEVEL_SET, **CLOSED_FORMS, **LOGARITHMS, **FIBER_BUNDLE}:
        test = "test_" + name.removesuffix("_test_data")
        assert test in shipped or test.removesuffix("_vec") in shipped, test
