"""The random matrix of low rank."""

import numpy as np
import pytest

from dlngeo.jobs.low_rank import example, low_rank


@pytest.mark.parametrize(("shape", "rank", "condition"), [((20, 14), 3, 10.0), ((9, 12), 1, 1.0)])
def test_the_matrix_has_its_rank_and_condition_and_the_entries_suffice(shape, rank, condition):
    truth, observed = low_rank(shape, rank, condition=condition, oversampling=2.5, rng=0)
    s = np.linalg.svd(truth, compute_uv=False)
    np.testing.assert_allclose(s[:rank] / s[rank - 1], np.linspace(condition, 1, rank), rtol=1e-12)
    np.testing.assert_allclose(s[rank:], 0, atol=1e-12)
    assert np.mean(truth**2) == pytest.approx(1)
    assert len(observed) == round(2.5 * rank * (sum(shape) - rank))
    np.testing.assert_array_equal(observed.values, truth[observed.rows, observed.cols])
    for places, size in zip((observed.rows, observed.cols), shape, strict=True):
        assert np.bincount(places, minlength=size).min() >= rank


def test_noise_is_on_the_entries_shown_alone():
    (truth, exact), (same, noisy) = (low_rank((40, 30), 2, oversampling=4.0, noise=x, rng=3) for x in (0.0, 0.1))
    np.testing.assert_array_equal(truth, same)
    errors = (noisy.values - exact.values) / 0.1
    assert abs(errors.mean()) < 4 / np.sqrt(errors.size)
    assert errors.var() == pytest.approx(1, abs=4 * np.sqrt(2 / errors.size))


def test_the_example_is_made_by_its_seed():
    one, same, other = (example(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.shown, same.shown)
    np.testing.assert_array_equal(one.matrix, same.matrix)
    assert (one.shown != other.shown).any()
    assert np.linalg.matrix_rank(one.matrix) == 3
    assert one.shown.sum() == 3 * 3 * (60 + 60 - 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 9}, "rank 9 exceeds"),
        ({"condition": 0.5}, "condition must be finite and at least 1, got 0.5"),
        ({"oversampling": 9.0}, "are too many"),
        ({"oversampling": 0.1}, "fewer than 3 entries"),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        low_rank((8, 8), **options, rng=0)
