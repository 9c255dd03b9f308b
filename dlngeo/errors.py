"""What the geometry raises where there is no answer."""

__all__ = ["GeodesicError", "KernelError", "SingularError"]


class GeodesicError(ValueError):
    """No geodesic was found; the message gives the cause, the figures and the remedy.

    Attributes
    ----------
    status : str
        ``"singular"`` if the path runs into a singular matrix, ``"not converged"`` if the boundary value problem was
        not solved, ``"disconnected"`` if no path exists.
    residual : float
        Distance by which the end point is missed, relative to its norm; NaN where nothing was shot.

    See Also
    --------
    dlngeo.SingularError

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> from dlngeo import DLNMetric, GeodesicError
    >>> space = GeneralLinear(2, equip=False).equip_with_metric(DLNMetric, depth=3)
    >>> try:
    ...     path = space.metric.exp(-2 * np.eye(2), np.eye(2))  # runs into a singular matrix
    ... except GeodesicError as error:
    ...     print(type(error).__name__)
    """

    def __init__(self, message: str, status: str, residual: float = float("nan")) -> None:
        super().__init__(message)
        self.status = status
        self.residual = residual


class SingularError(ValueError):
    """The metric is not defined at a point: its rank is below that of the manifold, or it is not finite.

    See Also
    --------
    dlngeo.GeodesicError

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import SingularError
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> try:
    ...     BalancedFrame([np.diag([1.0, 0.0])] * 3)
    ... except SingularError as error:
    ...     print(str(error).split(":")[0])
    the weights have rank below 2
    """


class KernelError(ValueError):
    """A kernel is not one: the message names the property that fails, where, and by how much.

    See Also
    --------
    dlngeo.check_kernel
    dlngeo.kernels.require_kernel

    Examples
    --------
    >>> from dlngeo import Kernel, KernelError
    >>> from dlngeo.kernels import require_kernel
    >>> class Lopsided(Kernel):
    ...     def __call__(self, s, t):
    ...         return s**2 + 2 * t**2
    >>> try:
    ...     require_kernel(Lopsided(), 2, 2, 2)
    ... except KernelError as error:
    ...     print("symmetry fails" in str(error))
    True
    """
