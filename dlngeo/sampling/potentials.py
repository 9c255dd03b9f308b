"""Potentials of the chains, evaluated for all chains at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from warnings import warn

import numpy as np

from dlngeo import _check
from dlngeo._linalg import is_complex
from dlngeo.sampling.state import State
from dlngeo.thermodynamics.confined import confinement
from dlngeo.thermodynamics.noise import Noise

__all__ = [
    "Potential",
    "SpectralPotential",
    "StepSizeWarning",
    "UnconfinedWarning",
    "energies",
    "finite_or_raise",
    "gradients",
    "refuse_failed",
    "require",
    "require_confined",
    "slopes",
    "watch",
]

Potential = Callable[[np.ndarray], np.ndarray]

_DRIVEN, _CHANGE = 3.0, 2.0


@dataclass(frozen=True)
class SpectralPotential:
    """A potential ``E = f(λ_1, …, λ_r)`` of the singular values ``λ = σ^{1/N}`` of the balanced layers.

    In λ a force keeps its digits where ``σ = λ^N`` spans more orders of magnitude than a dense matrix resolves.

    Parameters
    ----------
    value : callable
        Maps λ, shape=[n_chains, r], to f, shape=[n_chains].
    derivative : callable
        Maps λ, shape=[n_chains, r], to ``∂f/∂λ_k``, shape=[n_chains, r].

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.ConstrainedHMC

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.sampling import SpectralPotential
    >>> squares = SpectralPotential(lambda lam: np.sum(lam**6, axis=-1) / 2, lambda lam: 3 * lam**5)  # ½‖X‖² at N = 3
    >>> lam = np.array([[2.0, 0.5]])
    >>> bool(np.isclose(squares.value(lam)[0], np.linalg.norm(np.diag(lam[0] ** 3)) ** 2 / 2))
    True
    """

    value: Potential
    derivative: Potential


class StepSizeWarning(RuntimeWarning):
    """Steps of a chain are too long for its potential, and averages may be far off, by any factor.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.UpstairsLangevin

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo.sampling import Langevin, StepSizeWarning
    >>> chain = Langevin(Euclidean(1), lambda x: x**3, 1e6, 0.5)  # from 3 to 3 − 0.5 · 3³, where it is steeper
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = chain.sample(np.full((1, 1), 3.0), 2, rng=0)
    >>> any(issubclass(one.category, StepSizeWarning) for one in caught)
    True
    """


class UnconfinedWarning(RuntimeWarning):
    """The law of a chain has no finite mass: averages do not converge, however long it is.

    See Also
    --------
    dlngeo.problems.confinement
    dlngeo.sampling.UpstairsLangevin

    Examples
    --------
    >>> import warnings
    >>> from dlngeo.problems import MatrixCompletion
    >>> from dlngeo.sampling import UnconfinedWarning, UpstairsLangevin
    >>> data = MatrixCompletion([0, 1], [0, 1], [1.0, 1.0], (2, 2))  # nothing holds the other two entries
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = UpstairsLangevin((2, 2, 2), data.euclidean_gradient, 1.0, 0.01)
    >>> any(issubclass(one.category, UnconfinedWarning) for one in caught)
    True
    """


def require_confined(gradient: Any, depth: float, rank: int | None, widths: Sequence[int] | None, noise: Noise) -> None:
    """Warn if a gradient is that of a cost that leaves a law of infinite mass, so far as the cost can tell."""
    cost = getattr(gradient, "__self__", None)
    if hasattr(cost, "null_space") and noise.kappa:
        found = confinement(cost, depth, rank, widths, noise=noise)
        if found.finite is False:
            warn(f"the chains have no law: {found.reason}", UnconfinedWarning, stacklevel=4)


def watch(state: State, slopes: np.ndarray, step_size: float, variance: float, given: float) -> np.ndarray:
    """Warn where a step went by its drift alone to where the gradient is another; return the slopes for the next.

    Stable Langevin dynamics follows a drift that exceeds the noise to where the gradient is nearly the same. One that
    overshoots, out of a steep wall or over a minimum, has left the region where a step resolves the potential.
    The mean squared length of the noise is ``variance``, in the time of ``step_size``; ``given`` is that of the metric.
    """
    before = state.get("slope", np.full(len(slopes), np.nan))
    driven = step_size * before > _DRIVEN * variance**0.5
    if np.any(driven & ~((slopes > before / _CHANGE) & (slopes < before * _CHANGE))):
        warn(
            f"a step of step_size {given:g} went by its drift alone, {_DRIVEN:g} times as long as its noise or more, "
            f"to where the gradient is {_CHANGE:g} times as large or small, or more: it does not resolve the potential "
            "and averages may be far off. Take smaller ones, until this warning no longer comes.",
            StepSizeWarning,
            stacklevel=2,
        )
    return slopes


def require(potential: Any, name: str) -> None:
    """Raise TypeError unless a potential, or its gradient, is a function of matrices or of λ."""
    if not callable(potential) and not isinstance(potential, SpectralPotential):
        raise TypeError(f"{name} must be callable or a SpectralPotential, got {type(potential).__name__}.")


def energies(potential: Potential | SpectralPotential, at: np.ndarray) -> np.ndarray:
    """Energies at points, or of a spectral potential at λ, shape=[n_chains]; infinite ones pass."""
    value = potential.value if isinstance(potential, SpectralPotential) else potential
    return _returned(value(at), at.shape[:1], "the potential", False)


def slopes(potential: SpectralPotential, lam: np.ndarray, *, finite: bool = True) -> np.ndarray:
    """``∂E/∂λ_k``, shape=[n_chains, r]."""
    return _returned(potential.derivative(lam), lam.shape, "the derivative of the potential", finite)


def gradients(gradient: Potential, points: np.ndarray, *, finite: bool = True) -> np.ndarray:
    """``E′`` at points, of their shape, and complex where they are."""
    field: _check.Field = "complex" if is_complex(points) else "real"
    return _returned(gradient(points), points.shape, "the gradient of the potential", finite, field)


def _returned(values: Any, shape: tuple[int, ...], name: str, finite: bool, field: _check.Field = "real") -> np.ndarray:
    remedy = f"The function gets all {shape[0]} chains at once, and must treat each apart."
    return _check.returned(values, shape, name, finite=finite, remedy=remedy, field=field)


def finite_or_raise(values: np.ndarray, what: str) -> None:
    """Raise if values hold NaN or infinity."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"{what} holds NaN or infinite entries where the chains stand; check it at the initial points."
        )


def refuse_failed(failed: np.ndarray, step_size: float) -> None:
    """Raise if the step of a chain failed."""
    if failed.any():
        raise ValueError(
            f"the step of chain {int(np.argmax(failed))} is not finite or lost rank; take a step_size below "
            f"{step_size:g}."
        )
