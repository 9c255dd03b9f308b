"""Completion of complex matrices: channels, spectra, phases."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.problems import _observations
from dlngeo.problems._pattern import Pattern, padded
from dlngeo.problems.base import Products, is_factored
from dlngeo.problems.completion import parts_at_random
from dlngeo.problems.least_squares import LeastSquares

__all__ = ["ComplexCompletion"]


class ComplexCompletion(LeastSquares):
    """The cost ``E(X) = ½ Σ_{(i,j) ∈ Ω} |X_ij − a_ij|²`` of a partly observed complex matrix.

    As :class:`~dlngeo.problems.MatrixCompletion`, over the complex numbers: a unit of phase common to a row, a column
    or a pair of singular vectors is free. The
    gradient, with ``dE[Z] = Re Tr(E′* Z)``, is ``P_Ω(X) − a``, and sparse. Pose it on ``FixedRank(…,
    field="complex")``. Not there yet are the searches ``complete`` and ``follow``; ``GradientFlow`` from
    ``initial_point`` follows the flow at a rank that is given.

    Parameters
    ----------
    rows, cols : array-like of int, shape=[n_entries]
        Places Ω of the observed entries, each at most once.
    values : array-like, shape=[n_entries]
        Observed values ``a``, finite; real ones are complex numbers too.
    shape : tuple of int
        Shape (m, n) of the matrix.
    threads : int, optional
        As in :class:`~dlngeo.problems.MatrixCompletion`.

    Attributes
    ----------
    rows, cols, values : array, shape=[n_entries]
        The observations, sorted by row, then by column.

    Raises
    ------
    TypeError
        If places are not integers or values no numbers.
    ValueError
        If there are no entries, lengths differ, a place is out of range or occurs twice, or a value is not finite.

    See Also
    --------
    dlngeo.problems.MatrixCompletion
    dlngeo.pymanopt.FixedRank

    Examples
    --------
    >>> import numpy as np
    >>> problem = ComplexCompletion([0, 1, 1], [0, 0, 2], [1j, 2.0, 3 - 4j], shape=(2, 3))
    >>> problem.cost(np.zeros((2, 3)))
    15.0
    """

    field = "complex"
    _derivatives_at: Any = None

    def __init__(
        self, rows: Any, cols: Any, values: Any, shape: tuple[int, int], *, threads: int | None = None
    ) -> None:
        super().__init__(_check.shape(shape))
        matrix = _observations.csr(rows, cols, values, self.shape, np.complex128)
        self.pattern = Pattern(matrix.indptr, matrix.indices, self.shape, threads)
        self.rows, self.cols = np.repeat(np.arange(self.shape[0]), np.diff(matrix.indptr)), matrix.indices
        self.values = self._data = matrix.data
        for array in (self.rows, self.cols, self.values):
            array.flags.writeable = False

    @classmethod
    def from_matrix(cls, matrix: Any, observed: Any = None) -> ComplexCompletion:
        """Observe the entries of a dense (m, n) array that are not NaN, or those where ``observed`` is true."""
        return cls(*_observations.of_matrix(matrix, observed, "complex"))

    def __len__(self) -> int:
        return self.values.size

    def __repr__(self) -> str:
        return f"ComplexCompletion({self.shape[0]}×{self.shape[1]}, {len(self)} entries)"

    def split(self, fraction: float, rng: Any = None) -> tuple[ComplexCompletion, ComplexCompletion]:
        """Split the entries at random into those to fit and a fraction to hold out, in (0, 1).

        Raises
        ------
        ValueError
            If one of the parts would be empty.
        """
        train, heldout = (
            ComplexCompletion(self.rows[part], self.cols[part], self.values[part], self.shape)
            for part in parts_at_random(len(self), fraction, rng)
        )
        return train, heldout

    def follow(self, *_: Any, **__: Any) -> Any:
        """Raise, as ``complete`` does: a rank is to be given, see :class:`dlngeo.pymanopt.GradientFlow`."""
        raise NotImplementedError(
            "the rank of a complex matrix is not searched for; give one, and run GradientFlow on "
            'problem(FixedRank(m, n, rank, field="complex")) from initial_point(rank, size).'
        )

    complete = follow

    # The calculus, by two products of real matrices for the two parts.

    def _apply(self, x: Any) -> np.ndarray:
        if not isinstance(x, tuple):
            return x[..., self.rows, self.cols] + 0j
        left, right = x[0], x[1].T
        right = padded(np.hstack((right.real, right.imag)), np.float64)
        turns = (left.real, -left.imag), (left.imag, left.real)
        parts = (self.pattern.sample(padded(np.hstack(turn), np.float64), right, None)[0] for turn in turns)
        return next(parts) + 1j * next(parts)

    def _squares(self, y: np.ndarray) -> Any:
        squares = np.sum(y.real**2 + y.imag**2, axis=-1)
        return squares if squares.ndim else float(squares)

    def _adjoint(self, y: np.ndarray, factored: bool) -> Any:
        if factored:
            return self.pattern.matrix(y)
        out = np.zeros((*y.shape[:-1], *self.shape), complex)
        out[..., self.rows, self.cols] = y
        return out

    def _gradient_for_products(self, point: Any) -> Any:
        if not is_factored(point):
            return self.euclidean_gradient(point)
        entries, pattern = self.residual(point), self.pattern
        adjoint = partial(pattern.transposed_times, entries.conj())
        return Products(self.shape, entries.dtype, partial(pattern.times, entries), adjoint)
