"""What ``ratings.py`` measures, on made-up ratings: folds, choices that see no test entry, intervals."""

import numpy as np
import pandas as pd
import pytest
import ratings as script


def test_what_is_not_the_original_file_is_refused(tmp_path):
    path = tmp_path / "ml-100k.inter"
    pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [3.0, 4.0]}).to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match="not MovieLens-100K in its original order"):
        script.ratings(path)


@pytest.mark.parametrize("fold", range(script.FOLDS))
def test_choices_see_no_test_entry(fold):
    train, test = script.split(fold, "test")
    np.testing.assert_array_equal(test, np.arange(20_000 * fold, 20_000 * (fold + 1)))
    fitted, held = script.split(fold, "validation")
    np.testing.assert_array_equal(np.union1d(fitted, held), train)
    assert not np.intersect1d(fitted, held).size
    assert len(held) == 8000


def cells(seed=0):
    """Errors of two methods that differ by a tenth on each user."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (script.FOLDS, script.USERS))
    squares = counts * rng.chisquare(3, script.USERS) / 3
    return [
        {
            "part": "test",
            "method": method,
            "fold": k,
            "seconds": 1.0,
            "counts": counts[k].tolist(),
            "sums": [(factor * squares[k]).tolist()] * 2,
        }
        for method, factor in ((script.DEFAULT, 1.0), ("offsets", 1.21))
        for k in range(script.FOLDS)
    ]


def test_differences_are_paired_and_intervals_are_over_users():
    rows = {row["method"]: row for row in script.summary(cells())}
    mid, low, high = rows[script.DEFAULT]["test"]["rmse"]
    assert mid == pytest.approx(1, abs=0.03)
    # the mean of 943 users with variance 2/3 of the squares: half of its standard deviation is that of the root
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(2 / 3 / script.USERS) / 2, rel=0.25)
    gap, least, most = rows["offsets"]["test"]["difference"]
    assert gap == pytest.approx(0.1 * mid)
    assert most - least < 0.2 * (high - low)
    assert "test" not in rows["cmfrec"]
    text = script.table(script.summary(cells()[:-1]))
    assert "offsets" not in text  # a fold is missing
    assert script.DEFAULT in text


def test_another_constant_is_that_of_the_library():
    rng = np.random.default_rng(0)
    x = rng.integers(40, size=(900, 2))
    y = rng.standard_normal(40)[x[:, 0]] + rng.standard_normal(900)
    default, other = (script.METHODS[name](x, y, x) for name in (script.DEFAULT, "posterior, 15 draws"))
    assert not np.allclose(default, other)
    assert np.corrcoef(default, other)[0, 1] > 0.95
    np.testing.assert_array_equal(default, script.METHODS[script.DEFAULT](x, y, x))
