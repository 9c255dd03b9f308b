"""The estimators of scikit-learn: its own checks, new rows against the formula, pairs of any ids, cold starts."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dlngeo.problems.tables import METHODS
from dlngeo.sklearn import LowRankImputer, PairRegressor

QUICK = ("offsets", "posterior")
over_methods = pytest.mark.parametrize(
    "method", [method if method in QUICK else pytest.param(method, marks=pytest.mark.slow) for method in METHODS]
)


@parametrize_with_checks([LowRankImputer("posterior", rank=2)])
def test_imputer_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([LowRankImputer()])
def test_imputer_passes_them_as_it_is(estimator, check):
    check(estimator)


def low_rank(m=80, n=30, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n)) + 2 * rng.standard_normal(n) + 5
    return truth, rng.random((m, n)) < 0.5


def missing(truth, shown):
    return np.where(shown, truth, np.nan)


def test_rows_that_were_not_seen_are_filled_exactly_where_there_is_no_noise():
    truth, shown = low_rank(120)
    imputer = LowRankImputer().fit(missing(truth, shown)[:80])
    new = imputer.transform(missing(truth, shown)[80:])
    np.testing.assert_allclose(new, truth[80:], atol=1e-5)


@pytest.mark.parametrize("method", ["complete", "posterior"])
def test_new_rows_are_ridge_regressions_on_the_row_space(method):
    truth, shown = low_rank(120)
    noisy = truth + 0.3 * np.random.default_rng(1).standard_normal(truth.shape)
    imputer = LowRankImputer(method, rank=2).fit(missing(noisy, shown)[:80])
    assert 0.05 < imputer.noise_variance_ < 0.15
    new = imputer.transform(missing(noisy, shown)[80:])
    basis, row = imputer.components_[:, shown[80]].T, noisy[80, shown[80]] - imputer.location_[shown[80]]
    ridge = np.diag(np.sqrt(imputer.noise_variance_ / imputer.variances_))
    stacked = np.vstack((basis, ridge)), np.append(row, np.zeros(len(ridge)))
    z = np.linalg.lstsq(*stacked, rcond=None)[0]
    np.testing.assert_allclose(new[0, ~shown[80]], (imputer.location_ + z @ imputer.components_)[~shown[80]], rtol=1e-6)
    np.testing.assert_array_equal(new[shown[80:]], noisy[80:][shown[80:]])
    means = np.nanmean(missing(noisy, shown)[:80], axis=0) + 0 * new
    hidden = ~shown[80:]
    assert np.std((new - truth[80:])[hidden]) < 0.3 * np.std((means - truth[80:])[hidden])


def test_tables_of_pandas_stay_so_and_names_too():
    truth, shown = low_rank()
    table = pd.DataFrame(missing(truth, shown), index=[f"r{i}" for i in range(80)]).add_prefix("c")
    imputer = LowRankImputer()
    filled = imputer.fit_transform(table)
    pd.testing.assert_index_equal(filled.index, table.index)
    pd.testing.assert_index_equal(filled.columns, table.columns)
    assert list(imputer.get_feature_names_out()) == list(table.columns)
    assert table.isna().any(axis=None)
    assert not filled.isna().any(axis=None)


def test_what_no_data_determine_is_named():
    truth, shown = low_rank()
    shown[:, 3], shown[7] = False, False
    table = pd.DataFrame(missing(truth, shown)).add_prefix("c")
    with pytest.warns(UserWarning, match=r"no value in 1 columns \(c3\)"):
        imputer = LowRankImputer().fit(table)
    with pytest.warns(UserWarning, match=r"1 rows have no value .* \[7\]"):
        filled = imputer.transform(table)
    assert filled["c3"].isna().all()
    assert filled.drop(columns="c3").notna().all(axis=None)
    np.testing.assert_allclose(filled.iloc[7], imputer.location_)
    with pytest.raises(ValueError, match="all values are missing"):
        LowRankImputer().fit(np.full((4, 3), np.nan))


def pairs(seed=0, noise=0.1):
    truth, shown = low_rank(seed=seed)
    rows, columns = np.nonzero(shown)
    frame = pd.DataFrame({"user": [f"u{i}" for i in rows], "item": pd.Timestamp("2020") + columns * pd.Timedelta("1D")})
    values = truth[rows, columns] + noise * np.random.default_rng(seed).standard_normal(len(rows))
    hidden = np.argwhere(~shown)
    unseen = pd.DataFrame(
        {"user": [f"u{i}" for i in hidden[:, 0]], "item": pd.Timestamp("2020") + hidden[:, 1] * pd.Timedelta("1D")}
    )
    return frame, values, unseen, truth[~shown]


@pytest.mark.parametrize(
    ("method", "bound"),
    [
        ("offsets", 1.0),
        pytest.param("flow", 0.1, marks=pytest.mark.slow),
        pytest.param("complete", 0.05, marks=pytest.mark.slow),
        ("posterior", 0.05),
        pytest.param("auto", 0.05, marks=pytest.mark.slow),
    ],
)
def test_pairs_of_any_ids_are_predicted(method, bound):
    frame, values, unseen, truth = pairs()
    model = PairRegressor(method, rank=2).fit(frame, values)
    assert np.mean((model.predict(unseen) - truth) ** 2) < bound * np.var(truth)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(unseen), model.predict(unseen))
    np.testing.assert_array_equal(clone(model).fit(frame, values).predict(unseen), model.predict(unseen))


@over_methods
def test_values_of_repeated_pairs_are_averaged(method):
    frame, values, unseen, _ = pairs()
    once = PairRegressor(method, rank=2).fit(frame, values)
    twice = PairRegressor(method, rank=2).fit(pd.concat([frame, frame]), np.concatenate((values + 1, values - 1)))
    np.testing.assert_allclose(twice.predict(unseen), once.predict(unseen), atol=1e-5)


@over_methods
def test_cold_starts_fall_back_on_the_offsets(method):
    frame, values, _, _ = pairs()
    model = PairRegressor(method, rank=2).fit(frame, values)
    items = pd.Series(frame["item"].unique())
    cold = model.predict(pd.DataFrame({"user": "nobody", "item": items}))
    assert np.corrcoef(cold, [values[frame["item"] == item].mean() for item in items])[0, 1] > 0.95
    nothing = model.predict(pd.DataFrame({"user": ["nobody"], "item": [pd.Timestamp("1999")]}))[0]
    assert abs(nothing - values.mean()) < 3 * values.std() / np.sqrt(30)
    if method != "posterior":
        assert nothing == model.table_.mean


def test_offsets_are_shrunken_means():
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(rng.random((200, 40)) < 0.3)
    a, b = 0.5 * rng.standard_normal(200), 0.5 * rng.standard_normal(40)
    values = 3 + a[rows] + b[columns] + rng.standard_normal(len(rows))
    model = PairRegressor("offsets").fit(np.column_stack((rows, columns)), values)
    table, order = model.table_, model.rows_
    assert table.noise == pytest.approx(1, rel=0.1)
    rest = values - table.mean - table.column_offsets[model.columns_.get_indexer(columns)]
    estimated, counts = table.row_offsets[:-1], np.bincount(rows)[order]
    plain = np.array([np.mean(rest[rows == i]) for i in order])
    shrinkage = counts / (counts + 1 / np.mean(a**2))
    assert shrinkage.min() < 0.6
    np.testing.assert_allclose(estimated, plain * shrinkage, atol=0.05)


@pytest.mark.slow
def test_it_works_in_pipelines_and_searches():
    frame, values, unseen, truth = pairs()
    frame, unseen = frame.astype(str), unseen.astype(str)
    pipeline = make_pipeline(FunctionTransformer(), PairRegressor("posterior"))
    search = GridSearchCV(pipeline, {"pairregressor__rank": [1, 2]}, cv=KFold(3, shuffle=True, random_state=0)).fit(
        frame, values
    )
    assert search.best_params_ == {"pairregressor__rank": 2}
    assert search.score(unseen, truth) > 0.9
    filled = make_pipeline(LowRankImputer("posterior", rank=2), StandardScaler()).fit_transform(missing(*low_rank()))
    assert np.isfinite(filled).all()


def test_the_pattern_of_known_pairs_tells_about_values():
    """Rows of one kind are shown where their values are high: which entries are known tells the kind."""
    rng = np.random.default_rng(0)
    kind, taste = np.repeat([1, -1], 150), np.repeat([1, -1], 100)
    truth = np.outer(kind, taste) + 2 * rng.standard_normal((300, 200))
    shown = rng.random(truth.shape) < np.where(np.outer(kind, taste) > 0, 0.1, 0.01)
    places = np.argwhere(shown)
    errors = []
    for features in (0, 5):
        model = PairRegressor(features=features, rank=2).fit(places, truth[shown])
        guess = model.predict(np.argwhere(~shown)) - np.outer(kind, taste)[~shown]
        errors.append(np.mean(guess**2))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1, 2, 3]], [1.0], "shape"),
        ([[1, 2], [1, None]], [1.0, 2.0], "column id of pair 1 is missing"),
        ([[1, 2]], [np.nan], "not finite"),
        ([[1, 2]], [1.0, 2.0], "1 pairs and 2 values"),
    ],
)
def test_bad_pairs_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        PairRegressor().fit(x, y)


def test_bad_options_and_other_names_are_refused():
    frame, values, _, _ = pairs()
    with pytest.raises(ValueError, match="method must be one of"):
        PairRegressor("svd").fit(frame, values)
    model = PairRegressor("offsets").fit(frame, values)
    with pytest.raises(ValueError, match="give the same"):
        model.predict(frame.rename(columns={"item": "film"}))
