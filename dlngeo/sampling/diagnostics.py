"""Diagnostics of chains: standard errors, effective sample sizes and R-hat, by ArviZ on plain arrays."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["diagnose"]


def diagnose(values: np.ndarray) -> dict[str, float]:
    """Estimate a mean from the draws of chains, and say how good the estimate is.

    Parameters
    ----------
    values : array, shape=[n_chains, n_draws]
        A real quantity at all draws.

    Returns
    -------
    dict of float
        ``mean`` and ``sd``, over all chains; ``mcse``, the Monte Carlo standard error of the mean; ``r_hat``, split and
        rank-normalised; ``ess_bulk`` and ``ess_tail``, effective numbers of draws for the mean and for the quantiles at
        5 % and 95 %. NaN stands for what has no value: the last four with fewer than 4 draws or of a constant, and
        R-hat of one chain.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Rank-normalization, folding, and localization, Bayesian
    Analysis 16.
    """
    from arviz_stats.base import array_stats  # which takes longer to import than all that samples

    values = np.asarray(values, dtype=float)
    found = dict.fromkeys(("mean", "sd", "mcse", "r_hat", "ess_bulk", "ess_tail"), math.nan)
    if values.size:
        found.update(mean=float(values.mean()), sd=float(values.std()))
    if values.shape[1] >= 4 and found["sd"] > 0:
        with np.errstate(all="ignore"):  # what a chain that stands still divides by zero becomes NaN
            found["mcse"] = float(array_stats.mcse(values))
            found["ess_bulk"] = float(array_stats.ess(values))
            found["ess_tail"] = float(array_stats.ess(values, method="tail", prob=(0.05, 0.95)))
            if len(values) > 1:
                found["r_hat"] = float(array_stats.rhat(values))
    return found
