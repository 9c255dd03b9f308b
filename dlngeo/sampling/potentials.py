"""Potentials of the chains, evaluated for all chains at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlngeo import _check

__all__ = [
    "Potential",
    "SpectralPotential",
    "energies",
    "finite_or_raise",
    "gradients",
    "refuse_failed",
    "require",
    "slopes",
]

Potential = Callable[[np.ndarray], np.ndarray]


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
    """

    value: Potential
    derivative: Potential


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
    """``E′`` at points, of their shape."""
    return _returned(gradient(points), points.shape, "the gradient of the potential", finite)


def _returned(values: Any, shape: tuple[int, ...], name: str, finite: bool) -> np.ndarray:
    remedy = f"The function gets all {shape[0]} chains at once, and must treat each apart."
    return _check.returned(values, shape, name, finite=finite, remedy=remedy)


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
